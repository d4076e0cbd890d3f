"""The side that calls: results to a node by C-STORE."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from progression.errors import OutputError
from progression.pacs.gate import PDU_BYTES
from progression.pacs.peers import Node, NodeError, Tls
from progression.pacs.service import StoppedError
from progression.pacs.watch import Watch

CONNECTION_S, ANSWER_S = 10.0, 60.0
"""For the line, and for the answer to a request; with TLS, handshakes and all, and whole, not piece by piece."""
RATE_BYTES_S = 1 << 14
"""An object has ANSWER_S and a second for each so many bytes of it."""
_WARNINGS = range(0xB000, 0xC000)


class RefusedError(OutputError):
    """The node answered, and would not have an object."""


def send(
    paths: Sequence[Path],
    node: Node,
    *,
    title: str,
    tls: Tls | None,
    confirmed: Callable[[Path], None],
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Send DICOM files over one association, in order.

    Parameters
    ----------
    paths : files that were written by this package.
    node : where to.
    title : own AE title.
    tls : None for an open line.
    confirmed : called for each file once the node has it.
    stopping : whether the service stops, so that nothing is waited for.

    Raises
    ------
    NodeError
        If there is no association, or no answer in time.
    RefusedError
        If the node refuses objects; all others are confirmed.
    StoppedError
        If the service stops.
    """
    entity = AE(ae_title=title)
    entity.connection_timeout = CONNECTION_S
    entity.acse_timeout = entity.dimse_timeout = ANSWER_S
    entity.network_timeout = None
    for kind in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
        entity.add_requested_context(kind, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    secured = (tls.client(), node.host) if tls else None
    lines: list[Any] = []

    def limit(event: evt.Event) -> None:
        """The library reads as much as a PDU's header claims, without end."""
        line: Any = event.assoc.dul.socket
        lines.append(line)
        read = line.recv

        def recv(count: int) -> bytearray:
            if count > PDU_BYTES:
                raise OSError("a PDU over the limit")
            return bytearray(read(count))

        line.recv = recv

    with Watch(lambda: lines[0].socket if lines else None, stopping) as watch:
        try:
            with watch.within(CONNECTION_S + ANSWER_S):
                association = entity.associate(
                    node.host,
                    node.port,
                    ae_title=node.title,
                    max_pdu=PDU_BYTES,
                    tls_args=secured,
                    evt_handlers=[(evt.EVT_REQUESTED, limit)],
                )
        except OSError as error:  # a name that nobody knows
            raise NodeError(f"no address of {node.host}; check the name") from error
        try:
            if not association.is_established:
                raise NodeError(
                    f"no association with {node.title} at {node.host} port {node.port}; check that it knows {title}"
                )
            answers = [_stored(association, watch, path, node, confirmed) for path in paths]
        except NodeError as error:
            if stopping():
                raise StoppedError("stopped while results were sent") from error
            raise
        finally:
            if association.is_established:
                with watch.within(CONNECTION_S), suppress(RuntimeError):
                    association.release()
            watch.close()  # a thread of the library waits on it otherwise
    for refused in filter(None, answers):
        raise refused


def _stored(
    association: Any, watch: Watch, path: Path, node: Node, confirmed: Callable[[Path], None]
) -> RefusedError | None:
    """Send one object; returns why the node would not have it."""
    try:
        with watch.within(ANSWER_S + path.stat().st_size / RATE_BYTES_S):
            answer = association.send_c_store(path)
    except ValueError:
        return RefusedError(f"{node.title} does not take objects like {path.name}")
    except RuntimeError as error:
        raise NodeError(f"{node.title} ended the association") from error
    status = getattr(answer, "Status", None)
    if status is None:
        raise NodeError(f"{node.title} did not answer")
    if status != 0 and status not in _WARNINGS:
        return RefusedError(f"{node.title} refused {path.name} with status {status:04X}H")
    confirmed(path)
    return None
