"""What a prediction leaves behind: a folder of pictures and JSON, written whole or not at all."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from progression.errors import OutputError
from progression.files import atomic_folder
from progression.report.figures import save_prediction_figure, save_spread_figure
from progression.report.gif import save_gif
from progression.report.html import report_html
from progression.report.mark import save_synthetic_png
from progression.texts import printable
from progression.types import KL_GRADES, HorizonPrediction, Prediction

_OWN_FILE = re.compile(
    r"future_\d{3}m(_p\d\d\.png|\.png|\.dcm)|figure\.png|spread\.png|future\.gif|prediction\.json"
    r"|report\.(html|pdf|dcm)|risk\.dcm"
)

COLUMNS: tuple[str, ...] = (
    "name",
    "side",
    "grade_read",
    "horizon_months",
    "risk_fast",
    "risk_any",
    *(f"kl_now_{grade}" for grade in range(KL_GRADES)),
    *(f"kl_future_{grade}" for grade in range(KL_GRADES)),
    "risk_fast_product",
    "risk_any_product",
    "risk_fast_low",
    "risk_fast_high",
    "risk_any_low",
    "risk_any_high",
    *(f"kl_read_{grade}" for grade in range(KL_GRADES)),
    "kl_set",
    "other_knee",
    "typicality",
    "warnings",
)
"""Keys of one row, in the order of results.csv."""


def row(prediction: Prediction, horizon: HorizonPrediction) -> dict[str, Any]:
    """One knee at one horizon, with the keys of `COLUMNS`; None where a model does not say.

    Several warnings are joined by "; ", the grades of `kl_set` by spaces.
    """
    values: dict[str, Any] = {
        "name": printable(prediction.name),
        "side": prediction.side.value,
        "grade_read": prediction.provenance.get("grade_read"),
        "horizon_months": horizon.horizon_months,
        "risk_fast": float(horizon.risk_fast),
        "risk_any": float(horizon.risk_any),
        "risk_fast_product": float(horizon.risk_fast_product),
        "risk_any_product": float(horizon.risk_any_product),
        "typicality": float(prediction.typicality),
        "warnings": printable("; ".join(prediction.warnings)),
    }
    for grade in range(KL_GRADES):
        values[f"kl_now_{grade}"] = float(prediction.kl_now[grade])
        values[f"kl_future_{grade}"] = float(horizon.kl_future[grade])
        values[f"kl_read_{grade}"] = None if horizon.kl_read is None else float(horizon.kl_read[grade])
    for event, interval in (("fast", horizon.risk_fast_interval), ("any", horizon.risk_any_interval)):
        low, high = interval or (None, None)
        values |= {f"risk_{event}_low": low, f"risk_{event}_high": high}
    values["kl_set"] = None if horizon.kl_set is None else " ".join(str(grade) for grade in horizon.kl_set)
    values["other_knee"] = prediction.other_knee
    return {key: values[key] for key in COLUMNS}


def as_json(prediction: Prediction) -> dict[str, Any]:
    """The content of prediction.json: the knee, one entry a horizon, and the provenance.

    Every entry of `horizons` has all the keys of a row of results.csv, and the excess of the product; with a spread
    also `change_grades`, the change of the grade at each percentile.
    """
    return {
        "name": printable(prediction.name),
        "side": prediction.side.value,
        "synthetic": True,
        "typicality": float(prediction.typicality),
        **{f"kl_now_{grade}": float(value) for grade, value in enumerate(prediction.kl_now)},
        "neighbour_distances": [float(value) for value in prediction.neighbour_distances],
        "warnings": [printable(text) for text in prediction.warnings],
        "horizons": [
            row(prediction, horizon)
            | {
                "risk_fast_excess": float(horizon.risk_fast_excess),
                "risk_any_excess": float(horizon.risk_any_excess),
            }
            | _spread(horizon)
            for horizon in prediction.horizons
        ],
        **without_paths(prediction.provenance),
    }


def _spread(horizon: HorizonPrediction) -> dict[str, Any]:
    change = {f"p{picture.percentile:02d}": float(picture.change_grades) for picture in horizon.spread}
    return {"change_grades": change} if change else {}


@dataclass(frozen=True)
class SourceFilm:
    """The DICOM file that a prediction was made from; root and seed of the UIDs of what returns to its study."""

    content: bytes
    label: str
    uid_root: str | None = None
    uid_seed: str | None = None


def write_prediction(folder: str | Path, prediction: Prediction, *, film: SourceFilm | None = None) -> Path:
    """Write future_048m.png (one a horizon), figure.png, future.gif, report.html and prediction.json.

    With a spread also future_048m_p05.png (one a horizon and percentile) and spread.png.

    Parameters
    ----------
    folder
        Made whole beside its place and renamed into it. An older prediction there is replaced; a folder with
        anything else in it is left alone.
    film
        With it, DICOM objects of its study are written too: future_048m.dcm, risk.dcm, report.dcm, and the last
        one's report.pdf. They carry patient data; nothing else does.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If the film does not say which study it belongs to, it cannot be written, or `folder` holds files that are
        not a prediction's.
    """
    folder = Path(folder)
    check_replaceable(folder)
    with atomic_folder(folder) as temporary:
        for horizon in prediction.horizons:
            if horizon.image is not None:
                target = temporary / f"future_{horizon.horizon_months:03d}m.png"
                save_synthetic_png(target, horizon.image, side=prediction.side)
            for picture in horizon.spread:
                if picture.image is not None:
                    target = temporary / f"future_{horizon.horizon_months:03d}m_p{picture.percentile:02d}.png"
                    save_synthetic_png(target, picture.image, side=prediction.side)
        if any(horizon.spread for horizon in prediction.horizons):
            save_spread_figure(temporary / "spread.png", prediction)
        save_prediction_figure(temporary / "figure.png", prediction)
        save_gif(temporary / "future.gif", prediction)
        text = json.dumps(as_json(prediction), indent=2, allow_nan=False) + "\n"
        (temporary / "prediction.json").write_text(text, encoding="utf-8")
        (temporary / "report.html").write_text(report_html(prediction), encoding="utf-8")
        if film is not None:
            _write_objects(temporary, prediction, film)
    return folder


def _write_objects(folder: Path, prediction: Prediction, film: SourceFilm) -> None:
    from progression.dicom.study import Study  # pydicom and highdicom are imported for DICOM only
    from progression.report.objects import dicom_files
    from progression.report.pdf import report_pdf

    study = Study.of(film.content, label=film.label, uid_root=film.uid_root, uid_seed=film.uid_seed)
    pdf = report_pdf(prediction)
    (folder / "report.pdf").write_bytes(pdf)
    for name, content in dicom_files(prediction, study, pdf=pdf).items():
        (folder / name).write_bytes(content)


def check_replaceable(folder: str | Path, *, own: re.Pattern[str] = _OWN_FILE) -> None:
    """OutputError unless `folder` is missing or holds nothing but files called like `own`: an older prediction's."""
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(
            f"cannot write folder {printable(folder)}: a file of that name exists; choose another --out"
        )
    for entry in folder.iterdir():
        if not own.fullmatch(entry.name):
            raise OutputError(
                f"{printable(folder)} holds other files ({printable(entry.name)}); choose another --out or remove it"
            )


def without_paths(value: Any) -> Any:
    """Absolute paths cut to their last part: where a file lay on somebody's machine is nobody's business."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(entry) for key, entry in value.items()}
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
        return value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Sequence):
        return [without_paths(entry) for entry in value]
    return value
