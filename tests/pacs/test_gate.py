"""Strangers at the door: what they send is small, short and theirs alone, and peers are served meanwhile."""

from __future__ import annotations

import resource
import shutil
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra pacs")

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation, Verification

from progression.pacs import gate
from progression.pacs.listen import Listener
from progression.pacs.peers import Peer, Tls
from progression.pacs.queue import Limits, Queue
from progression.types import Side
from tests.dicom.films import dx
from tests.pacs.nodes import OWN, TITLE, call, until
from tests.pacs.test_serve import make_certificate

ASSOCIATE, DATA, RELEASE, ABORT = 1, 4, 5, 7
GIGABYTES = 0xFFFFFFF0


class Door:
    """A listener with a queue, and what it told."""

    def __init__(self, folder: Path, *, tls: Tls | None = None, peers: tuple[str, ...] = ()) -> None:
        self.lines: list[str] = []
        self.queue = Queue(folder / "queue", Limits(1 << 20, 64, 0))
        self.listener = Listener(
            self.queue,
            title=OWN,
            peers=[Peer.parse(one) for one in peers or (f"{TITLE}@127.0.0.1",)],
            address=("127.0.0.1", 0),
            tls=tls,
            tell=self.lines.append,
        )

    def told(self, what: str) -> bool:
        return any(what in line for line in self.lines)

    def close(self) -> None:
        self.listener.stop()
        self.queue.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


