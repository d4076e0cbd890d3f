"""`progression readers`: analyse a reader study, plan the next."""

from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import finite, say, say_lines

app = typer.Typer(
    no_args_is_help=True,
    help="Reader studies: do readers judge better with something than without? How many readers and cases "
    "does it take to tell?",
)


@app.command()
def analyse(
    ratings: Annotated[
        Path,
        typer.Argument(
            help="CSV with columns reader, treatment, case, truth (0 or 1), rating; optionally subject, "
            "where a person brings several cases. Every reader reads every case under every treatment."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for result.json, table.md and figure.png.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Ratings at or above it count as positive: adds sensitivity, specificity and operating points.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Treatment that the others are compared with, such as unaided; default: the last by name."
        ),
    ] = None,
    covariance: Annotated[str, typer.Option(help="jackknife, delong or bootstrap.")] = "jackknife",
    confidence: Annotated[float, typer.Option(callback=finite, help="Of the intervals, 0 to 1.")] = 0.95,
    draws: Annotated[int, typer.Option(min=2, help="Draws of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Multi-reader multi-case analysis (Obuchowski-Rockette, Hillis): tables, tests, intervals, figure."""
    from progression.evaluate.readers import analyse_readers, differences_of, read_ratings, readers_text
    from progression.evaluate.report import write_json, write_text
    from progression.report.reader_figure import reader_figure, save_figure

    table = read_ratings(ratings, reference=reference)
    report = analyse_readers(
        table, threshold=threshold, covariance=covariance, confidence=confidence, n_draws=draws, seed=seed
    )
    text = readers_text(report)
    figure = reader_figure(
        table, differences_of(report, "auc"), threshold=report["threshold"], confidence=confidence
    )
    write_json(report, out / "result.json")
    write_text(text, out / "table.md")
    save_figure(out / "figure.png", figure)
    say_lines(text)
    say()
    say(f"wrote result.json, table.md and figure.png to {out}")


@app.command()
def plan(
    result: Annotated[
        Path, typer.Argument(help="result.json of progression readers analyse: the pilot study.")
    ],
    difference: Annotated[
        float,
        typer.Option(callback=finite, help="Difference to be found, as a fraction: 0.05 is five points."),
    ],
    readers: Annotated[
        list[int] | None, typer.Option(min=2, help="Readers of the new study, repeatable; default: 4 to 12.")
    ] = None,
    cases: Annotated[
        int | None, typer.Option(min=2, help="Tell the power with so many cases, not the cases needed.")
    ] = None,
    power: Annotated[
        float, typer.Option(callback=finite, help="Chance of finding the difference, 0 to 1.")
    ] = 0.8,
    alpha: Annotated[float, typer.Option(callback=finite, help="Two-sided error of the first kind.")] = 0.05,
    merit: Annotated[str, typer.Option(help="auc, sensitivity or specificity.")] = "auc",
) -> None:
    """Cases needed by number of readers, from a pilot study (Hillis, Obuchowski & Berbaum 2011)."""
    from progression.evaluate.readers import pilot_of, plan_text
    from progression.evaluate.report import read_json

    pilot = pilot_of(read_json(result), merit)
    numbers = tuple(readers or range(4, 13))
    say_lines(
        plan_text(
            pilot,
            difference=difference,
            readers=numbers,
            cases=cases,
            target=power,
            alpha=alpha,
            merit=merit,
        )
    )
