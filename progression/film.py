"""From a file to one knee: its pixels, its side, and what its file warns of.

A single knee is taken whole. From a film of both knees, or any with room around the joint, a square is cut around
a centre: of `progression.types.FIELD_MM`, or of the side that comes with it, as `progression.localise` finds it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from progression.errors import ImageError, NotARadiographError, UsageError
from progression.image import (
    OUTPUT,
    check_pixels,
    check_shape,
    cut_square,
    dicom_content,
    label_of,
    load,
    stated_side,
    states,
)
from progression.types import FIELD_MM, Pixels, Side

if TYPE_CHECKING:
    from progression.dicom.read import Header

WIDE_MM = 200.0
"""Shorter side of a film above which there is much beside the knee."""
PREDICTED = "a result of this package, and nothing is predicted from a prediction; expected the radiograph"
MAX_TILT_DEG = 45.0
_AGREE = 0.02


@dataclass(frozen=True)
class Place:
    """Where a knee lies in a film.

    Attributes
    ----------
    centre : x and y of the joint's centre, pixels from the upper left corner; None for the whole picture
    spacing_mm : size of a pixel, for files that do not say it
    side_px : side of the square to cut, pixels; None for `FIELD_MM`
    of_both : whether the film was seen to show both knees: the side that is given decides over a header of one knee
    tilt_deg : of the limb, clockwise; the square is turned as much
    """

    centre: tuple[float, float] | None = None
    spacing_mm: float | None = None
    side_px: float | None = None
    of_both: bool = False
    tilt_deg: float = 0.0

    @classmethod
    def parse(cls, centre: str = "", spacing_mm: str = "") -> "Place":
        """Read a place from texts, either of which may be empty: "1210,980", "1210,980,640" (with
        the side) or "1210,980,640,-7.5" (with the tilt), and "0.143".

        Raises
        ------
        UsageError
            If a text is no such thing.
        """
        x_y, side_px, tilt_deg = None, None, 0.0
        if centre.strip():
            try:
                x, y, *rest = (float(part) for part in centre.split(","))
                if rest:
                    side_px, tilt_deg = rest if len(rest) > 1 else (*rest, 0.0)
                if not abs(tilt_deg) <= MAX_TILT_DEG:
                    raise ValueError(tilt_deg)
            except ValueError as error:
                raise UsageError(
                    f"centre {centre!r}: expected x,y in pixels (--centre left=1210,980), with the square's side, or "
                    f"with side and tilt of at most {MAX_TILT_DEG:g} degrees"
                ) from error
            x_y = (x, y)
        try:
            spacing = float(spacing_mm) if spacing_mm.strip() else None
        except ValueError as error:
            raise UsageError(f"spacing {spacing_mm!r}: expected the size of a pixel in mm (0.143)") from error
        return cls(x_y, spacing, side_px, tilt_deg=tilt_deg)


@dataclass(frozen=True, eq=False)
class Knee:
    """One knee: (H, W) float32 in [0, 1], its side if known, one line for each thing to warn of."""

    pixels: Pixels
    side: Side | None
    notes: tuple[str, ...] = ()


def read_knee(
    source: str | Path | npt.NDArray[np.generic], *, side: Side | None = None, place: Place | None = None
) -> Knee:
    """Read one knee.

    Parameters
    ----------
    source : as `progression.image.read_image` takes it.
    side : which knee this is; needed where the file does not say it, and must agree where it does.
    place : where in a film the knee lies; the whole picture by default.

    Raises
    ------
    NotARadiographError
        If it is another kind of object, or a result of this package.
    ImageError
        If it cannot be read, shows both knees and no centre is given, or its spacing is not known and needed.
    UsageError
        If the file states another side or spacing than is given.
    """
    label, place = label_of(source), place or Place()
    notes: tuple[str, ...] = ()
    content = dicom_content(source)
    if content is None:
        stated = None
        if not isinstance(source, np.ndarray):
            if states(source, OUTPUT):
                raise NotARadiographError(f"{label}: {PREDICTED}")
            stated = stated_side(source)
        values, spacing = load(source), None
        side, notes = _picture_side(side, stated, place, label)
    else:
        from progression.dicom.read import read_film  # pydicom is imported for DICOM only

        film = read_film(content, label)
        values, spacing = film.values, film.header.spacing.mm if film.header.spacing else None
        side, contradiction = _dicom_side(side, film.header, place, label)
        notes = (*film.header.notes, *contradiction)
    if place.centre is None:
        check_shape(values, label)
        notes += _wide(min(values.shape[:2]) * spacing if spacing else None)
    else:
        pixels = place.side_px or FIELD_MM / _spacing(place.spacing_mm, spacing, label)
        values = cut_square(values, centre=place.centre, size=pixels, tilt_deg=place.tilt_deg, label=label)
    return Knee(check_pixels(values, label), side, notes)


def known_side(source: str | Path, *, side: Side | None = None, place: Place | None = None) -> Side | None:
    """The side as `read_knee` will find it, from the header alone; None where neither says it.

    Raises
    ------
    ImageError, UsageError
        As `read_knee` does about the side and about what a DICOM header shows.
    """
    label = label_of(source)
    content = dicom_content(source)
    if content is None:
        return _picture_side(side, stated_side(source), place or Place(), label)[0]
    from progression.dicom.read import read_header

    return _dicom_side(side, read_header(content, label), place or Place(), label)[0]


def neutral_name(source: str | Path, name: str) -> str:
    """`name`, unless it holds a DICOM file's patient's name, number, birth date or accession number.

    Then a name made from the image's UID, the same at every run.
    """
    content = dicom_content(source)
    if content is None:
        return name
    from progression.dicom.study import neutral_name_of

    return neutral_name_of(content, name, label_of(source))


def _agreed(side: Side | None, stated: Side | None, label: str) -> Side | None:
    if side is not None and stated not in (None, side):
        raise UsageError(f"{label} states that it is a {stated} knee, not a {side} one; correct the side")
    return side or stated


def _picture_side(
    side: Side | None, stated: Side | None, place: Place, label: str
) -> tuple[Side | None, tuple[str, ...]]:
    """The side, and a note where a picture of both knees says one and the side given decides."""
    if place.of_both and side is not None and stated is not None:
        return side, (f"the film shows both knees, but its file says {stated}; taken as {side}, as asked",)
    return _agreed(side, stated, label), ()


def _dicom_side(
    side: Side | None, header: "Header", place: Place, label: str
) -> tuple[Side | None, tuple[str, ...]]:
    """The side, and a note where the header contradicts itself and the side given decides."""
    says = header.laterality
    if says.contradictory:
        if side is None:
            raise UsageError(
                f"{label} contradicts itself about the side ({says}); pass --side left or --side right"
            )
        return side, (f"the header contradicts itself about the side ({says}); taken as {side}, as asked",)
    if place.of_both and side is not None and says.side is not None:
        return side, (f"the film shows both knees, but its header says {says}; taken as {side}, as asked",)
    if says.both and place.centre is None:
        raise ImageError(f"{label}: shows both knees ({says}); give each one's centre (--centre left=x,y)")
    return _agreed(side, says.side, label), ()


def _spacing(given: float | None, stated: float | None, label: str) -> float:
    """Millimetres a pixel, given or stated; they may not contradict each other."""
    if given is not None and not 0.01 <= given <= 2:
        raise UsageError(
            f"spacing {given:g} mm: expected the size of a pixel, 0.01 to 2 mm (--spacing-mm 0.143)"
        )
    if given is None and stated is None:
        raise ImageError(f"{label}: does not say the size of its pixels; pass it (--spacing-mm 0.143)")
    if given is not None and stated is not None and abs(given - stated) > _AGREE * stated:
        raise UsageError(f"{label} states pixels of {stated:.4g} mm, not {given:g}; leave out --spacing-mm")
    spacing = stated if given is None else given
    assert spacing is not None
    return spacing


def _wide(shorter_mm: float | None) -> tuple[str, ...]:
    if shorter_mm is None or shorter_mm <= WIDE_MM:
        return ()
    return (
        f"the picture is {shorter_mm:.0f} mm wide, and the model knows {FIELD_MM:.0f} mm around the joint: "
        "give its centre (--centre x,y)",
    )