def connect(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def header(kind: int, length: int) -> bytes:
    return struct.pack(">BBL", kind, 0, length)


def request(title: str = TITLE, *, called: str = OWN, contexts: int = 1, more: bytes = b"") -> bytes:
    """An association request for C-ECHO, written by hand."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    syntaxes = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    items = item(0x10, b"1.2.840.10008.3.1.1.1")
    items += b"".join(item(0x20, bytes((2 * (n % 128) + 1, 0, 0, 0)) + syntaxes) for n in range(contexts))
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")) + more
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), title.ljust(16).encode()) + items
    return header(ASSOCIATE, len(body)) + body


def answer(line: socket.socket) -> bytes:
    """The next PDU, or nothing when the line is closed."""
    found = b""
    with suppress(OSError):
        while len(found) < 6 or len(found) < 6 + int.from_bytes(found[2:6]):
            if not (piece := line.recv(6 - len(found) if len(found) < 6 else 65536)):
                break
            found += piece
    return found


def associated(port: int, title: str = TITLE, *, source: str = "127.0.0.1") -> socket.socket:
    line = connect(port, source=source)
    line.sendall(request(title))
    assert answer(line)[0] == 2
    return line


def is_closed(line: socket.socket) -> bool:
    """Whether nothing more comes, but for a farewell."""
    with suppress(OSError):
        while line.recv(65536):
            pass
    return True


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("kind", [0, ASSOCIATE, 2, 3, DATA, RELEASE, 6, ABORT, 0xFF])
def test_a_header_that_claims_gigabytes_is_refused_before_they_come(door: Door, kind: int) -> None:
    before = peak_bytes()
    for associate in (False, True):
        line = associated(door.listener.port) if associate else connect(door.listener.port)
        with line, suppress(OSError):  # it hangs up while we send
            line.sendall(header(kind, GIGABYTES))
            for _ in range(64):
                line.sendall(bytes(1 << 20))
            pytest.fail("all of it was taken")
    assert peak_bytes() - before < 32 << 20
    assert call(door.listener.port) == [0]


def test_a_control_pdu_of_a_megabyte_and_data_over_our_limit_are_refused(door: Door) -> None:
    for kind, length in ((RELEASE, 1 << 20), (ABORT, 1 << 20), (DATA, gate.PDU_BYTES + 1)):
        with associated(door.listener.port) as line:
            line.sendall(header(kind, length))
            assert answer(line)[0] == ABORT and is_closed(line)
    until(lambda: door.told("sent a PDU that is none, or over the limit"))


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        header(ASSOCIATE, 4) + bytes(4),
        header(ASSOCIATE, gate.REQUEST_BYTES + 1),
        request(contexts=129),
        request(more=b"\x50\x00\xff\xff"),
        request(more=b"\x50\x00\x00"),
        header(DATA, 12) + bytes(12),
    ],
)
def test_what_is_no_association_request_is_not_answered(door: Door, sent: bytes) -> None:
    with connect(door.listener.port) as line:
        line.sendall(sent)
        assert answer(line) == b""
    until(lambda: door.told("association request"))
    assert call(door.listener.port) == [0]


def test_a_request_for_all_the_contexts_that_there_can_be_is_taken(door: Door) -> None:
    with connect(door.listener.port) as line:
        line.sendall(request(contexts=128))
        assert answer(line)[0] == 2


def test_a_rejection_says_why(door: Door) -> None:
    for sent, why in ((request("STRANGER"), (1, 1, 3)), (request(called="OTHER"), (1, 1, 7))):
        with connect(door.listener.port) as line:
            line.sendall(sent)
            assert answer(line) == header(3, 4) + bytes((0, *why))


def test_an_address_of_no_peer_gets_no_answer_at_all(door: Door) -> None:
    with connect(door.listener.port, source="127.0.0.9") as line:
        assert answer(line) == b""
    until(lambda: door.lines)
    assert door.lines == ["rejected a connection from 127.0.0.9, which is no peer's address"]


@pytest.mark.parametrize("drips", [False, True])
def test_who_does_not_say_who_he_is_has_to_leave(
    door: Door, monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    monkeypatch.setattr(gate, "REQUEST_S", 0.5)
    with connect(door.listener.port) as line:
        began = time.monotonic()
        with suppress(OSError):
            for byte in request() if drips else b"":
                line.sendall(bytes((byte,)))
                time.sleep(0.05)
                if time.monotonic() - began > 5:
                    break
        assert is_closed(line) and time.monotonic() - began < 5
    until(lambda: door.told("sent no request in time"))


@pytest.mark.parametrize("drips", [False, True])
def test_an_association_that_rests_or_drips_ends(
    door: Door, monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    monkeypatch.setattr(gate, "PATIENCE_S", 0.5)
    with associated(door.listener.port) as line:
        began = time.monotonic()
        with suppress(OSError):
            for byte in header(DATA, 200) + bytes(200) if drips else b"":
                line.sendall(bytes((byte,)))
                time.sleep(0.05)
                if time.monotonic() - began > 5:
                    break
        assert is_closed(line) and time.monotonic() - began < 5
    until(lambda: door.told("was too slow, or rested"))


def test_a_flood_of_silent_and_slow_connections_keeps_no_peer_out(door: Door) -> None:
    with ExitStack() as lines:
        for number in range(300):
            line = lines.enter_context(connect(door.listener.port))
            with suppress(OSError):
                line.sendall(request()[: number % 40])
        assert call(door.listener.port, [dx(Side.LEFT)]) == [0, 0]
    assert len(list(door.queue.studies())) == 1
    assert len(door.lines) < 10  # a flood of lines is none


def test_connections_are_counted_by_address_and_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PENDING", 10)
    monkeypatch.setattr(gate, "PENDING_AN_ADDRESS", 6)
    door = Door(tmp_path, peers=(f"{TITLE}@127.0.0.0/24",))
    with ExitStack() as stack:
        first = [stack.enter_context(connect(door.listener.port)) for _ in range(8)]
        assert all(is_closed(line) for line in first[:2])
        for line in first[2:]:
            line.settimeout(0.2)
            with pytest.raises(TimeoutError):
                line.recv(1)
        others = [stack.enter_context(connect(door.listener.port, source="127.0.0.2")) for _ in range(6)]
        first[2].settimeout(20)
        assert is_closed(first[2])  # there were ten, and its address had most
        others[-1].sendall(request())
        assert answer(others[-1])[0] == 2
    door.close()


def test_who_rests_leaves_his_place_to_who_waits(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "STALE_S", 1.0)
    with ExitStack() as stack:
        lines = [stack.enter_context(associated(door.listener.port)) for _ in range(gate.ASSOCIATIONS)]
        assert call(door.listener.port) == [0]
        assert answer(lines[0])[0] == ABORT
    until(lambda: door.told("its place was needed"))


def test_when_all_places_are_at_work_the_next_is_told_to_try_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "STALE_S", 0.5)
    monkeypatch.setattr(gate._Association, "stale", lambda self: False)
    with ExitStack() as stack:
        for _ in range(gate.ASSOCIATIONS):
            stack.enter_context(associated(door.listener.port))
        with connect(door.listener.port) as line:
            line.sendall(request())
            assert answer(line) == header(3, 4) + bytes((0, 2, 3, 2))
    until(lambda: door.told("all places are taken"))


def test_each_peer_has_a_place_that_no_other_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "STALE_S", 1e6)
    door = Door(tmp_path, peers=(f"{TITLE}@127.0.0.1", "OTHER@127.0.0.2", "THIRD@127.0.0.3"))
    with ExitStack() as stack:
        for _ in range(gate.ASSOCIATIONS - 2):
            stack.enter_context(associated(door.listener.port))
        more = stack.enter_context(connect(door.listener.port))
        more.sendall(request())
        more.settimeout(0.5)
        with pytest.raises(TimeoutError):
            more.recv(1)
        for title, source in (("OTHER", "127.0.0.2"), ("THIRD", "127.0.0.3")):
            stack.enter_context(associated(door.listener.port, title, source=source))
    door.close()


def _echo() -> bytes:
    """A C-ECHO request, as a PDU."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    parts = element(0x0002, b"1.2.840.10008.1.1\0") + element(0x0100, struct.pack("<H", 0x30))
    parts += element(0x0110, struct.pack("<H", 1)) + element(0x0800, struct.pack("<H", 0x101))
    command = element(0, struct.pack("<L", len(parts))) + parts
    return data(command, control=3)


def data(content: bytes, *, control: int) -> bytes:
    """A PDU of one fragment."""
    value = struct.pack(">LBB", len(content) + 2, 1, control) + content
    return header(DATA, len(value)) + value


def test_messages_are_answered_one_at_a_time(door: Door) -> None:
    with associated(door.listener.port) as line:
        for _ in range(3):
            line.sendall(_echo())
            assert answer(line)[0] == DATA
        line.sendall(_echo() * 2)
        assert is_closed(line)
    until(lambda: door.told("before the last one was answered"))


@pytest.mark.parametrize("control", [1, 0], ids=["command", "object"])
def test_a_message_without_end_is_cut_off(door: Door, control: int) -> None:
    with associated(door.listener.port) as line, suppress(OSError):
        sent = 0
        while sent < 16 << 20:
            line.sendall(data(bytes(60_000), control=control))
            sent += 60_000
        pytest.fail("all of it was taken")
    until(lambda: door.told("an object over the limit"))
    assert call(door.listener.port) == [0]


@pytest.mark.parametrize("length", [0, 1, 1 << 31])
def test_fragments_that_lie_about_their_lengths_end_the_association(door: Door, length: int) -> None:
    with associated(door.listener.port) as line:
        line.sendall(header(DATA, 6) + struct.pack(">LBB", length, 1, 3))
        assert answer(line)[0] == ABORT


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_handshakes_of_tls_that_hang_hold_nobody_up(tmp_path: Path) -> None:
    ours = make_certificate(tmp_path, "ours")
    door = Door(tmp_path, tls=ours)
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(door.listener.port)) for _ in range(100)]
        for number, line in enumerate(silent):
            line.sendall(b"\x16\x03\x01\x40\x00\x01"[: number % 7])  # a record of 16 kB begins
        assert call(door.listener.port, [dx(Side.LEFT)], tls=ours.client()) == [0, 0]
        began = time.monotonic()
        door.close()
        assert time.monotonic() - began < 5
        assert all(is_closed(line) for line in silent)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_tls_that_fails_is_told_and_forgotten(tmp_path: Path) -> None:
    ours = make_certificate(tmp_path, "ours")
    door = Door(tmp_path, tls=ours)
    with connect(door.listener.port) as line:
        line.sendall(request())
        assert is_closed(line)
    anonymous = ssl.create_default_context(cafile=str(ours.authorities))
    with (
        suppress(OSError),
        anonymous.wrap_socket(connect(door.listener.port), server_hostname="localhost") as line,
    ):
        line.sendall(request())
        assert answer(line) == b""
    until(lambda: door.told("as TLS failed"))
    assert call(door.listener.port, tls=ours.client()) == [0]
    door.close()


