"""`progression demo`, `predict` and `cohort`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progression.cli.bar import Bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from progression.cohort import Entry, Outcome
    from progression.predict import Predictor
    from progression.types import Request, Side

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

Atypical = Annotated[
    bool,
    typer.Option(
        "--accept-atypical",
        help="Predict also what is refused as unlike any knee the model knows, with a warning.",
    ),
]

EXAMPLE = "example.png"
"""A synthetic radiograph in the model's folder, for the demo."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("progression-demo"),
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Predict the shipped synthetic example and write ./progression-demo/."""
    from progression.cohort import Entry
    from progression.errors import WeightsError
    from progression.image import stated_side
    from progression.types import Request
    from progression.weights import resolve

    image = resolve("default") / EXAMPLE
    side = stated_side(image)
    if side is None:
        raise WeightsError(f"{image} is missing or does not state its side; install the package again")
    entry = Entry(name=image.stem, image=str(image), side=side)
    # no radiograph has SYNTHETIC burned in, so by its layout the example is unlike them
    request = Request(horizon_months=(24, 48, 72, 96), accept_atypical=True)
    _predict([entry], out, request=request, model="default", device=device, engine=engine)


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, TIFF or .npy, one knee each.")
    ],
    side: Annotated[
        str | None,
        typer.Option(
            "--side", help="left or right; needed unless the picture's metadata says it. Not guessed."
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
        int | None, typer.Option("--grade", help="Baseline KL grade, 0 to 4, if a reader gave one.")
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
    previous: Annotated[
        list[str] | None,
        typer.Option(
            "--previous",
            help="An earlier film of this knee, PICTURE:MONTHS-BEFORE or PICTURE:MONTHS-BEFORE:GRADE; repeatable.",
        ),
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Also futures at the 5th, 50th and 95th percentile of change.")
    ] = False,
    inversion: Inversion = "encoder",
    method: Method = "joint",
    bank: Bank = None,
    accept_atypical: Atypical = False,
) -> None:
    """Predict the future radiograph and the risk of one knee or several.

    Writes OUT/STEM/ with future_048m.png, figure.png, future.gif and prediction.json; with --spread also
    future_048m_p95.png, and spread.png. A picture that fails is reported, the others are predicted, and the exit
    code is 1.
    """
    from progression.cohort import Entry, parse_previous
    from progression.errors import UsageError
    from progression.image import read_image
    from progression.types import Request, Side, check_grade

    request = Request(
        horizon_months=tuple(months),
        refine_steps=refine_steps,
        inversion=inversion,
        method=method,
        seed=seed,
        spread=spread,
        accept_atypical=accept_atypical,
    )
    for given in (grade, other_grade):
        if given is not None:
            check_grade(given)
    if other is None and other_grade is not None:
        raise UsageError("--other-grade without --other: give the picture of the other knee too")
    if other is not None and len(images) > 1:
        raise UsageError(f"--other with {len(images)} knees: give one knee, or a table (progression cohort)")
    if other is not None:
        read_image(other)  # a cohort goes on without an other knee that cannot be read; here it was asked for
    earlier = tuple(parse_previous(text) for text in previous or ())
    if earlier and len(images) > 1:
        raise UsageError(
            f"--previous with {len(images)} pictures: earlier films are of one knee, give one picture"
        )
    asked = Side.parse(side) if side is not None else None
    read, other_read = ("" if one is None else str(one) for one in (grade, other_grade))
    entries = [
        Entry(stem, image, side_of(image, asked), read, subject, other or "", other_read, earlier)
        for stem, image in _stems(images).items()
    ]
    _predict(entries, out, request=request, model=model, device=device, engine=engine, bank=bank)


def cohort(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv",
            help="Columns name, image, side; optional: grade, subject.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The results, a CSV file.")],
    months: Months = [48],  # noqa: B006  typer copies it
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the image paths [the table's own].")
    ] = None,
    model: Model = "default",
    device: Device = "auto",
    engine: Engine = "auto",
    seed: Seed = 0,
    refine_steps: Refine = None,
    inversion: Inversion = "encoder",
    method: Method = "joint",
    bank: Bank = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; each loads the model and takes a core.")
    ] = 1,
    accept_atypical: Atypical = False,
) -> None:
    """Predict every knee of a table and write one row a knee and horizon.

    The two knees of a subject inform each other's risks. A knee that fails keeps its rows, with the reason in
    `warnings`; the exit code is then 1. The table appears when the last knee is done. A run that was stopped goes
    on with the same command.
    """
    from functools import partial

    from progression.cohort import Processes, read_table, run_cohort
    from progression.engine import choose
    from progression.errors import OutputError
    from progression.files import check_writable
    from progression.types import Request
    from progression.weights import load_model

    request = Request(
        horizon_months=tuple(months),
        refine_steps=refine_steps,
        inversion=inversion,
        method=method,
        seed=seed,
        accept_atypical=accept_atypical,
    )
    entries = read_table(table, images=images)
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a folder; name a file in it (--out {out}/results.csv)")
    check_writable(out.parent)
    name, chosen = choose(engine, device)
    identity = {"engine": name, "device": chosen.type, "model": load_model(model).hashes()}
    if bank is not None:
        identity["bank"] = load_model(bank).hashes()
    load = partial(_load, model, device=device, engine=engine, bank=bank, method=method)
    predictor = load() if workers == 1 else Processes(load, workers)
    with Bar("knees", len(entries)) as bar:
        failed = run_cohort(predictor, entries, out, request=request, identity=identity, progress=bar.at)
    typer.echo(f"{len(entries) - len(failed)} of {len(entries)} knees predicted: {out}")
    _report(failed, len(entries))


def _predict(
    entries: "Sequence[Entry]",
    out: Path,
    *,
    request: "Request",
    model: str,
    device: str,
    engine: str,
    bank: str | None = None,
) -> None:
    """Predict, write and print; failed knees come last."""
    from progression.cohort import Outcome, predict_entries
    from progression.errors import OutputError, ProgressionError
    from progression.files import check_writable
    from progression.report.outputs import check_replaceable, write_prediction

    check_writable(out)
    for entry in entries:
        check_replaceable(out / entry.name)
    predictor = _load(model, device=device, engine=engine, bank=bank, method=request.method)
    failed: list[Outcome] = []
    for outcome in predict_entries(predictor, entries, request=request, render=True):
        if isinstance(outcome.result, ProgressionError):
            failed.append(outcome)
            continue
        try:
            folder = write_prediction(out / outcome.entry.name, outcome.result)
        except OutputError as error:
            failed.append(Outcome(outcome.entry, error))
            continue
        typer.echo(f"{outcome.result.name}: wrote {folder}")
        for horizon in outcome.result.horizons:
            typer.echo(
                f"  +{horizon.horizon_months} months: risk of a rise by 2 or more grades "
                f"{_sure(horizon.risk_fast, horizon.risk_fast_interval)}, "
                f"by 1 or more {_sure(horizon.risk_any, horizon.risk_any_interval)}"
            )
        for text in outcome.result.warnings:
            typer.echo(f"  warning: {text}")
    _report(failed, len(entries))


def _sure(risk: float, interval: tuple[float, float] | None) -> str:
    """A risk and how sure it is."""
    return f"{risk:.1%}" + ("" if interval is None else f" ({interval[0]:.1%} to {interval[1]:.1%})")


def _load(model: str, *, device: str, engine: str, bank: str | None, method: str) -> "Predictor":
    """A predictor that can serve the method."""
    from progression.predict import load_predictor

    predictor = load_predictor(model, device=device, engine=engine, bank=bank)
    predictor.check_method(method)
    return predictor


def _report(failed: "Sequence[Outcome]", total: int) -> None:
    """Tell the failed knees on stderr, one line each, and exit with 1 if there are any."""
    for outcome in failed:
        reason = str(outcome.result)
        known = reason.startswith(f"{outcome.entry.name}.")  # an image's error begins with the file's name
        named = reason if known else f"{outcome.entry.name}: {reason}"
        typer.echo(f"progression: error: {named}", err=True)
    if failed and total > 1:
        typer.echo(f"progression: {len(failed)} of {total} knees failed", err=True)
    if failed:
        raise typer.Exit(1)


def _stems(images: "Sequence[str]") -> dict[str, str]:
    """Output name -> image; two images with one name, or a name that is none, are wrong use."""
    from progression.errors import UsageError

    stems: dict[str, str] = {}
    for image in images:
        stem = Path(image.rpartition("::")[2]).stem
        if stem in ("", ".", ".."):
            raise UsageError(f"{image!r} has no name to call its outputs by; rename the file")
        if stem in stems:
            raise UsageError(f"{stems[stem]} and {image} would both write {stem}/; rename one, or run twice")
        stems[stem] = image
    return stems


def side_of(image: str, asked: "Side | None") -> str:
    """The side asked for, or the one that the picture's metadata states; they may not contradict."""
    from progression.cohort import check_side
    from progression.errors import UsageError
    from progression.image import stated_side

    if asked is not None:
        return check_side(image, asked)
    if not Path(image.rpartition("::")[0] or image).exists():
        return ""  # reading it will fail, and say so
    if (side := stated_side(image)) is None:
        raise UsageError(f"{image} does not say which knee it is; pass --side left or --side right")
    return side
