"""The HTML report: whole in itself, usable by everyone, and it says what must be said."""

import re
import shutil
import subprocess
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progression.report import pdf
from progression.report.html import report_html
from progression.report.pdf import report_pdf
from progression.report.words import (
    LATE_BY_ANOTHER,
    UNSEEN_BY_ANOTHER,
    UNSEEN_BY_DEFAULT,
    asked_with,
    grade_sentences,
    tables,
    told_risk,
)
from progression.types import SpreadPicture
from tests.fakes import prediction, radiograph


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    return report_html(prediction(radiograph("knee"), (24, 48)))


def test_it_asks_for_nothing_from_elsewhere(text: str) -> None:
    written = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", written)
    sources = [attributes["src"] for attributes in Reader(text).of("img")]
    assert sources and all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not Reader(text).of("link") and all("src" not in script for script in Reader(text).of("script"))
    assert "default-src 'none'" in text


def test_everyone_can_use_it(text: str) -> None:
    page = Reader(text)
    assert page.of("html")[0]["lang"] == "en"
    assert all(picture.get("alt") for picture in page.of("img"))
    assert page.of("input")[0]["type"] == "range" and page.of("input")[0]["aria-label"]
    assert all(cell["scope"] in ("row", "col") for cell in page.of("th"))
    # without scripts, all pictures are there side by side: now, reconstruction, two futures with their changes; and the
    # radiograph once more, beside the slider
    assert text.count("<figure>") == 7


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("name", ["ink", "soft", "accent", "warn"])
def test_text_stands_out_from_white(text: str, name: str) -> None:
    found = re.search(rf"--{name}: (#[0-9a-f]{{6}})", text)
    assert found and 1.05 / (luminance(found.group(1)) + 0.05) > 7  # WCAG AAA


def test_generated_pictures_say_so(text: str) -> None:
    for attributes in Reader(text).of("img"):
        alt, source = str(attributes["alt"]), str(attributes["src"])
        if alt.startswith("Synthetic"):
            pixels = np.asarray(Image.open(BytesIO(b64decode(source.partition(",")[2]))))
            corner = pixels[-20:, : pixels.shape[1] // 3]
            assert corner.max() == 255 and np.median(corner) < 64
    assert "Research use, not a medical device" in text


def test_the_part_of_the_prediction_that_the_slider_shows_is_marked(text: str) -> None:
    """It shows from the right, where the burned mark is not; so a mark stands there too."""
    over = text[text.index('id="over"') : text.index('id="edge"')]
    assert ">SYNTHETIC</span>" in over and "right: 0; bottom: 0" in text
    assert "clip-path: inset(0 0 0 50%)" in text


def test_the_slider_moves_between_two_pictures_of_the_network(text: str) -> None:
    """From the radiograph to a rendering all that moves would be what the network draws wrongly."""
    compare = text[text.index('id="compare"') : text.index('id="edge"')]
    alts = [str(attributes["alt"]) for attributes in Reader(compare).of("img")]
    assert len(alts) == 3 and all(alt.startswith("Synthetic: ") for alt in alts)
    assert "reconstruction" in alts[0]
    section = text[text.index('id="compare-title"') : text.index('id="pictures-title"')]
    assert "<figcaption>Radiograph</figcaption>" in section
    assert "now: reconstruction (synthetic)" in section and "later: prediction (synthetic)" in section


def test_texts_are_escaped() -> None:
    made = replace(prediction(radiograph("<script>alert(1)</script>&$x")), warnings=("<b>bold</b> $y",))
    text = report_html(made)
    assert "<script>alert" not in text and "<b>bold" not in text
    assert "&lt;script&gt;" in text and "$y" in text
    assert report_pdf(made).startswith(b"%PDF")


def test_what_was_not_seen_and_versions() -> None:
    made = prediction(radiograph(), (48,))
    assert UNSEEN_BY_ANOTHER in report_html(made)
    ours = replace(
        made,
        provenance={"model": "default", "versions": {"torch": "2.0"}, "weights_sha256": {"bank": "ab" * 32}},
    )
    text = report_html(ours)
    assert all(sentence in text for sentence in UNSEEN_BY_DEFAULT)
    assert "<dt>torch</dt><dd>2.0</dd>" in text and "<dd>abababababababab</dd>" in text
    assert "/home" not in report_html(replace(made, provenance={"model": "/home/somebody/mine"}))


def test_both_reports_say_what_was_asked_with_and_how_sure_the_risks_are(tmp_path: Path) -> None:
    made = prediction(radiograph(), (48, 96))
    page = re.sub(r"<[^>]+>", " ", report_html(made))
    document = pdf_text(report_pdf(made), tmp_path)
    risk = told_risk(made, made.horizons[0], 1)
    assert re.fullmatch(r"\d+\.\d% \(2\.0% to 70\.0%\)", risk)
    for text in (page, document):
        words = " ".join(text.split())
        assert asked_with(made) in words
        assert all(sentence in words for sentence in grade_sentences(made))
        assert f"48 months {risk}" in words and "96 months 50% 20% 10% 10% 10% 0 or 1" in words
        assert LATE_BY_ANOTHER in words


def pdf_text(content: bytes, folder: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext (Debian package poppler-utils)")
    (folder / "report.pdf").write_bytes(content)
    command = ["pdftotext", "-layout", folder / "report.pdf", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_table_fits_the_page() -> None:
    """Of a PDF: the widest one, with its longest cells."""
    made = prediction(radiograph(), (48,))
    wide = replace(made, horizons=(replace(made.horizons[0], kl_set=(0, 1, 2, 3, 4)),))
    for table in tables(wide):
        (places, _), *_ = pdf._table(table)[1:]
        assert places[-1][0] + pdf._LETTER * max(len(row[-1]) for row in table.rows) < 1 - pdf._LEFT / 2


def test_futures_at_percentiles_are_shown() -> None:
    made = prediction(radiograph(), (48,))
    assert "spread-title" not in report_html(made)
    (horizon,) = made.horizons
    spread = tuple(SpreadPicture(p, p / 50, horizon.image) for p in (5, 95))
    text = report_html(replace(made, horizons=(replace(horizon, spread=spread),)))
    assert "+48 months, 95th percentile: +1.9 grades (synthetic)" in text
    assert text.count('alt="Synthetic: the knee in 48 months, ') == 2


def test_without_pictures_there_is_no_slider() -> None:
    text = report_html(prediction(radiograph(), (48,), render=False))
    assert 'id="reveal"' not in text and text.count("<figure>") == 2


def test_the_pdf_is_the_same_for_the_same_prediction() -> None:
    made = prediction(radiograph(), (48,))
    assert report_pdf(made) == report_pdf(made)


def test_the_slider_moves_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium (Debian package chromium)")
    pushed = report_html(prediction(radiograph("knee"), (24, 48))).replace(
        "  show();\n}());",
        "  reveal.value = '75'; reveal.dispatchEvent(new Event('input'));"
        "document.querySelectorAll('input[name=horizon]')[1].click();\n}());",
    )
    (tmp_path / "report.html").write_text(pushed)
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, f"file://{tmp_path}/report.html"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "inset(0px 0px 0px 25%)" in done.stdout or "inset(0 0 0 25%)" in done.stdout
    assert 'aria-valuetext="75 percent prediction"' in done.stdout
    shown = re.findall(r'<img class="future" data-number="(\d)"[^>]*?(hidden="")?>', done.stdout)
    assert shown == [("0", 'hidden=""'), ("1", "")]
