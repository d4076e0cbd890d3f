"""The other ends of the line: a node that receives, and one that sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

TITLE, OWN = "PACS", "PROGRESSION"


@dataclass
class Receiver:
    """Keeps what arrives, in order: SOP Instance UID, series, bytes."""

    port: int = 0
    arrived: list[tuple[str, str, bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    status: int = 0
    on_arrival: Callable[[], None] = lambda: None

    @property
    def uids(self) -> set[str]:
        return {uid for uid, _, _ in self.arrived}

    @property
    def series(self) -> set[str]:
        return {series for _, series, _ in self.arrived}

    def store(self, event: evt.Event) -> int:
        if self.status == 0:
            made = event.dataset
            content = event.encoded_dataset(include_meta=False)
            self.arrived.append((made.SOPInstanceUID, made.SeriesInstanceUID, content))
            self.times.append(time.monotonic())
            self.on_arrival()
        return self.status


@contextmanager
def receiving(tls: SSLContext | None = None) -> Iterator[Receiver]:
    """A node that takes results, on any free port."""
    receiver = Receiver()
    entity = AE(ae_title=TITLE)
    for kind in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
        entity.add_supported_context(kind)
    handlers = [(evt.EVT_C_STORE, receiver.store)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    receiver.port = server.server_address[1]
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


def call(
    port: int,
    films: Sequence[Dataset | Path] = (),
    *,
    title: str = TITLE,
    called: str = OWN,
    tls: SSLContext | None = None,
    syntax: str | None = None,
    answer_s: float = 20,
) -> list[int | None] | None:
    """C-ECHO, then C-STORE of each film; their statuses, None for no answer, or None if there is no association."""
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = answer_s
    entity.add_requested_context(Verification)
    for kind in (
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        SecondaryCaptureImageStorage,
    ):
        entity.add_requested_context(kind, syntax)
    association = entity.associate(
        "127.0.0.1", port, ae_title=called, tls_args=(tls, "localhost") if tls else None
    )
    if not association.is_established:
        return None
    found = [getattr(association.send_c_echo(), "Status", None)]
    for film in films:
        if not association.is_established:
            found.append(None)
            continue
        found.append(getattr(association.send_c_store(film), "Status", None))
    if association.is_established:
        association.release()
    return found


def until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait for something, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
