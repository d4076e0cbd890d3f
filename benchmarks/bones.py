"""Are outlines of femur and tibia right, whatever a picture's processing, and are knees found on other clinics' films?

    python benchmarks/bones.py KNEES [--model FOLDER] [--split val] [--knees 200] [--films FOLDER] [--pictures FOLDER]

KNEES holds train.csv, train.zip (val likewise) and contours.csv. Errors are shares of the tibial plateau's width; of an
outline, the median over its points that lie in the picture, numbered from the true
side (of its line, the distance from the true line); of knees, the median, 95th
percentile and the share found (Wilson's interval). Processings are those of `PROCESSINGS`, one after the other on the
same knees.

FOLDER of `--films` holds images/, files.csv (file, kind) and knees.csv (file, side, x, y, plateau_left_x,
plateau_right_x, tilt_deg, implant, view, usable). A knee is found if a middle lies within a fourth of its plateau's
width. `--pictures` gets each film with what was found.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from progression.bones.find import RIGHT_WITHIN, BoneFinder, Bones
from progression.bones.shape import reverse
from progression.data.contours import Outlined, load_outlined, read_contours
from progression.data.importers.knees import import_knees
from progression.data.processing import coarser, compressed, enhanced, equalised, smoothed, unsharp
from progression.errors import ImageError
from progression.image import load
from progression.metrics.proportions import proportion
from progression.types import Pixels
from progression.weights import load_model

LEAST_SCORE = 1.4
FOUND_WITHIN = 0.25
Processed = Callable[[torch.Tensor], torch.Tensor]


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(9 * (x - 0.5))


def _noisy(x: torch.Tensor, deviation: float) -> torch.Tensor:
    return x + deviation * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def _shuttered(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[..., : x.shape[-2] // 10, :] = 0
    y[..., -x.shape[-2] // 10 :, :] = 0
    return y


def _wedge(x: torch.Tensor) -> torch.Tensor:
    return x * torch.linspace(0.3, 1.0, x.shape[-1])


PROCESSINGS: Mapping[str, Processed] = {
    "as it is": lambda x: x,
    "gamma 0.5": lambda x: x**0.5,
    "gamma 2": lambda x: x**2,
    "sigmoid": _sigmoid,
    "equalised": lambda x: equalised(x, tiles=1),
    "CLAHE 2": lambda x: equalised(x, tiles=8, limit=2),
    "CLAHE 6": lambda x: equalised(x, tiles=8, limit=6),
    "edges x2": lambda x: enhanced(x, [2, 2, 2, 2]),
    "edges x4": lambda x: enhanced(x, [3, 4, 4, 3], rest=0.7),
    "fine edges x5": lambda x: enhanced(x, [5, 3, 1, 1]),
    "flat range": lambda x: enhanced(x, [2, 2, 1.5, 1.5], rest=0.25),
    "halo 3": lambda x: unsharp(x, 6, 3),
    "halo 1.5 wide": lambda x: unsharp(x, 12, 1.5),
    "blurred": lambda x: smoothed(smoothed(smoothed(x))),
    "noise 0.05": lambda x: _noisy(x, 0.05),
    "noise 0.1": lambda x: _noisy(x, 0.1),
    "a third of the pixels": lambda x: coarser(x, 1 / 3),
    "JPEG 15": lambda x: compressed(x[0], 15)[None],
    "inverted": lambda x: 1 - x,
    "burnt out": lambda x: 2 * x - 0.5,
    "wedge": _wedge,
    "shuttered": _shuttered,
}


@dataclass
class Tally:
    """Errors of knees, in widths of the plateau; NaN where none was found."""

    middle: list[float] = field(default_factory=list)
    outline: list[float] = field(default_factory=list)
    line: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    tilt: list[float] = field(default_factory=list)
    side: list[bool] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)

    def told(self, name: str) -> None:
        """One line."""
        found = np.isfinite(self.middle)
        share = proportion(found)
        line = f"{name:24s} {len(found):4d}  found {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
        for what, values in (
            ("middle", self.middle),
            ("ends", self.ends),
            ("points", self.outline),
            ("line", self.line),
        ):
            known = np.array(values)[np.isfinite(values)]
            if len(known):
                line += f"  {what} {100 * np.median(known):.2f} % ({100 * np.quantile(known, 0.95):.2f})"
        if found.any() and self.tilt:
            line += f"  tilt {np.nanmedian(np.abs(self.tilt)):.1f} deg"
        if self.sure:
            line += f"  confidence {np.median(self.sure):.2f} (5th {np.quantile(self.sure, 0.05):.2f})"
        if self.lower:
            line += f"  lower by {100 * np.median(self.lower):+.1f} %"
        if self.side:
            line += f"  side right {sum(self.side)} of {len(self.side)}"
        print(line, flush=True)


def outline_error(found: NDArray[np.floating], true: NDArray[np.floating], size: int) -> float:
    """Median distance of the points in a picture of `size` pixels a side, in widths of the true plateau."""
    inside = ((true > 0) & (true < size)).all(-1)
    width = float(np.hypot(*(true[63] - true[47])))
    off = np.hypot(*(found - true).T)
    return float(np.median(off[inside])) / width


def line_error(found: NDArray[np.floating], true: NDArray[np.floating], size: int) -> float:
    """Median distance of points from the true bone's line, however far along it, in widths of the true plateau."""
    off = []
    for part in (slice(0, 37), slice(37, 74)):
        start, along = true[part][:-1], np.diff(true[part], axis=0)
        for point in found[part][((found[part] > 0) & (found[part] < size)).all(-1)]:
            share = np.clip(((point - start) * along).sum(1) / (along**2).sum(1), 0, 1)
            off.append(np.hypot(*(point - start - share[:, None] * along).T).min())
    return float(np.median(off)) / float(np.hypot(*(true[63] - true[47])))


