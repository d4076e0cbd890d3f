"""A study's films to predictions, by the path of `progression predict`; the same films give the same objects."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from progression import __version__
from progression.cohort import BatchPredictor, predict_entries
from progression.dicom.catalogue import listed
from progression.dicom.identify import identify
from progression.entries import Entry
from progression.errors import ProgressionError, UsageError
from progression.files import digest, private_folder
from progression.film import known_side
from progression.knees import shown
from progression.pacs.queue import content_digest
from progression.pacs.service import Reading
from progression.pacs.trouble import TroubleError, trouble
from progression.report.outputs import SourceFilm, write_prediction
from progression.types import Request

_BATCH = 2
"""A knee and the other one."""


@dataclass(frozen=True)
class _Film:
    """What tells films apart: content, UID, person (empty where the header does not say), and when it came."""

    content: str
    instance: str
    person: str
    arrived: float


@dataclass(frozen=True)
class Reader:
    """A predictor and what is asked of it.

    Attributes
    ----------
    predictor, request : as of `progression.cohort`
    identity : what else results depend on: hashes of the weights, engine, device
    uid_root : of the objects' UIDs; None for 2.25
    """

    predictor: BatchPredictor
    request: Request
    identity: Mapping[str, object]
    uid_root: str | None = None

    def read(self, films: Sequence[Path], results: Path, *, known: Container[str] = ()) -> Reading:
        """Predict films of one study, each knee with the other in view where there is one film a side and person.

        Whatever goes wrong with one film is its own failure.

        Parameters
        ----------
        films : DICOM files.
        results : gets a folder for each knee, called by its key: a digest of all that the prediction depends on,
            which also gives the objects their UIDs.
        known : keys that need not be made again, even if their folders are gone.

        Raises
        ------
        TroubleError
            If the machine could not do it.
        """
        entries: dict[str, Entry] = {}
        of_film: dict[str, _Film] = {}
        failures: dict[str, str] = {}
        for film in films:
            try:
                of_film[film.name] = _film(film)
                for entry in self._knees(film):
                    name = f"{film.name} {entry.side}" if len(entry.found) > 1 else film.name
                    entries[name] = entry
            except Exception as error:  # the other films go on
                failures[film.name] = _reason(error)
        pairs = _pairs(entries, of_film)
        keys = {name: self._key(entries, of_film, pair) for name, pair in pairs.items()}
        wanted = {
            keys[name]: replace(entries[name], other=entries[other]) if other else entries[name]
            for name, (_, other) in pairs.items()
            if keys[name] not in known and not (results / keys[name]).is_dir()
        }
        name_of = {key: name for name, key in keys.items()}
        private_folder(results, narrow=True)
        outcomes = predict_entries(
            self.predictor, list(wanted.values()), request=self.request, render=True, batch=_BATCH
        )
        for key, outcome in zip(wanted, outcomes, strict=True):
            try:
                if isinstance(outcome.result, ProgressionError):
                    raise outcome.result
                film = Path(outcome.entry.image)
                source = SourceFilm(film.read_bytes(), film.name, self.uid_root, key)
                write_prediction(results / key, outcome.result, film=source)
                private_folder(results / key, narrow=True)
            except Exception as error:  # the other knees go on
                failures[name_of[key]] = _reason(error)
        return Reading(tuple(key for name, key in keys.items() if name not in failures), failures)

    def _knees(self, film: Path) -> list[Entry]:
        """One knee, of the side that the film states; or both, where it shows both and states none."""
        knees = []
        for knee in shown(
            Entry(film.stem, str(film), ""),
            self.predictor.finder,
            accept_atypical=self.request.accept_atypical,
        ):
            found = knee.found[0]
            side = known_side(film, side=found.side, place=found.place)
            if side is None:
                raise UsageError(
                    f"{film.name} does not say which knee it is; send it with Laterality or Image Laterality"
                )
            knees.append(replace(knee, side=str(side)))
        return knees

    def _key(self, entries: Mapping[str, Entry], of_film: Mapping[str, _Film], pair: tuple[str, str]) -> str:
        """Digest of the film, the other knee's film, the model, the arguments and this version."""
        shows = []
        for name in pair:
            if not name:
                shows.append("")
                continue
            entry, film = entries[name], of_film[_of(entries[name])]
            place = f" {entry.found[0].centre}" if len(entry.found) > 1 else ""
            shows.append(f"{film.instance} {film.content}{place}")
        settings = [asdict(self.request), dict(self.identity), self.uid_root, __version__]
        return digest([*shows, json.dumps(settings, sort_keys=True, default=str)])[:32]


def _film(path: Path) -> _Film:
    content = path.read_bytes()
    return _Film(
        content_digest(content),
        identify(content, path.name).sop_instance,
        listed(path, path.name).visit,
        path.stat().st_mtime,
    )


def _pairs(entries: Mapping[str, Entry], of_film: Mapping[str, _Film]) -> dict[str, tuple[str, str]]:
    """Each knee with the other one of the same person, where there is one film a side; else with nothing.

    Two films of which one does not say whose they are may be of two people. Of several films under one UID the newest
    is a correction of the others.
    """
    newest: dict[tuple[str, str], str] = {}
    for film, told in sorted(of_film.items(), key=lambda item: item[1].arrived):
        newest[told.person, told.instance] = film
    found = {}
    for name, entry in entries.items():
        if len(entry.found) > 1:
            mate = next(one for one in entries if one != name and entries[one].image == entry.image)
            found[name] = name, mate
            continue
        ours = of_film[_of(entry)]
        beside = {
            one: of_film[_of(other)].instance
            for one, other in entries.items()
            if ours.person and newest.get((ours.person, of_film[_of(other)].instance)) == _of(other)
        }
        others = [one for one, instance in beside.items() if instance != ours.instance]
        alone = len(others) == 1 and entries[others[0]].side != entry.side
        found[name] = name, others[0] if alone else ""
    return found


def _of(entry: Entry) -> str:
    """A knee's film."""
    return Path(entry.image).name


def _reason(error: Exception) -> str:
    """Why an item failed; raises TroubleError if it is not the item's fault."""
    if found := trouble(error):
        raise TroubleError(found) from error
    return str(error) if isinstance(error, ProgressionError) else f"unexpected {type(error).__name__}"
