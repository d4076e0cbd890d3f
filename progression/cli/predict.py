"""`progression demo` and `predict`."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from progression.cli.console import finite, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from progression.cohort import Outcome
    from progression.entries import Entry
    from progression.localise.find import Finder
    from progression.predict import Predictor
    from progression.types import Prediction, Request, Side

Months = Annotated[list[int], typer.Option("--months", help="Horizon, 1 to 96 months; repeatable.")]
Model = Annotated[str, typer.Option("--model", help="Name of an installed model, or a folder.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="auto (openvino on a CPU where it is installed), torch, openvino, or openvino-half: faster, less exact.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random draw.")]
Refine = Annotated[
    int | None,
    typer.Option(
        "--refine-steps",
        help="Optimisation steps on the encoder's code, 0 to 10,000 [0]; 20 come nearer to the radiograph, in seconds.",
    ),
]
Inversion = Annotated[str, typer.Option("--inversion", help="encoder, or projection (1,000 steps; minutes).")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="joint: the whole bank's grade steps, by this knee's own chances; paper: five neighbours' displacements.",
    ),
]

Bank = Annotated[
    str | None,
    typer.Option("--bank", help="Bank of your own cohort (progression bank build) [the model's own]."),
]

Previous = Annotated[
    list[str] | None,
    typer.Option(
        "--previous",
        help="An earlier film of this knee, PICTURE:MONTHS-BEFORE or PICTURE:MONTHS-BEFORE:GRADE; repeatable.",
    ),
]

Atypical = Annotated[
    bool,
    typer.Option(
        "--accept-atypical",
        help="Predict also what is refused as unlike any knee the model knows, with a warning.",
    ),
]


def naming_nobody(command: "Callable[..., None]") -> "Callable[..., None]":
    """A command whose errors call pictures by their results' names, where the files' own tell of a patient."""

    @wraps(command)
    def run(**given: Any) -> None:
        from progression.errors import ProgressionError
        from progression.film import without_names

        try:
            command(**given)
        except ProgressionError as error:
            earlier = [film.rpartition(":")[0] for film in given["previous"] or ()]
            earlier += [film.rpartition(":")[0] for film in earlier]  # with a grade
            pictures = [*given.get("images", ()), given.get("image"), given["other"], *earlier]
            error.args = (without_names(str(error), filter(None, pictures)), *error.args[1:])
            raise

    return run


EXAMPLE = "example.png"
"""A synthetic radiograph in the model's folder, for the demo."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("progression-demo"),
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Predict the shipped synthetic example and write ./progression-demo/."""
    from progression.entries import Entry
    from progression.errors import WeightsError
    from progression.image import stated_side
    from progression.types import Request
    from progression.weights import resolve

    image = resolve("default") / EXAMPLE
    side = stated_side(image)
    if side is None:
        raise WeightsError(f"{image} is missing or does not state its side; install the package again")
    entry = Entry(name=image.stem, image=str(image), side=side)
    request = Request(horizon_months=(24, 48, 72, 96))
    _predict([entry], out, request=request, model="default", device=device, engine=engine)


@naming_nobody
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="DICOM, PNG, JPEG, WebP, TIFF, NIfTI or .npy, one knee each or --centre."
        ),
    ],
    side: Annotated[
        str | None,
        typer.Option(
            "--side", help="left or right; needed unless the file says it, and must agree. Not guessed."
        ),
    ] = None,
    centre: Annotated[
        list[str] | None,
        typer.Option(
            "--centre",
            help="Joint centre in a larger film, pixels: x,y or left=x,y; repeatable, one knee each. "
            "A square of 90 mm is cut around it, or with x,y,SIDE of SIDE pixels, with x,y,SIDE,TILT a turned one "
            "[found by itself].",
        ),
    ] = None,
    spacing_mm: Annotated[
        float | None,
        typer.Option(
            "--spacing-mm", callback=finite, help="Size of the film's pixels, if the file does not say it."
        ),
    ] = None,
    months: Months = [48],  # noqa: B006  typer copies it
    out: Annotated[Path, typer.Option("--out", help="Folder; each knee gets OUT/STEM/.")] = Path(
        "progression-out"
    ),
    model: Model = "default",
    device: Device = "auto",
    engine: Engine = "auto",
    seed: Seed = 0,
    refine_steps: Refine = None,
    grade: Annotated[
        list[int] | None,
        typer.Option(
            "--grade",
            help="Baseline KL grade, 0 to 4, if a reader gave one; once for all knees, or one each in their order.",
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option("--other", help="The person's other knee, same day: risks are better with it."),
    ] = None,
    other_grade: Annotated[
        int | None, typer.Option("--other-grade", help="Its KL grade, 0 to 4, if a reader gave one.")
    ] = None,
    subject: Annotated[
        str, typer.Option("--subject", help="Whose knee it is, as in --bank; their own rows are passed over.")
    ] = "",
    previous: Previous = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Also futures at the 5th, 50th and 95th percentile of change.")
    ] = False,
    inversion: Inversion = "encoder",
    method: Method = "joint",
    bank: Bank = None,
    dicom: Annotated[
        bool | None,
        typer.Option(
            "--dicom/--no-dicom", help="DICOM objects of the film's study, too [where the film is DICOM]."
        ),
    ] = None,
    uid_root: Annotated[
        str | None, typer.Option("--uid-root", help="Of the DICOM objects' UIDs [2.25 and a random number].")
    ] = None,
    accept_atypical: Atypical = False,
) -> None:
    """Predict the future radiograph and the risk of one knee or several.

    Writes OUT/STEM/ with future_048m.png, figure.png, future.gif, report.html and prediction.json; with --spread also
    future_048m_p95.png, and spread.png; from a DICOM film also future_048m.dcm, risk.dcm, report.pdf and report.dcm,
    which carry its patient's data. Both knees of a film: OUT/STEM-left/ and OUT/STEM-right/, each with the other in
    view. A picture that fails is reported, the others are predicted, and the exit code is 1.
    """
    from progression.entries import parse_previous
    from progression.errors import UsageError
    from progression.film import name_of_outputs
    from progression.localise.find import Finder
    from progression.types import Request, Side, check_grade
    from progression.weights import load_model

    request = Request(
        horizon_months=tuple(months),
        refine_steps=refine_steps,
        inversion=inversion,
        method=method,
        seed=seed,
        spread=spread,
        accept_atypical=accept_atypical,
    )
    for given in (*(grade or ()), *(() if other_grade is None else (other_grade,))):
        check_grade(given)
    if other is None and other_grade is not None:
        raise UsageError("--other-grade without --other: give the picture of the other knee too")
    earlier = tuple(parse_previous(text) for text in previous or ())
    asked = Side.parse(side) if side is not None else None
    other_read = "" if other_grade is None else str(other_grade)
    entries = []
    finder = None if centre else Finder.load(load_model(model))
    spacing, alone = "" if spacing_mm is None else str(spacing_mm), len(images) == 1
    for number, (stem, image) in enumerate(_stems(images).items(), start=1):
        if (name := name_of_outputs(image)) != stem and _is_there(image):
            say(f"picture {number} is called {name} here, as the name of its file tells of its patient")
        entries += (
            _knees_at(stem, image, centre, side=asked, spacing_mm=spacing, alone=alone)
            if centre
            else _knees_found(
                stem,
                image,
                finder,
                side=asked,
                spacing_mm=spacing,
                accept_atypical=accept_atypical,
                alone=alone,
            )
        )
    if earlier and len(entries) > 1:
        raise UsageError(
            f"--previous with {len(entries)} knees: earlier films are of one knee, give one picture"
        )
    beside = None if other is None else _beside(other, other_read, entries)
    entries = [
        replace(entry, grade=read) for entry, read in zip(entries, _one_each(grade, entries), strict=True)
    ]
    entries = [
        replace(
            entry,
            subject=subject,
            other=_on_one_film(entry, entries) or beside or entry.other,
            previous=earlier,
        )
        for entry in entries
    ]
    entries = _told_apart(entries)
    _check_dicom(images, asked=dicom, uid_root=uid_root)
    options = _Objects(wanted=dicom is not False, uid_root=uid_root)
    _predict(
        entries, out, request=request, model=model, device=device, engine=engine, bank=bank, objects=options
    )


def _predict(
    entries: "Sequence[Entry]",
    out: Path,
    *,
    request: "Request",
    model: str,
    device: str,
    engine: str,
    bank: str | None = None,
    objects: "_Objects | None" = None,
) -> None:
    """Predict, write and print; failed knees come last."""
    from progression.cohort import Outcome, predict_entries
    from progression.errors import ProgressionError, failure
    from progression.files import check_writable
    from progression.report.outputs import check_replaceable
    from progression.report.words import asked_with, late, told_risk

    check_writable(out)
    for folder in _folders(out, entries):
        check_replaceable(folder)
    predictor = load_served(model, device=device, engine=engine, bank=bank, method=request.method)
    failed: list[Outcome] = []
    for outcome in predict_entries(predictor, entries, request=request, render=True):
        found = outcome.result
        if isinstance(found, ProgressionError):
            failed.append(outcome)
            continue
        try:
            folder = _write(out, outcome.entry, found, objects)
        except Exception as error:  # whatever it is, it is this knee's: the others are written
            failed.append(Outcome(outcome.entry, failure(error)))
            continue
        say(f"{found.name}: wrote {folder}")
        say(f"  {asked_with(found)}")
        for horizon in found.horizons:
            say(
                f"  +{horizon.horizon_months} months: risk of a rise by 2 or more grades: "
                f"{told_risk(found, horizon, 2)}; by 1 or more: {told_risk(found, horizon, 1)}"
            )
        for text in late(found):
            say(f"  {text}")
        for text in found.warnings:
            say(f"  warning: {text}")
    report_failed(failed, len(entries))


def _folders(out: Path, entries: "Sequence[Entry]") -> list[Path]:
    """Where each knee goes; two that some system would take for one folder are wrong use."""
    from progression.errors import UsageError
    from progression.texts import file_name, same_name

    used: dict[str, Entry] = {}
    for entry in entries:
        first = used.setdefault(same_name(entry.name), entry)
        if first is not entry:
            raise UsageError(
                f"{first.image} and {entry.image} would both write {file_name(entry.name)}/; rename one, or run twice"
            )
    return [out / file_name(entry.name) for entry in entries]


def _write(out: Path, entry: "Entry", prediction: "Prediction", objects: "_Objects | None") -> Path:
    """Write one knee's folder, with objects of its film's study where they are wanted."""
    from progression.image import dicom_content, label_of
    from progression.report.outputs import SourceFilm, write_prediction

    film = None
    if objects is not None and objects.wanted and (content := dicom_content(entry.image)) is not None:
        film = SourceFilm(content, label_of(entry.image), objects.uid_root)
    (folder,) = _folders(out, [entry])
    return write_prediction(folder, prediction, film=film)


def load_served(model: str, *, device: str, engine: str, bank: str | None, method: str) -> "Predictor":
    """A predictor that can serve the method."""
    from progression.predict import load_predictor

    predictor = load_predictor(model, device=device, engine=engine, bank=bank)
    predictor.check_method(method)
    return predictor


def report_failed(failed: "Sequence[Outcome]", total: int) -> None:
    """Tell the failed knees on stderr, one line each, and exit with 1 if there are any."""
    from progression.film import without_names

    for outcome in failed:
        asked = outcome.entry
        pictures = [asked.image, *(film for film, *_ in asked.previous)]
        reason = without_names(str(outcome.result), filter(None, pictures))
        # an image's error begins with the file's name, or with the knee's
        known = reason.startswith(tuple(outcome.entry.name + end for end in (".", ": ", " ")))
        named = reason if known else f"{outcome.entry.name}: {reason}"
        say(f"progression: error: {named}", err=True)
    if failed and total > 1:
        say(f"progression: {len(failed)} of {total} knees failed", err=True)
    if failed:
        raise typer.Exit(1)


def _stems(images: "Sequence[str]") -> dict[str, str]:
    """Output name -> image; two images with one name, or a name that is none, are wrong use."""
    from progression.errors import UsageError
    from progression.texts import printable, same_name

    stems: dict[str, str] = {}
    used: dict[str, str] = {}
    for image in images:
        stem = printable(Path(image.rpartition("::")[2]).stem.removesuffix(".nii"))
        if stem in ("", ".", ".."):
            raise UsageError(f"{image!r} has no name to call its outputs by; rename the file")
        first = used.setdefault(same_name(stem), image)
        if stem in stems or first != image:
            raise UsageError(f"{first} and {image} would both write {stem}/; rename one, or run twice")
        stems[stem] = image
    return stems


def _told_apart(entries: "Sequence[Entry]") -> "list[Entry]":
    """Numbers after names that come again, as made ones do for two pictures under one UID."""
    used: dict[str, int] = {}
    found = []
    for entry in entries:
        used[entry.name] = number = used.get(entry.name, 0) + 1
        found.append(entry if number == 1 else replace(entry, name=f"{entry.name}-{number}"))
    return found


def _one_each(grades: "Sequence[int] | None", entries: "Sequence[Entry]") -> list[str]:
    """A knee's grade as text each: one grade is of all of them, several are in their order."""
    from progression.errors import UsageError

    if not grades:
        return [""] * len(entries)
    if len(grades) not in (1, len(entries)):
        raise UsageError(
            f"{len(grades)} grades with {len(entries)} knees: give --grade once for all, or once a knee in their order"
        )
    return [str(one) for one in (grades if len(grades) > 1 else [*grades] * len(entries))]


