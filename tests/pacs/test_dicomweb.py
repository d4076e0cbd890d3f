"""DICOMweb against a small server that speaks enough of QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from progression import cli
from progression.dicom.identify import identify
from progression.errors import ImageError, OutputError, UsageError
from progression.pacs.dicomweb import PASSWORD, TOKEN, USER, Server, ServerError, authorization
from progression.pacs.multipart import read_parts, write_part
from progression.pacs.reading import Reader
from progression.types import Request, Side
from tests.dicom.films import content, dx, named
from tests.fakes import FakePredictor

BOUNDARY = "a-boundary"


class Archive(ThreadingHTTPServer):
    """Holds files by SOP Instance UID."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.accessions: dict[str, list[str]] = {}
        self.refuses = False
        self.truncates = False

    def find(self, uid: str) -> list[bytes]:
        """The files of a study."""
        return [data for data in self.files.values() if identify(data, "kept").study == uid]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class _Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer good":
            return self._answer(401, "text/plain", b"")
        url = urlsplit(self.path)
        if url.path == "/dicom-web/studies":
            uids = self.server.accessions.get(parse_qs(url.query)["AccessionNumber"][0], [])
            found = [{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids]
            return self._answer(200, "application/dicom+json", json.dumps(found).encode())
        if url.path == "/dicom-web/studies/1.2.999":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/stolen")
            self.end_headers()
            return None
        uid = url.path.rpartition("/")[2]
        parts = self.server.find(uid)
        if not parts:
            return self._answer(404, "text/plain", b"")
        body = b"".join(
            f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + part + b"\r\n"
            for part in parts
        )
        end = b"" if self.server.truncates else f"--{BOUNDARY}--".encode()
        kind = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
        return self._answer(200, kind, body + end)

    def do_POST(self) -> None:
        body = BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
        for part in read_parts(body, str(self.headers.get_boundary()), part_bytes=1 << 24):
            self.server.files[identify(part, "stored").sop_instance] = part
        failed = {"00081198": {"vr": "SQ", "Value": [{}]}} if self.server.refuses else {}
        self._answer(200, "application/dicom+json", json.dumps(failed).encode())

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv(TOKEN, "good")
    with Archive() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def keep(archive: Archive, *films) -> str:  # type: ignore[no-untyped-def]
    """Put films into one study; its UID."""
    uid = str(films[0].StudyInstanceUID)
    for film in films:
        film.StudyInstanceUID = uid
        archive.files[str(film.SOPInstanceUID)] = content(film)
    archive.accessions["ACC-99"] = [uid]
    return uid


def test_there_and_back(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = named(dx(Side.LEFT)), named(dx(Side.RIGHT))
    uid = keep(archive, left, right)
    for asked in (["--study", uid], ["--accession", "ACC-99"]):
        out = tmp_path / asked[0]
        assert cli.run(["pacs", "pull", "--url", archive.url, *asked, "--out", str(out)]) == 0
        films = sorted(out.iterdir())
        assert {film.read_bytes() for film in films} == set(archive.files.values())  # to the byte
    assert "2 films" in capsys.readouterr().out
    reading = Reader(FakePredictor(), Request(), {}).read(films, tmp_path / "results")
    assert len(reading.keys) == 2
    for _ in range(2):
        assert cli.run(["pacs", "push", str(tmp_path / "results"), "--url", archive.url]) == 0
        assert len(archive.files) == 2 + 2 * 3
    # what was predicted comes along, and is not taken for a film
    assert (
        cli.run(["pacs", "pull", "--url", archive.url, "--study", uid, "--out", str(tmp_path / "again")]) == 0
    )
    assert len(list((tmp_path / "again").iterdir())) == 2
    assert "6 objects of other kinds left" in capsys.readouterr().out


def test_refusals(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = keep(archive, dx(Side.LEFT), dx(Side.RIGHT))
    server = Server(archive.url, authorization({TOKEN: "good"}))
    archive.accessions["twice"] = [uid, "1.2.3"]
    with pytest.raises(ServerError, match="more than one study"):
        server.find("twice")
    with pytest.raises(ServerError, match="no study has this accession"):
        server.find("nothing")
    with pytest.raises(ServerError, match="answered 404"):
        list(server.retrieve("1.2.3"))
    with pytest.raises(ServerError, match=r"answered 401 .*set PROGRESSION_PACS_TOKEN"):
        list(Server(archive.url).retrieve(uid))
    with pytest.raises(ServerError, match="answered 302"):
        list(server.retrieve("1.2.999"))
    with pytest.raises(UsageError, match="expected a UID"):
        list(server.retrieve("../../etc"))
    with pytest.raises(ImageError, match="over 1 objects"):
        list(Server(archive.url, "Bearer good", study_objects=1).retrieve(uid))
    with pytest.raises(ImageError, match="over 0 MB"):
        list(Server(archive.url, "Bearer good", object_bytes=1000).retrieve(uid))
    archive.truncates = True
    with pytest.raises(ImageError, match="ends before its last part"):
        list(server.retrieve(uid))
    archive.refuses = True
    with pytest.raises(OutputError, match="refused an object"):
        server.store(content(dx()), uid)
    with pytest.raises(ServerError, match=r"no answer from 127\.0\.0\.1"):
        Server("http://127.0.0.1:9").find("x")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://pacs.example/dicom-web", "expected https"),
        ("https://me:secret@pacs.example", "holds a user or password"),
        ("file:///etc/passwd", "expected a DICOMweb service"),
        ("https://pacs.example/?a=1", "expected a DICOMweb service"),
    ],
)
def test_urls_that_are_none(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Server(url)


def test_who_asks() -> None:
    assert authorization({}) is None
    assert authorization({USER: "Aladdin", PASSWORD: "open sesame"}) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    for wrong in ({USER: "a"}, {PASSWORD: "b"}, {TOKEN: "a", USER: "b"}):
        with pytest.raises(UsageError, match="set"):
            authorization(wrong)


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 40))
def test_parts_come_back_however_they_are_cut(contents: list[bytes], size: int) -> None:
    body = b"preamble"
    for one in contents:
        part, kind = write_part(one)
        boundary = kind.rpartition("=")[2]
        body += b"\r\n" + part.replace(boundary.encode(), b"B" * 32)[: -len(b"--\r\n") - 36]
    body += b"\r\n--" + b"B" * 32 + b"--"

    class Slow(BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            return super().read(size)

    assert list(read_parts(Slow(body), "B" * 32, part_bytes=300)) == contents
