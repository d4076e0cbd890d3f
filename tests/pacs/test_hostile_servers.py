"""Other ends of the line that break off, lie, drip or mock: one typed error each, in time and within limits."""

from __future__ import annotations

import gzip
import shutil
import socket
import stat
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from progression import cli
from progression.errors import ImageError, OutputError, UsageError
from progression.pacs import dicomweb
from progression.pacs import send as sending
from progression.pacs.dicomweb import TOKEN, Server, ServerError, UnreachableError, authorization
from progression.pacs.peers import Node, NodeError, Tls
from progression.pacs.service import StoppedError
from progression.types import Side
from tests.dicom.films import content, dx
from tests.pacs.nodes import OWN, TITLE
from tests.pacs.test_dicomweb import Archive, archive, keep  # noqa: F401  a fixture
from tests.pacs.test_serve import make_certificate

Say = Callable[[socket.socket], None]
ESCAPE = b"\x1b]0;owned\x07\x1b[31mGeheimnis"


@contextmanager
def saying(say: Say | bytes, *, reads: bool = True) -> Iterator[int]:
    """A server on this machine that says the same to everybody, whatever they ask; its port."""
    over = Event()

    def answer(line: socket.socket) -> None:
        with line, suppress(OSError):
            if reads:
                line.recv(65536)
            if callable(say):
                say(line)
            else:
                line.sendall(say)
                line.shutdown(socket.SHUT_WR)
            line.settimeout(5)
            while not over.is_set() and line.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        threads = []

        def accept() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    line, _ = listening.accept()
                    threads.append(Thread(target=answer, args=(line,)))
                    threads[-1].start()

        accepting = Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            for thread in (accepting, *threads):
                thread.join()


def server(port: int) -> Server:
    return Server(f"http://127.0.0.1:{port}/hidden-path", object_bytes=1 << 16)


