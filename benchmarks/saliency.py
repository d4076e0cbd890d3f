"""Where do graders look, plain and robust: at the joint? Do their maps come from their weights, and name what matters?

    python benchmarks/saliency.py [--model default] [--part grader --part grader_robust] [--knees 24]
        [--figure docs/saliency.png] [--table VISITS.csv --images FOLDER --split val]

Without `--table` on synthetic knees: renderings of the model's synthetic bank, whose figure may be handed on. With it,
on real knees: keep such a figure where the films are.

A column is the mean over knees, with the standard error in brackets. *joint*: share of a map's mass in the rows
0.4 to 0.6 of the height, where knees are cut to have their joint; a map that says nothing has 0.20. *new*: rank
correlation with the map of the same network with all its weights but the batch norms' drawn anew (scaled as they were);
near 0 if the map comes of the weights (Adebayo et al. 2018). *deleted*: change of the expected grade's score, in grades
(absolute), when the tenth of the pixels that the map names first is blurred, and when a tenth at random is.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from progression.data.dataset import load_baselines
from progression.data.visits import read_visits
from progression.errors import UsageError, WeightsError
from progression.explain import BAND
from progression.latent.bank import TrajectoryBank
from progression.latent.part import from_bytes, load_generator
from progression.memory import keep_freed_memory
from progression.report.figures import picture
from progression.report.mark import NOTICE, synthetic_metadata
from progression.risk.grader import Grader, load_grader, resize
from progression.risk.saliency import deletion, expected_grade, grad_cam, gradient
from progression.weights import ModelFiles, load_model

Method = Callable[[Grader, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "gradient": lambda grader, x: gradient(grader, x, expected_grade).abs(),
    "smoothed": lambda grader, x: gradient(grader, x, expected_grade, samples=8).abs(),
    "Grad-CAM": lambda grader, x: grad_cam(grader, x, expected_grade),
}
SHARE_DELETED = 0.1


def graders(files: ModelFiles, parts: list[str]) -> dict[str, Grader]:
    """The graders of these parts; WeightsError says which the model lacks."""
    missing = [part for part in parts if part not in files.parts]
    if missing:
        raise WeightsError(
            f"model {files.name} has no part {missing[0]!r}: expected one of its graders "
            f"({', '.join(part for part in files.parts if part.startswith('grader'))}); train it, or leave it out"
        )
    return {part: load_grader(files, part) for part in parts}


def synthetic_knees(files: ModelFiles, count: int) -> Tensor:
    """Renderings (N, 1, R, R) of knees of the model's own bank, which must be nobody's."""
    bank = TrajectoryBank.load(files)
    if set(bank.kind.tolist()) != {"synthetic"}:
        raise UsageError(f"the bank of model {files.name} holds people's knees: expected a synthetic one")
    generator = load_generator(files)
    rows = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:count]
    with torch.no_grad():
        ws = bank.w[rows][:, None].expand(-1, generator.num_ws, -1)
        return generator.synthesis(ws, noise_mode="const").clamp(-1, 1)


def drawn_anew(grader: Grader, seed: int = 0) -> Grader:
    """The grader with the weights of convolutions and last layers permuted at random: as large, but saying nothing."""
    draw = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(grader)
    for weight in other.parameters():
        if weight.ndim > 1:
            order = torch.randperm(weight.numel(), generator=draw)
            weight.data = weight.data.flatten()[order].view_as(weight)
    return other


def in_band(maps: Tensor) -> Tensor:
    """Share of the mass of maps (N, H, W) in the joint's rows, (N,)."""
    top, bottom = (round(share * maps.shape[1]) for share in BAND)
    return maps[:, top:bottom].sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp(min=1e-20)


