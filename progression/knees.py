"""From what is asked about a picture to its knees: one, or both of a film, each with the other in view.

| the picture shows | its header says | side asked for | predicted |
|---|---|---|---|
| one knee | nothing, or its side | none, or that side | it |
| both | nothing, or both | none | both |
| both | nothing, or both | left | the left one, with the right one in view |
| both | one side, or it contradicts itself | none | nothing: which knee is meant is not guessed |
| both | one side, or it contradicts itself | left | the left one, with the right one in view and a warning |
"""

from dataclasses import replace

from progression.entries import Entry, name_of_side
from progression.errors import UsageError
from progression.film import Knee, Place, known_side, read_knee
from progression.image import label_of
from progression.localise.find import Finder
from progression.localise.places import locate, read_located
from progression.quality import measure, unusual
from progression.types import Side


def shown(entry: Entry, finder: Finder | None, *, accept_atypical: bool = False) -> tuple[Entry, ...]:
    """The knees that an entry asks about, `found` in their film: one, or both from left to right.

    Where both are in the film, each has the other one as `other`, if it has none yet. Two are called by their sides.
    An entry without a picture, or with a place of its own, is returned as it is.

    Parameters
    ----------
    finder, accept_atypical : as `progression.localise.places.locate` takes them.

    Raises
    ------
    UsageError
        If a film shows both knees and its header says one side, or contradicts itself, or a grade was given, and no
        side is asked for.
    ImageError
        If the picture cannot be read, or its film is refused.
    """
    if not entry.image or entry.centre or entry.found:
        return (entry,)
    asked = Side.parse(entry.side) if entry.side else None
    found = locate(entry.image, finder=finder, side=asked, accept_atypical=accept_atypical)
    if len(found) == 1:
        return (replace(entry, found=found),)
    label = label_of(entry.image)
    if asked is None:
        stated = known_side(entry.image, place=found[0].place)
        if stated is not None:
            raise UsageError(
                f"{label} shows both knees, but states that it is a {stated} one; give the side that is wanted "
                "(--side left, --side right, or a table's column side)"
            )
        if entry.grade:
            raise UsageError(
                f"{label} shows both knees, and the grade is of one; give a row and a side for each"
            )
    sides = [Side.parse(one.side) for one in found]  # of two knees the film says them
    knees = [
        replace(entry, name=name_of_side(entry.name, side), side=str(side), found=(one, other))
        for side, (one, other) in zip(sides, (found, found[::-1]), strict=True)
    ]
    wanted = [
        replace(knee, other=entry.other or replace(beside, grade="", other=None, previous=()))
        for knee, beside in zip(knees, knees[::-1], strict=True)
        if asked is None or asked == knee.side
    ]
    return tuple(wanted) if asked is None else (replace(wanted[0], name=entry.name),)


def cut(entry: Entry, finder: Finder | None, *, accept_atypical: bool = False) -> Knee:
    """One knee's pixels and warnings: at the place that was asked for or found, or else looked for.

    Raises
    ------
    ImageError, UsageError
        As `progression.localise.places.read_located`.
    """
    asked = Side.parse(entry.side) if entry.side else None
    if not entry.found:
        place = Place.parse(entry.centre, entry.spacing_mm)
        return read_located(
            entry.image, finder=finder, side=asked, place=place, accept_atypical=accept_atypical
        )
    spot = entry.found[0]
    given = Place.parse(spacing_mm=entry.spacing_mm).spacing_mm
    place = replace(spot.place, spacing_mm=given, of_both=len(entry.found) > 1)
    knee = read_knee(entry.image, side=asked or spot.side, place=place)
    odd = () if finder is None else unusual(measure(knee.pixels, finder), finder.limits)
    of_place = () if spot.spot is None else spot.notes
    return replace(knee, notes=(*knee.notes, *of_place, *odd))
