"""`progression bank`: trajectories of your own cohort, or a synthetic bank that may be passed on."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
    from progression.data.visits import read_visits
    from progression.errors import UsageError
    from progression.latent.bank import TrajectoryBank, build_graded, build_imaged
    from progression.latent.part import EncoderPart, encode_keys
    from progression.weights import load_model

    files = load_model(model)
    encoder = EncoderPart.load(files).encoder
    visits = read_visits(table)
    pictures = visits[visits["image"] != ""]
    if kind is Kind.AUTO:
        several = pictures.groupby(["subject", "side"]).size().max() if len(pictures) else 0
        kind = Kind.IMAGED if several > 1 else Kind.GRADED
    bank: TrajectoryBank
    if kind is Kind.IMAGED:
        from progression.data.dataset import load_images
        from progression.data.visits import images_root

        if split is not None:
            if "split" not in pictures or not (pictures["split"] == split).any():
                raise UsageError(f"no row with a picture has split {split!r}: check --split and the table")
            pictures = pictures[pictures["split"] == split]
        root = images_root(visits, images)
        keys = encode_keys(
            encoder,
            load_images(pictures["image"], pictures["side"], resolution=files.resolution, root=root),
        )
        bank = build_imaged(
            keys,
            subject=pictures["subject"].tolist(),
            side=pictures["side"].tolist(),
            months=pictures["months"].tolist(),
            grade=pictures["grade"].fillna(-1).astype(int).tolist(),
            consecutive=consecutive,
        )
    else:
        from progression.data.dataset import load_baselines

        if consecutive:
            raise UsageError("--consecutive needs radiographs of several visits: expected --kind imaged")
        knees = load_baselines(visits, resolution=files.resolution, root=images, split=split)
        bank = build_graded(
            encode_keys(encoder, knees.images),
            subject=knees.subject.tolist(),
            grade_series=knees.grade_series,
            series_months=knees.series_months.tolist(),
        )
    bank.save(out, built_with=_hashes(files.hashes()), resolution=files.resolution)
    typer.echo(f"{len(bank)} trajectories ({kind.value}) of {len(set(bank.subject))} subjects: {out}")


@app.command()
def synthesise(
    bank: Annotated[Path, typer.Argument(help="Folder of a real bank, from `bank build`.")],
    out: Annotated[Path, typer.Option(help="Model folder that gets the synthetic bank as its part 'bank'.")],
    model: Model = "default",
    count: Annotated[int, typer.Option(min=10, help="Rows to draw.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Draw a bank that is nobody's from models fitted on a real one, and print its privacy figures."""
    from progression.latent.bank import TrajectoryBank, check_built_with
    from progression.latent.synthetic import synthesise as draw
    from progression.weights import load_model

    files, real_files = load_model(model), load_model(bank)
    check_built_with(real_files, files)
    made, privacy = draw(TrajectoryBank.load(real_files), count=count, seed=seed)
    made.save(out, built_with=_hashes(files.hashes()), resolution=files.resolution)
    typer.echo(f"{len(made)} synthetic trajectories: {out}")
    for name, value in privacy.as_dict().items():
        typer.echo(f"  {name}: {value if isinstance(value, bool) else f'{value:.4f}'}")


def _hashes(hashes: dict[str, str]) -> dict[str, str]:
    """Those of the parts that say what a latent means."""
    return {part: digest for part, digest in hashes.items() if part in ("generator", "encoder")}
