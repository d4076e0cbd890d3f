"""From what is asked about a picture to its knees: one, or both of a film, each with the other in view.

| the picture shows | its header says | side asked for | predicted |
|---|---|---|---|
| one knee | nothing, or its side | none, or that side | it |
| both | nothing, or both | none | both |
| both | nothing, or both | left | the left one, with the right one in view |
| both | one side, or it contradicts itself | none | nothing: which knee is meant is not guessed |
| both | one side, or it contradicts itself | left | the left one, with the right one in view and a warning |
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from progression.entries import Entry, name_of_side
from progression.errors import UsageError
from progression.film import Knee, Place, known_side, read_knee
from progression.image import label_of
from progression.localise.find import Finder
from progression.localise.places import Located, Source, locate, read_located
from progression.quality import measure, unusual
from progression.types import Pixels, Side

SAME_GREY = 1 / 255
"""Grey levels that differ by no more are one: a picture stays the same where its format or bits change."""
SAME_AS_THIS = "it is the same picture as this knee's"
_SKETCH = 16
_WHICH = "give the side that is wanted (--side left, --side right, or a table's column side)"


def find_knees(
    source: Source, finder: Finder | None, *, side: Side | None = None, accept_atypical: bool = False
) -> tuple[Located, ...]:
    """One knee; or both of a film, from left to right, or the one that is asked for first.

    Parameters
    ----------
    source, finder, side, accept_atypical : as `progression.localise.places.locate` takes them.

    Raises
    ------
    UsageError
        If a film shows both knees and its header says one side, or contradicts itself, and no side is asked for.
    ImageError
        If the picture cannot be read, or its film is refused.
    """
    found = locate(source, finder=finder, side=side, accept_atypical=accept_atypical)
    if len(found) == 1 or side is found[0].side:
        return found
    if side is not None:
        return found[::-1]
    stated = None if isinstance(source, np.ndarray) else known_side(source, place=found[0].place)
    if stated is not None:
        raise UsageError(
            f"{label_of(source)} shows both knees, but states that it is a {stated} one; {_WHICH}"
        )
    return found


def cut_knee(
    source: Source,
    found: Sequence[Located],
    finder: Finder | None,
    *,
    side: Side | None = None,
    spacing_mm: float | None = None,
) -> Knee:
    """The first of the knees that were found in a picture: its pixels and its warnings.

    Raises
    ------
    ImageError, UsageError
        As `progression.film.read_knee`.
    """
    one = found[0]
    place = replace(one.place, spacing_mm=spacing_mm, of_both=len(found) > 1)
    knee = read_knee(source, side=side or one.side, place=place)
    of_place = () if one.spot is None else one.notes
    odd = () if finder is None else unusual(measure(knee.pixels, finder), finder.limits)
    return replace(knee, notes=(*knee.notes, *of_place, *odd))


def read_knees(
    source: Source, finder: Finder | None, *, side: Side | None = None, accept_atypical: bool = False
) -> tuple[Knee, Knee | None]:
    """One knee, and the other one where its film shows that, too.

    Raises
    ------
    UsageError
        If both are shown, and no side is asked for; and as `find_knees` and `cut_knee`.
    ImageError
        As `find_knees` and `cut_knee`.
    """
    found = find_knees(source, finder, side=side, accept_atypical=accept_atypical)
    if len(found) == 1:
        return cut_knee(source, found, finder, side=side), None
    if side is None:
        raise UsageError(f"{label_of(source)} shows both knees; {_WHICH}")
    return cut_knee(source, found, finder), cut_knee(source, found[::-1], finder)


def same_picture(one: Pixels, other: Pixels) -> bool:
    """Whether two pictures are one and the same, as nobody's two knees are, nor the films of two days.

    A few grey levels are compared first, as nearly all pictures differ in these.
    """
    return one.shape == other.shape and all(
        bool((np.abs(one[::step, ::step] - other[::step, ::step]) <= SAME_GREY).all())
        for step in (_SKETCH, 1)
    )


def check_earlier(pixels: Pixels, earlier: Sequence[Pixels], *, other: Pixels | None = None) -> None:
    """Refuse an earlier film that is the knee's own picture, another earlier film's, or the other knee's.

    Raises
    ------
    UsageError
        If there is one: the knee would seem not to have changed.
    """
    seen = [("the knee's own", pixels), *([("the other knee's", other)] if other is not None else [])]
    for film in earlier:
        for whose, picture in seen:
            if same_picture(picture, film):
                raise UsageError(
                    f"an earlier film is the same picture as {whose}: expected a film of another day; give that, or "
                    "leave it out (--previous)"
                )
        seen.append(("another earlier film's", film))


def shown(entry: Entry, finder: Finder | None, *, accept_atypical: bool = False) -> tuple[Entry, ...]:
    """The knees that an entry asks about, `found` in their film: one, or both from left to right.

    Where both are in the film, each has the other one as `other`, if it has none yet. Two are called by their sides.
    An entry without a picture, or with a place of its own, is returned as it is.

    Raises
    ------
    UsageError
        If both are shown, no side is asked for, and a grade was given; and as `find_knees`.
    ImageError
        As `find_knees`.
    """
    if not entry.image or entry.centre or entry.found:
        return (entry,)
    asked = Side.parse(entry.side) if entry.side else None
    found = find_knees(entry.image, finder, side=asked, accept_atypical=accept_atypical)
    if len(found) == 1:
        return (replace(entry, found=found),)
    if asked is None and entry.grade:
        raise UsageError(
            f"{label_of(entry.image)} shows both knees, and the grade is of one; give a row and a side for each"
        )
    sides = [Side.parse(one.side) for one in found]  # those of two knees are known
    one, other = (
        replace(entry, name=name_of_side(entry.name, side), side=str(side), found=places)
        for side, places in zip(sides, (found, found[::-1]), strict=True)
    )
    if asked is None:
        return replace(one, other=entry.other or other), replace(other, other=entry.other or one)
    return (replace(one, name=entry.name, other=entry.other or replace(other, grade="", previous=())),)


def cut(entry: Entry, finder: Finder | None, *, accept_atypical: bool = False) -> Knee:
    """An entry's knee: at the place that was asked for or found, or else looked for.

    Raises
    ------
    ImageError, UsageError
        As `cut_knee` and `progression.localise.places.read_located`.
    """
    asked, place = Side.parse(entry.side) if entry.side else None, Place.parse(entry.centre, entry.spacing_mm)
    if entry.found:
        return cut_knee(entry.image, entry.found, finder, side=asked, spacing_mm=place.spacing_mm)
    return read_located(entry.image, finder=finder, side=asked, place=place, accept_atypical=accept_atypical)
