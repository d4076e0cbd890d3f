"""One self-contained HTML file a prediction: pictures, risks in words, what the model has not seen, versions.

No request leaves it (its own policy forbids them), nothing in it names a patient, and it can be used without a
mouse, without colours and without scripts: the slider only adds to what is there side by side.
"""

from base64 import b64encode
from collections.abc import Callable
from html import escape as _escape
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from progression import __version__
from progression.report.figures import LEAST_DIFFERENCE, difference
from progression.report.mark import NOTICE, burn, to_grey8
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
from progression.texts import printable
from progression.types import HorizonPrediction, Pixels, Prediction

SHOWN_PIXELS = 256
"""Side of the pictures, enlarged so that the mark can be read."""


def escape(text: str) -> str:
    """A text of others in HTML: printable, and no tag."""
    return _escape(printable(text))


def report_html(prediction: Prediction) -> str:
    """The report as text; pictures are embedded, and marked SYNTHETIC where they are."""
    low, high = float(np.min(prediction.baseline)), float(np.max(prediction.baseline))

    def shown(pixels: Pixels) -> Image.Image:
        return _enlarged(to_grey8((pixels - low) / max(high - low, 1e-6)))

    pictured = [(horizon, horizon.image) for horizon in prediction.horizons if horizon.image is not None]
    changes = [difference(image, prediction.reconstruction, prediction.baseline) for _, image in pictured]
    limit = max([LEAST_DIFFERENCE, *(float(np.percentile(np.abs(change), 99.5)) for change in changes)])
    baseline, rebuilt = _uri(shown(prediction.baseline)), _uri(burn(shown(prediction.reconstruction)))
    futures = [_uri(burn(shown(image))) for _, image in pictured]
    radiograph = _figure(baseline, "The radiograph, as the model saw it.", "Radiograph")
    return _template("report.html").substitute(
        title=escape(f"{prediction.name}, {prediction.side} knee"),
        notice=escape(NOTICE),
        warnings=_list([f"Warning: {text}" for text in prediction.warnings], kind="warnings"),
        asked=escape(asked_with(prediction)),
        sentences=_list([*risk_sentences(prediction), *grade_sentences(prediction)]),
        caveats=_list(caveats(prediction)),
        tables="\n".join(_table(table) for table in tables(prediction)),
        compare=_compare(prediction, pictured, radiograph, rebuilt, futures) if pictured else "",
        spread=_spread(prediction, shown),
        figures="\n".join(
            [
                radiograph,
                _figure(
                    rebuilt,
                    "Synthetic: what the model makes of the radiograph before any change.",
                    "Reconstruction (synthetic)",
                ),
                *(
                    part
                    for (horizon, _), uri, change in zip(pictured, futures, changes, strict=True)
                    for part in _pair(horizon, uri, change, limit)
                ),
            ]
        ),
        pictures=escape(PICTURES),
        limit=f"{limit:.0%}",
        unseen=_list([*unseen(prediction), typicality_sentence(prediction)]),
        versions=_versions(prediction),
        version=escape(__version__),
    )


def _template(name: str) -> Template:
    return Template((files("progression.report") / name).read_text(encoding="utf-8"))


def _compare(
    prediction: Prediction,
    pictured: list[tuple[HorizonPrediction, Pixels]],
    radiograph: str,
    rebuilt: str,
    futures: list[str],
) -> str:
    """The reconstruction under the prediction, as only what is predicted then moves; the radiograph beside them."""
    choices = "\n".join(
        f'<label><input type="radio" name="horizon" value="{number}"{" checked" if number == 0 else ""}> '
        f"{horizon.horizon_months} months</label>"
        for number, (horizon, _) in enumerate(pictured)
    )
    layers = "\n".join(
        f'<img class="future" data-number="{number}" src="{uri}" '
        f'alt="Synthetic: the knee as predicted in {horizon.horizon_months} months."{"" if number == 0 else " hidden"}>'
        for number, ((horizon, _), uri) in enumerate(zip(pictured, futures, strict=True))
    )
    return _template("compare.html").substitute(
        side=escape(prediction.side.value),
        radiograph=radiograph,
        rebuilt=rebuilt,
        layers=layers,
        choices=choices,
    )


def _spread(prediction: Prediction, shown: Callable[[Pixels], Image.Image]) -> str:
    """Futures at the percentiles of the change, if they were asked for."""
    figures = [
        _figure(
            _uri(burn(shown(future.image))),
            f"Synthetic: the knee in {horizon.horizon_months} months, {future.percentile}th percentile of change.",
            f"+{horizon.horizon_months} months, {future.percentile}th percentile: +{future.change_grades:.1f} grades "
            "(synthetic)",
        )
        for horizon in prediction.horizons
        for future in horizon.spread
        if future.image is not None
    ]
    return _template("spread.html").substitute(figures="\n".join(figures)) if figures else ""


def _pair(horizon: HorizonPrediction, uri: str, change: Pixels, limit: float) -> tuple[str, str]:
    months = horizon.horizon_months
    brighter, darker = (float(np.mean(sign * change > limit / 2)) for sign in (1, -1))
    told = f"{brighter:.1%} of it clearly brighter, {darker:.1%} clearly darker."
    return (
        _figure(
            uri, f"Synthetic: the knee as predicted in {months} months.", f"+{months} months (synthetic)"
        ),
        _figure(
            _uri(_coloured(change, limit)),
            f"Map of the change from the reconstruction to {months} months: {told}",
            f"Change to +{months} months: {told}",
        ),
    )


def _figure(uri: str, alt: str, caption: str) -> str:
    return f'<figure><img src="{uri}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in table.rows
    )
    return (
        f"<table>\n<caption>{escape(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )


def _list(texts: list[str], kind: str = "") -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{items}</ul>' if kind else f"<ul>{items}</ul>"


def _versions(prediction: Prediction) -> str:
    """Versions and weights' hashes of the provenance, as the terms of a list; paths and other fields stay out."""
    told: dict[str, Any] = {"model": prediction.provenance.get("model", "")}
    told |= dict(prediction.provenance.get("versions", {}))
    for part, digest in dict(prediction.provenance.get("weights_sha256", {})).items():
        told[f"weights, {part}"] = str(digest)[:16]
    pairs = (
        (str(key), str(value)) for key, value in told.items() if value and not set(str(value)) & {"/", "\\"}
    )
    return "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs)


def _coloured(change: Pixels, limit: float) -> Image.Image:
    scaled = np.clip(change / limit, -1, 1) / 2 + 0.5
    rgb = np.round(colormaps["RdBu_r"](scaled)[:, :, :3] * 255).astype(np.uint8)
    return _enlarged(Image.fromarray(rgb))


def _enlarged(picture: Image.Image) -> Image.Image:
    height = max(1, round(SHOWN_PIXELS * picture.height / picture.width))
    return picture.resize((SHOWN_PIXELS, height), Image.Resampling.BICUBIC)


def _uri(picture: Image.Image) -> str:
    stream = BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode('ascii')}"
