"""A prediction as a PDF of one or two pages: the figure, and the same words as the HTML report."""

from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from progression import __version__
from progression.report.figures import prediction_figure
from progression.report.lettering import drawn, drawn_lines
from progression.report.mark import NOTICE, WORD
from progression.report.words import (
    PICTURES,
    Table,
    asked_with,
    caveats,
    grade_sentences,
    risk_sentences,
    tables,
    typicality_sentence,
    unseen,
)
from progression.types import Prediction

_PAGE_INCHES = (8.27, 11.69)
_LINE_CHARACTERS = 92
_LINES_A_PAGE = 54
_LINE_HEIGHT = 0.0165
"""Share of the page's height."""
_TOP, _LEFT = 0.95, 0.09
_LETTER = 0.011
"""Share of the page's width that a bold letter takes in a table."""

Line = tuple[Sequence[tuple[float, str]], str]
"""Texts, each with its place from the left in shares of the page's width, and their weight."""


def report_pdf(prediction: Prediction) -> bytes:
    """The report's bytes: words first, then the figure on a page of its own size. It names no patient."""
    stream = BytesIO()
    about = {
        "Title": f"{WORD}: {prediction.side} knee",
        "Creator": f"progression {__version__}",
        "CreationDate": None,
    }
    with PdfPages(stream, metadata=about) as pages:
        lines = _lines(prediction)
        for start in range(0, len(lines), _LINES_A_PAGE):
            page = Figure(figsize=_PAGE_INCHES)
            FigureCanvasAgg(page)
            for number, (texts, weight) in enumerate(lines[start : start + _LINES_A_PAGE]):
                for x, text in texts:
                    page.text(x, _TOP - _LINE_HEIGHT * number, text, va="top", fontsize=9.5, weight=weight)
            page.text(_LEFT, 0.03, f"{NOTICE} progression {__version__}", fontsize=8)
            pages.savefig(page)
        pages.savefig(prediction_figure(prediction))
    return stream.getvalue()


def _lines(prediction: Prediction) -> list[Line]:
    """Lines that fit the page."""
    sections: dict[str, list[str | list[str] | Table]] = {
        f"Prediction, {prediction.side} knee ({prediction.name})": [
            NOTICE,
            asked_with(prediction),
            *(f"Warning: {text}" for text in prediction.warnings),
        ],
        "What is expected": [
            [*risk_sentences(prediction), *grade_sentences(prediction)],
            *tables(prediction),
            *caveats(prediction),
        ],
        "Pictures": [PICTURES],
        "What the model has not seen": [*unseen(prediction), typicality_sentence(prediction)],
    }
    lines = []
    for heading, parts in sections.items():
        lines += _text(heading, "bold")
        for part in parts:
            lines += [*_part(part), ((), "normal")]
    return lines


def _part(part: str | list[str] | Table) -> list[Line]:
    """A paragraph, a list or a table."""
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, str):
        return _text(part)
    return [line for text in part for line in _text(f"– {text}")]


def _text(text: str, weight: str = "normal") -> list[Line]:
    return [([(_LEFT, line)], weight) for line in drawn_lines(text, _LINE_CHARACTERS)]


def _table(table: Table) -> list[Line]:
    widths = [_LETTER * (2 + max(map(len, column))) for column in zip(table.head, *table.rows, strict=True)]
    places = list(accumulate(widths[:-1], initial=_LEFT))
    rows = [(table.head, "bold"), *((row, "normal") for row in table.rows)]
    return [
        *_text(table.caption + ":"),
        *((list(zip(places, map(drawn, cells), strict=True)), weight) for cells, weight in rows),
    ]
