"""What all these tests share."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    """pynetdicom leaves the sockets of connections that failed or were refused to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and pages that are not looked at here are not drawn; the real process draws them."""

    def blank(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"")

    for name in ("save_gif", "save_prediction_figure"):
        monkeypatch.setattr(f"progression.report.outputs.{name}", blank)
    monkeypatch.setattr("progression.report.outputs.report_html", lambda prediction: "")
    monkeypatch.setattr("progression.report.pdf.report_pdf", lambda prediction: b"%PDF-1.4 odd")
