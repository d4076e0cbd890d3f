"""Which way of training the generator gives most for little compute? Six recipes, the same processor time each.

    python benchmarks/recipes.py VISITS.csv --images FOLDER --work DIR [--minutes 8] [--seed 0] [--only NAME …]

Knees at 64², one thread, `--minutes` of processor time (`time.process_time` over training steps) a recipe.
They take turns of 20 seconds, so that whatever else keeps the machine busy slows all of them alike:

- plain     StyleGAN2: logistic loss, lazy R1, no augmentation
- ada       the same with adaptive augmentation (r_t = 0.6)
- transfer  plain at 32² for three eighths of the time, then doubled (`progression.train.grow`) and on at 64²
- frozen    plain, but judged on a frozen ImageNet EfficientNet-lite0's maps (`progression.train.judge`, after Projected
            GAN, arXiv 2111.01007); pictures enlarged to 128² for it, hinge loss, no R1
- r3gan     plain with the relativistic loss and R1 + R2 in every step (arXiv 2501.05441); our networks, not the paper's
- joint     plain for three eighths of the time, then generator and encoder together
            (`progression.train.joint_trainer`), its judge on the same frozen ImageNet network, no grade term

Networks, batch of 16 (joint 8, its preset's), path length every 16 steps and Adam's rates without decay are common;
what a recipe has of its own is its source's or its preset's value, none was searched for. Judged are running means of
the weights, on as many samples as there are held-out knees: FID, KID, precision and recall on EfficientNet-lite0's
features, which `frozen` and `joint` were trained against, and on VGG-16's, which nothing was; path length by LPIPS; and
how well 32 held-out knees of 32 people are drawn again, after the same number of projection steps from the mean w, and
by `joint`'s encoder. The row "training knees" is the floor: other real knees in place of samples.

Killed, the same command goes on; what is finished in DIR is kept. Prints a Markdown table; writes DIR/result.json and
DIR/samples.png (synthetic, one row a recipe in the order above).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from progression.data.dataset import Knees, load_baselines
from progression.data.visits import read_visits
from progression.errors import UsageError
from progression.evaluate.extractors import imagenet_features, vgg_features
from progression.evaluate.report import write_json
from progression.latent.invert import project
from progression.latent.part import from_bytes, load_generator, read_encoder
from progression.memory import keep_freed_memory
from progression.metrics.features import batches_of
from progression.metrics.frechet import fid_draws, kid_draws, precision_recall
from progression.metrics.image import psnr
from progression.metrics.lpips import load_lpips
from progression.metrics.ppl import perceptual_path_length
from progression.metrics.samples import sample_images
from progression.risk.efficientnet import EfficientNet, load_imagenet
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.risk.maps import FrozenMaps
from progression.train.checkpoint import load_checkpoint, save_checkpoint
from progression.train.distributed import Part
from progression.train.gan import PRESETS
from progression.train.gan_trainer import GanConfig, GanTrainer
from progression.train.joint import digest, starting_encoder
from progression.train.joint_trainer import JointConfig, JointTrainer, shifted
from progression.train.judge import Judge, hinge_generator, hinge_judge
from progression.train.loop import batch_indices, picked
from progression.train.sheet import save_sheet
from progression.train.snapshot import save_snapshot, take_over
from progression.weights import load_model, save_part

RESOLUTION = 64
ENDLESS = 1e6
"""kimg of a run that its time ends."""
GAN = replace(PRESETS["cpu-64"], channel_base=1024, path_interval=16, total_kimg=ENDLESS)
JOINT = JointConfig(
    kimg=ENDLESS,
    falling=0,  # nor do the other recipes' rates fall
    # the gradient of a mean over pixels goes with 1/R²: a quarter of the preset's, which are for 128²
    pyramid=JointConfig.pyramid / 4,
    pixel=JointConfig.pixel / 4,
    shift=JointConfig.shift // 2,
    grade=0,  # the network knows no grades
)
JUDGE_SIDE, JUDGE_RATE, JUDGE_SHIFT = 128, 2e-3, 4
"""Side that the frozen network sees; the heads' Adam rate (the paper's); pixels of 64² that pictures are moved by."""
REFERENCE = 256
TURN_SECONDS = 20.0
PROJECTION_STEPS = 100
PEOPLE = 32
COLUMNS = 10


# ---- what is trained ------------------------------------------------------------------------------------------


class FrozenTrainer(GanTrainer):
    """The plain trainer with a judge on frozen maps in the discriminator's place.

    As in `JointTrainer`, the judge learns from the fakes that the generator was just trained on.
    """

    def __init__(self, config: GanConfig, images: Tensor, network: EfficientNet) -> None:
        super().__init__(config, images)
        some = batch_indices(len(images), min(REFERENCE, len(images)), position=0, seed=config.seed)
        self.maps = FrozenMaps(network, enlarged(from_bytes(images[some])))
        self.discriminator = Judge(self.maps.channels)
        for net in (self.maps, self.discriminator):
            net.to(memory_format=torch.channels_last)
        self.optimizers["discriminator"] = torch.optim.Adam(
            self.discriminator.heads.parameters(), lr=JUDGE_RATE, betas=(0.0, 0.99), eps=1e-8
        )
        self._fakes: list[Tensor] = []

    def _generator_step(self, index: Tensor) -> dict[str, Tensor]:
        self.discriminator.heads.requires_grad_(False)
        self.optimizers["generator"].zero_grad(set_to_none=True)
        fakes = self._render(self._sample(self.config.batch, Part(), update_w_avg=True), Part())
        with torch.autocast("cpu", torch.bfloat16):
            maps = self._seen(fakes)
            loss = hinge_generator(self.discriminator(maps))
        loss.backward()
        self.optimizers["generator"].step()
        self._fakes = [m.detach() for m in maps]
        return {"loss_g": loss.detach()}

    def _discriminator_step(self, index: Tensor, *, regularise: bool) -> dict[str, Tensor]:
        self.discriminator.heads.requires_grad_(True)
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                real = self._seen(picked(self.images, index, self.device))
            logits = self.discriminator([torch.cat(pair) for pair in zip(real, self._fakes, strict=True)])
        count = len(index)
        loss = hinge_judge([d[:count] for d in logits], [d[count:] for d in logits])
        loss.backward()
        self.optimizers["discriminator"].step()
        return {"loss_d": loss.detach()}

    def _seen(self, x: Tensor) -> list[Tensor]:
        """Maps of pictures that were moved and enlarged."""
        moves = torch.randint(2 * JUDGE_SHIFT + 1, (len(x), 2), generator=self.rng)
        maps: list[Tensor] = self.maps(enlarged(shifted(x, moves, JUDGE_SHIFT)))
        return maps


def enlarged(x: Tensor) -> Tensor:
    """Pictures as the frozen network sees them."""
    return F.interpolate(x, size=(JUDGE_SIDE, JUDGE_SIDE), mode="bilinear", align_corners=False)


@dataclass
class Cohort:
    """Baselines of the table's splits, and the seed of what is trained on them."""

    table: Path
    images: Path | None
    seed: int = 0

    def knees(self, split: str, resolution: int | None = None) -> Knees:
        """Pictures of one split."""
        side = resolution or RESOLUTION
        return load_baselines(read_visits(self.table), resolution=side, root=self.images, split=split)

    @cached_property
    def train(self) -> Tensor:
        """(K, 64, 64) uint8."""
        return self.knees("train").images

    @cached_property
    def held_out(self) -> Knees:
        """What is judged on."""
        return self.knees("val")