def of_crops(finder: BoneFinder, knees: Outlined, count: int) -> None:
    """Outlines of knees' own pictures, of which every other is mirrored, under each processing."""
    chosen = np.linspace(0, len(knees) - 1, min(count, len(knees))).astype(int)
    size = knees.images.shape[-1]
    errors: list[float] = []
    chances: list[float] = []
    for name, processed in PROCESSINGS.items():
        tally = Tally()
        for place, row in enumerate(chosen):
            x = knees.images[row].float()[None, None] / 255
            true = knees.points[row].astype(np.float64) * size
            mirrored = place % 2 == 1
            if mirrored:
                x, true = x.flip(-1), true * [-1, 1] + [size, 0]
            pixels: Pixels = processed(x).clamp(0, 1)[0, 0].numpy()
            seen = finder(pixels)
            middle = (true[18] + (true[53] + true[57]) / 2) / 2
            width = float(np.hypot(*(true[63] - true[47])))
            best = nearest(seen, middle[0], middle[1], width)
            if best is None:
                for values in (tally.middle, tally.outline, tally.ends):
                    values.append(math.nan)
                continue
            tally.middle.append(math.hypot(best.frame.x - middle[0], best.frame.y - middle[1]) / width)
            tally.side.append((best.right >= 0.5) != mirrored)
            points = best.points if tally.side[-1] else reverse(best.points)
            tally.outline.append(outline_error(points, true, size))
            tally.line.append(line_error(points, true, size))
            tally.ends.append(float(np.hypot(*(points[[47, 63]] - true[[47, 63]]).T).mean()) / width)
            errors.append(tally.outline[-1])
            chances.append(best.confidence)
        tally.told(name)
    right = np.array(errors) < RIGHT_WITHIN
    for part in np.array_split(np.argsort(chances), 5):
        if len(part):
            print(
                f"confidence {np.mean(np.array(chances)[part]):.3f}: right {right[part].mean():.3f}, "
                f"median outline error {100 * np.median(np.array(errors)[part]):.2f} %",
                flush=True,
            )


def nearest(seen: tuple[Bones, ...], x: float, y: float, width: float) -> Bones | None:
    """The knee whose middle is nearest, if it is near enough."""
    off = [math.hypot(one.frame.x - x, one.frame.y - y) / width for one in seen]
    return seen[int(np.argmin(off))] if off and min(off) < FOUND_WITHIN else None


