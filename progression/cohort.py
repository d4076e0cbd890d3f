"""Many knees: a table in, a table out; a knee that fails does not stop the others, nor a kill the whole run."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import pandas as pd

from progression.answer import OF_A_RUN
from progression.entries import Entry, name_of_side, parse_grade
from progression.errors import (
    ImageError,
    NotAKneeError,
    ProgressionError,
    StoppedProcessError,
    UsageError,
    WeightsError,
    failure,
)
from progression.files import GrowingFile, atomic_write, digest, growing_file, part_path, sha256
from progression.film import Knee
from progression.image import label_of
from progression.knees import SAME_AS_THIS, check_earlier, cut, same_picture, shown
from progression.localise.find import Finder
from progression.localise.places import read_located
from progression.processes import Workers
from progression.report.outputs import COLUMNS, row, without_paths
from progression.tables import csv_text
from progression.texts import literal, printable
from progression.types import EarlierFilm, Prediction, Radiograph, Request, Side

T = TypeVar("T")
_Work = Callable[["BatchPredictor", Sequence[Entry]], list[list["Outcome"]]]
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
    """What became of a knee: a prediction, or the reason why not; its entry is one of `progression.knees.shown`."""

    entry: Entry
    result: Prediction | ProgressionError


@dataclass(frozen=True)
class Done:
    """What a run came to: how many knees it had, and those that failed."""

    knees: int
    failed: list[Outcome]


def predict_entries(
    predictor: BatchPredictor,
    entries: Iterable[Entry],
    *,
    request: Request,
    render: bool,
    batch: int = BATCH,
) -> Iterator[Outcome]:
    """Predict knees batch by batch, in order; a knee that fails yields its error and the others go on.

    A film that shows both knees, and whose side nobody says, yields two (`progression.knees`).

    Parameters
    ----------
    predictor
        See `BatchPredictor`.
    entries
        Knees or films; files are read as their batch comes.
    request
        Horizons and options, the same for all.
    render
        Whether the predictions carry pictures.
    batch
        Knees at once.
    """
    for group in _grouped(entries, batch):
        for outcomes in _predict_group(predictor, group, request=request, render=render, batch=batch):
            yield from outcomes


def _predict_group(
    predictor: BatchPredictor, group: Sequence[Entry], *, request: Request, render: bool, batch: int
) -> list[list[Outcome]]:
    """The knees of each entry; films of both knees make more batches, not larger ones."""
    look = _Look(predictor.finder, accept_atypical=request.accept_atypical)
    read = [look.knees(entry) for entry in group]
    good = [loaded for knees in read for _, loaded in knees if not isinstance(loaded, ProgressionError)]
    results = iter(
        [result for few in _grouped(good, batch) for result in _predict(predictor, few, request, render)]
    )
    return [
        [
            Outcome(entry, loaded if isinstance(loaded, ProgressionError) else next(results))
            for entry, loaded in knees
        ]
        for knees in read
    ]


def run_cohort(
    predictor: BatchPredictor | Workers[BatchPredictor],
    entries: Sequence[Entry],
    out: str | Path,
    *,
    request: Request,
    batch: int = BATCH,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Done:
    """Predict a cohort and write results.csv.

    Parameters
    ----------
    predictor
        One predictor, or workers that each have their own; the rows and their order are the same.
    out
        The table: one row a knee and horizon with the columns of `report.outputs.COLUMNS`, in the order of
        `entries`, horizons ascending; the knees of a film that shows both, and whose side nobody says, come one
        after the other, from left to right in the film, called NAME-right and NAME-left. A failed knee has its rows,
        with numbers empty and the reason in `warnings`, which calls a knee by its name, never by its file's. The
        table bears its name only when it is whole. A run that was stopped goes on where it was, batch by batch, if
        entries, request and identity are the same. Beside it, OUT.json says what the table was made with: versions,
        weights, engine, device, seed and arguments as in a prediction.json, the table's SHA-256, how many knees.
    identity
        What else the numbers depend on: hashes of the weights, the engine.
    progress
        Called with the number of entries done, of this run and the one that it goes on from.

    Returns
    -------
    Done
        Of the whole table, with what the run that it goes on from did.

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
        knees, failed = _done_before(results, entries, len(request.horizon_months))
        progress(results.items)
        rest = entries[results.items :]
        for group in _grouped(_outcomes(predictor, rest, request, batch), batch):
            rows: list[dict[str, object]] = []
            for outcome in (outcome for of_entry in group for outcome in of_entry):
                knees += 1
                result = outcome.result
                if isinstance(result, ProgressionError):
                    told = _told(outcome.entry, str(result))
                    failed.append(Outcome(outcome.entry, ProgressionError(told)))
                    reason = {"name": outcome.entry.name, "warnings": f"{_FAILED}{told}"}
                    rows += [{**reason, "horizon_months": months} for months in request.horizon_months]
                else:
                    rows += [row(result, horizon) for horizon in result.horizons]
                    results.note = results.note or _origin(result)
            table = pd.DataFrame(
                rows, columns=list(COLUMNS), dtype=object
            )  # grades stay whole beside empty cells
            text = csv_text(table, header=results.items == 0)
            results.append(text.encode(), items=len(group))
            progress(results.items)
        _save_origin(results, knees, failed)
        results.finish()
    return Done(knees, failed)