Trainer = GanTrainer | JointTrainer
Make = Callable[[Cohort, Path], Trainer]


@dataclass(frozen=True)
class Stage:
    """A share of a recipe's time; `make` gives its trainer from the pictures and the folder of the stage before."""

    share: float
    make: Make


def gan(**changes: Any) -> Make:
    """Our discriminator, from nothing."""
    return lambda cohort, before: GanTrainer(replace(GAN, seed=cohort.seed, **changes), cohort.train)


def small_gan(cohort: Cohort, before: Path) -> Trainer:
    """At half the resolution."""
    half = RESOLUTION // 2
    return GanTrainer(replace(GAN, resolution=half, seed=cohort.seed), cohort.knees("train", half).images)


def grown_gan(cohort: Cohort, before: Path) -> Trainer:
    """From a snapshot of half the resolution."""
    trainer = GanTrainer(replace(GAN, seed=cohort.seed), cohort.train)
    take_over(trainer, load_model(before))
    return trainer


def frozen_gan(cohort: Cohort, before: Path) -> Trainer:
    """Judged on frozen maps, from nothing."""
    return FrozenTrainer(replace(GAN, seed=cohort.seed), cohort.train, load_imagenet(1, NUM_OUTPUTS))


def joint(cohort: Cohort, before: Path) -> Trainer:
    """Generator of a snapshot, and a new encoder."""
    files = load_model(before)
    generator = load_generator(files)
    grader = Grader([load_imagenet(1, NUM_OUTPUTS)], input_resolution=RESOLUTION)
    config = replace(JOINT, seed=cohort.seed)
    torch.manual_seed(config.seed)
    return JointTrainer(config, generator, starting_encoder(files, generator, config), grader, cohort.train)