def picture(pixels: Pixels, seen: tuple[Bones, ...], longer: int = 900) -> Image.Image:
    """A film with what was found: outlines, femur in one colour, tibia in another."""
    grey = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    scale = min(1.0, longer / max(grey.size))
    grey = grey.resize((max(1, round(grey.width * scale)), max(1, round(grey.height * scale))))
    draw = ImageDraw.Draw(grey)
    for bones in seen:
        for part, colour in ((slice(0, 37), (255, 90, 60)), (slice(37, 74), (60, 200, 255))):
            draw.line([(x * scale, y * scale) for x, y in bones.points[part]], fill=colour, width=1)
        says = "R" if bones.right >= 0.5 else "L"
        at = (bones.frame.x * scale, bones.frame.y * scale)
        draw.text(
            at,
            f"{says} {bones.confidence:.2f} {100 * bones.blur:.1f} {bones.unlikely:.1f}",
            fill=(255, 255, 0),
        )
    return grey


def of_films(finder: BoneFinder, folder: Path, pictures: Path | None) -> None:
    """Knees on films of other clinics, by kind of film."""
    files, known = pd.read_csv(folder / "files.csv"), pd.read_csv(folder / "knees.csv")
    tallies: dict[str, Tally] = {}
    others: dict[str, list[float]] = {}
    seconds = []
    for file, kind in zip(files["file"], files["kind"], strict=True):
        path = folder / "images" / file
        if not path.is_file():
            continue
        try:
            pixels = read_film(path)
        except ImageError as error:
            print(f"not looked at: {error}", flush=True)
            continue
        began = time.perf_counter()
        seen = finder(pixels)
        seconds.append(time.perf_counter() - began)
        if pictures is not None:
            picture(pixels, seen).save(pictures / f"{Path(file).stem}.png")
        of_film = known[(known["file"] == file)]
        marked = of_film[of_film["x"].notna() & (of_film["view"] == "ap")]
        if marked.empty:
            others.setdefault(str(kind), []).append(max((one.confidence for one in seen), default=0.0))
        for knee in marked.itertuples():
            usable = "" if knee.usable == "yes" else ", not usable"
            metal = "" if knee.implant == "none" else ", metal"
            tally = tallies.setdefault(f"{kind}{metal}{usable}", Tally())
            width = knee.plateau_right_x - knee.plateau_left_x
            best = nearest(seen, knee.x, knee.y, width)
            if best is None:
                for values in (tally.middle, tally.ends, tally.tilt):
                    values.append(math.nan)
                continue
            tally.middle.append(math.hypot(best.frame.x - knee.x, best.frame.y - knee.y) / width)
            tally.sure.append(best.confidence)
            tally.lower.append((best.frame.y - knee.y) / width)
            ends = sorted(best.points[[47, 63], 0])
            true = (knee.plateau_left_x, knee.plateau_right_x)
            tally.ends.append(float(np.mean([abs(a - b) for a, b in zip(ends, true, strict=True)])) / width)
            tally.tilt.append(best.frame.tilt_deg - knee.tilt_deg)
            if isinstance(knee.side, str):
                tally.side.append((best.right >= 0.5) == (knee.side == "right"))
    for name, tally in sorted(tallies.items()):
        tally.told(name)
    for name, most in sorted(others.items()):
        found = ", ".join(f"{sum(c > least for c in most)} over {least:g}" for least in (0, 0.5, 0.9))
        print(f"{name:24s} {len(most):4d}  films with something found: {found}")
    print(f"seconds a film: median {np.median(seconds):.2f}, largest {max(seconds):.2f}")


def read_film(path: Path) -> Pixels:
    """A film of any shape, in [0, 1]."""
    # not by `progression.image.read_image`, which takes knees' pictures only
    values = load(path) if path.suffix == ".dcm" else np.asarray(Image.open(path).convert("L"))
    film = values.astype(np.float32)
    low, high = float(film.min()), float(film.max())
    scaled: Pixels = (film - low) / max(high - low, 1e-6)
    return scaled


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("knees", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--knees", type=int, default=200, dest="count")
    parser.add_argument("--films", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    finder = BoneFinder.load(load_model(options.model))
    if finder is None:
        parser.error(f"model {options.model} has no part bones: run progression train bones")
    if options.count:
        contours = read_contours(options.knees / "contours.csv", least_score=LEAST_SCORE)
        visits = import_knees(options.knees)
        knees = load_outlined(visits, contours, resolution=224, root=options.knees, split=options.split)
        of_crops(finder, knees, options.count)
    if options.films is not None:
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
        of_films(finder, options.films, options.pictures)


if __name__ == "__main__":
    main()
