"""Many knees: a table in, a table out; a knee that fails does not stop the others."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import pandas as pd

from progression.errors import ImageError, ProgressionError, TableError, UsageError
from progression.files import atomic_write
from progression.film import Place, read_knee
from progression.image import label_of
from progression.report.outputs import COLUMNS, row
from progression.types import KL_GRADES, Prediction, Radiograph, Request, Side

BATCH = 8
"""Knees a batch; the numbers do not depend on it."""
_BAD_CSV = (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError)
_NEEDED = ("name", "image", "side")


class BatchPredictor(Protocol):
    """What is needed of a predictor; `progression.predict.Predictor` is one."""

    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: Sequence[int],
        grades: Sequence[int | None] | None = None,
        subjects: Sequence[str | None] | None = None,
        refine_steps: int | None = None,
        inversion: str = "encoder",
        method: str = "joint",
        seed: int = 0,
        render: bool = True,
    ) -> list[Prediction]:
        """Predict several knees at once, in their order."""
        ...


@dataclass(frozen=True)
class Entry:
    """One knee to be predicted: as asked for, not yet read.

    Attributes
    ----------
    name : for outputs
    image : path, or `archive.zip::member`
    side : text, parsed when the knee's turn comes; empty if the image says it
    grade : baseline KL grade as text, empty if no reader gave one
    subject : whose knee it is, where the bank may hold knees of the same people; those are passed over
    centre : "x,y" of the joint's centre in a film, pixels; empty if the image shows one knee
    spacing_mm : size of the film's pixels as text, if the image does not say it
    """

    name: str
    image: str
    side: str
    grade: str = ""
    subject: str = ""
    centre: str = ""
    spacing_mm: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of an entry: a prediction, or the reason why not."""

    entry: Entry
    result: Prediction | ProgressionError


def predict_entries(
    predictor: BatchPredictor,
    entries: Iterable[Entry],
    *,
    request: Request,
    render: bool,
    batch: int = BATCH,
) -> Iterator[Outcome]:
    """Predict knees batch by batch, in order; a knee that fails yields its error and the others go on.

    Parameters
    ----------
    predictor
        See `BatchPredictor`.
    entries
        Knees; files are read as their batch comes.
    request
        Horizons and options, the same for all.
    render
        Whether the predictions carry pictures.
    batch
        Knees at once.
    """
    for group in _grouped(entries, batch):
        read = [(entry, _read(entry)) for entry in group]
        good = [loaded for _, loaded in read if not isinstance(loaded, ProgressionError)]
        results = iter(_predict(predictor, good, request, render))
        for entry, loaded in read:
            yield Outcome(entry, loaded if isinstance(loaded, ProgressionError) else next(results))