def test_it_stops_at_once_whoever_is_connected(tmp_path: Path) -> None:
    door = Door(tmp_path)
    with ExitStack() as stack:
        lines = [stack.enter_context(connect(door.listener.port)) for _ in range(20)]
        lines.append(stack.enter_context(associated(door.listener.port)))
        lines[-1].sendall(header(DATA, 1000)[:5])
        began = time.monotonic()
        door.close()
        assert time.monotonic() - began < 4
        assert all(is_closed(line) for line in lines)
        with pytest.raises(ConnectionRefusedError):
            connect(door.listener.port)


def test_a_machine_without_file_descriptors_takes_connections_again_later(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as used:
        lowest = used.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 8, hard))
    try:
        with ExitStack() as stack, suppress(OSError):
            for _ in range(10):
                stack.enter_context(connect(door.listener.port))
            time.sleep(0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert call(door.listener.port) == [0]


def test_a_peer_that_breaks_off_leaves_its_study_to_be_predicted(door: Door) -> None:
    entity = AE(ae_title=TITLE)
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", door.listener.port, ae_title=OWN)
    film: Dataset = dx(Side.LEFT)
    assert association.send_c_store(film).Status == 0
    assert door.listener.coming() == {door.queue.study(str(film.StudyInstanceUID)).name}
    association.abort()
    until(lambda: not door.listener.coming())
