"""From a file to the places of its knees, their sides reconciled with what the file says, or a refusal by name.

| the picture | what is done |
|---|---|
| about square, at most 200 mm, and not said to show both knees | one knee already: taken whole |
| about square, of unknown size, with nothing in it that is clearly two knees, small, or no knee | taken whole |
| any other, with one knee that fills most of it | taken whole |
| any other, with one knee or two | each one's square is cut |
| an implant, a side view, another part, nothing, more than two knees | refused |

On a film of both knees the patient's right one is on the film's left, unless Patient Orientation says that the film is
mirrored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from progression.errors import FilmRefusedError, UsageError
from progression.film import WIDE_MM, Knee, Place, read_knee
from progression.image import MAX_ASPECT, MAX_OUTSIDE, check_pixels, dicom_content, label_of, load
from progression.localise.find import METAL, Finder, Seen, Spot
from progression.quality import measure, unusual
from progression.types import Side

SQUARE = 1.15
"""Longer over shorter side up to which a picture may be one knee already."""
_FILLS = 0.7
_SMALL = 0.6
"""Share of a square picture's side under which its one knee is cut out of it: of 826 crops of knees none shows less."""
_SURE = 0.9
_NEAR_MIDDLE = 0.15
_LEAST_CONFIDENCE = 0.5
_REMEDY = "give the joint's centre (--centre x,y), or predict it all the same (--accept-atypical)"
_REFUSED = {
    "implant": "shows metal, an implant or a fixation",
    "lateral": "looks like a knee from the side",
    "other": "looks like another part of the body",
    "empty": "shows no knee",
}

Source = str | Path | npt.NDArray[np.generic]


class ReadKnee(Protocol):
    """`progression.film.read_knee`, or one that finds the knee first."""

    def __call__(self, source: Source, *, side: Side | None = None, place: Place | None = None) -> Knee:
        """Read one knee."""
        ...


@dataclass(frozen=True)
class Located:
    """A knee's place in a file.

    Attributes
    ----------
    side : None where nothing says it
    spot : None for the whole picture
    spacing_mm : size of the film's pixels in the plane of the knee, if it is known
    notes : what to warn of
    """

    side: Side | None
    spot: Spot | None = None
    spacing_mm: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def centre_mm(self) -> tuple[float, float] | None:
        """x and y from the film's upper left corner, where the size of a pixel is known."""
        if self.spot is None or self.spacing_mm is None:
            return None
        return self.spot.x * self.spacing_mm, self.spot.y * self.spacing_mm

    @property
    def place(self) -> Place:
        """Where to cut."""
        if self.spot is None:
            return Place()
        return Place((self.spot.x, self.spot.y), side_px=self.spot.side_px, tilt_deg=self.spot.turn_deg)

    @property
    def centre(self) -> str:
        """As `--centre` takes it, "left=610.0,300.2,281.3" or with a tilt, ",8.1"; empty for the whole picture."""
        if self.spot is None:
            return ""
        where = f"{self.spot.x:.1f},{self.spot.y:.1f},{self.spot.side_px:.1f}"
        if turn := self.spot.turn_deg:
            where += f",{turn:.1f}"
        return where if self.side is None else f"{self.side}={where}"


def locate(
    source: Source, *, finder: Finder | None, side: Side | None = None, accept_atypical: bool = False
) -> tuple[Located, ...]:
    """The knees of a picture or film, from left to right.

    Parameters
    ----------
    source : as `progression.image.read_image` takes it.
    finder : None takes every picture whole.
    side : which knee is asked for, where only one is found.
    accept_atypical : take also what is refused: its knees, or the whole of it.

    Raises
    ------
    FilmRefusedError
        For an implant, a side view, another part of the body, no knee, or more than two.
    ImageError
        If it cannot be read.
    """
    label, content = label_of(source), dicom_content(source)
    values, spacing, stated, both, mirrored = None, None, None, False, False
    if content is None:
        values = load(source)
    else:
        from progression.dicom.read import read_film  # pydicom is imported for DICOM only

        film = read_film(content, label)
        values, says, mirrored = film.values, film.header.laterality, film.header.mirrored
        spacing = film.header.spacing.mm if film.header.spacing else None
        stated, both = says.side, says.both
    square = not both and _one_knee(values.shape[:2], spacing)
    if finder is None or (square and spacing is not None):
        return (Located(side or stated, spacing_mm=spacing),)
    pixels = check_pixels(values, label)
    seen = finder(pixels)
    if square and not _clearly_a_film(seen, pixels.shape):
        return (Located(side or stated),)
    knees = seen.knees
    if reason := reason_to_refuse(seen):
        if not accept_atypical:
            raise FilmRefusedError(f"{label}: {reason}; {_REMEDY}")
        sure = sorted(knees, key=lambda spot: -spot.confidence)[:2]
        knees = tuple(sorted(sure, key=lambda spot: spot.x))
        if not knees:
            return (Located(side or stated, spacing_mm=spacing),)
    of_film = f"found in the film by a network trained on synthetic films ({reason})" if reason else ""
    found = []
    for knee, which in zip(knees, _sides(len(knees), side or stated, mirrored=mirrored), strict=True):
        notes = [of_film] if of_film else []
        if knee.confidence < _LEAST_CONFIDENCE:
            notes.append(f"the knee was found with a confidence of {knee.confidence:.2f} only: check the cut")
        if mirrored and len(knees) == 2:
            notes.append("the film is mirrored by its Patient Orientation: the patient's left is on its left")
        whole = len(knees) == 1 and not both and fills(knee, pixels.shape)
        spot = None if whole else inside_film(knee, pixels.shape)
        found.append(Located(which, spot, spacing, tuple(notes)))
    return tuple(found)


