"""Pictures and pages that these tests do not look at are not drawn; the real process draws them."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"")

    for name in ("save_gif", "save_prediction_figure"):
        monkeypatch.setattr(f"progression.report.outputs.{name}", blank)
    monkeypatch.setattr("progression.report.outputs.report_html", lambda prediction: "")
    monkeypatch.setattr("progression.report.pdf.report_pdf", lambda prediction: b"%PDF-1.4 odd")
