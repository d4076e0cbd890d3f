"""The side that is called: C-ECHO and C-STORE (PS3.4, A and B; PS3.7, 9.1)."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from threading import Lock
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    Verification,
)

from progression.dicom.identify import identify
from progression.errors import OutputError, ProgressionError
from progression.pacs.peers import Peer, Tls, check_title
from progression.pacs.queue import Queue

SUCCESS, OUT_OF_RESOURCES, NO_FILM, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Status of C-STORE (PS3.4, Table B.2-1)."""
ASSOCIATIONS = 4
"""At once; each may hold one object in memory."""
TIMEOUT_S = 60
_UNKNOWN_CALLER = (0x01, 0x01, 0x03)
"""For good, by the service user: calling AE title not recognised (PS3.8, 9.3.4)."""
_FILMS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_JPEG_8, _JPEG_LS, _JPEG_LS_LOSSY, _RLE = (
    f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.80", "4.81", "5")
)
_WITH_EXTRA = {
    "gdcm": ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    "openjpeg": ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
}
"""JPEG Lossless and JPEG 2000, where the extra `dicom` unpacks them."""


def transfer_syntaxes() -> list[str]:
    """Those that the reader unpacks here."""
    more = [one for package, found in _WITH_EXTRA.items() if find_spec(package) for one in found]
    return [_EXPLICIT, _IMPLICIT, _JPEG_8, _JPEG_LS, _JPEG_LS_LOSSY, _RLE, *more]


class Listener:
    """Takes films from known peers into a queue, in threads of its own, until `stop`.

    Parameters
    ----------
    queue : that gets them.
    title : AE title; callers must call by it.
    peers : that may call; all others are rejected.
    address : host and port; port 0 for any that is free.
    tls : None for an open line.
    tell : gets a line for each thing that happens.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        title: str,
        peers: Sequence[Peer],
        address: tuple[str, int],
        tls: Tls | None,
        tell: Callable[[str], None],
    ) -> None:
        self._queue, self._peers, self._tell = queue, tuple(peers), tell
        self._lock = Lock()
        self._coming: dict[Any, set[str]] = {}
        self._bytes: dict[Any, int] = {}
        entity = AE(ae_title=check_title(title))
        entity.require_called_aet = True
        entity.maximum_associations = ASSOCIATIONS
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.add_supported_context(Verification)
        for kind in _FILMS:
            entity.add_supported_context(kind, transfer_syntaxes())
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_DATA_RECV, self._counted),
            (evt.EVT_C_ECHO, self._echoed),
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            server = entity.start_server(
                address, block=False, evt_handlers=handlers, ssl_context=tls.server() if tls else None
            )
        except OSError as error:
            raise OutputError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror or error}; choose another"
            ) from error

        assert server is not None  # as it does not block
        self._server = server

    @property
    def port(self) -> int:
        """On which it listens."""
        return int(self._server.server_address[1])

    def coming(self) -> set[str]:
        """Names of studies of which objects came over associations that are still open."""
        with self._lock:
            return set().union(*self._coming.values())

    def stop(self) -> None:
        """End all associations and listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _requested(self, event: evt.Event) -> None:
        """Reject who is no peer, by title and address; a wrong called title is the library's to reject."""
        caller = event.assoc.requestor
        title = str(getattr(caller.primitive, "calling_ae_title", "")).strip()
        if not any(peer.is_it(title, caller.address) for peer in self._peers):
            event.assoc.acse.send_reject(*_UNKNOWN_CALLER)
            self._rejected(event)
            event.assoc.kill()

    def _rejected(self, event: evt.Event) -> None:
        self._tell(f"rejected an association from {event.assoc.requestor.address}")

    def _counted(self, event: evt.Event) -> None:
        """Close the line over which more comes than one object may have: it would fill the memory."""
        with self._lock:
            self._bytes[event.assoc] = self._bytes.get(event.assoc, 0) + len(event.data)
            too_much = self._bytes[event.assoc] > self._queue.limits.object_bytes + (1 << 20)
        if too_much:
            self._tell(
                f"closed an association with {event.assoc.requestor.address}: an object over the limit"
            )
            if event.assoc.dul.socket is not None:
                event.assoc.dul.socket.close()

    def _echoed(self, event: evt.Event) -> int:
        self._whole(event)
        return SUCCESS

    def _stored(self, event: evt.Event) -> int:
        self._whole(event)
        try:
            content = event.encoded_dataset()
            identity = identify(content, "an object")
            if not identity.is_film:
                return NO_FILM
            folder = self._queue.add(content, identity)
        except OutputError as error:
            self._tell(f"refused an object: {error}")
            return OUT_OF_RESOURCES
        except ProgressionError as error:
            self._tell(f"refused an object: {error}")
            return NOT_UNDERSTOOD
        with self._lock:
            self._coming.setdefault(event.assoc, set()).add(folder.name)
        return SUCCESS

    def _whole(self, event: evt.Event) -> None:
        """A message has arrived: what comes now is of the next."""
        with self._lock:
            self._bytes[event.assoc] = 0

    def _closed(self, event: evt.Event) -> None:
        with self._lock:
            self._coming.pop(event.assoc, None)
            self._bytes.pop(event.assoc, None)
