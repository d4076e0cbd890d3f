"""One UID does not make one picture, nor one study one person."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from pydicom.dataset import Dataset

from progression.dicom import example
from progression.dicom.identify import identify
from progression.pacs.queue import Limits, Queue, content_digest
from progression.pacs.reading import Reader
from progression.types import Request, Side
from tests.dicom.films import again, content, dx
from tests.fakes import FakePredictor, knee
from tests.pacs.nodes import call
from tests.pacs.test_serve import (  # noqa: F401  a fixture
    OBJECTS_OF_A_KNEE,
    Serving,
    serving,
    serving_at,
    study,
)


def of(film: Dataset, patient: str, **values: object) -> Dataset:
    """The film as another patient's, and with other values."""
    made = deepcopy(film)
    made.PatientID = patient
    made.PatientName = patient
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def test_two_patients_films_under_one_uid_are_two_results(serving: Serving) -> None:  # noqa: F811
    one = of(dx(Side.LEFT), "A-1")
    other = of(example.dx(knee(seed=7), side=Side.LEFT, spacing_mm=1.4), "B-2")
    other.SOPInstanceUID, other.StudyInstanceUID = one.SOPInstanceUID, one.StudyInstanceUID
    assert call(serving.listener.port, [one, other]) == [0, 0, 0]
    serving.work()
    assert len(serving.receiver.arrived) == len(serving.receiver.uids) == 2 * OBJECTS_OF_A_KNEE
    folder = serving.queue.study(one.StudyInstanceUID)
    patients = {
        str(again(path.read_bytes()).PatientID)
        for key in folder.record().keys
        for path in folder.objects(key)
    }
    assert patients == {"A-1", "B-2"}


def test_a_corrected_film_under_the_old_uid_is_predicted_again(serving: Serving) -> None:  # noqa: F811
    film = dx(Side.LEFT)
    assert call(serving.listener.port, [film]) == [0, 0]
    serving.work()
    first = set(serving.receiver.uids)
    corrected = of(film, str(film.PatientID), ImageLaterality="R")
    corrected.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = []
    for _ in range(2):  # the second time it is known
        assert call(serving.listener.port, [corrected]) == [0, 0]
        serving.work()
        assert len(serving.predictor.calls) == 2
        assert len(serving.receiver.uids - first) == OBJECTS_OF_A_KNEE
    assert [call["sides"] for call in serving.predictor.calls] == [[Side.LEFT], [Side.RIGHT]]


def test_the_other_knee_is_seen_in_its_newest_film(tmp_path: Path) -> None:
    left, right = study(dx(Side.LEFT), dx(Side.RIGHT))
    corrected = of(left, str(left.PatientID), ViewPosition="AP")
    paths = []
    for number, film in enumerate((left, corrected, right)):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(content(film))
    predictor = FakePredictor()
    reading = Reader(predictor, Request(), {}).read(paths, tmp_path / "results")
    assert len(reading.keys) == 3 and not reading.failures
    assert all(None not in call["other_sides"] for call in predictor.calls)


@pytest.mark.parametrize(("one", "other"), [("A-1", "B-2"), ("", ""), ("A-1", "")])
def test_knees_of_two_people_or_of_nobody_are_no_pair(
    serving: Serving,  # noqa: F811
    one: str,
    other: str,
) -> None:
    left, right = study(of(dx(Side.LEFT), one), of(dx(Side.RIGHT), other))
    assert call(serving.listener.port, [left, right]) == [0, 0, 0]
    serving.work()
    assert [side for call in serving.predictor.calls for side in call["other_sides"]] == [None, None]
    assert len(serving.receiver.uids) == 2 * OBJECTS_OF_A_KNEE


def test_a_film_is_the_same_whoever_wrote_its_file(tmp_path: Path) -> None:
    film = dx(Side.LEFT)
    first = content(film)
    film.file_meta.ImplementationVersionName = "ANOTHER"
    film.file_meta.SourceApplicationEntityTitle = "SOMEWHERE"
    second = content(film)
    assert first != second and content_digest(first) == content_digest(second)
    film.PatientID = "ANOTHER"
    assert content_digest(content(film)) != content_digest(first)
    queue = Queue(tmp_path, Limits(free_bytes=0))
    for made in (first, second):
        folder = queue.add(made, identify(made, "film"))
    assert len(folder.films()) == 1
    queue.close()


def test_a_digest_of_what_is_no_dicom_is_that_of_the_whole() -> None:
    assert content_digest(b"abc") != content_digest(b"abd")