RECIPES = {
    "plain": (Stage(1.0, gan()),),
    "ada": (Stage(1.0, gan(ada_target=0.6)),),
    "transfer": (Stage(3 / 8, small_gan), Stage(5 / 8, grown_gan)),
    "frozen": (Stage(1.0, frozen_gan),),
    "r3gan": (Stage(1.0, gan(loss="r3gan", r1_interval=1)),),
    "joint": (Stage(3 / 8, gan()), Stage(5 / 8, joint)),
}


class Run:
    """A recipe on its way. Leaves `folder`/model, and what was spent in `folder`/spent.json.

    Attributes
    ----------
    spent : seconds of processor time, of all stages
    """

    def __init__(self, name: str, cohort: Cohort, folder: Path, *, seconds: float) -> None:
        self.name, self.cohort, self.folder, self.seconds = name, cohort, folder, seconds
        self.stages = RECIPES[name]
        self.seen, self.spent = [0], 0.0
        self.trainer: Trainer | None = None
        if (folder / "spent.json").exists():
            self.spent = seconds
        elif (folder / "state.pt").exists():
            state = load_checkpoint(folder / "state.pt")
            self.seen, self.spent = state["seen"], state["spent"]
            self._begin()
            self.trainer.load_state_dict(state["trainer"])

    @property
    def ended(self) -> bool:
        """Whether its time is over."""
        return (self.folder / "spent.json").exists()

    def turn(self, seconds: float) -> None:
        """Train for so long, or to the end of a stage."""
        if self.trainer is None:
            self._begin()
        stage_end = self.seconds * sum(stage.share for stage in self.stages[: len(self.seen)])
        end = min(self.spent + seconds, stage_end)
        while self.spent < end:
            start = time.process_time()
            scalars = self.trainer.step()
            self.spent += time.process_time() - start
        self.seen[-1] = self.trainer.seen_images
        figures = "  ".join(f"{key} {float(value):.3g}" for key, value in scalars.items())
        print(f"{self.name} {self.spent:.0f} s, {self.seen[-1] / 1000:.2f} kimg  {figures}", flush=True)
        if self.spent >= stage_end:
            self._end_stage()
        else:
            state = {"seen": self.seen, "spent": self.spent, "trainer": self.trainer.state_dict()}
            save_checkpoint(self.folder / "state.pt", state)

    def _begin(self) -> None:
        number = len(self.seen) - 1
        self.trainer = self.stages[number].make(self.cohort, self.folder / f"stage{number - 1}")

    def _end_stage(self) -> None:
        if len(self.seen) < len(self.stages):
            save_snapshot(self.folder / f"stage{len(self.seen) - 1}", self.trainer)
            self.seen.append(0)
            self._begin()
            return
        save_model(self.folder / "model", self.trainer)
        write_json({"seen_images": self.seen, "seconds": self.spent}, self.folder / "spent.json")
        (self.folder / "state.pt").unlink(missing_ok=True)
        self.trainer = None


