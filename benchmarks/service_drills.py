"""What `progression pacs serve` promises, tried on a real process: under a flood, under kills, on a full disk.

    python benchmarks/service_drills.py flood            # 200 silent, 200 slow, 50 huge connections; --tls for TLS
    python benchmarks/service_drills.py kills            # 50 SIGKILLs each while it receives, predicts and sends
    python benchmarks/service_drills.py disk             # its disk filled 50 times (as root: mounts a small tmpfs)

All on this machine's loopback addresses, seeded, with bounded counts and times. Prints a row of a table; the exit code
is 1 if something was lost, doubled or failed. `--model` takes another model's folder. `--light` has the same command
with a reader that needs no model: it waits for 0.3 s and writes three objects for a film.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from queue import Empty, Queue
from selectors import EVENT_READ, DefaultSelector
from socket import create_connection, socket
from statistics import median
from threading import Event, Lock, Thread

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from progression.files import atomic_folder
from progression.pacs.queue import content_digest
from progression.pacs.service import Reading

OBJECTS = 3
"""A horizon: its picture, the risks, the report."""
TITLE, OWN = "PACS", "PROGRESSION"
SILENT, SLOW, HUGE = 200, 200, 50
PATIENCE_S = 300.0


@dataclass
class Node:
    """Takes results: by study, the digests of what came under each UID."""

    arrived: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    on_arrival: Callable[[], None] = lambda: None
    lock: Lock = field(default_factory=Lock)

    def store(self, event: evt.Event) -> int:
        made, content = event.dataset, event.encoded_dataset(include_meta=False)
        with self.lock:
            of_study = self.arrived.setdefault(str(made.StudyInstanceUID), {})
            of_study.setdefault(str(made.SOPInstanceUID), []).append(sha256(content).hexdigest())
        self.on_arrival()
        return 0

    def has_all(self, study: str) -> bool:
        return len(self.arrived.get(study, ())) >= OBJECTS

    @contextmanager
    def listening(self) -> Iterator[int]:
        entity = AE(ae_title=TITLE)
        for kind in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
            entity.add_supported_context(kind)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)]
        )
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


class Served:
    """One life of the service; its lines come in a queue."""

    def __init__(
        self, queue: Path, node_port: int, options: argparse.Namespace, *more: str, port: int = 0
    ) -> None:
        command = [sys.executable, *((__file__, "light") if options.light else ("-m", "progression"))]
        command += ["pacs", "serve", "--queue", str(queue)]
        command += ["--peer", f"{TITLE}@127.0.0.1", "--to", f"{TITLE}@127.0.0.1:{node_port}", "--title", OWN]
        command += ["--port", str(port), "--quiet-seconds", str(options.quiet_seconds)]
        command += ["--min-free-mb", "0", "--model", options.model, "--engine", options.engine]
        command += ["--accept-atypical", *more]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.lines: Queue[str] = Queue()
        self.told: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.until(r"listens on .* port (\d+)")[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(line)
            self.lines.put(line)

    def until(self, pattern: str, *, seconds: float = PATIENCE_S) -> re.Match[str]:
        """The next line that holds a pattern."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty as error:
                raise TimeoutError(f"no line like {pattern!r}") from error
            if found := re.search(pattern, line):
                return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """Seconds from SIGTERM to its end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - began

    def memory_mib(self) -> float:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


class LightReader:
    """Makes three objects of a film without looking at it, the same at every run."""

    def read(self, films: Sequence[Path], results: Path, *, known: Collection[str] = ()) -> Reading:
        keys = []
        for path in films:
            content = path.read_bytes()
            keys.append(key := content_digest(content)[:32])
            if key in known or (results / key).is_dir():
                continue
            time.sleep(0.3)
            source = dcmread(BytesIO(content), stop_before_pixels=True)
            with atomic_folder(results / key) as folder:
                for name in ("future_048m", "report", "risk"):
                    made = Dataset()
                    made.file_meta = FileMetaDataset()
                    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                    made.SOPClassUID = EncapsulatedPDFStorage
                    made.SOPInstanceUID = f"2.25.{int(sha256((key + name).encode()).hexdigest()[:32], 16)}"
                    made.StudyInstanceUID, made.SeriesInstanceUID = source.StudyInstanceUID, "1.2.3"
                    made.EncapsulatedDocument = bytes(100_000)
                    made.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        return Reading(tuple(keys))


def light_reader(*_: object, **__: object) -> LightReader:
    return LightReader()


def serve_light(arguments: Sequence[str]) -> int:
    """`progression pacs serve` with that reader."""
    from progression import cli
    from progression.cli import pacs

    pacs._load_reader = light_reader  # type: ignore[assignment]
    return cli.run(arguments)


def film(spacing_mm: float) -> Dataset:
    from progression.dicom import example  # not in the light reader's process
    from progression.image import read_image
    from progression.types import Side
    from progression.weights import resolve

    return example.knee_film(
        read_image(resolve("default") / "example.png"), side=Side.RIGHT, spacing_mm=spacing_mm
    )


def send(port: int, films: list[Dataset], tls: ssl.SSLContext | None = None) -> list[Dataset]:
    """Send films over an association; returns those that were not confirmed."""
    entity = AE(ae_title=TITLE)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    secured = (tls, "localhost") if tls else None
    association = entity.associate("127.0.0.1", port, ae_title=OWN, tls_args=secured)
    left = list(films)
    for one in films if association.is_established else ():
        with suppress(RuntimeError, ValueError):
            if getattr(association.send_c_store(one), "Status", None) == 0:
                left.remove(one)
    if association.is_established:
        association.release()
    return left


def _send_into(left: list[Dataset], port: int, films: list[Dataset]) -> None:
    left += send(port, films)


def settle(
    served: Served,
    node: Node,
    studies: list[str],
    waiting: list[Dataset],
    *,
    seconds: float = 10 * PATIENCE_S,
) -> list[Dataset]:
    """Send what is left until it is confirmed, and wait for all results; returns what was not confirmed."""
    end = time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        waiting = send(served.port, waiting)
    while not all(node.has_all(study) for study in studies) and time.monotonic() < end:
        time.sleep(0.1)
    return waiting


def judge(queue: Path, node: Node, studies: list[str]) -> dict[str, int]:
    """What came of the studies: all zeros but `again`, which are the same objects to the byte."""
    states = [path.read_text() for path in queue.glob("study-*/state.json")]
    per_uid = [came for study in studies for came in node.arrived.get(study, {}).values()]
    return {
        "lost": sum(not node.has_all(study) for study in studies),
        "doubled": sum(len(node.arrived.get(study, ())) > OBJECTS for study in studies)
        + sum(len(set(came)) > 1 for came in per_uid),
        "failed": sum('"state": "failed"' in state for state in states),
        "held": sum('"state": "held"' in state for state in states),
        "aside": len(list(queue.glob("aside/*"))),
        "again": sum(len(came) - 1 for came in per_uid),
    }


def kills(options: argparse.Namespace) -> bool:
    """SIGKILL at random moments of each stage."""
    chance, good = random.Random(options.seed), True
    for stage in options.stages:
        node, studies, waiting = Node(), list[str](), list[Dataset]()
        with tempfile.TemporaryDirectory() as folder, node.listening() as node_port:
            queue, began = Path(folder) / "queue", time.monotonic()
            for _ in range(options.times):
                served = Served(queue, node_port, options)
                waiting += [film(options.spacing_mm) for _ in range(3 if stage == "receiving" else 1)]
                studies += [
                    str(one.StudyInstanceUID) for one in waiting[-3 if stage == "receiving" else -1 :]
                ]
                if stage == "receiving":
                    left = list[Dataset]()
                    sending = Thread(target=_send_into, args=(left, served.port, waiting))
                    sending.start()
                    time.sleep(chance.uniform(0, 0.15))
                    served.kill()
                    sending.join()
                    waiting = left
                    continue
                waiting = send(served.port, waiting)
                with suppress(TimeoutError):
                    if stage == "predicting":
                        served.until(r"received, \d+ films", seconds=60)
                        time.sleep(chance.uniform(0, options.predicting_s))
                    else:
                        seen, wanted = Event(), chance.randint(1, OBJECTS)
                        count = [0]

                        def arrived(count=count, wanted=wanted, seen=seen) -> None:  # type: ignore[no-untyped-def]
                            count[0] += 1
                            if count[0] == wanted:
                                seen.set()

                        node.on_arrival = arrived
                        seen.wait(60)
                        time.sleep(chance.uniform(0, 0.01))
                served.kill()
            node.on_arrival = lambda: None
            served = Served(queue, node_port, options)
            settle(served, node, studies, waiting)
            time.sleep(1)
            served.stop()
            found = judge(queue, node, studies)
            print(f"| {options.times} kills while {stage} | {len(studies)} studies | {_told(found)} | "
                  f"{time.monotonic() - began:.0f} s |", flush=True)  # fmt: skip
            good = good and not any(value for name, value in found.items() if name != "again")
    return good


def disk(options: argparse.Namespace) -> bool:
    """The queue's disk filled to a random byte at a random moment, and made free again."""
    chance, node, studies, waiting = random.Random(options.seed), Node(), list[str](), list[Dataset]()
    with tempfile.TemporaryDirectory() as folder, node.listening() as node_port, ExitStack() as ending:
        small = Path(folder) / "disk"
        small.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(small)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            print("disk: skipped, as no tmpfs can be mounted here (needs root)")
            return True
        ending.callback(subprocess.run, ["umount", "-l", str(small)], check=False)
        queue, filler, began = small / "queue", small / "filler", time.monotonic()
        served = Served(queue, node_port, options)
        refused = 0
        for _ in range(options.times):
            waiting.append(film(options.spacing_mm))
            studies.append(str(waiting[-1].StudyInstanceUID))
            before = chance.random() < 0.3  # else while it works
            if before:
                _fill(filler, int(10 ** chance.uniform(0, 6.5)))
            left = send(served.port, waiting)
            refused += len(left)
            if not before:
                time.sleep(chance.uniform(0, options.predicting_s + options.quiet_seconds))
                _fill(filler, int(10 ** chance.uniform(0, 6.5)))
            time.sleep(chance.uniform(0.2, options.predicting_s))
            filler.unlink(missing_ok=True)
            waiting = settle(
                served, node, studies, left, seconds=60
            )  # so that the next time something is at work
        settle(served, node, studies, waiting)
        time.sleep(1)
        pauses = sum("goes on in" in line for line in served.told)
        served.stop()
        found = judge(queue, node, studies)
        print(f"| disk filled {options.times} times | {len(studies)} studies, {refused} times told to try again, "
              f"{pauses} pauses | {_told(found)} | {time.monotonic() - began:.0f} s |", flush=True)  # fmt: skip
    return not any(value for name, value in found.items() if name != "again")


