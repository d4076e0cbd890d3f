"""Many knees: a table in, a table out; a knee that fails does not stop the others, nor a kill the whole run."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import pandas as pd

from progression.entries import Entry, parse_grade
from progression.errors import ImageError, ProgressionError, UsageError
from progression.files import GrowingFile, digest, growing_file, part_path
from progression.film import Knee, Place
from progression.image import label_of
from progression.localise.find import Finder
from progression.localise.places import ReadKnee, reader
from progression.processes import Workers
from progression.report.outputs import COLUMNS, row
from progression.types import EarlierFilm, Prediction, Radiograph, Request, Side

T = TypeVar("T")
BATCH = 8
"""Knees a batch; the numbers do not depend on it."""
_FAILED = "failed: "


class BatchPredictor(Protocol):
    """What is needed of a predictor; `progression.predict.Predictor` is one."""

    @property
    def finder(self) -> Finder | None:
        """Finds knees in films; None takes every picture whole."""
        ...

    def predict_batch(
        self,
        radiographs: Sequence[Radiograph],
        *,
        horizon_months: Sequence[int],
        grades: Sequence[int | None] | None = None,
        others: Sequence[Radiograph | None] | None = None,
        other_grades: Sequence[int | None] | None = None,
        subjects: Sequence[str | None] | None = None,
        histories: Sequence[Sequence[EarlierFilm]] | None = None,
        refine_steps: int | None = None,
        inversion: str = "encoder",
        method: str = "joint",
        seed: int = 0,
        spread: bool = False,
        render: bool = True,
        accept_atypical: bool = False,
    ) -> list[Prediction]:
        """Predict several knees at once, in their order."""
        ...


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
    read_one = reader(predictor.finder, accept_atypical=request.accept_atypical)
    for group in _grouped(entries, batch):
        knees: dict[Entry, Knee] = {}  # a knee that is also another's other knee is read, and graded, once
        read = [(entry, _read(entry, knees, read_one)) for entry in group]
        good = [loaded for _, loaded in read if not isinstance(loaded, ProgressionError)]
        results = iter(_predict(predictor, good, request, render))
        for entry, loaded in read:
            yield Outcome(entry, loaded if isinstance(loaded, ProgressionError) else next(results))


def run_cohort(
    predictor: BatchPredictor | Workers[BatchPredictor],
    entries: Sequence[Entry],
    out: str | Path,
    *,
    request: Request,
    batch: int = BATCH,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Outcome]:
    """Predict a cohort and write results.csv.

    Parameters
    ----------
    predictor
        One predictor, or workers that each have their own; the rows and their order are the same.
    out
        The table: one row a knee and horizon with the columns of `report.outputs.COLUMNS`, in the order of
        `entries`, horizons ascending. A failed knee has its rows, with numbers empty and the reason in
        `warnings`, which calls a knee by its name, never by its file's. The table bears its name only when it is
        whole. A run that was stopped goes on where it was, batch by batch, if entries, request and identity are the
        same.
    identity
        What else the numbers depend on: hashes of the weights, the engine.
    progress
        Called with the number of knees done, of this run and the one that it goes on from.

    Returns
    -------
    list of Outcome
        The failed ones, those of the run that it goes on from among them.

    Raises
    ------
    OutputError
        If `out` cannot be written, or an unfinished run of another kind is there.
    ProgressionError
        If one of several processes is stopped from outside, or cannot make its predictor.
    """
    of_this = (
        json.dumps([asdict(request), dict(identity or {}), list(COLUMNS)], sort_keys=True, default=str),
    )
    texts = (str(field) for entry in entries for field in astuple(entry))
    with growing_file(out, run=digest((*of_this, *texts))) as results:
        failed = _failed_before(results, entries, len(request.horizon_months))
        progress(results.items)
        rest = entries[results.items :]
        for group in _grouped(_outcomes(predictor, rest, request, batch), batch):
            rows: list[dict[str, object]] = []
            for outcome in group:
                result = outcome.result
                if isinstance(result, ProgressionError):
                    told = _told(outcome.entry, str(result))
                    failed.append(Outcome(outcome.entry, ProgressionError(told)))
                    reason = {"name": outcome.entry.name, "warnings": f"{_FAILED}{told}"}
                    rows += [{**reason, "horizon_months": months} for months in request.horizon_months]
                else:
                    rows += [row(result, horizon) for horizon in result.horizons]
            table = pd.DataFrame(rows, columns=list(COLUMNS))
            text = table.to_csv(index=False, header=results.items == 0, lineterminator="\n")
            results.append(text.encode(), items=len(group))
            progress(results.items)
        results.finish()
    return failed


def _outcomes(
    predictor: BatchPredictor | Workers[BatchPredictor],
    entries: Sequence[Entry],
    request: Request,
    batch: int,
) -> Iterator[Outcome]:
    """Outcomes without pictures, in order."""
    if not isinstance(predictor, Workers):
        yield from predict_entries(predictor, entries, request=request, render=False, batch=batch)
        return
    work = partial(_outcomes_of_group, request=request)
    for outcomes in predictor.map(work, _grouped(entries, batch)):
        yield from outcomes


def _outcomes_of_group(
    predictor: BatchPredictor, group: Sequence[Entry], request: Request
) -> Sequence[Outcome]:
    return list(predict_entries(predictor, group, request=request, render=False, batch=len(group)))


def _failed_before(results: GrowingFile, entries: Sequence[Entry], horizons: int) -> list[Outcome]:
    """The knees that failed in the part of the table that is there, with their reasons."""
    found: list[Outcome] = []
    if not results.items:
        return found
    columns = {"name": str, "warnings": str}
    done = iter(entries[: results.items])
    for part in pd.read_csv(
        part_path(results.path),
        usecols=list(columns),
        dtype=columns,
        keep_default_na=False,
        chunksize=8192 * horizons,
    ):
        for text in part["warnings"].iloc[::horizons]:
            entry = next(done)
            if text.startswith(_FAILED):
                found.append(Outcome(entry, ProgressionError(text.removeprefix(_FAILED))))
    return found


def _told(entry: Entry, reason: str) -> str:
    """A reason that begins with a file's name, which may be a patient's, with the knee's name in its place."""
    label = label_of(entry.image)
    known = label and reason.startswith((f"{label}: ", f"{label} "))
    return entry.name + reason.removeprefix(label) if known else reason