def ok(body: bytes, *headers: str, kind: str = "application/dicom+json", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 200 OK\r\nContent-Type: {kind}", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join((*lines, "\r\n")).encode("latin-1") + body


def drip(line: socket.socket) -> None:
    """A byte now and then."""
    for byte in ok(b"[" * 10_000, length=10_000):
        line.sendall(bytes((byte,)))
        time.sleep(0.05)


def reset(line: socket.socket) -> None:
    line.sendall(b"HTTP/1.1 200 OK\r\n")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def endless(line: socket.socket) -> None:
    line.sendall(ok(b""))
    while True:
        line.sendall(b"[" * 65536)


CHUNKED = "Transfer-Encoding: chunked"
JSON_ANSWERS: dict[str, Say | bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "an escape for a version": ESCAPE + b"\r\n\r\n",
    "a long line": b"HTTP/1.1 200 " + b"A" * 100_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    "a huge header": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    "a short body": ok(b"[]", length=1000),
    "a reset": reset,
    "no JSON": ok(b"<html>"),
    "deep JSON": ok(b"[" * 100_000),
    "a long number": ok(b"[" + b"1" * 100_000 + b"]"),
    "no UTF-8": ok(b'["\xff"]'),
    "an endless answer": endless,
    "a chunk of a lie": ok(b"zzzz\r\n[]\r\n", CHUNKED),
    "a chunk of less than nothing": ok(b"-1\r\n" + b"[" * 100_000, CHUNKED),
    "a chunk of everything": ok(b"f" * 30 + b"\r\n[]", CHUNKED),
    "chunks without end": ok(b"2\r\n[]\r\n", CHUNKED),
    "gzip": ok(gzip.compress(b"[]"), "Content-Encoding: gzip"),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/stolen\r\n\r\n",
    "an error": b"HTTP/1.1 500 " + ESCAPE + b"\r\n\r\n",
    "an unknown error": b"HTTP/1.1 599 " + ESCAPE + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", JSON_ANSWERS)
def test_answers_to_a_question_that_are_none(name: str) -> None:
    with saying(JSON_ANSWERS[name]) as port:
        tracemalloc.start()
        try:
            with pytest.raises(ServerError, match=r"no answer from 127|the server('s)? answer") as raised:
                server(port).find("A-1")
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()
    told = str(raised.value)
    assert told.isprintable() and not any(
        word in told for word in ("Geheimnis", "hidden-path", "stolen", "A-1")
    )


ODD = ["{}", "7", "null", '"x"', "[7]", "[null]"]
ODD_VALUES = ["7", "{}", '{"Value": {}}', '{"Value": [{}]}', '{"Value": "1.2.3"}', '{"Value": ["\\u001b"]}']


def test_odd_json_finds_no_study() -> None:
    for found in (*ODD, *(f'[{{"0020000D": {value}}}]' for value in ODD_VALUES)):
        with saying(ok(found.encode())) as port, pytest.raises(ServerError, match="study has this accession"):
            server(port).find("A-1")


def test_odd_json_refuses_no_object() -> None:
    for stored in (*ODD, *(f'{{"00081198": {value}}}' for value in ODD_VALUES[:3])):
        with saying(ok(stored.encode())) as port:
            server(port).store(content(dx()), "1.2.3")


def parts(boundary: str = "b", *, kind: str = 'multipart/related; boundary="{}"') -> str:
    return kind.format(boundary)


PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
MULTIPART: dict[str, tuple[Say | bytes, str]] = {
    "another kind": (ok(b"[]"), "not multipart"),
    "no boundary": (ok(b"", kind="multipart/related"), "not multipart"),
    "a boundary of nothing": (ok(b"", kind=parts("")), "not multipart"),
    "a boundary too long": (ok(b"", kind=parts("b" * 71)), "not multipart"),
    "a boundary with an escape": (ok(b"", kind=parts("b\x1b[31m")), "not multipart"),
    "a boundary in another alphabet": (
        ok(b"", kind="multipart/related; boundary*=utf-8''%E2%98%83"),
        "not multipart",
    ),
    "a boundary in none": (ok(b"", kind="multipart/related; boundary*=odd''%ff"), "not multipart"),
    "an end too early": (ok(PART + b"abc", kind=parts()), "ends before its last part"),
    "less than it says": (ok(PART + b"abc", kind=parts(), length=9999), "shorter than it says"),
    "no part at all": (ok(b"", kind=parts()), "ends before its last part"),
    "a part without a head": (ok(b"--b\r\nabc\r\n--b--", kind=parts()), "has no content"),
    "a part too large": (ok(PART + bytes(1 << 20) + b"\r\n--b--", kind=parts()), "over 0 MB"),
    "a preamble without end": (endless, "not multipart"),
    "parts without end": (ok((PART + b"\r\n") * 100 + b"--b--", kind=parts()), "over 64 objects"),
}


@pytest.mark.parametrize("name", MULTIPART)
def test_answers_in_parts_that_are_none(name: str) -> None:
    say, reason = MULTIPART[name]
    with saying(say) as port, pytest.raises((ServerError, ImageError), match=reason) as raised:
        list(server(port).retrieve("1.2.3"))
    assert str(raised.value).isprintable()


def silent(line: socket.socket) -> None:
    """Says nothing until the other one goes."""


@pytest.mark.parametrize("say", [drip, silent])
def test_a_server_has_its_time_for_the_whole(monkeypatch: pytest.MonkeyPatch, say: Say) -> None:
    monkeypatch.setattr(dicomweb, "TIMEOUT_S", 0.5)
    for ask in (
        lambda asked: asked.find("A-1"),
        lambda asked: list(asked.retrieve("1.2.3")),
        lambda asked: asked.store(content(dx()), "1.2.3"),
    ):
        with saying(say) as port:
            began = time.monotonic()
            with pytest.raises(UnreachableError, match="too slow"):
                ask(server(port))
            assert time.monotonic() - began < 3


def test_a_body_that_drips_has_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "TIMEOUT_S", 0.5)

    def slow(line: socket.socket) -> None:
        line.sendall(ok(PART, kind=parts()))
        for _ in range(200):
            line.sendall(b"x")
            time.sleep(0.02)

    with saying(slow) as port:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="too slow"):
            list(server(port).retrieve("1.2.3"))
        assert time.monotonic() - began < 3


def test_a_handshake_of_tls_that_drips_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "TIMEOUT_S", 0.5)

    def shaking(line: socket.socket) -> None:
        for byte in b"\x16\x03\x03\x3f\xff" + bytes(200):
            line.sendall(bytes((byte,)))
            time.sleep(0.02)

    with saying(shaking) as port, pytest.raises(UnreachableError, match="too slow"):
        Server(f"https://127.0.0.1:{port}").find("A-1")


