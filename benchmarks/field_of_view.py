"""How many millimetres does a training picture show, judged by its tibia?

    python benchmarks/field_of_view.py VISITS.csv --images FOLDER [--split train] [--phantoms 60]

    field = mean width of an adult's tibial plateau (74 mm) / its share of the picture's side

The edges of the tibia are where grey, over rows just below the joint line, rises most in the picture's left third and
falls most in its right third. The same measure on phantoms, whose field is known (`progression.types.FIELD_MM`) and
whose mean plateau is 74 mm, says how far it is off. Adults' plateaux are on average 69 mm (women) to 76 mm (men) wide
(Cheng et al. 2009, The Knee 16:341), so that the field is known to a twentieth or so, whatever the interval (bootstrap
over people) says. The pictures carry no size of a pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from progression.data.dataset import load_baselines
from progression.data.phantom import sample_knee
from progression.data.visits import read_visits
from progression.types import FIELD_MM, Pixels

PLATEAU_MM = 74.0
ROWS = (0.62, 0.68)
"""Shares of the height, from the plateau's rim down to where it narrows; above them lies the joint, or its spines."""


def tibial_share(picture: NDArray[np.generic]) -> float:
    """Width of the tibia below its plateau over the side of a picture (R, R)."""
    size = len(picture)
    rows = picture[round(ROWS[0] * size) : round(ROWS[1] * size)].astype(np.float64)
    slope = np.gradient(gaussian_filter1d(rows.mean(0), 0.012 * size))
    third = size // 3
    left, right = int(np.argmax(slope[:third])), size - third + int(np.argmin(slope[-third:]))
    return (right - left) / size


def phantom(index: int, resolution: int) -> Pixels:
    """A picture of a phantom; made anew for each, since a phantom keeps its volume."""
    knee = sample_knee(index, seed=0)
    return knee.image(0, resolution=resolution)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--phantoms", type=int, default=60)
    options = parser.parse_args()
    knees = load_baselines(
        read_visits(options.table), resolution=options.resolution, root=options.images, split=options.split
    )
    shares = np.array([tibial_share(picture.numpy()) for picture in knees.images])
    people, of_person = np.unique(knees.subject, return_inverse=True)
    rng = np.random.default_rng(0)
    medians = []
    for _ in range(200):
        times = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
        medians.append(np.median(np.repeat(shares, times[of_person])))
    low, high = np.quantile(medians, [0.025, 0.975])
    quartiles = ", ".join(f"{q:.3f}" for q in np.quantile(shares, [0.25, 0.5, 0.75]))
    print(f"{len(shares)} knees of {len(people)} people: tibia over side, quartiles {quartiles}")
    print(f"field {PLATEAU_MM / np.median(shares):.1f} mm [{PLATEAU_MM / high:.1f}, {PLATEAU_MM / low:.1f}]")
    if options.phantoms:
        known = np.median([tibial_share(phantom(i, options.resolution)) for i in range(options.phantoms)])
        print(f"phantoms: {PLATEAU_MM / known:.1f} mm, where {FIELD_MM:.0f} mm is true", flush=True)


if __name__ == "__main__":
    main()