@dataclass(frozen=True)
class _Loaded:
    radiograph: Radiograph
    grade: int | None
    subject: str | None
    notes: tuple[str, ...]
    other: Radiograph | None
    other_grade: int | None
    earlier: tuple[EarlierFilm, ...]


def _read(entry: Entry, knees: dict[Entry, Knee], read_one: ReadKnee) -> _Loaded | ProgressionError:
    """The knee, and the other one where it can be read; `knees` holds what was read."""
    try:
        knee, side = _view(entry, knees, read_one)
        grade = parse_grade(entry.grade)
        earlier = tuple(_earlier(*film, side=side, read_one=read_one) for film in entry.previous)
    except ProgressionError as error:
        return error
    other = other_grade = None
    if entry.other is not None:
        with suppress(ProgressionError):  # what is wrong with it, its own row tells
            beside, its_side = _view(entry.other, knees, read_one)
            if its_side is side.other:
                other_grade = parse_grade(entry.other.grade)
                other = Radiograph(beside.pixels, its_side, entry.other.name)
    radiograph = Radiograph(knee.pixels, side, entry.name)
    return _Loaded(radiograph, grade, entry.subject or None, knee.notes, other, other_grade, earlier)


def _view(entry: Entry, knees: dict[Entry, Knee], read_one: ReadKnee) -> tuple[Knee, Side]:
    """Read an entry's picture, once."""
    if not entry.image:
        raise ImageError("no image: the cell is empty; give the path of a radiograph")
    key = replace(entry, other=None)
    if key not in knees:
        asked = Side.parse(entry.side) if entry.side else None
        place = Place.parse(entry.centre, entry.spacing_mm)
        knees[key] = read_one(entry.image, side=asked, place=place)
    side = knees[key].side
    if side is None:
        raise UsageError(
            f"{label_of(entry.image)} does not say which knee it is; give its side, left or right"
        )
    return knees[key], side


def _earlier(
    image: str, months_before: float, grade: int | None, *, side: Side, read_one: ReadKnee
) -> EarlierFilm:
    return EarlierFilm(read_one(image, side=side).pixels, months_before, grade)


def _predict(
    predictor: BatchPredictor, knees: Sequence[_Loaded], request: Request, render: bool
) -> list[Prediction | ProgressionError]:
    """One result a knee; if the batch fails, by halves, to tell the knee that does from the others."""
    if not knees:
        return []
    try:
        predicted = predictor.predict_batch(
            [knee.radiograph for knee in knees],
            horizon_months=request.horizon_months,
            grades=[knee.grade for knee in knees],
            others=[knee.other for knee in knees],
            other_grades=[knee.other_grade if knee.other else None for knee in knees],
            subjects=[knee.subject for knee in knees],
            histories=[knee.earlier for knee in knees],
            refine_steps=request.refine_steps,
            inversion=request.inversion,
            method=request.method,
            seed=request.seed,
            spread=request.spread,
            render=render,
            accept_atypical=request.accept_atypical,
        )
    except ProgressionError as error:
        if len(knees) == 1:
            return [error]
        halves = knees[: len(knees) // 2], knees[len(knees) // 2 :]
        return [result for half in halves for result in _predict(predictor, half, request, render)]
    return [
        replace(prediction, warnings=(*knee.notes, *prediction.warnings)) if knee.notes else prediction
        for knee, prediction in zip(knees, predicted, strict=True)
    ]


def _grouped(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """In groups of `size`, the last one shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
