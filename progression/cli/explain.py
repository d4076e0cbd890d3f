"""`progression explain`."""

from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import say
from progression.cli.predict import Atypical, Bank, Device, Engine, Model, Months, Previous, naming_nobody


@naming_nobody
def explain(
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="DICOM, PNG, JPEG, WebP, TIFF or .npy: a knee or a film."),
    ],
    side: Annotated[
        str | None, typer.Option("--side", help="left or right; needed unless the picture says it.")
    ] = None,
    months: Months = [48],  # noqa: B006  typer copies it
    out: Annotated[Path, typer.Option("--out", help="Folder; the knee gets OUT/STEM/.")] = Path(
        "progression-explained"
    ),
    model: Model = "default",
    device: Device = "auto",
    engine: Engine = "auto",
    grade: Annotated[
        int | None, typer.Option("--grade", help="Baseline KL grade, 0 to 4, if a reader gave one.")
    ] = None,
    other: Annotated[
        str | None,
        typer.Option("--other", help="The person's other knee, same day: what it adds to the risk."),
    ] = None,
    other_grade: Annotated[
        int | None, typer.Option("--other-grade", help="Its KL grade, 0 to 4, if a reader gave one.")
    ] = None,
    previous: Previous = None,
    subject: Annotated[
        str, typer.Option("--subject", help="Whose knee it is, as in --bank; their own rows are passed over.")
    ] = "",
    bank: Bank = None,
    accept_atypical: Atypical = False,
) -> None:
    """Explain one knee's prediction at the last of its horizons.

    Writes OUT/STEM/ with explanation.png, explanation.json and explanation.md: where the networks look, the most
    similar knees, what drives the risk and what the predicted change is made of.
    """
    from progression.entries import parse_previous
    from progression.errors import UsageError
    from progression.explain import explain as explain_knee
    from progression.files import check_writable
    from progression.film import name_of_outputs
    from progression.knees import read_knees
    from progression.localise.find import Finder
    from progression.localise.places import reader
    from progression.predict import load_predictor
    from progression.report.explanation import check_explanation_replaceable, write_explanation
    from progression.texts import file_name, printable
    from progression.types import EarlierFilm, Radiograph, Side, check_grade, check_horizons
    from progression.weights import load_model

    horizons = check_horizons(months)
    if grade is not None:
        check_grade(grade)
    if other_grade is not None:
        check_grade(other_grade)
    asked = None if side is None else Side.parse(side)
    earlier = [parse_previous(text) for text in previous or ()]
    name = printable(name_of_outputs(image))
    folder = out / file_name(name)
    check_writable(out)
    check_explanation_replaceable(folder)
    finder = Finder.load(load_model(model))
    read_knee = reader(finder, accept_atypical=accept_atypical)
    read, in_view = read_knees(image, finder, side=asked, accept_atypical=accept_atypical)
    knee = read.side
    if knee is None:
        raise UsageError(f"{image} does not say which knee it is; pass --side left or --side right")
    radiograph = Radiograph(read.pixels, knee, name)
    if other is not None:
        in_view = read_knee(other, side=knee.other)
    beside = None if in_view is None else Radiograph(in_view.pixels, knee.other, "other knee")
    history = [EarlierFilm(read_knee(film, side=knee).pixels, ago, read_as) for film, ago, read_as in earlier]
    predictor = load_predictor(model, device=device, engine=engine, bank=bank)
    explanation = explain_knee(
        predictor,
        radiograph,
        horizon_months=horizons,
        grade=grade,
        other=beside,
        other_grade=other_grade,
        history=history,
        subject=subject or None,
        accept_atypical=accept_atypical,
    )
    say(f"{name}: wrote {write_explanation(folder, explanation)}")
    for text in (*read.notes, *explanation.prediction.warnings):
        say(f"  warning: {text}")
