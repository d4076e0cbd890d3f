"""Can a picture of 64² tell how fast its knee will go? What a small network reads of the phantoms' signs.

    python benchmarks/phantom_signs.py                   # about 3 min, 1 core

Training-split subjects of the development cohort (seed 0) only: four fifths to train on, one fifth to read. The rate's
visible part and its four signs (`progression.data.phantom.anatomy.Signs`) are regressed on baseline films. Prints
Spearman's correlation of reading and truth, with a bootstrap interval over subjects.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from progression.data.phantom import sample_knee
from progression.data.phantom.anatomy import Signs
from progression.image import to_model

BATCH = 32


def films(subjects: int, *, resolution: int = 64) -> tuple[Tensor, Tensor]:
    """Baseline films (N, 1, R, R) and truths (N, 5): the visible part of the rate, then its signs."""
    pictures, truths, index = [], [], 0
    while len(pictures) < subjects:
        knee = sample_knee(index, seed=0)
        index += 1
        if knee.split == "train":
            picture = knee.image(0, resolution=resolution)
            pictures.append(to_model(picture, side=knee.side, resolution=resolution))
            truths.append([knee.course.signs.visible, *knee.course.signs])
    return torch.stack(pictures), torch.tensor(truths)


def network(outputs: int) -> nn.Module:
    """Four halvings, then one linear layer."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 16), (16, 32), (32, 64), (64, 64)):
        for width, stride in ((inside, 2), (outside, 1)):
            layers += [nn.Conv2d(width, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(outputs))


def train(x: Tensor, y: Tensor, *, epochs: int) -> nn.Module:
    """Fit by least squares; pictures are moved by up to 2 pixels and their exposure jittered."""
    torch.manual_seed(0)
    draws = np.random.default_rng(0)
    model = network(y.shape[1])
    model(x[:2])
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.05)
    for _ in range(epochs):
        for rows in torch.from_numpy(draws.permutation(len(x))).split(BATCH)[: len(x) // BATCH]:
            moved = x[rows].roll(tuple(draws.integers(-2, 3, size=2).tolist()), dims=(2, 3))
            gain, level = (
                torch.from_numpy(draws.uniform(-0.1, 0.1, (2, len(rows), 1, 1, 1))).float()
            ).unbind()
            loss = (model(moved * (1 + gain) + level) - y[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = films(options.subjects)
    held = len(x) // 5
    model = train(x[held:], y[held:].float(), epochs=options.epochs)
    with torch.no_grad():
        read = model(x[:held]).numpy()
    index = np.random.default_rng(0).integers(held, size=(1000, held))
    for column, name in enumerate(("visible part of the rate", *Signs._fields)):
        pair = read[:, column], y[:held, column].numpy()
        low, high = np.quantile([spearmanr(pair[0][i], pair[1][i]).statistic for i in index], [0.025, 0.975])
        print(f"{name}: {spearmanr(*pair).statistic:.2f} ({low:.2f}, {high:.2f}), {held} subjects")


if __name__ == "__main__":
    main()