def _beside(other: str, grade: str, entries: "Sequence[Entry]") -> "Entry":
    """The other knee of the one that is asked about, which must be readable, and of the other side."""
    import numpy as np

    from progression.entries import Entry
    from progression.errors import ProgressionError, UsageError
    from progression.film import read_knee
    from progression.image import read_image
    from progression.types import Side

    if len(entries) > 1:
        raise UsageError(f"--other with {len(entries)} knees: give one knee, or a table (progression cohort)")
    side = Side.parse(entries[0].side).other if entries[0].side else None
    # a cohort goes on without one that cannot be read, or is the same picture; here it was asked for
    beside, same = read_knee(other, side=side), False
    with suppress(ProgressionError):  # what is wrong with the knee itself shows when its turn comes
        same = np.array_equal(beside.pixels, read_image(entries[0].image))
    if same:
        raise UsageError(
            "--other is the same picture as the knee's own; give the other knee's, or leave it out"
        )
    return Entry("other knee", other, side or "", grade)


@dataclass(frozen=True)
class _Objects:
    """Whether DICOM objects are written for DICOM films, and the root of their UIDs."""

    wanted: bool
    uid_root: str | None


def _on_one_film(entry: "Entry", entries: "Sequence[Entry]") -> "Entry | None":
    """The other knee of the same film."""
    return next((one for one in entries if one.image == entry.image and one is not entry), None)


