"""`progression bank`: trajectories of your own cohort, or a synthetic bank that may be passed on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from progression.cli.bar import Bar
from progression.cli.console import say

app = typer.Typer(
    help="Banks of trajectories to extrapolate from: of your own cohort, or synthetic.", no_args_is_help=True
)

Model = Annotated[str, typer.Option(help="Model whose encoder makes the latents: a name or a folder.")]


class Kind(StrEnum):
    """Where displacements come from."""

    AUTO = "auto"
    IMAGED = "imaged"
    GRADED = "graded"


@app.command()
def build(
    table: Annotated[Path, typer.Argument(help="Visits table, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Model folder that gets the bank as its part 'bank'.")],
    model: Model = "default",
    images: Annotated[
        Path | None, typer.Option(help="Folder to which the table's images are relative; else the table's.")
    ] = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="imaged: later radiographs; graded: later grades only; auto: imaged if there are any."
        ),
    ] = Kind.AUTO,
    consecutive: Annotated[
        bool, typer.Option("--consecutive", help="imaged: a row a visit to the next, for stepwise use.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Take the knees of this split only.")] = None,
) -> None:
    """Build a bank from a visits table. It holds people's latents: keep it as you keep their radiographs."""
    from progression.data.dataset import baselines
    from progression.data.visits import images_root, read_visits
    from progression.errors import UsageError
    from progression.latent import build as building
    from progression.latent import stream
    from progression.latent.part import EncoderPart
    from progression.weights import load_model

    files = load_model(model)
    encoder = EncoderPart.load(files).encoder
    visits = read_visits(table)
    pictures = visits[visits["image"] != ""]
    if kind is Kind.AUTO:
        several = pictures.groupby(["subject", "side"]).size().max() if len(pictures) else 0
        kind = Kind.IMAGED if several > 1 else Kind.GRADED
    outline: building.ImagedOutline | building.GradedOutline
    if kind is Kind.IMAGED:
        if split is not None:
            if "split" not in pictures or not (pictures["split"] == split).any():
                raise UsageError(f"no row with a picture has split {split!r}: check --split and the table")
            pictures = pictures[pictures["split"] == split]
        outline = building.outline_imaged(
            subject=pictures["subject"].tolist(),
            side=pictures["side"].tolist(),
            months=pictures["months"].tolist(),
            grade=pictures["grade"].fillna(-1).astype(int).tolist(),
            consecutive=consecutive,
        )
        pictures = pictures.iloc[outline.pictured]
    else:
        if consecutive:
            raise UsageError("--consecutive needs radiographs of several visits: expected --kind imaged")
        pictures, series = baselines(visits, split=split)
        outline = building.outline_graded(
            subject=series.subject.tolist(), grade_series=series.grade, series_months=series.months.tolist()
        )
    hashes = _hashes(files.hashes())
    with (
        Bar("pictures", len(pictures)) as bar,
        stream.encoded_visits(
            out,
            encoder,
            images=pictures["image"].tolist(),
            side=pictures["side"].tolist(),
            root=images_root(visits, images),
            built_with=hashes,
            progress=bar.at,
        ) as keys,
    ):
        if isinstance(outline, building.ImagedOutline):
            latents = outline.latents(keys, outline.pictured)
        else:
            transport = building.fit_transport(keys, grade=series.baseline, subject=series.subject.tolist())
            latents = outline.latents(keys, transport)
        stream.write_bank(
            out,
            outline,
            latents,
            dimensions=keys.shape[1],
            built_with=hashes,
            resolution=files.resolution,
        )
    say(f"{len(outline)} trajectories ({kind.value}) of {len(set(outline.subject))} subjects: {out}")
    if len(outline) > stream.EXACT_ROWS:
        index(out)


@app.command()
def index(bank: Annotated[Path, typer.Argument(help="Folder of a bank.")]) -> None:
    """Make a large bank quick to search: no longer every row is looked at, and the share found is told.

    `bank build` does this by itself above a million rows. Only method paper and the distances in a report depend on it.
    """
    from progression.latent.stream import RECALL_NEIGHBOURS, add_index
    from progression.weights import load_model

    probes, share = add_index(bank, load_model(bank, option="bank"))
    say(f"index of {bank}: finds {share:.1%} of the {RECALL_NEIGHBOURS} nearest, looks into {probes} lists")


@app.command()
def synthesise(
    bank: Annotated[Path, typer.Argument(help="Folder of a real bank, from `bank build`.")],
    out: Annotated[Path, typer.Option(help="Model folder that gets the synthetic bank as its part 'bank'.")],
    model: Model = "default",
    count: Annotated[int, typer.Option(min=10, help="Rows to draw.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Draw a bank that is nobody's from models fitted on a real one, and print its privacy figures."""
    from progression.errors import UsageError
    from progression.latent.bank import TrajectoryBank, check_built_with
    from progression.latent.synthetic import synthesise as draw
    from progression.weights import load_model

    files, real_files = load_model(model), load_model(bank, option="bank")
    check_built_with(real_files, files)
    real = TrajectoryBank.load(real_files)
    if real.mapped:
        raise UsageError(
            f"bank {bank} has {len(real)} rows, too many to fit models on in memory: build one of fewer knees"
        )
    made, privacy = draw(real, count=count, seed=seed)
    made.save(out, built_with=_hashes(files.hashes()), resolution=files.resolution)
    say(f"{len(made)} synthetic trajectories: {out}")
    for name, value in privacy.as_dict().items():
        say(f"  {name}: {value if isinstance(value, bool) else f'{value:.4f}'}")


def _hashes(hashes: dict[str, str]) -> dict[str, str]:
    """Those of the parts that say what a latent means."""
    return {part: digest for part, digest in hashes.items() if part in ("generator", "encoder")}