@pytest.mark.parametrize(
    "url",
    ["https://[", "https://pacs:port/", "https://pacs:99999/", "https://pacs/a b", "https://pacs/\x1b[31m",
     "ftp://secret.example/path?token=secret", "secret", "https:///secret"],
)  # fmt: skip
def test_a_url_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="expected a DICOMweb service") as raised:
        Server(url)
    assert "secret" not in str(raised.value) and str(raised.value).isprintable()


def test_a_token_that_no_header_can_hold_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="cannot: expected the token alone") as raised:
        authorization({TOKEN: "secret\r\nEvil: header"})
    assert "secret" not in str(raised.value)


def test_one_damaged_object_stops_neither_pull_nor_push(
    archive: Archive,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left, right = dx(Side.LEFT), dx(Side.RIGHT)
    uid = keep(archive, left, right)
    good = dict(archive.files)
    damaged = bytearray(content(left))
    damaged[200:240] = bytes(40)
    archive.find = lambda asked: [bytes(damaged), *good.values()]  # type: ignore[attr-defined]
    out = tmp_path / "out"
    assert cli.run(["pacs", "pull", "--url", archive.url, "--study", uid, "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert "2 films" in told.out and "object 1: " in told.err and "1 of 3 objects failed" in told.err
    results = tmp_path / "results"
    results.mkdir()
    (results / "risk.dcm").write_bytes(bytes(damaged))
    (results / "report.dcm").write_bytes(content(right))
    assert cli.run(["pacs", "push", str(results), "--url", archive.url]) == 1
    told = capsys.readouterr()
    assert "1 objects stored" in told.out and "1 of 2 objects failed" in told.err


def test_pulled_films_are_their_owners_alone(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    film = dx(Side.LEFT)
    uid = keep(archive, film)
    pull = ["pacs", "pull", "--url", archive.url, "--study", uid, "--out"]
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert cli.run([*pull, str(tmp_path / name)]) == 0
        for path in (tmp_path / name, *(tmp_path / name).iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "letter.txt").write_text("dear")
    shared.chmod(0o755)
    assert cli.run([*pull, str(shared)]) == 1
    assert [path.name for path in shared.iterdir()] == ["letter.txt"]


def node_of(port: int) -> Node:
    return Node(TITLE, "127.0.0.1", port)


def huge(line: socket.socket) -> None:
    line.sendall(struct.pack(">BBL", 2, 0, 0xFFFFFFF0))
    while True:
        line.sendall(bytes(1 << 20))


def trickle(line: socket.socket) -> None:
    for byte in struct.pack(">BBL", 2, 0, 5000) + bytes(5000):
        line.sendall(bytes((byte,)))
        time.sleep(0.05)


# the library leaves the sockets of connections that failed to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("say", [b"", b"HTTP/1.1 400 Bad\r\n\r\n", huge, trickle, silent], ids=str)
@pytest.mark.parametrize("secured", [False, True], ids=["open", "TLS"])
def test_a_node_that_is_none_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say | bytes, secured: bool
) -> None:
    if secured and shutil.which("openssl") is None:
        pytest.skip("needs openssl to make certificates")
    monkeypatch.setattr(sending, "CONNECTION_S", 0.5)
    monkeypatch.setattr(sending, "ANSWER_S", 0.5)
    tls: Tls | None = make_certificate(tmp_path, "ours") if secured else None
    path = tmp_path / "risk.dcm"
    path.write_bytes(content(dx()))
    with saying(say) as port:
        began = time.monotonic()
        with pytest.raises(NodeError, match="no association with PACS"):
            sending.send([path], node_of(port), title=OWN, tls=tls, confirmed=print)
        assert time.monotonic() - began < 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_service_that_stops_waits_for_no_node(tmp_path: Path) -> None:
    path = tmp_path / "risk.dcm"
    path.write_bytes(content(dx()))
    began = time.monotonic()
    with saying(silent) as port, pytest.raises(StoppedError, match="stopped while results were sent"):
        sending.send(
            [path],
            node_of(port),
            title=OWN,
            tls=None,
            confirmed=print,
            stopping=lambda: time.monotonic() > began + 0.5,
        )
    assert time.monotonic() - began < 5


def test_a_node_whose_name_nobody_knows_is_tried_again_later(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no address of"):
        sending.send([tmp_path], Node(TITLE, "nowhere.invalid", 104), title=OWN, tls=None, confirmed=print)
