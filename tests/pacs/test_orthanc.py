"""A real Orthanc (apt-get install orthanc orthanc-dicomweb) on this machine: C-STORE both ways, and DICOMweb."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request as Call
from urllib.request import urlopen

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from progression import cli
from progression.dicom import example
from progression.pacs.dicomweb import PASSWORD, USER, authorization
from progression.pacs.queue import State
from progression.types import Side
from tests.dicom.films import content, dx, named
from tests.fakes import knee
from tests.pacs.nodes import TITLE, Receiver, until
from tests.pacs.test_serve import Serving, serving_at

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PLUGINS = Path("/usr/share/orthanc/plugins")
pytestmark = pytest.mark.skipif(
    ORTHANC is None, reason="needs Orthanc (apt-get install orthanc orthanc-dicomweb)"
)
LOGIN = {USER: "reader", PASSWORD: "a-password"}


@dataclass
class Orthanc:
    http: int
    serving: Serving

    def ask(self, path: str, data: bytes | None = None):  # type: ignore[no-untyped-def]
        headers = {"Authorization": authorization(LOGIN) or ""}
        with urlopen(Call(f"http://127.0.0.1:{self.http}{path}", data=data, headers=headers)) as answer:
            return json.load(answer)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    http, dicom = _free_port(), _free_port()
    serving = serving_at(tmp_path / "queue", Receiver(port=dicom))
    settings = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {LOGIN[USER]: LOGIN[PASSWORD]},
        "DicomModalities": {"progression": ["PROGRESSION", "127.0.0.1", serving.listener.port]},
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        assert ORTHANC is not None
        process = subprocess.Popen([ORTHANC, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    made = Orthanc(http, serving)

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
        with suppress(OSError):
            return bool(made.ask("/system"))
        return False

    try:
        until(answers)
        yield made
    finally:
        process.terminate()
        process.wait(30)
        serving.listener.stop()
        serving.queue.close()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_a_study_goes_there_and_back_once(orthanc: Orthanc) -> None:
    film = example.knee_film(knee(448), side=Side.RIGHT)
    kept = orthanc.ask("/instances", content(film))
    study = kept["ParentStudy"]
    # permissive: the second time the results come along, and the report and the risks are not taken
    asked = json.dumps({"Resources": [study], "Permissive": True}).encode()
    for _ in range(2):
        orthanc.ask("/modalities/progression/store", asked)
        orthanc.serving.work()
        assert orthanc.serving.queue.study(film.StudyInstanceUID).record().state is State.SENT
        found = orthanc.ask(f"/studies/{study}/series")
        numbers = sorted(series["MainDicomTags"]["SeriesNumber"] for series in found)
        assert numbers == ["1", "9001", "9002", "9003"]
        assert sum(len(series["Instances"]) for series in found) == 4


@pytest.mark.skipif(not (PLUGINS / "libOrthancDicomWeb.so").exists(), reason="needs orthanc-dicomweb")
def test_pull_predict_push(orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    film = named(dx(Side.LEFT))
    study = orthanc.ask("/instances", content(film))["ParentStudy"]
    url = f"http://127.0.0.1:{orthanc.http}/dicom-web"
    assert (
        cli.run(["pacs", "pull", "--url", url, "--accession", "ACC-99", "--out", str(tmp_path / "in")]) == 0
    )
    films = list((tmp_path / "in").iterdir())
    assert len(films) == 1
    orthanc.serving.service.reader.read(films, tmp_path / "results")
    for _ in range(2):
        assert cli.run(["pacs", "push", str(tmp_path / "results"), "--url", url]) == 0
        found = orthanc.ask(f"/studies/{study}/instances")
        assert len(found) == 4
