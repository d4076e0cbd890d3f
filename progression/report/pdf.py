"""A prediction as a PDF of one or two pages: the figure, and the same words as the HTML report."""

import textwrap
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from progression import __version__
from progression.report.figures import prediction_figure
from progression.report.mark import NOTICE, WORD
from progression.report.words import (
    FOR_A_GROUP,
    PICTURES,
    risk_sentence,
    sureness,
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
            for number, (text, weight) in enumerate(lines[start : start + _LINES_A_PAGE]):
                page.text(_LEFT, _TOP - _LINE_HEIGHT * number, text, va="top", fontsize=9.5, weight=weight)
            page.text(_LEFT, 0.03, f"{NOTICE} progression {__version__}", fontsize=8)
            pages.savefig(page)
        pages.savefig(prediction_figure(prediction))
    return stream.getvalue()


def _lines(prediction: Prediction) -> list[tuple[str, str]]:
    """Lines that fit the page, with their weight."""
    sections = {
        f"Prediction, {prediction.side} knee ({prediction.name})": [
            NOTICE,
            *(f"Warning: {text}" for text in prediction.warnings),
        ],
        "What is expected": [
            *(risk_sentence(horizon) for horizon in prediction.horizons),
            FOR_A_GROUP,
            sureness(prediction),
        ],
        "Pictures": [PICTURES],
        "What the model has not seen": [*unseen(prediction), typicality_sentence(prediction)],
    }
    lines = []
    for heading, paragraphs in sections.items():
        lines += [(line, "bold") for line in textwrap.wrap(_literal(heading), _LINE_CHARACTERS)]
        for text in paragraphs:
            lines += [(line, "normal") for line in [*textwrap.wrap(_literal(text), _LINE_CHARACTERS), ""]]
    return lines


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