def _origin(prediction: Prediction) -> dict[str, object]:
    """What is the run's of a prediction's provenance."""
    of_run = {key: value for key, value in prediction.provenance.items() if key in OF_A_RUN}
    return dict(without_paths(of_run))


def _save_origin(results: GrowingFile, knees: int, failed: Sequence[Outcome]) -> None:
    """What the table was made with, beside it."""
    out = results.path
    told = {"table": out.name, "sha256": sha256(part_path(out)), "knees": knees, "failed": len(failed)}
    with atomic_write(out.with_name(f"{out.name}.json")) as temporary:
        temporary.write_text(json.dumps(told | results.note, indent=2) + "\n", encoding="utf-8")


def _outcomes(
    predictor: BatchPredictor | Workers[BatchPredictor],
    entries: Sequence[Entry],
    request: Request,
    batch: int,
) -> Iterator[Sequence[Outcome]]:
    """The outcomes of each entry without pictures, in order."""
    work = partial(_predict_group, request=request, render=False, batch=batch)
    groups = list(_grouped(entries, batch))
    if not isinstance(predictor, Workers):
        for group in groups:
            yield from work(predictor, group)
        return
    done = 0
    while done < len(groups):
        try:
            for outcomes in predictor.map(work, groups[done:]):
                done += 1
                yield from outcomes
        except StoppedProcessError as error:
            yield from _one_by_one(predictor, work, groups[done], error)
            done += 1


def _one_by_one(
    workers: Workers[BatchPredictor], work: _Work, group: Sequence[Entry], error: StoppedProcessError
) -> list[list[Outcome]]:
    """The outcomes of a group whose process may have been ended by one of its entries, which then fails.

    Raises
    ------
    StoppedProcessError
        If several ended theirs and none was predicted: whatever ends the processes would end them again.
    """
    with suppress(StoppedProcessError):  # the process of another group, which was at work beside this one
        return list(next(workers.map(work, [group])))
    found, ended = list[list[Outcome]](), 0
    for entry in group:
        try:
            found += next(workers.map(work, [[entry]]))
        except StoppedProcessError:
            ended += 1
            wrong = ProgressionError(
                "ended the process that read it, perhaps for lack of memory; look at its picture"
            )
            found.append([Outcome(entry, wrong)])
    predicted = any(isinstance(one.result, Prediction) for outcomes in found for one in outcomes)
    if ended > 1 and not predicted:
        raise error
    return found


def _done_before(results: GrowingFile, entries: Sequence[Entry], horizons: int) -> tuple[int, list[Outcome]]:
    """How many knees are in the part of the table that is there, and those that failed, with their reasons."""
    knees, failed = 0, list[Outcome]()
    if not results.items:
        return knees, failed
    columns = {"name": str, "warnings": str}
    done = entries[: results.items]
    of_name = {printable(name_of_side(entry.name, side)): entry for entry in done for side in Side}
    of_name |= {printable(entry.name): entry for entry in done}
    for part in pd.read_csv(
        part_path(results.path),
        usecols=list(columns),
        dtype=columns,
        keep_default_na=False,
        chunksize=8192 * horizons,
    ):
        of_knees = part.iloc[::horizons]
        knees += len(of_knees)
        for name, text in zip(of_knees["name"].map(literal), of_knees["warnings"].map(literal), strict=True):
            if text.startswith(_FAILED):
                entry = replace(of_name[name], name=name)
                failed.append(Outcome(entry, ProgressionError(text.removeprefix(_FAILED))))
    return knees, failed


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


