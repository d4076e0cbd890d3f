"""`progression phantom`: write a phantom cohort, or compare it with the real one in figures."""

from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import say, say_lines

app = typer.Typer(help="Phantom cohort: computed radiographs with true follow-ups.", no_args_is_help=True)


@app.command("write")
def phantom_command(
    out: Annotated[Path, typer.Option(help="Folder for visits.csv and images.zip.")],
    subjects: Annotated[int, typer.Option(help="How many subjects, one knee each.")] = 1000,
    seed: Annotated[
        int, typer.Option(help="Which cohort; subject i is the same however many there are.")
    ] = 0,
    resolution: Annotated[int, typer.Option(help="Pixels a side.")] = 128,
) -> None:
    """Write computed knee radiographs at 0 to 96 months with their grades and their truth."""
    from rich.progress import Progress, TimeRemainingColumn

    from progression.data.phantom import write_cohort

    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn()) as progress:
        task = progress.add_task("subjects", total=subjects)
        table = write_cohort(
            out,
            subjects=subjects,
            seed=seed,
            resolution=resolution,
            progress=lambda done: progress.update(task, completed=done),
        )
    say(f"wrote {table}")


@app.command("calibration")
def calibration_command(
    subjects: Annotated[int, typer.Option(help="How many subjects to simulate, without films.")] = 5778,
    seed: Annotated[int, typer.Option(help="Which cohort.")] = 0,
) -> None:
    """Print shares of grades and of rises, phantom beside real."""
    from progression.data.phantom import calibration

    say_lines(calibration(subjects, seed=seed).to_string(index=False))
