"""`progression evaluate`: judge a model's generator, inversion and grader, and the risks of a cohort."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from progression.cli.console import finite, say, say_lines

app = typer.Typer(
    no_args_is_help=True,
    help="Figures of merit, as a table and as JSON. Judge on knees that no part was trained on.",
)

Model = Annotated[str, typer.Option(help="Model: a name or a folder.")]
Table = Annotated[Path, typer.Option(help="Visits table, .csv or .parquet.")]
Images = Annotated[
    Path | None, typer.Option(help="Folder that images are relative to; default: the table's own.")
]
Split = Annotated[str, typer.Option(help="Split of the table to judge on.")]
Out = Annotated[Path, typer.Option(help="Folder for the report.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Limit = Annotated[int, typer.Option(min=0, help="At most so many knees, drawn at random; 0 for all.")]
Draws = Annotated[int, typer.Option(min=1, help="Draws behind each interval.")]
Seed = Annotated[int, typer.Option(help="Of samples and draws.")]


@app.command()
def generator(
    table: Table,
    out: Out,
    model: Model = "default",
    images: Images = None,
    split: Split = "val",
    device: Device = "auto",
    limit: Limit = 0,
    samples: Annotated[int, typer.Option(min=10, help="Pictures to generate.")] = 2000,
    path_samples: Annotated[int, typer.Option(min=2, help="Steps of the path length.")] = 1000,
    psi: Annotated[float, typer.Option(callback=finite, help="Truncation; 1 is none.")] = 1.0,
    draws: Draws = 10,
    seed: Seed = 0,
) -> None:
    """FID, KID, precision, recall, memorisation and path length; floors from the table's split train."""
    from progression.engine import choose_device
    from progression.evaluate.generator import generator_table
    from progression.evaluate.run import Subjects, run_generator

    report = run_generator(
        Subjects(model, table, images, split, choose_device(device), limit),
        n_samples=samples,
        n_path=path_samples,
        truncation_psi=psi,
        n_draws=draws,
        seed=seed,
        progress=_say,
    )
    _leave(report, generator_table(report), out / "generator.json")


@app.command()
def inversion(
    table: Table,
    out: Out,
    model: Model = "default",
    images: Images = None,
    split: Split = "val",
    device: Device = "auto",
    limit: Limit = 0,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=0, help="Refinement steps to compare, repeatable; default: none, a prediction's, thrice that."
        ),
    ] = None,
    draws: Draws = 1000,
    seed: Seed = 0,
) -> None:
    """PSNR, SSIM, LPIPS and grade of g(E(x)) against x, by number of refinement steps."""
    from progression.engine import choose_device
    from progression.evaluate.inversion import inversion_table
    from progression.evaluate.run import STEPS, Subjects, run_inversion

    report = run_inversion(
        Subjects(model, table, images, split, choose_device(device), limit),
        steps=steps or STEPS,
        n_draws=draws,
        seed=seed,
        progress=_say,
    )
    _leave(report, inversion_table(report), out / "inversion.json")


@app.command()
def grader(
    table: Table,
    out: Out,
    model: Model = "default",
    images: Images = None,
    split: Split = "val",
    device: Device = "auto",
    limit: Limit = 0,
    part: Annotated[
        str, typer.Option(help="grader, or grader_robust: the same with the norms of adversarial pictures.")
    ] = "grader",
    attack_epsilon: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Also judge on pictures changed against the grader by so many of 255 grey levels; repeatable.",
        ),
    ] = None,
    draws: Draws = 1000,
    seed: Seed = 0,
) -> None:
    """Accuracy, quadratic kappa and confusion of the grader against the grades read."""
    from progression.engine import choose_device
    from progression.evaluate.grader import grader_table
    from progression.evaluate.run import Subjects, run_grader

    subjects = Subjects(model, table, images, split, choose_device(device), limit)
    report = run_grader(
        subjects, part=part, attack_epsilons=attack_epsilon or (), n_draws=draws, seed=seed, progress=_say
    )
    _leave(report, grader_table(report), out / "grader.json")


@app.command()
def risk(
    results: Annotated[Path, typer.Argument(help="results.csv of progression cohort.")],
    outcomes: Annotated[
        Path, typer.Argument(help="Columns name, subject, kl_m00, kl_m12 ...: grades as they were read.")
    ],
    out: Out,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Outcomes of other knees, for the event rate of each baseline grade; without it the "
            "judged knees' own, which favours the grade."
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(help="What the results are, such as 'image only'; kept in the report.")
    ] = "",
    draws: Draws = 1000,
    seed: Seed = 0,
) -> None:
    """AUC, average precision, calibration and net benefit of the risks, beside the baseline grade alone.

    Writes risk.json, risk.md, roc.png, reliability.png and decision.png.
    """
    from progression.evaluate.followup import read_followup
    from progression.evaluate.report import write_text
    from progression.evaluate.risk import evaluate_risk, judged, read_results, risk_markdown, risk_table
    from progression.report.reader_figure import save_figure
    from progression.report.risk_figure import Panel, decision_figure, reliability_figure, roc_figure

    table, truth = read_results(results), read_followup(outcomes)
    others = None if reference is None else read_followup(reference)
    report = evaluate_risk(table, truth, reference=others, label=label, n_draws=draws, seed=seed)
    cases = [case for case in judged(table, truth, reference=others) if case.both_classes]
    if cases:
        risks = [Panel(case.title, case.y, case.risks) for case in cases]
        save_figure(out / "roc.png", roc_figure([Panel(case.title, case.y, case.scores) for case in cases]))
        save_figure(out / "reliability.png", reliability_figure(risks))
        save_figure(out / "decision.png", decision_figure(risks))
    write_text(risk_markdown(report), out / "risk.md")
    _leave(report, risk_table(report), out / "risk.json")


def _leave(report: Mapping[str, Any], table: str, path: Path) -> None:
    from progression.evaluate.report import write_json

    write_json(report, path)
    say_lines(table)
    say()
    say(f"wrote {path}")


def _say(stage: str) -> None:
    say(stage, err=True)
