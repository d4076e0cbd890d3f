"""The knees that are asked for: as folders of films, DICOMDIR files, or films themselves, not yet read.

DICOM is known by its content, pictures by how they are called. The order is that of the paths, a DICOMDIR's its own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from progression.entries import Entry, paired
from progression.errors import ProgressionError, UsageError
from progression.image import SUFFIXES, is_dicom
from progression.localise.find import Finder
from progression.localise.places import locate

_OWN_OUTPUT = "prediction.json"


def holds_films(source: Path) -> bool:
    """Whether this is a folder or a film, rather than a table."""
    return source.is_dir() or _is_film(source)


def find_films(
    sources: Sequence[Path], *, progress: Callable[[int], None] = lambda found: None
) -> list[Entry]:
    """One entry a film, from headers alone.

    Where the DICOM headers of a study name one patient, and show one film a side, each knee's prediction uses the other
    one too. Kept in memory are the entries, no pictures.

    Parameters
    ----------
    sources
        Folders, searched with what is below them but for hidden files and outputs of this package; DICOMDIR files;
        films.
    progress
        Called with the number of films found.

    Returns
    -------
    list of Entry
        Named by their paths below their source without suffix, or, where that names the DICOM file's patient, by a
        digest of the image's UID. Names that come again get a number. Whose knee it is, no entry says.

    Raises
    ------
    UsageError
        If there are none.
    ImageError
        If a DICOMDIR cannot be read.
    """
    entries: list[Entry] = []
    visits: list[str] = []
    used: set[str] = set()
    for source in sources:
        for path, below in _films(source):
            name, side, visit = _looked_at(path, below if len(sources) == 1 else f"{source.stem}/{below}")
            entries.append(Entry(_unused(name, used), str(path), side))
            visits.append(visit)
            progress(len(entries))
    if not entries:
        raise UsageError(
            f"no film in {', '.join(map(str, sources))}: expected DICOM files, or pictures ({' '.join(SUFFIXES)})"
        )
    return paired(entries, visits)


def each_knee(
    entries: Sequence[Entry], finder: Finder | None, *, accept_atypical: bool = False
) -> list[Entry]:
    """The entries, those of films that show both knees as two: each knee's own place, with the other one in view.

    Only films are read whose side nobody says. What cannot be read, or is refused, stays one entry, which tells why
    when its turn comes.
    """
    used = {entry.name for entry in entries}
    made: list[Entry] = []
    for entry in entries:
        knees = () if entry.side or entry.centre else _both_knees(entry, finder, accept_atypical)
        named = [replace(knee, name=_unused(f"{entry.name}-{knee.side}", used)) for knee in knees]
        mates = [replace(knee, other=mate) for knee, mate in zip(named, named[::-1], strict=True)]
        made += mates or [entry]
    return made


def _both_knees(entry: Entry, finder: Finder | None, accept_atypical: bool) -> tuple[Entry, ...]:
    """An entry a knee where a film shows both; else none."""
    try:
        found = locate(entry.image, finder=finder, accept_atypical=accept_atypical)
    except ProgressionError:
        return ()
    if len(found) < 2:
        return ()
    return tuple(replace(entry, side=str(knee.side), centre=knee.centre.rpartition("=")[2]) for knee in found)


def _films(source: Path) -> Iterator[tuple[Path, str]]:
    """Path, and what it is called below its source."""
    if source.is_dir():
        for folder, below, files in os.walk(source):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if _OWN_OUTPUT in files:
                continue
            for path in (Path(folder, name) for name in sorted(files) if not name.startswith(".")):
                if _is_film(path) and not _is_directory(path):
                    yield path, _without_suffix(path.relative_to(source).as_posix())
    elif _is_directory(source):
        from progression.dicom.catalogue import directory_files

        for path in directory_files(source):
            yield path, _without_suffix(path.relative_to(source.parent).as_posix())
    else:
        yield source, _without_suffix(source.name)


def _looked_at(path: Path, name: str) -> tuple[str, str, str]:
    """Name, side and visit, as far as the header tells; reading the film finds the side of a picture."""
    if not is_dicom(path):
        return name, "", ""
    from progression.dicom.catalogue import listed  # pydicom is imported for DICOM only

    found = listed(path, name)
    return found.name, found.side or "", found.visit


def _is_film(path: Path) -> bool:
    return path.is_file() and (path.name.lower().endswith((*SUFFIXES, ".dcm", ".dicom")) or is_dicom(path))


def _is_directory(path: Path) -> bool:
    if not is_dicom(path):
        return False
    from progression.dicom.catalogue import is_directory

    return is_directory(path)


def _without_suffix(name: str) -> str:
    for suffix in (*SUFFIXES, ".dcm", ".dicom"):
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