def read_located(
    source: Source,
    *,
    finder: Finder | None,
    side: Side | None = None,
    place: Place | None = None,
    accept_atypical: bool = False,
) -> Knee:
    """Read one knee as `progression.film.read_knee` does, found in its film where no place is given.

    Its notes tell what is unusual about the picture, too.

    Raises
    ------
    FilmRefusedError, ImageError
        As `locate` and `read_knee`.
    UsageError
        If both knees are found, and nothing says which one is wanted; and as `read_knee`.
    """
    notes: tuple[str, ...] = ()
    if place is None or place.centre is None:
        found = locate(source, finder=finder, side=side, accept_atypical=accept_atypical)
        one = _wanted(found, side, label_of(source))
        if one.spot is not None:
            side, notes = one.side, one.notes
            spacing_mm = place.spacing_mm if place else None
            place = replace(one.place, spacing_mm=spacing_mm, of_both=len(found) > 1)
    knee = read_knee(source, side=side, place=place)
    if finder is not None:
        notes += unusual(measure(knee.pixels, finder), finder.limits)
    return replace(knee, notes=(*knee.notes, *notes))


def reader(finder: Finder | None, *, accept_atypical: bool = False) -> ReadKnee:
    """`read_located` with a finder."""
    return partial(read_located, finder=finder, accept_atypical=accept_atypical)


def _one_knee(shape: Sequence[int], spacing_mm: float | None) -> bool:
    shorter, longer = min(shape), max(shape)
    return longer <= SQUARE * shorter and (spacing_mm is None or shorter * spacing_mm <= WIDE_MM)


def _clearly_a_film(seen: Seen, shape: Sequence[int]) -> bool:
    """Whether what is seen in a square picture, which is mostly one knee's, is a film's: two knees, a small one, none.

    Metal is not asked for here: it is seen in one crop of a hundred that has none.
    """
    knees = [knee for knee in seen.knees if knee.confidence >= _LEAST_CONFIDENCE]
    if seen.kind not in ("knees", METAL):
        return seen.kinds[seen.kind] >= _SURE and not knees
    return len(knees) == 2 or (len(knees) == 1 and knees[0].side_px < _SMALL * min(shape))


def reason_to_refuse(seen: Seen) -> str:
    """Why a film is refused, else empty."""
    if seen.kind in _REFUSED:
        return f"{_REFUSED[seen.kind]} ({seen.kinds[seen.kind]:.0%} sure)"
    if not seen.knees:
        return _REFUSED["empty"]
    return f"shows {len(seen.knees)} knees, where one or two are expected" if len(seen.knees) > 2 else ""


def _sides(count: int, known: Side | None, *, mirrored: bool) -> tuple[Side | None, ...]:
    if count == 1:
        return (known,)
    return (Side.LEFT, Side.RIGHT) if mirrored else (Side.RIGHT, Side.LEFT)


def fills(knee: Spot, shape: tuple[int, ...]) -> bool:
    """Whether a knee takes up a picture (H, W), so that this is taken whole."""
    height, width = shape
    shorter = min(shape)
    if max(shape) > MAX_ASPECT * shorter:
        return False
    off = max(abs(knee.x - width / 2), abs(knee.y - height / 2))
    return knee.side_px >= _FILLS * shorter and off <= _NEAR_MIDDLE * shorter


def inside_film(knee: Spot, shape: tuple[int, ...]) -> Spot:
    """A square that lies in the film as far as one that is cut must: smaller where the knee is close to the edge."""
    height, width = shape
    room = min(knee.x, knee.y, width - knee.x, height - knee.y)
    return replace(knee, side_px=min(knee.side_px, 0.98 * room / (0.5 - MAX_OUTSIDE)))


def _wanted(found: Sequence[Located], side: Side | None, label: str) -> Located:
    if len(found) == 1:
        return found[0]
    of_side = [one for one in found if one.side is side]
    if not of_side:
        raise UsageError(f"{label} shows both knees: expected the side of one (--side left, --side right)")
    return of_side[0]
