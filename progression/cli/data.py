"""`progression data`: import a cohort, check a visits table, draw splits."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import finite, say, say_lines

app = typer.Typer(
    help="Visits tables: import a cohort, check one, draw subject-level splits.", no_args_is_help=True
)


class Source(StrEnum):
    """Cohorts that an importer knows."""

    KNEES = "knees"
    OAI = "oai"
    MOST = "most"


@app.command("import")
def import_(
    source: Annotated[
        Source, typer.Argument(help="knees: train.csv + train.zip; oai, most: a release's text files.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder that holds the files; nothing is downloaded.")],
    out: Annotated[Path, typer.Option(help="Visits table to write, .csv or .parquet.")],
    image_pattern: Annotated[
        str | None,
        typer.Option(
            help="oai, most: where single-knee pictures lie in FOLDER, "
            "such as 'knees/{subject}_{months:03d}_{side}.png'."
        ),
    ] = None,
    missing_code: Annotated[
        list[str] | None, typer.Option(help="oai, most: a further code that means 'not read'; repeatable.")
    ] = None,
) -> None:
    """Write a visits table from a cohort's own files."""
    from progression.data.importers import import_knees, import_most, import_oai
    from progression.data.summary import summarise
    from progression.data.visits import write_visits
    from progression.errors import UsageError

    if source is Source.KNEES:
        if image_pattern is not None or missing_code:
            raise UsageError("--image-pattern and --missing-code are for oai and most; leave them out")
        table = import_knees(folder)
    else:
        release = import_oai if source is Source.OAI else import_most
        table = release(folder, image_pattern=image_pattern, missing_codes=missing_code or ())
    write_visits(table, out)
    say_lines(summarise(table))
    say(f"wrote {out}")
    if (table["image"] != "").any() and out.resolve().parent != folder.resolve():
        say(f"its pictures are relative to {folder}: give --images {folder} to commands that read it")


@app.command()
def check(
    table: Annotated[Path, typer.Argument(help="Visits table, .csv or .parquet.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder that images are relative to; default: the table's own.")
    ] = None,
    months: Annotated[
        list[float] | None, typer.Option(callback=finite, help="Horizon to count events at; repeatable.")
    ] = None,
) -> None:
    """Check a visits table and its pictures; print the cohort in figures."""
    from progression.data.summary import DEFAULT_HORIZONS_MONTHS, summarise
    from progression.data.visits import check_images, read_visits

    visits = read_visits(table)
    summary = summarise(visits, horizons_months=tuple(months or DEFAULT_HORIZONS_MONTHS))
    found = check_images(visits, root=images)
    say_lines(summary)
    say(f"{table}: in order; {found} pictures are there")


@app.command()
def split(
    table: Annotated[Path, typer.Argument(help="Visits table, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Visits table to write, with the column 'split'.")],
    train: Annotated[float, typer.Option(callback=finite, help="Share of subjects.")] = 0.7,
    val: Annotated[float, typer.Option(callback=finite, help="Share of subjects.")] = 0.1,
    test: Annotated[float, typer.Option(callback=finite, help="Share of subjects.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed, another draw.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Draw anew where the table has splits.")] = False,
) -> None:
    """Give every subject a split, by a hash of its code: rows added later move nobody."""
    from progression.data.splits import split_visits
    from progression.data.visits import read_visits, write_visits

    shares = {"train": train, "val": val, "test": test}
    visits = split_visits(read_visits(table), shares=shares, seed=seed, replace=replace)
    write_visits(visits, out)
    subjects = visits.drop_duplicates("subject")["split"].value_counts()
    counted = ", ".join(f"{name} {subjects.get(name, 0)}" for name in shares)
    say(f"wrote {out}: subjects {counted}")
    if (visits["image"] != "").any() and out.resolve().parent != table.resolve().parent:
        say(f"its pictures are relative to {table.parent}: give --images {table.parent}")
