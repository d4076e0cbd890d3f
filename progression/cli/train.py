"""`progression train gan|joint|encoder|grader|risk|directions|typicality|localiser`: what takes hours resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from progression.cli.console import finite, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from progression.data.dataset import Knees
    from progression.metrics.features import Extractor
    from progression.types import Pixels

app = typer.Typer(
    no_args_is_help=True,
    help="Train a part of a model. Stopped at any moment, the same command goes on. On several GPUs: "
    "torchrun --nproc-per-node N -m progression train gan|joint …, with the same numbers as on one.",
)

Table = Annotated[Path, typer.Argument(help="Visits table, .csv or .parquet.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder: checkpoints, curves, sheets.")]
Images = Annotated[
    Path | None,
    typer.Option("--images", help="Folder that images are relative to; default: the table's own."),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of the table to train on; default: all.")]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="cpu, or gpu for a large GPU; gan also has cpu-64; joint cpu-sharpen, cpu-widen, cpu-enlarge; "
        "grader cpu-robust, gpu-robust, gpu-256.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of every random draw.")]
Model = Annotated[str, typer.Option("--model", help="Model folder or name to train for.")]
Save = Annotated[Path, typer.Option("--save", help="Model folder that gets the trained part.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the configuration and stop.")]
Minutes = Annotated[
    float | None, typer.Option("--minutes", min=0, callback=finite, help="Stop, resumably, after so long.")
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Images a step, of all GPUs [preset's].")]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", min=1, help="Micro-batches of a step, to save memory [preset's: 1]."),
]
Kimg = Annotated[
    float | None,
    typer.Option("--kimg", min=0.001, callback=finite, help="Length, thousands of images [preset's]."),
]


@app.command()
def gan(
    table: Table,
    out: Out,
    images: Images = None,
    split: Split = "train",
    preset: Preset = "cpu",
    kimg: Kimg = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    loss: Annotated[
        str | None, typer.Option("--loss", help="logistic, or r3gan: relativistic with R1 + R2 [preset's].")
    ] = None,
    heldout: Annotated[
        str, typer.Option("--heldout", help="Split to measure snapshots on, if the table has it.")
    ] = "val",
    transfer: Annotated[
        Path | None, typer.Option("--transfer", help="Snapshot folder of another run to start from.")
    ] = None,
    minutes: Minutes = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the generator on the baseline radiographs of a table."""
    from progression.train.gan import train_gan, with_overrides

    config = with_overrides(preset, total_kimg=kimg, batch=batch, accumulate=accumulate, loss=loss, seed=seed)
    if dry_run:
        say(config)
        return
    from progression.data.visits import read_visits
    from progression.engine import choose_device
    from progression.train.distributed import joined

    with joined(choose_device(device)) as chosen:
        options: dict[str, Any] = {"resolution": config.resolution, "images": images}
        others = None
        if heldout in set(read_visits(table).get("split", [])):
            others = _knees(table, split=heldout, **options).images
        else:
            say(f"the table has no split {heldout!r}: snapshots are not measured")
        folder = train_gan(
            _knees(table, split=split, **options).images,
            out,
            config=config,
            device=str(chosen),
            transfer=transfer,
            minutes=minutes,
            heldout=others,
            extractors=_extractors(chosen),
        )
        say(f"snapshot: {folder}")


