"""`progression cohort`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progression.cli.bar import Bar
from progression.cli.console import say
from progression.cli.predict import (
    Atypical,
    Bank,
    Device,
    Engine,
    Inversion,
    Method,
    Model,
    Months,
    Refine,
    Seed,
    load_served,
    report_failed,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from progression.cohort import BatchPredictor
    from progression.folders import FoundFilms
    from progression.processes import Workers


def cohort(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            help="A table (columns name, image, side; optional: grade, subject, centre, spacing_mm), or folders, "
            "DICOMDIR files and films. A film of both knees whose side nobody says has rows of both.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The results, a CSV file.")],
    months: Months = [48],  # noqa: B006  typer copies it
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of a table's image paths [the table's own].")
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
        int | None,
        typer.Option("--workers", min=1, help="Processes; each loads the model and takes a core [1]."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Run on the Ray cluster there (HOST:6379, auto, or local), which must see the same paths.",
        ),
    ] = None,
    accept_atypical: Atypical = False,
) -> None:
    """Predict every knee of a table, or of folders of films, and write one row a knee and horizon.

    Folders are searched with all that is in them, for DICOM by content and for pictures by suffix. The two knees of a
    subject, of a film, or of a DICOM study with one of each side, inform each other's risks. A knee that fails keeps
    its rows, with the reason in `warnings`; the exit code is then 1. The table appears when the last knee is done, and
    results.csv.json beside it tells what made it: weights, engine, seed, options. A run that was stopped goes on with
    the same command. Other objects than radiographs, and synthetic ones, are skipped and listed in results.skipped.csv
    beside results.csv.
    """
    from functools import partial

    from progression.cohort import run_cohort
    from progression.engine import choose
    from progression.errors import OutputError, UsageError
    from progression.files import check_writable
    from progression.folders import save_skipped, told
    from progression.processes import Processes, Ray
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
    if ray is not None and workers is not None:
        raise UsageError("--workers with --ray: a cluster has as many as it has cores; give one or the other")
    films = _films(sources, images)
    entries = films.entries
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a folder; name a file in it (--out {out}/results.csv)")
    check_writable(out.parent)
    name, chosen = choose(engine, device)
    identity = {"engine": name, "device": chosen.type, "model": load_model(model).hashes()}
    if bank is not None:
        identity["bank"] = load_model(bank, option="--bank").hashes()
    load = partial(load_served, model, device=chosen.type, engine=name, bank=bank, method=method)
    if ray is not None:
        predictor: BatchPredictor | Workers[BatchPredictor] = Ray(load, ray, gpu=chosen.type == "cuda")
    else:
        predictor = load() if workers in (None, 1) else Processes(load, workers or 1)
    with Bar("pictures", len(entries)) as bar:
        done = run_cohort(predictor, entries, out, request=request, identity=identity, progress=bar.at)
    say(f"{done.knees - len(done.failed)} of {done.knees} knees predicted: {out}")
    if films.skipped:
        beside = out.with_name(f"{out.name.removesuffix('.csv')}.skipped.csv")
        save_skipped(beside, films.skipped)
        say(f"{told(films.skipped)}: {beside}")
    report_failed(done.failed, done.knees)


def _films(sources: "Sequence[Path]", images: Path | None) -> "FoundFilms":
    """The rows of one table, or the films of folders and DICOMDIR files."""
    from progression.entries import read_table
    from progression.errors import UsageError
    from progression.folders import FoundFilms, find_films, holds_films

    tables = [source for source in sources if not holds_films(source)]
    if not tables:
        if images is not None:
            raise UsageError("--images is for a table's paths; leave it out with folders of films")
        with Bar("films found", None) as bar:
            return find_films(sources, progress=bar.at)
    if len(sources) > 1:
        raise UsageError(f"{tables[0]} is a table or missing: give one table alone, or folders of films")
    return FoundFilms(read_table(tables[0], images=images), [])
