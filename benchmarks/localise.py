"""Are knees found where they stand in a film, is what shows none refused, and does the cut change the risk?

    python benchmarks/localise.py VISITS.csv --images FOLDER [--model default] [--films 400] [--negatives 150]

Films are made of held-out knees (`--split val`) by a generator with another seed and settings (`HELD_OUT`) than in
training: composites, not films of a hospital. Lengths take the square
that the models know as 90 mm wide (`field_of_view.py`). `drawn elsewhere` are drawings of `not_knees.py`, by other code
than the training's. `phantoms` are computed projections with surroundings of their own and no seam. `askew` are limbs
turned by up to 20 degrees. Intervals are Wilson's, taking films as independent.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from not_knees import NOT_KNEES, metal
from numpy.typing import NDArray

from progression.data.dataset import Knees, load_baselines
from progression.data.films import HELD_OUT, FilmMaker, MadeFilm, Shown
from progression.data.implants import STYLES
from progression.data.phantom import sample_knee
from progression.data.phantom.acquisition import expose
from progression.data.visits import read_visits
from progression.image import cut_square
from progression.localise.find import METAL, Finder, Spot
from progression.localise.places import fills, inside_film, reason_to_refuse
from progression.memory import keep_freed_memory
from progression.metrics.proportions import proportion
from progression.predict import Predictor, load_predictor
from progression.types import FIELD_MM, Radiograph, Side

SEED = 77
LONGER_PX = 900
PLAIN = replace(
    HELD_OUT, gamma=(0.9, 1.1), ramp=0.1, noise=(0.0, 0.01), collimated=0.0, marked=0.0, inverted=0.0
)
"""Films whose exposure, markers and collimation change little, so that what is left is the cut."""


def nearest(film: MadeFilm, knees: tuple[Spot, ...]) -> list[tuple[float, float, float]]:
    """Of each knee: centre error in sides, log ratio of sides, tilt error; NaN where none is within half a side."""
    rows = []
    for knee in film.knees:
        off = [np.hypot(s.x - knee.centre[0], s.y - knee.centre[1]) / knee.side_px for s in knees]
        if not off or min(off) > 0.5:
            rows.append((np.nan, np.nan, np.nan))
            continue
        spot = knees[int(np.argmin(off))]
        rows.append((min(off), np.log(spot.side_px / knee.side_px), spot.tilt_deg - knee.tilt_deg))
    return rows


def told(name: str, rows: list[tuple[float, float, float]], counted: NDArray[np.bool_]) -> None:
    off, ratio, tilt = np.array(rows).T
    mm = np.where(np.isnan(off), np.inf, off * FIELD_MM)
    within = proportion(mm <= 10)
    print(
        f"{name:14s} {len(rows):5d} knees   median {np.median(mm):.2f} mm, 95th {np.quantile(mm, 0.95):.2f}; "
        f"within 10 mm {within.value:.3f} [{within.low:.3f}, {within.high:.3f}]; "
        f"side off by {np.nanmean(np.abs(ratio)):.3f} "
        f"(bias {np.nanmean(ratio):+.3f}); tilt by {np.nanmean(np.abs(tilt)):.1f} deg; "
        f"right number of knees {counted.mean():.3f}",
        flush=True,
    )


def share(name: str, refused: list[bool], what: str = "refused") -> None:
    if not refused:
        return
    found = proportion(np.array(refused))
    print(
        f"{name:26s} {len(refused):4d}   {what} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]",
        flush=True,
    )


def phantom_film(index: int) -> MadeFilm:
    """A phantom with 1.4 to 2 times the field around its joint."""
    knee = sample_knee(index, seed=SEED)
    wide = np.random.default_rng(index).uniform(1.4, 2.0)
    acquisition = knee.films[0]
    pose = replace(acquisition.pose, magnification=acquisition.pose.magnification / wide)
    film = expose(knee._knee.project(knee.state(0), pose, 448), acquisition)
    vars(knee).pop("_knee")
    shown = Shown((224.0, 224.0), 448 / wide, 0.0, Side.RIGHT)
    return MadeFilm(film.astype(np.float32), (shown,), "knees")


def tell_risks(
    name: str, predictor: Predictor, finder: Finder, maker: FilmMaker, knees: Knees, count: int
) -> None:
    """Risks from a film cut as found, against the knee's own picture and the film cut as the knee truly stands.

    And where no square is turned, however much the limb leans.
    """
    rng, found = np.random.default_rng(SEED), []
    for row in rng.choice(len(knees), count, replace=False).tolist():
        film = maker.film(rng, longer_px=LONGER_PX, kind="knees", rows=[row])
        (shown,) = film.knees
        spots = [s for s in finder(film.pixels).knees if abs(s.x - shown.centre[0]) < shown.side_px / 2]
        if not spots:
            continue
        picture = knees.images[row].numpy().astype(np.float32) / 255
        pictures = [picture[:, ::-1] if shown.side is Side.LEFT else picture]
        for spot in (
            spots[0],
            Spot(*shown.centre, shown.side_px, shown.tilt_deg, 1.0),
            replace(spots[0], tilt_deg=0.0),
        ):
            fits = inside_film(spot, film.pixels.shape)
            cut = cut_square(
                film.pixels, centre=(fits.x, fits.y), size=fits.side_px, tilt_deg=fits.turn_deg, label="film"
            )
            pictures.append(cut)
        made = predictor.predict_batch(
            [Radiograph(one.copy(), shown.side, "knee") for one in pictures],
            horizon_months=(96,),
            render=False,
            accept_atypical=True,
        )
        found.append([(one.horizons[0].risk_fast, one.horizons[0].risk_any) for one in made])
    if len(found) < 2:
        print(f"{name}: too few knees were found to compare risks", flush=True)
        return
    risks = np.array(found)
    for place, rise in enumerate(("rise by 2 or more", "rise by 1 or more")):
        for cut_as, against, of_cut, first in (
            ("as found", "the picture", 1, 0),
            ("as found", "the true place", 1, 2),
            ("as found, none turned", "the picture", 3, 0),
        ):
            a, b = risks[:, first, place], risks[:, of_cut, place]
            print(
                f"{name}, {rise} by 96 months, {len(a)} knees, {cut_as} against {against}: "
                f"correlation {np.corrcoef(a, b)[0, 1]:.3f}, mean difference {np.mean(b - a):+.4f}, "
                f"mean absolute {np.mean(np.abs(b - a)):.4f} (mean risk {a.mean():.3f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--films", type=int, default=400)
    parser.add_argument("--negatives", type=int, default=150)
    parser.add_argument("--elsewhere", type=int, default=40)
    parser.add_argument("--phantoms", type=int, default=20)
    parser.add_argument("--risks", type=int, default=40)
    options = parser.parse_args()
    keep_freed_memory()
    predictor = load_predictor(options.model, device="cpu", engine="torch")
    finder = predictor.finder
    if finder is None:
        parser.error(f"model {options.model} has no part localiser: run progression train localiser")
    assert isinstance(finder, Finder)
    knees = load_baselines(
        read_visits(options.table), resolution=224, root=options.images, split=options.split
    )
    maker, rng = FilmMaker(knees.images, settings=HELD_OUT), np.random.default_rng(SEED)

    people = rng.permutation(np.unique(knees.subject))
    rows, counted, refused = [], [], []
    for number in range(options.films):
        of_person = np.flatnonzero(knees.subject == people[number % len(people)])
        right_first = sorted(of_person.tolist(), key=lambda row: knees.side[row] != "right")
        chosen = right_first if len(right_first) == 2 and rng.random() < 0.6 else right_first[:1]
        film = maker.film(rng, longer_px=LONGER_PX, kind="knees", rows=chosen)
        seen = finder(film.pixels)
        refused.append(bool(reason_to_refuse(seen)))
        counted.append(len(seen.knees) == len(film.knees))
        rows += nearest(film, seen.knees)
    told("composites", rows, np.array(counted))
    share("knees from the front", refused)
    with_care = FilmMaker(knees.images, settings=replace(HELD_OUT, on_joint=0.0))
    made = [
        finder(with_care.film(rng, longer_px=LONGER_PX, kind="knees").pixels)
        for _ in range(options.films // 2)
    ]
    share("- no lead on the joint", [bool(reason_to_refuse(seen)) for seen in made])
    askew = FilmMaker(knees.images, settings=replace(HELD_OUT, askew=1.0))
    films = [askew.film(rng, longer_px=LONGER_PX, kind="knees") for _ in range(options.negatives)]
    of_askew = [finder(film.pixels) for film in films]
    told(
        "askew",
        [row for film, seen in zip(films, of_askew, strict=True) for row in nearest(film, seen.knees)],
        np.array([len(seen.knees) == len(film.knees) for film, seen in zip(films, of_askew, strict=True)]),
    )
    for kind in ("implant", "lateral", "other", "empty"):
        made = [
            finder(maker.film(rng, longer_px=LONGER_PX, kind=kind).pixels) for _ in range(options.negatives)
        ]
        share(kind, [bool(reason_to_refuse(seen)) for seen in made])
        share("- by its name", [seen.kind == kind for seen in made], "named")
    for style in STYLES:
        of_style = FilmMaker(knees.images, settings=HELD_OUT, implant_style=style)
        films = [
            of_style.film(rng, longer_px=LONGER_PX, kind="implant") for _ in range(options.negatives // 4)
        ]
        share(f"metal: {style}", [bool(reason_to_refuse(finder(film.pixels))) for film in films])
    of_metal = []
    for _ in range(options.negatives):
        pictures = [
            metal(rng, knees.images[row].numpy() / np.float32(255))
            for row in rng.integers(len(knees), size=2)
        ]
        with_metal = FilmMaker(torch.from_numpy(np.stack(pictures) * 255).to(torch.uint8), settings=HELD_OUT)
        of_metal.append(finder(with_metal.film(rng, longer_px=LONGER_PX, kind="knees").pixels))
    share("drawn elsewhere: metal", [bool(reason_to_refuse(seen)) for seen in of_metal])
    share("- by its name", [seen.kind == METAL for seen in of_metal], "named")
    a_knee = np.full((224, 224), 0.5, np.float32)
    elsewhere = {
        name: [bool(reason_to_refuse(finder(make(rng, a_knee)))) for _ in range(options.elsewhere)]
        for name, make in NOT_KNEES.items()
    }
    for name, of_kind in elsewhere.items():
        share(f"drawn elsewhere: {name}", of_kind)
    phantoms = [phantom_film(index) for index in range(options.phantoms)]
    seen_phantoms = [finder(film.pixels) for film in phantoms]
    if phantoms:
        told(
            "phantoms",
            [
                row
                for film, seen in zip(phantoms, seen_phantoms, strict=True)
                for row in nearest(film, seen.knees)
            ],
            np.array([len(seen.knees) == 1 for seen in seen_phantoms]),
        )
        share("phantoms", [bool(reason_to_refuse(seen)) for seen in seen_phantoms])
    whole = []
    for picture in knees.images[:400]:
        seen = finder(picture.numpy().astype(np.float32) / 255)
        whole.append(len(seen.knees) == 1 and fills(seen.knees[0], (224, 224)))
    share("a knee's picture as it is", whole, "taken whole")
    for name, settings in (
        ("plain films", PLAIN),
        ("plain films, askew", replace(PLAIN, askew=1.0)),
        ("harsh films", HELD_OUT),
    ):
        tell_risks(name, predictor, finder, FilmMaker(knees.images, settings=settings), knees, options.risks)


if __name__ == "__main__":
    main()
