"""A study's films to predictions, by the path of `progression predict`; the same films give the same objects."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from progression import __version__
from progression.cohort import BatchPredictor, predict_entries
from progression.dicom.identify import identify
from progression.entries import Entry
from progression.errors import ProgressionError, UsageError
from progression.files import digest
from progression.film import known_side
from progression.knees import shown
from progression.report.outputs import SourceFilm, write_prediction
from progression.types import Request, Side


@dataclass(frozen=True)
class Reading:
    """What became of films: keys of all their results, new or not, and why films have none."""

    keys: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)


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
        """Predict films of one study, each knee with the other in view where there is one film a side.

        Parameters
        ----------
        films : DICOM files.
        results : gets a folder for each knee, called by its key: a digest of all that the prediction depends on,
            which also gives the objects their UIDs.
        known : keys that need not be made again, even if their folders are gone.
        """
        entries: dict[str, Entry] = {}
        instances: dict[str, str] = {}
        failures: dict[str, str] = {}
        for film in films:
            try:
                found = identify(film.read_bytes(), film.name)
                for entry in self._knees(film):
                    of_both = len(entry.found) > 1
                    name = f"{film.name} {entry.side}" if of_both else film.name
                    entries[name] = entry
                    instances[name] = found.sop_instance + (f" {entry.found[0].centre}" if of_both else "")
            except ProgressionError as error:
                failures[film.name] = str(error)
        keys = {name: self._key(instances, pair) for name, pair in _pairs(entries).items()}
        wanted = {
            keys[name]: replace(entries[name], other=entries[pair[1]]) if pair[1] else entries[name]
            for name, pair in _pairs(entries).items()
            if keys[name] not in known and not (results / keys[name]).is_dir()
        }
        outcomes = predict_entries(
            self.predictor, wanted.values(), request=self.request, render=True, batch=2
        )
        name_of = {key: name for name, key in keys.items()}
        for key, outcome in zip(wanted, outcomes, strict=True):
            film = Path(outcome.entry.image)
            try:
                if isinstance(outcome.result, ProgressionError):
                    raise outcome.result
                source = SourceFilm(film.read_bytes(), film.name, self.uid_root, key)
                write_prediction(results / key, outcome.result, film=source)
            except ProgressionError as error:
                failures[name_of[key]] = str(error)
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

    def _key(self, instances: Mapping[str, str], pair: tuple[str, str]) -> str:
        """Digest of the film, the other knee's film, the model, the arguments and this version."""
        settings = [asdict(self.request), dict(self.identity), self.uid_root, __version__]
        return digest(
            [*(instances.get(name, "") for name in pair), json.dumps(settings, sort_keys=True, default=str)]
        )[:32]


def _pairs(entries: Mapping[str, Entry]) -> dict[str, tuple[str, str]]:
    """Each film with that of the other knee, where a study has one of each; else with nothing."""
    by_side = {side: [name for name, entry in entries.items() if entry.side == side] for side in Side}
    alone = all(len(names) == 1 for names in by_side.values())
    return {
        name: (name, by_side[Side.parse(entry.side).other][0] if alone else "")
        for name, entry in entries.items()
    }