@app.command()
def joint(
    table: Table,
    out: Out,
    model: Model,
    save: Save,
    images: Images = None,
    split: Split = "train",
    heldout: Annotated[
        str, typer.Option("--heldout", help="Split to measure on, and whose figures typicality is made of.")
    ] = "val",
    preset: Preset = "cpu",
    kimg: Kimg = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    transfer: Annotated[
        Path | None,
        typer.Option("--transfer", help="Snapshot folder of another joint run to go on from."),
    ] = None,
    minutes: Minutes = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train generator and encoder together, from a model that has a generator and a grader."""
    from dataclasses import replace

    from progression.train.joint import PRESETS, train_joint
    from progression.train.loop import preset_of

    changes: dict[str, Any] = {"kimg": kimg, "batch": batch, "accumulate": accumulate, "seed": seed}
    config = replace(preset_of(PRESETS, preset), **{k: v for k, v in changes.items() if v is not None})
    if dry_run:
        say(config)
        return
    from progression.engine import choose_device
    from progression.train.distributed import joined
    from progression.weights import load_model

    files = load_model(model)
    start = None if transfer is None else load_model(transfer)
    resolution = config.resolution or int((start or files).config("generator")["img_resolution"])
    with joined(choose_device(device)) as chosen:
        pictures, others = (
            _knees(table, resolution=resolution, images=images, split=name).images
            for name in (split, heldout)
        )
        ended = train_joint(
            files,
            pictures,
            others,
            run=out,
            save=save,
            config=config,
            device=str(chosen),
            transfer=start,
            minutes=minutes,
            extractors=_extractors(chosen),
        )
        say(
            f"generator and encoder: {save}; build its bank anew, and find its directions"
            if ended
            else f"stopped; the same command goes on: {out}"
        )


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
    grade_features: Annotated[
        bool,
        typer.Option(
            "--grade-features/--no-grade-features",
            help="Reconstructions must also look alike to the model's grader; on a CPU a step then takes "
            "about four times as long.",
        ),
    ] = False,
    preset: Preset = "cpu",
    kimg: Kimg = None,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: DryRun = False,
) -> None:
    """Train the encoder of a model's generator, and store the statistics of its latent space with it."""
    from dataclasses import replace

    from progression.train.encoder import PRESETS, train_encoder
    from progression.train.loop import preset_of

    config = preset_of(PRESETS, preset)
    if kimg is not None:
        config = replace(config, kimg=kimg)
    if dry_run:
        say(config)
        return
    from progression.engine import choose_device
    from progression.risk.grader import Grader
    from progression.weights import load_model

    chosen, files = choose_device(device), load_model(model)
    features = None
    if grade_features:
        features = Grader.from_tensors(files.tensors("grader"), files.config("grader")).to(chosen).features
    knees = _knees(table, resolution=files.resolution, images=images, split=split)
    others = None
    if heldout is not None:
        others = _knees(table, resolution=files.resolution, images=images, split=heldout).images
    part = train_encoder(
        files,
        knees.images,
        run=out,
        preset=config,
        heldout=others,
        features=features,
        device=chosen,
        seed=seed,
    )
    training = {"preset": preset, "kimg": config.kimg, "seed": seed, "grade_features": grade_features}
    path = part.save(save, training=training)
    say(f"encoder: {path}")


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
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            min=0,
            help="Train one network alone, from 0, and save no part; without it, what has ended is found so.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train the cross-fitted grader (fine-tunes ImageNet weights: needs the extra `train`)."""
    from dataclasses import replace

    from progression.train.grader import PRESETS, cross_fitting, robust_grader, train_fold, train_grader
    from progression.train.loop import preset_of

    config = replace(preset_of(PRESETS, preset), seed=seed)
    if dry_run:
        say(config)
        return
    from progression.engine import choose_device
    from progression.risk.grader import beyond
    from progression.weights import load_model, save_part

    chosen, resolution = choose_device(device), config.resolutions[-1]
    knees = _knees(table, resolution=resolution, images=images, split=split)
    if fold is not None:
        train_fold(knees, out, fold, config=config, device=str(chosen))
        say(
            f"fold {fold} of {config.folds} has ended; with all of them, the same command without --fold saves"
        )
        return
    trained = train_grader(knees, out, config=config, device=str(chosen))
    fitting = {"cross_fitting": cross_fitting(knees.subject, seed=config.seed)}
    path = save_part(save, "grader", trained.state_dict(), trained.config() | fitting, resolution=resolution)
    say(f"grader: {path}")
    if config.attack_steps:
        robust = robust_grader(knees, out, config=config)
        over = {"over": load_model(save).hashes()["grader"]}
        tensors = beyond(robust, trained)
        path = save_part(
            save, "grader_robust", tensors, robust.config() | fitting | over, resolution=resolution
        )
        say(f"grader_robust: {path}")


@app.command()
def risk(
    table: Table,
    grader_run: Annotated[Path, typer.Option("--grader-run", help="Run folder of `train grader`.")],
    save: Save,
    images: Images = None,
    split: Split = "train",
    preset: Preset = "cpu",
) -> None:
    """Fit the risk models (a knee alone; both of a person) on the grader's out-of-fold outputs and grade series."""
    from progression.train.grader import PRESETS
    from progression.train.loop import preset_of
    from progression.train.risk import load_out_of_fold, pairs, train_risk
    from progression.weights import save_part

    resolution = preset_of(PRESETS, preset).resolutions[-1]
    # the pictures were graded already: only which knees have one, and their grades, matter here
    knees = _knees(table, resolution=8, images=images, split=split)
    grading = load_out_of_fold(grader_run / "out_of_fold.npz", knees)
    models = {"risk": train_risk(knees, grading, progress=say)}
    knees, grading, other = pairs(knees, grading)
    if len(knees):
        say(f"both knees of {len(knees) // 2} people")
        models["risk_pair"] = train_risk(knees, grading, other=other, progress=say)
    for name, model in models.items():
        path = save_part(save, name, model.tensors(), model.config(), dtype="float32", resolution=resolution)
        say(f"{name}: {path}")


@app.command()
def directions(
    table: Table,
    model: Model,
    save: Save,
    images: Images = None,
    split: Split = "train",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Find where to move codes for more of one attribute: grade, exposure, contrast, size, left (some minutes)."""
    from progression.engine import choose_device
    from progression.latent.part import EncoderPart, load_generator
    from progression.risk.grader import Grader
    from progression.train.directions import train_directions
    from progression.weights import load_model

    chosen, files = choose_device(device), load_model(model)
    knees = _knees(table, resolution=files.resolution, images=images, split=split)
    found = train_directions(
        load_generator(files, device=chosen),
        EncoderPart.load(files, device=chosen),
        Grader.from_tensors(files.tensors("grader"), files.config("grader")).to(chosen),
        knees,
        seed=seed,
        progress=say,
    )
    path = found.directions.save(save, made_for=files, training={"knees": len(knees), "seed": seed})
    say(f"directions for {', '.join(found.directions.names)}: {path}")


@app.command()
def typicality(
    table: Table, save: Save, images: Images = None, split: Split = "train", seed: Seed = 0
) -> None:
    """Learn what knees look like, to refuse what does not; stays true when other parts are trained anew (minutes)."""
    import torch

    from progression.latent.appearance import RESOLUTION, Appearance, statistics
    from progression.latent.part import from_bytes

    knees = _knees(table, resolution=RESOLUTION, images=images, split=split)
    v = torch.cat([statistics(from_bytes(part)) for part in knees.images.split(256)])
    say(f"typicality from {len(knees)} knees: {Appearance.fit(v, knees.subject, seed=seed).save(save)}")


@app.command()
def localiser(
    table: Table,
    out: Out,
    save: Save,
    images: Images = None,
    split: Split = "train",
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of 16 films each; about 0.3 s of a core each.")
    ] = 3000,
    transfer: Annotated[
        Path | None, typer.Option("--transfer", help="Model folder whose localiser to start from.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Learn to find knees in films, from films made of the table's knees, and which pictures of knees are usual."""
    from dataclasses import asdict

    from progression.errors import UsageError
    from progression.localise.find import Finder
    from progression.train.localiser import KNEE_PIXELS, LocaliserConfig, train_localiser, usual
    from progression.weights import load_model

    config = LocaliserConfig(steps=steps, seed=seed)
    start = None if transfer is None else Finder.load(load_model(transfer, option="--transfer"))
    if transfer is not None and start is None:
        raise UsageError(
            f"--transfer {transfer} has no part localiser: name a model that has one, or leave it out"
        )
    knees = _knees(table, resolution=KNEE_PIXELS, images=images, split=split)
    finder = train_localiser(knees.images, out, config=config, start=start)
    limits = usual(finder, _pictures(table, images=images, split=split))
    path = finder.save(save, limits=limits, training={**asdict(config), "knees": len(knees)})
    say(f"localiser from {len(knees)} knees: {path}")


@app.command()
def bones(
    table: Table,
    contours: Annotated[
        Path, typer.Argument(help="Table of outlines: name, score, x0, y0 … x73, y73 in a picture's pixels.")
    ],
    out: Out,
    save: Save,
    images: Images = None,
    split: Split = "train",
    heldout: Annotated[
        str | None, typer.Option("--heldout", help="Split that confidence is calibrated on; default: none.")
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of 16 windows each; about 0.3 s of a core each.")
    ] = 20000,
    least_score: Annotated[
        float | None, typer.Option("--least-score", help="Outlines of a lower score are left out.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Learn to see the outlines of femur and tibia, and where knees stand, on films of any processing (hours)."""
    from dataclasses import asdict

    from progression.bones.find import BoneFinder
    from progression.bones.shape import ShapeModel
    from progression.data.contours import load_outlined, read_contours
    from progression.data.visits import read_visits
    from progression.train.bones import CALIBRATION_FILMS, KNEE_PIXELS, BonesConfig, calibrate, train_bones

    config = BonesConfig(steps=steps, seed=seed)
    visits, outlines = read_visits(table), read_contours(contours, least_score=least_score)
    knees = load_outlined(visits, outlines, resolution=KNEE_PIXELS, root=images, split=split)
    finder = BoneFinder(train_bones(knees, out, config=config), ShapeModel.fit(knees.points))
    if heldout is not None:
        others = load_outlined(visits, outlines, resolution=KNEE_PIXELS, root=images, split=heldout)
        finder = calibrate(finder, others, films=CALIBRATION_FILMS, seed=seed)
    path = finder.save(save, training={**asdict(config), "knees": len(knees)})
    typer.echo(f"bones from {len(knees)} knees: {path}")


def _pictures(table: Path, *, images: Path | None, split: str | None) -> Iterator[Pixels]:
    """Baseline pictures of a split as they are."""
    from progression.data.dataset import baselines
    from progression.data.visits import images_root, read_visits
    from progression.image import read_image

    visits = read_visits(table)
    for name in baselines(visits, split=split)[0]["image"]:
        yield read_image(str(images_root(visits, images) / name))


def _extractors(device: torch.device) -> dict[str, Extractor]:
    """Features that snapshots are measured on, where their package is installed."""
    from progression.errors import DependencyError
    from progression.evaluate.extractors import imagenet_features

    try:
        return {"imagenet": imagenet_features(device)}
    except DependencyError as error:
        say(f"left out: {error}")
        return {}


def _knees(table: Path, *, resolution: int, images: Path | None, split: str | None) -> Knees:
    """Baseline pictures and grade series of a split of the table."""
    from progression.data.dataset import load_baselines
    from progression.data.visits import read_visits

    return load_baselines(read_visits(table), resolution=resolution, root=images, split=split)
