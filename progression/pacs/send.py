"""The side that calls: results to a node by C-STORE."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from progression.errors import OutputError
from progression.pacs.peers import Node, NodeError, Tls

CONNECTION_S, ANSWER_S = 10, 60
_WARNINGS = range(0xB000, 0xC000)


class RefusedError(OutputError):
    """The node answered, and would not have an object."""


def send(
    paths: Sequence[Path], node: Node, *, title: str, tls: Tls | None, confirmed: Callable[[Path], None]
) -> None:
    """Send DICOM files over one association, in order.

    Parameters
    ----------
    paths : files that were written by this package.
    node : where to.
    title : own AE title.
    tls : None for an open line.
    confirmed : called for each file once the node has it.

    Raises
    ------
    NodeError
        If there is no association, or no answer.
    RefusedError
        If the node refuses an object; those before it are confirmed.
    """
    entity = AE(ae_title=title)
    entity.connection_timeout = CONNECTION_S
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER_S
    for kind in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
        entity.add_requested_context(kind, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    secured = (tls.client(), node.host) if tls else None
    association = entity.associate(node.host, node.port, ae_title=node.title, tls_args=secured)
    if not association.is_established:
        raise NodeError(
            f"no association with {node.title} at {node.host} port {node.port}; check that it knows {title}"
        )
    try:
        for path in paths:
            try:
                answer = association.send_c_store(path)
            except ValueError as error:
                raise RefusedError(f"{node.title} does not take objects like {path.name}") from error
            except RuntimeError as error:
                raise NodeError(f"{node.title} ended the association") from error
            status = getattr(answer, "Status", None)
            if status is None:
                raise NodeError(f"{node.title} did not answer")
            if status != 0 and status not in _WARNINGS:
                raise RefusedError(f"{node.title} refused {path.name} with status {status:04X}H")
            confirmed(path)
    finally:
        if association.is_established:
            association.release()
