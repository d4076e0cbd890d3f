"""The knees that are asked for: as folders of films, DICOMDIR files, or films themselves, not yet read.

DICOM is known by its content, pictures by how they are called. The order is that of the paths, a DICOMDIR's its own.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pandas as pd

from progression.entries import Entry, name_of_side, paired
from progression.errors import UsageError, failure
from progression.files import atomic_write
from progression.image import SUFFIXES, SYNTHETIC, is_dicom, states
from progression.tables import csv_text
from progression.texts import printable
from progression.types import Side

_FILM_SUFFIXES = (*SUFFIXES, ".dcm", ".dicom")
_OWN_OUTPUT = "prediction.json"
_OF_OUTPUT = "in a folder of results"


def holds_films(source: Path) -> bool:
    """Whether this is a folder or a film, rather than a table."""
    return source.is_dir() or _is_film(source)


@dataclass(frozen=True)
class Skipped:
    """A file that is no film: its name, and why; nothing that it says of a patient."""

    name: str
    reason: str


@dataclass(frozen=True)
class FoundFilms:
    """What sources hold: films, and what was passed over."""

    entries: list[Entry]
    skipped: list[Skipped]


def find_films(
    sources: Sequence[Path], *, progress: Callable[[int], None] = lambda found: None
) -> FoundFilms:
    """One entry a film, from headers alone.

    Where the DICOM headers of a study name one patient, and show one film a side, each knee's prediction uses the other
    one too. Kept in memory are the entries, no pictures. No film are other kinds of objects than radiographs, and what
    says that it is synthetic, such as this package's own results: these are `skipped`.

    Parameters
    ----------
    sources
        Folders, searched with what is below them but for hidden files; DICOMDIR files; films.
    progress
        Called with the number of films found.

    Returns
    -------
    FoundFilms
        Entries are named by their paths below their source without suffix, or, where that names the DICOM file's
        patient, by a digest of the image's UID. Names that come again get a number. Which knee it is, and whose, no
        entry says: its film does when its turn comes.

    Raises
    ------
    UsageError
        If there are none.
    ImageError
        If a DICOMDIR cannot be read.
    """
    films: list[_Film] = []
    skipped: list[Skipped] = []
    used: set[str] = set()
    for source in sources:
        for path, below, reason in _files(source):
            film = _looked_at(path, printable(below if len(sources) == 1 else f"{source.stem}/{below}"))
            if reason := film.skipped or reason:
                skipped.append(Skipped(film.name, reason))
                continue
            films.append(replace(film, name=_unused(film.name, used)))
            progress(len(films))
    if not films:
        also = f" ({told(skipped)})" if skipped else ""
        raise UsageError(
            f"no film in {', '.join(map(printable, sources))}{also}: expected DICOM files, or pictures "
            f"({' '.join(SUFFIXES)})"
        )
    entries = [
        Entry(film.name if film.side else _free(film.name, used), str(film.path), "") for film in films
    ]
    pairs = paired(entries, [film.visit for film in films], [film.side for film in films])
    return FoundFilms(pairs, skipped)


def told(skipped: Sequence[Skipped]) -> str:
    """How many files were skipped, and of which kinds, in one line."""
    kinds = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in skipped).items())
    return f"{len(skipped)} file{'s' * (len(skipped) != 1)} skipped: {kinds}"


def save_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """A table with the columns name and reason.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_write(path) as temporary:
        table = pd.DataFrame([astuple(one) for one in skipped], columns=["name", "reason"])
        temporary.write_text(csv_text(table), encoding="utf-8")


@dataclass(frozen=True)
class _Film:
    """A file as its header tells of it; see `progression.dicom.catalogue.Listed`."""

    path: Path
    name: str
    side: str = ""
    visit: str = ""
    skipped: str = ""


def _files(source: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, what it is called below its source, and why it would be skipped even if its header cannot be read."""
    if source.is_dir():
        closed: list[str] = []
        for folder, below, files in os.walk(source, onerror=lambda error: closed.append(str(error.filename))):
            below[:] = sorted(name for name in below if not name.startswith("."))
            reason = _OF_OUTPUT if _OWN_OUTPUT in files else ""
            for path in (Path(folder, name) for name in sorted(files) if not name.startswith(".")):
                name = _without_suffix(path.relative_to(source).as_posix())
                if _is_film(path) and not _is_directory(path):
                    yield path, name, reason
                elif path.name.lower().endswith(_FILM_SUFFIXES) and not _is_file(path):
                    yield path, name, "no ordinary file"
        for folder in closed:
            yield Path(folder), Path(folder).relative_to(source).as_posix(), "a folder that cannot be opened"
    elif _is_directory(source):
        from progression.dicom.catalogue import directory_files

        for path, is_image in directory_files(source):
            below_it = _without_suffix(path.relative_to(source.parent).as_posix())
            yield path, below_it, "" if is_image else "no image by its DICOMDIR"
    else:
        yield source, _without_suffix(source.name), ""


def _looked_at(path: Path, name: str) -> _Film:
    """Name, side and visit, as far as the header tells; reading the film finds the side of a picture.

    What goes wrong here shows when the film's turn comes.
    """
    if not _is_file(path):
        return _Film(path, name)
    try:
        if not is_dicom(path):
            return _Film(path, name, skipped="synthetic" if states(path, SYNTHETIC) else "")
        from progression.dicom.catalogue import listed  # pydicom is imported for DICOM only

        found = listed(path, name)
        return _Film(path, found.name, found.side or "", found.visit, found.skipped)
    except Exception as error:  # whatever it is, the other films are looked at
        failure(error)
        return _Film(path, name)


def _is_film(path: Path) -> bool:
    return _is_file(path) and (path.name.lower().endswith(_FILM_SUFFIXES) or is_dicom(path))


def _is_file(path: Path) -> bool:
    """Whether this is an ordinary file, or a link to one; what cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_directory(path: Path) -> bool:
    if not is_dicom(path):
        return False
    from progression.dicom.catalogue import is_directory

    try:
        return is_directory(path)
    except Exception as error:  # as in `_looked_at`
        failure(error)
        return False


def _without_suffix(name: str) -> str:
    for suffix in _FILM_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _unused(name: str, used: set[str]) -> str:
    found, number = name, 1
    while found in used:
        number += 1
        found = f"{name}-{number}"
    used.add(found)
    return found


def _free(name: str, used: set[str]) -> str:
    """A name whose knees, should its film show both, have names of their own, too."""
    found, number = name, 1
    while (number > 1 and found in used) or any(name_of_side(found, side) in used for side in Side):
        number += 1
        found = f"{name}-{number}"
    used.add(found)
    return found