@dataclass
class _Look:
    """Reads the pictures of a group of entries; what is also another's other knee is looked for and cut once."""

    finder: Finder | None
    accept_atypical: bool
    _shown: dict[Entry, tuple[Entry, ...]] = field(default_factory=dict)
    _cut: dict[Entry, Knee] = field(default_factory=dict)

    def knees(self, entry: Entry) -> list[tuple[Entry, _Loaded | ProgressionError]]:
        """The knees that an entry asks about, each with its pictures, or why it has none."""
        try:
            return [(knee, self._load(knee)) for knee in self._look(entry)]
        except Exception as error:  # whatever it is, it is this entry's: the others go on
            return [(entry, failure(error))]

    def _load(self, entry: Entry) -> _Loaded | ProgressionError:
        """The knee, and the other one where it can be read."""
        try:
            knee, side = self._view(entry)
            grade = parse_grade(entry.grade)
            earlier = tuple(self._earlier(*film, side=side) for film in entry.previous)
            other, other_grade, left_out = self._beside(entry, knee, side)
            films = [film.pixels for film in earlier]
            check_earlier(knee.pixels, films, other=None if other is None else other.pixels)
            radiograph = Radiograph(knee.pixels, side, entry.name)
        except Exception as error:  # as above
            return failure(error)
        notes = (*knee.notes, *left_out)
        return _Loaded(radiograph, grade, entry.subject or None, notes, other, other_grade, earlier)

    def _beside(
        self, entry: Entry, knee: Knee, side: Side
    ) -> tuple[Radiograph | None, int | None, tuple[str, ...]]:
        """The person's other knee and its grade; or why it is left out, which is no reason to fail."""
        if entry.other is None:
            return None, None, ()
        try:
            beside, its_side = self._view(self._look(entry.other)[0])
            if same_picture(knee.pixels, beside.pixels):
                reason = SAME_AS_THIS
            elif its_side is not side.other:
                reason = f"it is a {its_side} knee, as this one"
            else:
                grade = parse_grade(entry.other.grade)
                return Radiograph(beside.pixels, its_side, entry.other.name), grade, ()
        except Exception as error:  # its own row, where it has one, fails
            reason = _told(entry.other, str(failure(error)))
        return None, None, (f"other knee left out: {reason}",)

    def _look(self, entry: Entry) -> tuple[Entry, ...]:
        key = replace(entry, other=None)
        if key not in self._shown:
            self._shown[key] = shown(key, self.finder, accept_atypical=self.accept_atypical)
        found = self._shown[key]
        return tuple(replace(one, other=entry.other or one.other) for one in found)

    def _view(self, entry: Entry) -> tuple[Knee, Side]:
        """Read an entry's picture, once."""
        if not entry.image:
            raise ImageError("no image: the cell is empty; give the path of a radiograph")
        key = replace(entry, other=None)
        if key not in self._cut:
            self._cut[key] = cut(entry, self.finder, accept_atypical=self.accept_atypical)
        side = self._cut[key].side
        if side is None:
            raise UsageError(
                f"{label_of(entry.image)} does not say which knee it is; give its side, left or right"
            )
        return self._cut[key], side

    def _earlier(self, image: str, months_before: float, grade: int | None, *, side: Side) -> EarlierFilm:
        knee = read_located(image, finder=self.finder, side=side, accept_atypical=self.accept_atypical)
        return EarlierFilm(knee.pixels, months_before, grade)


def _predict(
    predictor: BatchPredictor, knees: Sequence[_Loaded], request: Request, render: bool
) -> list[Prediction | ProgressionError]:
    """One result a knee; if the batch fails, again without those at fault, by halves where the error names none."""
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
    except WeightsError:  # nor would any other knee be predicted
        raise
    except Exception as error:  # of one of these knees, as a batch cannot say more
        if len(knees) == 1:
            return [failure(error)]
        if isinstance(error, NotAKneeError) and error.refused:
            rest = [knee for position, knee in enumerate(knees) if position not in error.refused]
            results = iter(_predict(predictor, rest, request, render))
            return [
                NotAKneeError(error.refused[position]) if position in error.refused else next(results)
                for position in range(len(knees))
            ]
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