def save_model(folder: Path, trainer: Trainer) -> None:
    """The averaged generator and, if there is one, encoder."""
    average = trainer.average
    save_part(folder, "generator", average.state_dict(), average.config(), name=folder.parent.name)
    if isinstance(trainer, JointTrainer):
        encoder = trainer.average_encoder
        save_part(folder, "encoder", encoder.state_dict(), encoder.config())


# ---- what is measured -----------------------------------------------------------------------------------------


class Measure:
    """All figures of a generator; real pictures are looked at once."""

    def __init__(self, cohort: Cohort, *, n_path: int, steps: int) -> None:
        self.cohort, self.n_path, self.steps = cohort, n_path, steps
        self.extractors = [imagenet_features(), vgg_features()]
        held_out = cohort.held_out
        self.n = len(held_out)
        self.real = {e.name: e.extract(batches_of(held_out.images)) for e in self.extractors}
        self.path_distance, self.lpips = load_lpips("vgg"), load_lpips("alex")
        _, first = np.unique(held_out.subject, return_index=True)
        people = np.random.default_rng(0).permutation(np.sort(first))[:PEOPLE]
        self.knees = from_bytes(held_out.images[torch.from_numpy(people)])

    def likeness(self, pictures: Tensor) -> dict[str, Any]:
        """FID, KID, precision and recall of pictures (N, R, R) uint8 by extractor, n a side."""
        report = {}
        for extractor in self.extractors:
            made, real = extractor.extract(batches_of(pictures)), self.real[extractor.name]
            draws = 10 if len(made) > self.n else 1  # all of both sides: draws would not differ
            few = made[np.random.default_rng(0).permutation(len(made))[: self.n]]
            precision, recall = precision_recall(real, few)
            report[extractor.name] = {
                "fid": asdict(fid_draws(real, made, n=self.n, n_draws=draws)),
                "kid": asdict(kid_draws(real, made, n=self.n // 2, n_draws=50)),
                "precision": precision,
                "recall": recall,
            }
        return report

    def redrawn(self, pictures: Tensor) -> dict[str, float]:
        """PSNR in dB and LPIPS (AlexNet) to the 32 knees, means."""
        with torch.inference_mode():
            y = pictures.clamp(-1, 1)
            likeness = {"psnr": psnr(self.knees, y, data_range=2), "lpips": self.lpips(self.knees, y)}
        return {name: float(value.mean()) for name, value in likeness.items()}

    def floor(self) -> dict[str, Any]:
        """The training knees in place of samples, and the mean training knee in place of reconstructions."""
        mean = self.cohort.train.float().mean(dim=0) / 127.5 - 1
        return {"features": self.likeness(self.cohort.train),
                "mean_picture": self.redrawn(mean.expand_as(self.knees))}  # fmt: skip

    def recipe(self, folder: Path) -> dict[str, Any]:
        """Of a trained recipe."""
        files = load_model(folder / "model")
        generator = load_generator(files)
        path = perceptual_path_length(
            generator, self.path_distance, distance_name="LPIPS VGG-16", n=self.n_path
        )
        ws = project(generator, self.knees, steps=self.steps)
        found = {
            "features": self.likeness(sample_images(generator, self.n)),
            "path_length": path.as_dict(),
            "projected": self.redrawn(generator.synthesis(ws, noise_mode="const")),
        }
        if "encoder" in files.parts:
            with torch.no_grad():
                codes = read_encoder(files).eval()(self.knees)
                found["encoded"] = self.redrawn(generator.synthesis(codes, noise_mode="const"))
        return found


def table(report: dict[str, Any]) -> str:
    """Markdown: what a recipe cost and how its samples fare; then path length and how it keeps a knee."""
    floor, features = report["floor"], list(report["floor"]["features"])
    rows = [("recipe", "kimg", "minutes")]
    for name in features:
        # VGG-16's features have unit length
        units = ("·10³", "·10⁶") if name.startswith("VGG") else ("", "·10³")
        short = name.split()[0]
        rows[0] += (f"{short}: FID{units[0]}", f"KID{units[1]} (95 %)", "precision", "recall")
    for name, entry in {"training knees": floor, **report["recipes"]}.items():
        seen, spent = entry.get("seen_images"), entry.get("seconds")
        cells = [name, "-" if seen is None else " + ".join(f"{count / 1000:.1f}" for count in seen)]
        cells.append("-" if spent is None else f"{spent / 60:.1f}")
        for which in features:
            found = entry["features"][which]
            scale = 1000 if which.startswith("VGG") else 1
            mean, low, high = (1000 * scale * found["kid"][key] for key in ("mean", "low", "high"))
            cells += [f"{scale * found['fid']['mean']:.1f}", f"{mean:.1f} ({low:.1f}, {high:.1f})"]
            cells += [f"{found[key]:.2f}" for key in ("precision", "recall")]
        rows.append(tuple(cells))
    kept = [("recipe", "PPL", "projected: PSNR dB", "LPIPS", "encoded: PSNR dB", "LPIPS")]
    for name, entry in {
        "mean training knee": {"projected": floor["mean_picture"]},
        **report["recipes"],
    }.items():
        path = entry.get("path_length")
        cells = [name, "-" if path is None else f"{path['mean']:.1f} ± {path['standard_error']:.1f}"]
        for way in ("projected", "encoded"):
            again = entry.get(way)
            cells += ["-", "-"] if again is None else [f"{again['psnr']:.1f}", f"{again['lpips']:.3f}"]
        kept.append(tuple(cells))
    return "\n\n".join(map(markdown, (rows, kept)))


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table whose first row is its header."""
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *body])


def sheet(work: Path, names: list[str]) -> None:
    """A row of samples a recipe."""
    rows = []
    for name in names:
        samples = sample_images(load_generator(load_model(work / name / "model")), COLUMNS, seed=1)
        rows.append(from_bytes(samples)[:, 0])
    save_sheet(work / "samples.png", torch.stack(rows))


def check_same(work: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder of other settings."""
    path = work / "settings.json"
    if path.exists() and (found := json.loads(path.read_text())) != settings:
        raise UsageError(f"{work} was begun with {found}: choose another --work")
    write_json(settings, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--paths", type=int, default=500, help="steps of the path length")
    parser.add_argument("--steps", type=int, default=PROJECTION_STEPS, help="of the projection")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    work, cohort = options.work, Cohort(options.table, options.images, options.seed)
    settings = {
        "minutes": options.minutes,
        "seed": options.seed,
        "path_steps": options.paths,
        "projection_steps": options.steps,
        "train": digest(cohort.train),
        "held_out": digest(cohort.held_out.images),
    }
    check_same(work, settings)
    wanted = options.only or list(RECIPES)
    runs = [Run(name, cohort, work / name, seconds=60 * options.minutes) for name in wanted]
    while going := [run for run in runs if not run.ended]:
        min(going, key=lambda run: run.spent).turn(TURN_SECONDS)
    measure: Measure | None = None
    results: dict[str, Any] = {}
    for name in ("floor", *RECIPES):
        path = work / f"{name}.json"
        if not path.exists() and (name == "floor" or name in wanted):
            print(f"measuring {name}", flush=True)
            measure = measure or Measure(cohort, n_path=options.paths, steps=options.steps)
            found = measure.floor() if name == "floor" else measure.recipe(work / name)
            if name != "floor":
                found = json.loads((work / name / "spent.json").read_text()) | found
            write_json(found, path)
        if path.exists():
            results[name] = json.loads(path.read_text())
    report = {"settings": settings, "floor": results.pop("floor"), "recipes": results}
    write_json(report, work / "result.json")
    sheet(work, list(results))
    print(table(report))


if __name__ == "__main__":
    main()
