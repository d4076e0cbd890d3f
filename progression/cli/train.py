"""`progression train gan|encoder|grader|risk`: each resumes where it was stopped."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Train a part of a model. Stopped at any moment, the same command goes on.",
)

Table = Annotated[Path, typer.Argument(help="Visits table, .csv or .parquet.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder: checkpoints, curves, sheets.")]
Images = Annotated[
    Path | None,
    typer.Option("--images", help="Folder that images are relative to; default: the table's own."),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of the table to train on; default: all.")]
Preset = Annotated[str, typer.Option("--preset", help="cpu, or gpu for one large GPU; gan also has cpu-64.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random draw.")]
Model = Annotated[str, typer.Option("--model", help="Model folder or name to train for.")]
Save = Annotated[Path, typer.Option("--save", help="Model folder that gets the trained part.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the configuration and stop.")]


@app.command()
def gan(
    table: Table,
    out: Out,
    images: Images = None,
    split: Split = "train",
    preset: Preset = "cpu",
    kimg: Annotated[
        float | None, typer.Option("--kimg", help="Length, thousands of images [preset's].")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Images a step [preset's].")] = None,
    transfer: Annotated[
        Path | None, typer.Option("--transfer", help="Snapshot folder of another run to start from.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop, resumably, after so long.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the generator (with an encoder beside it) on the baseline radiographs of a table."""
    from progression.train.gan import train_gan, with_overrides

    config = with_overrides(preset, total_kimg=kimg, batch=batch, seed=seed)
    if dry_run:
        typer.echo(config)
        return
    from progression.data.dataset import load_baselines
    from progression.data.visits import read_visits
    from progression.predict import choose_device

    chosen = choose_device(device)
    knees = load_baselines(read_visits(table), resolution=config.resolution, root=images, split=split)
    folder = train_gan(
        knees.images, out, config=config, device=str(chosen), transfer=transfer, minutes=minutes
    )
    typer.echo(f"snapshot: {folder}")


@app.command()
def encoder(
    table: Table,
    out: Out,
    model: Model,
    save: Save,
    images: Images = None,
    split: Split = "train",
    heldout: Annotated[
        str | None, typer.Option("--heldout", help="Split whose figures typicality is made of.")
    ] = "val",
    preset: Preset = "cpu",
    kimg: Annotated[
        float | None, typer.Option("--kimg", help="Length, thousands of images [preset's].")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the encoder of a model's generator, and store the statistics of its latent space with it."""
    from dataclasses import replace

    from progression.errors import UsageError
    from progression.train.encoder import PRESETS, train_encoder

    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    config = PRESETS[preset] if kimg is None else replace(PRESETS[preset], kimg=kimg)
    if dry_run:
        typer.echo(config)
        return
    from progression.data.dataset import load_baselines
    from progression.data.visits import read_visits
    from progression.predict import choose_device
    from progression.weights import load_model

    chosen, visits, files = choose_device(device), read_visits(table), load_model(model)
    knees = load_baselines(visits, resolution=files.resolution, root=images, split=split)
    others = None
    if heldout is not None:
        others = load_baselines(visits, resolution=files.resolution, root=images, split=heldout).images
    part = train_encoder(
        files, knees.images, run=out, preset=config, heldout=others, device=chosen, seed=seed
    )
    path = part.save(save, training={"preset": preset, "kimg": config.kimg, "seed": seed})
    typer.echo(f"encoder: {path}")


@app.command()
def grader(
    table: Table,
    out: Out,
    save: Save,
    images: Images = None,
    split: Split = "train",
    preset: Preset = "cpu",
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the cross-fitted grader (fine-tunes ImageNet weights: needs the extra `train`)."""
    from dataclasses import replace

    from progression.errors import UsageError
    from progression.train.grader import PRESETS, train_grader

    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    config = replace(PRESETS[preset], seed=seed)
    if dry_run:
        typer.echo(config)
        return
    from progression.data.dataset import load_baselines
    from progression.data.visits import read_visits
    from progression.predict import choose_device
    from progression.weights import save_part

    chosen = choose_device(device)
    knees = load_baselines(read_visits(table), resolution=config.resolutions[-1], root=images, split=split)
    trained = train_grader(knees, out, config=config, device=str(chosen))
    path = save_part(
        save, "grader", trained.state_dict(), trained.config(), resolution=config.resolutions[-1]
    )
    typer.echo(f"grader: {path}")


@app.command()
def risk(
    table: Table,
    grader_run: Annotated[Path, typer.Option("--grader-run", help="Run folder of `train grader`.")],
    save: Save,
    images: Images = None,
    split: Split = "train",
    preset: Preset = "cpu",
) -> None:
    """Fit the risk model on the grader's out-of-fold outputs and the table's grade series."""
    from progression.data.dataset import load_baselines
    from progression.data.visits import read_visits
    from progression.train.grader import PRESETS
    from progression.train.risk import load_out_of_fold, train_risk
    from progression.weights import save_part

    resolution = PRESETS[preset].resolutions[-1]
    knees = load_baselines(read_visits(table), resolution=resolution, root=images, split=split)
    model = train_risk(knees, load_out_of_fold(grader_run / "out_of_fold.npz", knees))
    path = save_part(save, "risk", model.tensors(), model.config(), dtype="float32", resolution=resolution)
    typer.echo(f"risk: {path}")