def deleted(grader: Grader, x: Tensor, maps: Tensor) -> Tensor:
    """Absolute change (N,) of the expected grade when the most salient tenth is blurred."""
    blurred = F.avg_pool2d(F.pad(x, (12, 12, 12, 12), mode="reflect"), 25, stride=1)
    scores = deletion(grader, x, expected_grade, maps, shares=(0.0, SHARE_DELETED), filling=blurred)
    return (scores[:, 1] - scores[:, 0]).abs()


def told(values: Tensor | list[float]) -> str:
    """Mean and standard error."""
    numbers = np.asarray(values, dtype=np.float64)
    return f"{numbers.mean():5.2f} ({numbers.std(ddof=1) / len(numbers) ** 0.5:.2f})"


def sheet(x: Tensor, maps: dict[tuple[str, str], Tensor], *, synthetic: bool) -> Figure:
    """A row a knee: the picture, then every grader's map by every method."""
    made = Figure(figsize=(2.1 * (len(maps) + 1), 2.3 * len(x) + 0.4))
    FigureCanvasAgg(made)
    axes = made.subplots(len(x), len(maps) + 1, squeeze=False)
    for row, one in enumerate(x[:, 0].numpy()):
        grey = ((one + 1) / 2).astype(np.float32)
        picture(axes[row, 0], grey, "", (0, 1), synthetic=synthetic)
        for place, ((part, method), values) in zip(axes[row, 1:], maps.items(), strict=True):
            scaled = (values[row] / values[row].quantile(0.995).clamp(min=1e-12)).clamp(0, 1).numpy()
            picture(place, grey, f"{part}\n{method}" if row == 0 else "", (0, 1), synthetic=synthetic)
            place.imshow(scaled, cmap="inferno", alpha=0.75 * scaled, vmin=0, vmax=1)
    made.tight_layout(rect=(0, 0.02, 1, 1))
    made.text(0.01, 0.005, NOTICE if synthetic else "Real knees: not to be handed on.", fontsize=8)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--part", action="append")
    parser.add_argument("--knees", type=int, default=24)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--shown", type=int, default=4)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    keep_freed_memory()
    files = load_model(options.model)
    try:
        compared = graders(
            files, options.part or [p for p in ("grader", "grader_robust") if p in files.parts]
        )
    except WeightsError as error:
        parser.error(str(error))
    side = next(iter(compared.values())).input_resolution
    if options.table is None:
        x = resize(synthetic_knees(files, options.knees), side)
    else:
        knees = load_baselines(
            read_visits(options.table), resolution=side, root=options.images, split=options.split
        )
        rows = torch.randperm(len(knees), generator=torch.Generator().manual_seed(0))[: options.knees]
        x = from_bytes(knees.images[rows])
    at_random = torch.rand(x[:, 0].shape, generator=torch.Generator().manual_seed(1))
    print(f"{len(x)} {'synthetic' if options.table is None else 'real'} knees; rows {BAND[0]} to {BAND[1]}")
    print("part            method     joint         new           deleted       at random")
    shown: dict[tuple[str, str], Tensor] = {}
    for part, grader in compared.items():
        other = drawn_anew(grader)
        by_chance = told(deleted(grader, x, at_random))
        for name, method in METHODS.items():
            maps = torch.cat([method(grader, one) for one in x.split(4)])
            anew = torch.cat([method(other, one) for one in x.split(4)])
            pairs = zip(maps.flatten(1).numpy(), anew.flatten(1).numpy(), strict=True)
            alike = [float(spearmanr(a, b).statistic) if b.std() > 0 else 0.0 for a, b in pairs]
            columns = (told(in_band(maps)), told(alike), told(deleted(grader, x, maps)), by_chance)
            print(f"{part:15s} {name:9s} " + " ".join(f"{column:13s}" for column in columns), flush=True)
            shown[part, name] = maps[: options.shown]
    if options.figure:
        made = sheet(x[: options.shown], shown, synthetic=options.table is None)
        metadata = synthetic_metadata() if options.table is None else None
        made.savefig(options.figure, dpi=80, metadata=metadata)


if __name__ == "__main__":
    main()
