"""From a film that arrives to results that return, over real associations on this machine."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from pydicom.uid import generate_uid

from progression.dicom import example
from progression.dicom.identify import identify
from progression.errors import OutputError, UsageError
from progression.image import read_image
from progression.localise.find import Finder
from progression.pacs.listen import NOT_UNDERSTOOD, OUT_OF_RESOURCES, Listener
from progression.pacs.peers import Node, Peer, Tls
from progression.pacs.queue import Limits, Queue, State
from progression.pacs.reading import Reader
from progression.pacs.send import RefusedError, send
from progression.pacs.service import Service
from progression.types import Request, Side
from progression.weights import load_model
from tests.dicom.films import SECRETS, check_with_dciodvfy, content, dx, forced, named, save
from tests.fakes import FakePredictor, knee
from tests.localise.test_places import Says
from tests.pacs.nodes import OWN, TITLE, Receiver, call, receiving, until

OBJECTS_OF_A_KNEE, SERIES_OF_A_KNEE = 3, 3


@dataclass
class Serving:
    queue: Queue
    listener: Listener
    service: Service
    receiver: Receiver
    predictor: FakePredictor
    lines: list[str] = field(default_factory=list)

    def work(self) -> None:
        """Wait for lines to close, then until nothing is left to do."""
        until(lambda: not self.listener.coming())
        while self.service.step():
            pass


def serving_at(
    folder: Path, receiver: Receiver, *, tls: Tls | None = None, limits: Limits | None = None
) -> Serving:
    lines: list[str] = []
    predictor = FakePredictor()
    queue = Queue(folder, limits or Limits(free_bytes=0))
    listener = Listener(
        queue,
        title=OWN,
        peers=[Peer.parse(f"{TITLE}@127.0.0.0/8"), Peer.parse("ELSEWHERE@192.0.2.7")],
        address=("127.0.0.1", 0),
        tls=tls,
        tell=lines.append,
    )
    node = Node(TITLE, "localhost" if tls else "127.0.0.1", receiver.port)

    def deliver(paths, confirmed):  # type: ignore[no-untyped-def]
        send(paths, node, title=OWN, tls=tls, confirmed=confirmed)

    reader = Reader(predictor, Request(), {"model": {"encoder": "0" * 64}})
    service = Service(queue, reader, deliver, lines.append, quiet_s=0, coming=listener.coming)
    return Serving(queue, listener, service, receiver, predictor, lines)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with receiving() as receiver:
        made = serving_at(tmp_path / "queue", receiver)
        yield made
        made.listener.stop()
        made.queue.close()


def study(*films, uid: str | None = None):  # type: ignore[no-untyped-def]
    """Films as of one study."""
    uid = uid or generate_uid()
    for film in films:
        film.StudyInstanceUID = uid
    return list(films)


def test_a_film_arrives_and_its_results_return_once(serving: Serving) -> None:
    film = named(dx(Side.LEFT))
    assert call(serving.listener.port, [film]) == [0, 0]
    serving.work()
    assert len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE
    assert len(serving.receiver.series) == SERIES_OF_A_KNEE
    folder = serving.queue.study(film.StudyInstanceUID)
    assert folder.record().state is State.SENT
    assert call(serving.listener.port, [film]) == [0, 0]  # the modality sends it again
    serving.work()
    assert len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE and len(serving.predictor.calls) == 1


def test_the_shipped_example_arrives_in_the_syntaxes_of_the_core(serving: Serving) -> None:
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        film = example.knee_film(knee(448), side=Side.RIGHT)
        assert call(serving.listener.port, [film], syntax=syntax) == [0, 0]
    serving.work()
    assert len(serving.receiver.uids) == 2 * OBJECTS_OF_A_KNEE
    assert [call["sides"] for call in serving.predictor.calls] == [[Side.RIGHT]] * 2


def test_both_knees_see_each_other_and_a_late_film_changes_what_is_said(serving: Serving) -> None:
    left, right = study(dx(Side.LEFT), dx(Side.RIGHT))
    assert call(serving.listener.port, [left]) == [0, 0]
    serving.work()
    first = set(serving.receiver.uids)
    assert call(serving.listener.port, [right]) == [0, 0]
    serving.work()
    assert [call["other_sides"] for call in serving.predictor.calls] == [[None], [Side.RIGHT, Side.LEFT]] or [
        call["other_sides"] for call in serving.predictor.calls
    ] == [[None], [Side.LEFT, Side.RIGHT]]
    # the left knee alone and with the other are two predictions, of UIDs of their own
    assert len(serving.receiver.uids - first) == 2 * OBJECTS_OF_A_KNEE


def test_the_same_film_model_and_arguments_give_the_same_uids(tmp_path: Path) -> None:
    film = content(dx(Side.LEFT))
    path = tmp_path / "film.dcm"
    path.write_bytes(film)
    found = []
    for run, months in (("a", (48,)), ("b", (48,)), ("c", (24,))):
        reader = Reader(FakePredictor(), Request(months), {"model": "m"}, "1.2.3" if run == "x" else None)
        reading = reader.read([path], tmp_path / run)
        (folder,) = (tmp_path / run).iterdir()
        assert reading.keys == (folder.name,) and not reading.failures
        names = sorted(made.name for made in folder.glob("*.dcm"))
        found.append([identify((folder / name).read_bytes(), name).sop_instance for name in names])
    assert found[0] == found[1] and not set(found[0]) & set(found[2])
    assert all(len(set(one)) == OBJECTS_OF_A_KNEE for one in found)


@pytest.mark.parametrize("root", [None, "1.2.40.0.34.7"])
def test_dciodvfy_finds_no_error_in_what_returns(tmp_path: Path, root: str | None) -> None:
    """Of one knee and of both knees of a film, with UIDs that are the same at every run."""
    reader = Reader(FakePredictor(finder=Says()), Request((24, 48)), {"model": "m"}, root)
    films = study(named(dx(Side.LEFT)), named(example.bilateral_film(knee())))
    paths = [save(tmp_path / f"{number}.dcm", film) for number, film in enumerate(films)]
    made = [reader.read(paths, tmp_path / run) for run in ("a", "b")]
    assert made[0].keys == made[1].keys and len(made[0].keys) == 3 and not made[0].failures
    objects = sorted((tmp_path / "a").rglob("*.dcm"))
    uids = [identify(path.read_bytes(), path.name).sop_instance for path in objects]
    again = [tmp_path / "b" / path.relative_to(tmp_path / "a") for path in objects]
    assert uids == [identify(path.read_bytes(), path.name).sop_instance for path in again]
    assert len(set(uids)) == 3 * 4 and all(uid.startswith(f"{root or '2.25'}.") for uid in uids)
    check_with_dciodvfy(*objects)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"Laterality": "L"}, "shows both knees, but states that it is a left one"),
        ({"Laterality": "L", "SeriesDescription": "right knee"}, "contradicts itself about the side"),
    ],
)
def test_a_header_that_contradicts_the_picture_is_not_believed(
    serving: Serving, header: dict[str, str], reason: str
) -> None:
    serving.predictor.finder = Says()
    (film,) = study(forced(example.bilateral_film(knee()), **header))
    assert call(serving.listener.port, [film]) == [0, 0]
    serving.work()
    folder = serving.queue.study(film.StudyInstanceUID)
    assert folder.record().state is State.FAILED and not serving.predictor.calls
    assert reason in (folder.path / "reason.txt").read_text()


def test_what_cannot_be_predicted_keeps_its_reason(serving: Serving) -> None:
    both, unsided, chest = study(
        example.bilateral_film(knee()), example.cr(knee(), spacing_mm=None), dx(Side.LEFT)
    )
    chest.BodyPartExamined = "CHEST"
    assert call(serving.listener.port, [both, unsided, chest]) == [0, 0, 0, 0]
    serving.work()
    folder = serving.queue.study(both.StudyInstanceUID)
    reason = (folder.path / "reason.txt").read_text()
    assert folder.record().state is State.FAILED and not serving.receiver.arrived
    assert "shows both knees" in reason and "does not say which knee" in reason and "not a knee" in reason
    good = study(dx(Side.LEFT), uid=both.StudyInstanceUID)
    assert call(serving.listener.port, good) == [0, 0]
    serving.work()
    assert folder.record().state is State.SENT and len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE
    assert len((folder.path / "reason.txt").read_text().splitlines()) == 3


def test_both_knees_of_one_film_are_found_and_predicted_once(serving: Serving) -> None:
    files = load_model("default")
    serving.predictor.finder = Finder.load(files)
    films = study(example.bilateral_film(read_image(files.folder / "example.png")))
    assert call(serving.listener.port, films) == [0, 0]
    serving.work()
    folder = serving.queue.study(films[0].StudyInstanceUID)
    assert folder.record().state is State.SENT and len(folder.record().keys) == 2
    assert len(serving.receiver.arrived) == 2 * OBJECTS_OF_A_KNEE
    (asked,) = serving.predictor.calls
    assert all(other is not None for other in asked["others"])
    assert call(serving.listener.port, films) == [0, 0]
    serving.work()
    assert len(serving.receiver.arrived) == 2 * OBJECTS_OF_A_KNEE


def test_results_that_come_back_are_not_predicted_again(serving: Serving, tmp_path: Path) -> None:
    film = dx(Side.LEFT)
    call(serving.listener.port, [film])
    serving.work()
    folder = serving.queue.study(film.StudyInstanceUID)
    picture = next(folder.result(folder.record().keys[0]).glob("future_*.dcm"))
    assert call(serving.listener.port, [picture]) == [0, 0]
    serving.work()
    assert len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE and len(serving.predictor.calls) == 1
    assert folder.record().state is State.SENT
    assert "nothing is predicted from a prediction" in (folder.path / "reason.txt").read_text()


@pytest.mark.parametrize(("title", "called"), [("STRANGER", OWN), ("ELSEWHERE", OWN), (TITLE, "OTHER")])
def test_others_are_rejected(serving: Serving, title: str, called: str) -> None:
    assert call(serving.listener.port, title=title, called=called) is None
    until(lambda: serving.lines)
    assert serving.lines == ["rejected an association from 127.0.0.1"]
    assert call(serving.listener.port) == [0]


# pynetdicom leaves the socket of a line that was closed to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_limits(tmp_path: Path) -> None:
    with receiving() as receiver:
        made = serving_at(tmp_path / "queue", receiver, limits=Limits(1 << 20, 1, 0))
        noise = np.random.default_rng(0).random((1400, 1400), dtype=np.float32)
        large = example.dx(noise, side=Side.LEFT, spacing_mm=0.1)
        assert call(made.listener.port, [large, dx()], answer_s=3) == [0, None, None]
        until(lambda: any("over the limit" in line for line in made.lines))
        films = study(dx(Side.LEFT), dx(Side.RIGHT))
        assert call(made.listener.port, films) == [0, 0, OUT_OF_RESOURCES]
        assert len(made.queue.study(films[0].StudyInstanceUID).films()) == 1
        made.listener.stop()
        made.queue.close()
        full = serving_at(tmp_path / "full", receiver, limits=Limits(free_bytes=1 << 60))
        assert call(full.listener.port, [dx()]) == [0, OUT_OF_RESOURCES]
        assert any("shall stay free" in line for line in full.lines)
        full.listener.stop()
        full.queue.close()


def test_what_is_no_film_or_has_no_study_is_refused(serving: Serving) -> None:
    lost = dx()
    del lost.StudyInstanceUID
    odd = forced(dx(), StudyInstanceUID="none of ours")
    found = call(serving.listener.port, [lost, odd])
    assert found == [0, NOT_UNDERSTOOD, NOT_UNDERSTOOD]
    assert not list(serving.queue.studies())


# pynetdicom leaves the socket of a refused connection to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_that_refuses_or_is_away_gets_its_results_later(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("progression.pacs.service.RETRY_S", (0.0, 0.0))
    film = dx(Side.LEFT)
    call(serving.listener.port, [film])
    serving.receiver.status = OUT_OF_RESOURCES
    until(lambda: not serving.listener.coming())
    serving.service.step()
    folder = serving.queue.study(film.StudyInstanceUID)
    assert folder.record().state is State.DONE and "status A700H" in serving.lines[-1]
    node = Node(TITLE, "127.0.0.1", 9)
    send_away = serving.service.send
    serving.service.send = partial(_to, node)
    serving.service.step()
    assert "no association with PACS" in serving.lines[-1]
    serving.receiver.status, serving.service.send = 0, send_away
    serving.work()
    assert folder.record().state is State.SENT and len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE
    with pytest.raises(RefusedError, match="does not take objects like"):
        _to(
            Node(OWN, "127.0.0.1", serving.listener.port),
            folder.objects(folder.record().keys[0])[::-1],
            print,
        )


def _to(node: Node, paths, confirmed) -> None:  # type: ignore[no-untyped-def]
    send(paths, node, title=TITLE, tls=None, confirmed=confirmed)


def test_sent_studies_are_emptied_and_stay_known(serving: Serving) -> None:
    film = dx(Side.LEFT)
    call(serving.listener.port, [film])
    serving.work()
    serving.service.keep_days = -1
    serving.work()
    folder = serving.queue.study(film.StudyInstanceUID)
    assert sorted(path.name for path in folder.path.iterdir()) == ["state.json"]
    call(serving.listener.port, [film])
    serving.work()
    assert len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE


def test_no_patient_in_lines_names_or_records(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    good, bad = study(named(dx(Side.LEFT)), named(dx(Side.LEFT)))
    bad.BodyPartExamined = "GEHEIMNIS"
    call(serving.listener.port, [good, bad])
    serving.work()
    told = "\n".join(serving.lines) + caplog.text
    for path in serving.queue.root.rglob("*"):
        told += str(path.relative_to(serving.queue.root))
        if path.is_file() and path.suffix in (".json", ".txt", ".html"):
            told += path.read_text()
    assert [secret for secret in SECRETS if secret.lower() in told.lower()] == []
    assert "1 films not" in told


def test_one_process_a_queue(serving: Serving) -> None:
    with pytest.raises(OutputError, match="another run is writing it"):
        Queue(serving.queue.root, Limits())


@pytest.mark.parametrize("written", ["PACS", "@1.2.3.4", "PACS@nowhere", "A TITLE TOO LONG FOR THIS@1.2.3.4"])
def test_peers_that_are_none(written: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Peer.parse(written)


@pytest.mark.parametrize("written", ["PACS@host", "host:104", "PACS@host:0", "PACS@host:70000"])
def test_nodes_that_are_none(written: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Node.parse(written)


def make_certificate(folder: Path, name: str) -> Tls:
    """One that is its own authority, for this machine."""
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {made}"
    )
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True
    )
    return Tls(made, key, made)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_over_tls(tmp_path: Path) -> None:
    ours, strange = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "strange")
    with receiving(tls=ours.server()) as receiver:
        made = serving_at(tmp_path / "queue", receiver, tls=ours)
        assert call(made.listener.port, [dx()]) is None  # in the open
        assert (
            call(
                made.listener.port,
                [dx()],
                tls=Tls(strange.certificate, strange.key, ours.certificate).client(),
            )
            is None
        )
        assert call(made.listener.port, [dx()], tls=ours.client()) == [0, 0]
        made.work()
        assert len(receiver.arrived) == OBJECTS_OF_A_KNEE
        made.listener.stop()
        made.queue.close()
    with pytest.raises(UsageError, match="TLS files"):
        Tls(tmp_path / "gone", ours.key, ours.certificate).server()


@pytest.mark.skipif(shutil.which("storescu") is None, reason="needs dcmtk")
def test_dcmtk_is_understood(serving: Serving, tmp_path: Path) -> None:
    film = save(tmp_path / "film.dcm", dx(Side.LEFT))
    where = ["-aet", TITLE, "-aec", OWN, "127.0.0.1", str(serving.listener.port)]
    subprocess.run(["echoscu", *where], check=True, timeout=30)
    subprocess.run(["storescu", *where, film], check=True, timeout=30)
    serving.work()
    assert len(serving.receiver.arrived) == OBJECTS_OF_A_KNEE
