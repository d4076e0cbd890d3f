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
from progression.pacs.gate import PDU_BYTES, Gate
from progression.pacs.peers import Peer, Tls, check_title
from progression.pacs.queue import Queue
from progression.pacs.trouble import trouble

SUCCESS, OUT_OF_RESOURCES, NO_FILM, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Status of C-STORE (PS3.4, Table B.2-1)."""
ENDING_S = 5.0
"""What an object that has arrived whole may take to get to the disk when the service stops."""
ASKED_S = 5.0
"""For the library to read an association request, which lies ready."""
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
        self._queue, self._tell = queue, tell
        self._lock, self._storing = Lock(), Lock()
        self._coming: dict[Any, set[str]] = {}
        self._ended = False
        context = tls.server() if tls else None
        entity = AE(ae_title=check_title(title))
        entity.maximum_associations = 1 << 16  # the gate counts them, and has the timeouts
        entity.network_timeout = None
        entity.acse_timeout = ASKED_S
        entity.maximum_pdu_size = PDU_BYTES
        entity.add_supported_context(Verification)
        for kind in _FILMS:
            entity.add_supported_context(kind, transfer_syntaxes())
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server = entity.make_server(address, evt_handlers=handlers)
        except OSError as error:
            raise OutputError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror or error}; choose another"
            ) from error
        assert self._server.socket is not None  # as it is bound
        self.port = int(self._server.server_address[1])
        self._gate = Gate(
            self._server.socket,
            title=title,
            peers=peers,
            tls=context,
            object_bytes=queue.limits.object_bytes,
            hand_over=self._server.process_request,
            tell=tell,
        )

    def coming(self) -> set[str]:
        """Names of studies of which objects came over associations that are still open."""
        with self._lock:
            return set().union(*(names for line, names in self._coming.items() if line.is_alive()))

    def stop(self) -> None:
        """End all associations and listen no more."""
        self._gate.stop()
        self._server.server_close()
        self._ended = True
        if self._storing.acquire(timeout=ENDING_S):
            self._storing.release()

    def _stored(self, event: evt.Event) -> int:
        """Keep an object. What is ours to mend the sender may try again; what is wrong with the object, it may not."""
        try:
            with self._storing:  # each copy of an object is in memory once
                if self._ended:
                    return OUT_OF_RESOURCES
                content = event.encoded_dataset()
                identity = identify(content, "an object")
                if not identity.is_film:
                    return NO_FILM
                with self._lock:
                    self._coming.setdefault(event.assoc, set()).add(self._queue.study(identity.study).name)
                self._queue.add(content, identity)
        except (OutputError, OSError, MemoryError) as error:
            reason = error if isinstance(error, OutputError) else trouble(error)
            self._tell(f"refused an object for now: {reason}")
            return OUT_OF_RESOURCES
        except ProgressionError as error:
            self._tell(f"refused an object: {error}")
            return NOT_UNDERSTOOD
        except Exception as error:  # the next object may be better
            self._tell(f"refused an object: unexpected {type(error).__name__}")
            return NOT_UNDERSTOOD
        return SUCCESS

    def _closed(self, event: evt.Event) -> None:
        with self._lock:
            for line in [line for line in self._coming if line is event.assoc or not line.is_alive()]:
                del self._coming[line]