def _knees_found(
    stem: str,
    image: str,
    finder: "Finder | None",
    *,
    side: "Side | None",
    spacing_mm: str,
    accept_atypical: bool,
    alone: bool,
) -> "list[Entry]":
    """The knees of a picture, where they are found in it, which is told.

    What is wrong shows at once if the picture is `alone`, else when its turn comes; so does always what cannot be read.
    """
    from progression.entries import Entry
    from progression.errors import FilmRefusedError, UsageError
    from progression.film import known_side, neutral_name
    from progression.knees import shown

    entry = Entry(stem, image, side or "", spacing_mm=spacing_mm)
    if not _is_there(image):
        return [entry]
    knees = []
    try:
        entry = replace(entry, name=neutral_name(image, stem))
        for knee in shown(entry, finder, accept_atypical=accept_atypical):
            found = knee.found[0]
            which = known_side(
                image, side=found.side, place=replace(found.place, of_both=len(knee.found) > 1)
            )
            if which is None and alone:
                raise UsageError(f"{image} does not say which knee it is; pass --side left or --side right")
            knees.append(replace(knee, side=which or ""))
    except (FilmRefusedError, UsageError):
        if alone:
            raise
        return [entry]
    except Exception:  # whatever it is shows when its turn comes
        return [entry]
    for knee in knees:
        found = knee.found[0]
        if (spot := found.spot) is not None:
            mm = "" if found.centre_mm is None else " ({:.0f}, {:.0f} mm)".format(*found.centre_mm)
            label = f"{found.side} knee" if found.side else "knee"
            say(f"{label} found at {spot.x:.0f},{spot.y:.0f}{mm}, confidence {spot.confidence:.2f}")
    return knees