def read_table(path: str | Path, *, images: str | Path | None = None) -> list[Entry]:
    """Read a cohort table.

    Parameters
    ----------
    path
        CSV with the columns name, image, side and optionally grade, subject, centre and spacing_mm; others are
        ignored.
    images
        Folder to which the image paths are relative; the table's own folder by default.

    Raises
    ------
    TableError
        If it cannot be read, a column is missing, it has no rows, or a name is empty or there twice. What is
        wrong with one knee's image, side or grade shows when its turn comes.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
            ).fillna("")
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except (*_BAD_CSV, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path} is not a CSV table ({reason}); save it as comma-separated UTF-8") from error
    table.columns = table.columns.str.strip()
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        have = ", ".join(table.columns)
        raise TableError(f"{path} lacks the column {missing[0]!r} (it has: {have}); name it so")
    if table.empty:
        raise TableError(f"{path} has no rows; expected one a knee")
    names = table["name"].str.strip()
    for number, name in enumerate(names, start=1):
        if not name:
            raise TableError(f"{path} row {number}: empty name; give every knee its own")
    twice = names[names.duplicated()]
    if len(twice):
        raise TableError(
            f"{path} row {twice.index[0] + 1}: name {twice.iloc[0]!r} is there twice; give every knee its own"
        )
    root = Path(images) if images is not None else path.parent
    optional = ("grade", "subject", "centre", "spacing_mm")
    for column in optional:
        if column not in table.columns:
            table[column] = ""
    columns = (table[column].str.strip() for column in ("image", "side", *optional))
    return [
        Entry(name, str(root / image) if image else "", *rest)
        for name, image, *rest in zip(names, *columns, strict=True)
    ]


def run_cohort(
    predictor: BatchPredictor,
    entries: Sequence[Entry],
    out: str | Path,
    *,
    request: Request,
    batch: int = BATCH,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Predict a cohort and write results.csv.

    Parameters
    ----------
    out
        The table: one row a knee and horizon with the columns of `report.outputs.COLUMNS`, in the order of
        `entries`, horizons ascending. A failed knee has its rows, with numbers empty and the reason in
        `warnings`. Written whole at the end, or not at all.
    progress
        Called after every knee.

    Returns
    -------
    list of Outcome
        The failed ones.

    Raises
    ------
    OutputError
        If `out` cannot be written.
    """
    rows: list[dict[str, object]] = []
    failed: list[Outcome] = []
    for outcome in predict_entries(predictor, entries, request=request, render=False, batch=batch):
        result = outcome.result
        if isinstance(result, ProgressionError):
            failed.append(outcome)
            reason = {"name": outcome.entry.name, "warnings": f"failed: {result}"}
            rows += [{**reason, "horizon_months": months} for months in request.horizon_months]
        else:
            rows += [row(result, horizon) for horizon in result.horizons]
        progress(outcome)
    with atomic_write(out) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)
    return failed


@dataclass(frozen=True)
class _Loaded:
    radiograph: Radiograph
    grade: int | None
    subject: str | None
    notes: tuple[str, ...]


def _read(entry: Entry) -> _Loaded | ProgressionError:
    try:
        if not entry.image:
            raise ImageError("no image: the cell is empty; give the path of a radiograph")
        asked = Side.parse(entry.side) if entry.side else None
        knee = read_knee(entry.image, side=asked, place=Place.parse(entry.centre, entry.spacing_mm))
        if knee.side is None:
            raise UsageError(
                f"{label_of(entry.image)} does not say which knee it is; give its side, left or right"
            )
        grade = parse_grade(entry.grade)
        return _Loaded(
            Radiograph(knee.pixels, knee.side, entry.name), grade, entry.subject or None, knee.notes
        )
    except ProgressionError as error:
        return error


def parse_grade(text: str) -> int | None:
    """A baseline KL grade from a table's cell: empty is None; "2" and "2.0" are 2.

    Raises
    ------
    UsageError
        For anything but 0 to 4.
    """
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number.is_integer() or not 0 <= number < KL_GRADES:
        raise UsageError(f"grade {text!r}: expected a Kellgren-Lawrence grade from 0 to 4, or nothing")
    return int(number)


def _predict(
    predictor: BatchPredictor, knees: Sequence[_Loaded], request: Request, render: bool
) -> list[Prediction | ProgressionError]:
    """One result a knee; if the batch fails, knee by knee, to tell the one that does from the others."""
    if not knees:
        return []
    try:
        predicted = predictor.predict_batch(
            [knee.radiograph for knee in knees],
            horizon_months=request.horizon_months,
            grades=[knee.grade for knee in knees],
            subjects=[knee.subject for knee in knees],
            refine_steps=request.refine_steps,
            inversion=request.inversion,
            method=request.method,
            seed=request.seed,
            render=render,
        )
    except ProgressionError as error:
        if len(knees) == 1:
            return [error]
        return [result for knee in knees for result in _predict(predictor, [knee], request, render)]
    return [
        replace(prediction, warnings=(*knee.notes, *prediction.warnings)) if knee.notes else prediction
        for knee, prediction in zip(knees, predicted, strict=True)
    ]


def _grouped(entries: Iterable[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """Entries in groups of `size`, the last one shorter."""
    rest = iter(entries)
    while group := list(islice(rest, size)):
        yield group
