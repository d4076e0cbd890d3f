"""Has the generator learnt knees: believable ones, of all kinds? Has the encoder kept whose they are?

    python benchmarks/generator.py VISITS.csv --images FOLDER --out DIR [--model default] [--split val] [--samples 826]

About a quarter of an hour on two cores. Prints, and writes to DIR/checks.json:

- real or synthetic: AUC of a network trained afresh on training knees and samples, asked about held-out knees and new
  samples, and about held-out knees and their reconstructions;
- identity: is a held-out knee the nearest real one to its own reconstruction (ImageNet features)?
- coverage by grade, drift of exposure, detail by scale, and whether the codes tell left from right knees, which are
  mirrored before they are encoded (they should not: AUC 0.5);
- directions for grade, exposure, contrast, size and side (*left*): what moving along each does to all of them.

Sheets beside it: `truncation.png` and `interpolation.png` (synthetic), and `blind.png` with `blind_key.json`: real and
synthetic knees mixed, unmarked, for a reader. The blind sheet shows participants' radiographs, so DIR may not lie in
this project. FID, KID, precision, recall, memorisation and path length come from `progression evaluate generator`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from progression.data.dataset import Knees
from progression.errors import UsageError
from progression.evaluate.checks import (
    detail_by_scale,
    exposure_drift,
    grade_coverage,
    grade_shares_text,
    identity_kept,
    real_or_synthetic,
)
from progression.evaluate.extractors import imagenet_features
from progression.evaluate.generator import sample_images
from progression.evaluate.report import as_table, write_json
from progression.evaluate.run import Subjects
from progression.files import atomic_write
from progression.latent.directions import disentanglement
from progression.latent.part import EncoderPart, encode_keys, load_generator
from progression.memory import keep_freed_memory
from progression.metrics.auc import auc
from progression.metrics.features import batches_of
from progression.risk.grader import Grader
from progression.stylegan2 import Generator
from progression.train.directions import measured, train_directions
from progression.train.sheet import save_sheet

TOLD_APART = 2000
"""Pictures of either kind that the real-or-synthetic network is trained on."""
MOVED = 100
"""Held-out knees on which directions are tested."""
BLIND = 24
ROOT = Path(__file__).resolve().parents[1]


@torch.no_grad()
def render(generator: Generator, w: Tensor) -> Tensor:
    """Pictures (N, R, R) uint8 of codes (N, D)."""
    parts = []
    for part in w.split(32):
        x = generator.synthesis(part[:, None].expand(-1, generator.num_ws, -1), noise_mode="const")
        parts.append(((x[:, 0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


@torch.no_grad()
def grades(grader: Grader, pictures: Tensor) -> Tensor:
    """(N, 5)."""
    return torch.cat([grader.probabilities(x) for x in batches_of(pictures, batch=16)])


def moved(
    generator: Generator, part: EncoderPart, grader: Grader, train: Knees, held_out: Tensor
) -> dict[str, Any]:
    """Directions as `progression train directions` finds them on training knees, tested on held-out ones."""
    found = train_directions(generator, part, grader, train, progress=print)
    change = disentanglement(
        found.directions, encode_keys(part.encoder, held_out), measured(generator, found.gauge)
    )
    return {"names": found.directions.names, "change": change.numpy().round(3).tolist()}


def side_told(codes: Tensor, codes_held_out: Tensor, train: Knees, held_out: Knees) -> float:
    """AUC of a logistic model of the codes for "this was a left knee"."""
    scale = codes.std(dim=0)
    model = LogisticRegression(C=0.01, max_iter=500).fit((codes / scale).numpy(), train.side == "left")
    return auc(held_out.side == "left", model.decision_function((codes_held_out / scale).numpy()))


def blind_sheet(real: Tensor, made: Tensor, folder: Path, *, seed: int = 0) -> None:
    """Half real, half synthetic, in random order; the key beside it."""
    rng = np.random.default_rng(seed)
    half = BLIND // 2
    pictures = torch.cat([real[:half], made[:half]])
    order = rng.permutation(BLIND)
    rows = pictures[torch.from_numpy(order)].unflatten(0, (4, BLIND // 4))
    sheet = np.block([[picture.numpy() for picture in row] for row in rows])
    with atomic_write(folder / "blind.png") as temporary:
        Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2)).save(temporary, format="PNG")
    key = {f"row {i // 6 + 1}, column {i % 6 + 1}": bool(k >= half) for i, k in enumerate(order)}
    with atomic_write(folder / "blind_key.json") as temporary:
        temporary.write_text(json.dumps({"synthetic": key}, indent=1))


@torch.no_grad()
def synthetic_sheets(generator: Generator, folder: Path, *, seed: int = 0) -> None:
    """Eight samples at ψ = 0 … 1, and straight lines in W between eight pairs of samples."""
    z = torch.randn(16, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    rows = [generator(z[:8], truncation_psi=psi)[:, 0] for psi in (0.0, 0.25, 0.5, 0.75, 1.0)]
    save_sheet(folder / "truncation.png", torch.stack(rows))
    one, other = generator.mapping(z).split(8)
    lines = [
        generator.synthesis(one.lerp(other, t), noise_mode="const")[:, 0] for t in torch.linspace(0, 1, 7)
    ]
    save_sheet(folder / "interpolation.png", torch.stack(lines, dim=1))


def check(subjects: Subjects, folder: Path, *, samples: int, told_apart: int = TOLD_APART) -> dict[str, Any]:
    """All checks and sheets of the docstring."""
    generator, part = load_generator(subjects.files), EncoderPart.load(subjects.files)
    grader = subjects.grader()
    held_out, train = subjects.knees(), subjects.knees("train")
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(train.images)))
    some = train.images[rows[:told_apart]]
    made = sample_images(generator, len(some) + samples, seed=1)
    fresh, made = made[:samples], made[samples:]
    codes, codes_held_out = (encode_keys(part.encoder, x) for x in (train.images, held_out.images))
    rebuilt, rebuilt_some = render(generator, codes_held_out), render(generator, codes[rows[: len(some)]])
    eyes = imagenet_features()
    real_features, rebuilt_features = (eyes.extract(batches_of(x)) for x in (held_out.images, rebuilt))
    synthetic_sheets(generator, folder)
    blind_sheet(
        held_out.images[torch.from_numpy(np.random.default_rng(1).permutation(len(held_out)))], fresh, folder
    )
    return subjects.about() | {
        "samples_told_apart": real_or_synthetic((some, made), (held_out.images, fresh)),
        "reconstructions_told_apart": real_or_synthetic((some, rebuilt_some), (held_out.images, rebuilt)),
        "identity": identity_kept(real_features, rebuilt_features),
        "grades": grade_coverage(grades(grader, held_out.images), grades(grader, fresh)),
        "exposure": exposure_drift(held_out.images, fresh),
        "detail": {"samples": detail_by_scale(held_out.images, fresh),
                   "reconstructions": detail_by_scale(held_out.images, rebuilt)},
        "side_auc": side_told(codes, codes_held_out, train, held_out),
        "directions": moved(generator, part, grader, train, held_out.images[:MOVED]),
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for name in ("samples", "reconstructions"):
        told = report[f"{name}_told_apart"]
        low, high = told["interval"]
        lines.append(
            f"real or synthetic, {name}: AUC {told['auc']:.3f} ({low:.3f}, {high:.3f}); "
            f"{told['fooled']:.1%} of real knees look less real than the median synthetic one"
        )
    kept = report["identity"]
    lines += [
        f"identity kept: nearest {kept['first']:.3f}, among five {kept['first_five']:.3f} "
        f"(chance {kept['by_chance']:.4f})",
        f"left knees told by their codes: AUC {report['side_auc']:.3f}",
        "",
        grade_shares_text(report["grades"]),
        "",
    ]
    for name, figures in report["exposure"].items():
        lines.append(
            f"grey level, {name}: real {figures['real']}, synthetic {figures['made']}, KS {figures['distance']:.3f}"
        )
    scales = list(report["detail"]["samples"])
    rows = [(name, *(float(power[k]) for k in scales)) for name, power in report["detail"].items()]
    lines += ["", as_table(("power over real at", *(f"{k}/picture" for k in scales)), rows), ""]
    names, change = report["directions"]["names"], report["directions"]["change"]
    lines.append(
        as_table(("moved by one deviation", *names), [(n, *r) for n, r in zip(names, change, strict=True)])
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--samples", type=int, default=826)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.out.resolve().is_relative_to(ROOT):
        raise UsageError(
            f"--out {options.out}: the blind sheet shows real knees; choose a folder outside {ROOT.name}"
        )
    report = check(
        Subjects(options.model, options.table, options.images, options.split),
        options.out,
        samples=options.samples,
    )
    write_json(report, options.out / "checks.json")
    print(table(report))


if __name__ == "__main__":
    main()