def _fill(filler: Path, free_bytes: int) -> None:
    """Leave so many bytes."""
    with filler.open("wb") as stream, suppress(OSError):
        stream.truncate(0)
        room = shutil.disk_usage(filler.parent).free - free_bytes
        os.posix_fallocate(stream.fileno(), 0, max(1, room))


def flood(options: argparse.Namespace) -> bool:
    """A film's way before and under a flood from its own address."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    node = Node()
    with tempfile.TemporaryDirectory() as folder, node.listening() as node_port:
        tls, more = _certificate(Path(folder)) if options.tls else (None, ())
        served = Served(Path(folder) / "queue", node_port, options, *more)
        usual = [_way(served, node, options, tls) for _ in range(options.studies + 1)][1:]
        over, counts = Event(), {"opened": 0, "closed": 0}
        attack = Thread(target=_attack, args=(served.port, over, counts))
        attack.start()
        time.sleep(3)
        under = [_way(served, node, options, tls) for _ in range(options.studies)]
        peak, began = served.memory_mib(), served.stop()
        over.set()
        attack.join()
    ratio = max(under) / median(usual)
    print(f"| flood{' with TLS' if tls else ''}: {SILENT} silent, {SLOW} slow, {HUGE} huge; "
          f"{counts['opened']} connections opened | usual {median(usual):.2f} s ({min(usual):.2f} to {max(usual):.2f}) "
          f"| under it {median(under):.2f} s ({min(under):.2f} to {max(under):.2f}), at most {ratio:.2f} of the usual "
          f"| peak of the service {peak:.0f} MiB, ended {began:.1f} s after SIGTERM |", flush=True)  # fmt: skip
    return ratio < 2


def _way(served: Served, node: Node, options: argparse.Namespace, tls: ssl.SSLContext | None) -> float:
    """Seconds from sending a film to its last result."""
    one, began = film(options.spacing_mm), time.monotonic()
    waiting = [one]
    while waiting:
        waiting = send(served.port, waiting, tls)
    while not node.has_all(str(one.StudyInstanceUID)):
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError("no result")
        time.sleep(0.01)
    return time.monotonic() - began


def _attack(port: int, over: Event, counts: dict[str, int]) -> None:
    """Keep so many connections of each kind open; each that is closed is opened again."""
    kinds = ["silent"] * SILENT + ["slow"] * SLOW + ["huge"] * HUGE
    huge = struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + bytes(1 << 16)
    lines: dict[socket, str] = {}
    with DefaultSelector() as selector:
        turn = 0
        while not over.is_set():
            for _ in range(5):  # at most 100 new ones in a second
                if not kinds:
                    break
                with suppress(OSError):
                    line = create_connection(("127.0.0.1", port), timeout=1)
                    line.setblocking(False)
                    selector.register(line, EVENT_READ)
                    lines[line] = kinds.pop()
                    counts["opened"] += 1
            turn += 1
            for number, (line, kind) in enumerate(lines.items()):
                with suppress(OSError):
                    if number % 20 == turn % 20 and kind != "silent":  # once a second
                        line.send(huge if kind == "huge" else b"\x01")
            time.sleep(0.05)
            for key, _ in selector.select(0):
                closed = key.fileobj
                assert isinstance(closed, socket)
                with suppress(BlockingIOError):
                    try:
                        if closed.recv(4096):
                            continue
                    except ConnectionError:
                        pass
                    selector.unregister(closed)
                    closed.close()
                    kinds.append(lines.pop(closed))
                    counts["closed"] += 1
        for line in lines:
            line.close()


def _certificate(folder: Path) -> tuple[ssl.SSLContext, tuple[str, ...]]:
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {made}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(made))
    context.load_cert_chain(made, key)
    return context, ("--tls-certificate", str(made), "--tls-key", str(key), "--tls-ca", str(made))


def _told(found: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drill", choices=("flood", "kills", "disk"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--times", type=int, default=50, help="Kills a stage, or times that the disk is filled."
    )
    parser.add_argument("--stages", nargs="+", default=["receiving", "predicting", "sending"])
    parser.add_argument("--predicting-s", type=float, default=3.0, help="What predicting a film takes about.")
    parser.add_argument("--studies", type=int, default=5, help="Timed before and under the flood.")
    parser.add_argument("--spacing-mm", type=float, default=0.5)
    parser.add_argument("--quiet-seconds", type=float, default=0.2)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--light", action="store_true", help="Without a model: a reader that waits.")
    options = parser.parse_args()
    drill = {"flood": flood, "kills": kills, "disk": disk}[options.drill]
    sys.exit(0 if drill(options) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["light"]:
        sys.exit(serve_light(sys.argv[2:]))
    main()