def _knees_at(
    stem: str, image: str, centres: "Sequence[str]", *, side: "Side | None", spacing_mm: str, alone: bool
) -> "list[Entry]":
    """One entry for each centre, with the side that is asked for or stated.

    What is wrong with the picture shows when its turn comes; with its side and place, at once if it is `alone`.
    """
    from progression.entries import Entry, name_of_side
    from progression.errors import UsageError
    from progression.film import Place, known_side, neutral_name
    from progression.types import Side

    made = []
    for text in centres:
        named, _, centre = text.rpartition("=")
        of_centre = Side.parse(named) if named else side
        place = Place.parse(centre, spacing_mm)
        name, found = stem, of_centre
        readable = _is_there(image)
        if readable:
            try:
                name = neutral_name(image, stem)
                found = known_side(image, side=of_centre, place=place)
            except UsageError:
                if alone:
                    raise
            except Exception:  # whatever it is shows when its turn comes
                readable = False
            if found is None and alone and readable:
                raise UsageError(
                    f"{image} does not say which knee it is; pass --centre left=x,y or right=x,y, or --side"
                )
        name = name_of_side(name, found) if len(centres) > 1 and found else name
        made.append(Entry(name, image, found or "", centre=centre, spacing_mm=spacing_mm))
    if len({entry.name for entry in made}) < len(made):
        raise UsageError(f"{image}: two centres of one side; expected one of each (--centre left=x,y)")
    return made


def _is_there(image: str) -> bool:
    """Whether there is a file, or an archive, to be read."""
    try:
        return Path(image.rpartition("::")[0] or image).is_file()
    except (OSError, ValueError):
        return False


def _is_other(image: str) -> bool:
    """Whether a file is something else than DICOM; one that is called so and is damaged shows when its turn comes."""
    from progression.errors import ImageError
    from progression.image import dicom_content

    try:
        return dicom_content(image) is None
    except ImageError:
        return False


def _check_dicom(images: "Sequence[str]", *, asked: bool | None, uid_root: str | None) -> None:
    """UsageError where DICOM objects are asked for and cannot be, or their root is none."""
    from progression.errors import UsageError

    if asked:
        for image in images:
            if _is_there(image) and _is_other(image):
                raise UsageError(f"{image} is not DICOM and belongs to no study; leave out --dicom")
    if uid_root is not None:
        from progression.dicom.study import check_root

        check_root(uid_root)
