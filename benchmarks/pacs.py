"""How long a study takes from its last object to its last result at the receiving node, and what that costs.

    python benchmarks/pacs.py --studies 20 --threads 1

Starts `progression pacs serve` with the shipped model as a process, sends studies of one synthetic knee each over one
association a study, and takes the results. Prints latency of a study alone, of a queue of them, and peak memory.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from progression.dicom import example
from progression.image import read_image
from progression.types import Side
from progression.weights import resolve

OBJECTS = 3
"""A horizon: its picture, the risks, the report."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--alone", type=int, default=5, help="Studies that are measured one at a time.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet-seconds", type=float, default=1.0)
    parser.add_argument(
        "--spacing-mm", type=float, default=0.14, help="Of the film: 0.14 makes it 1000 pixels wide."
    )
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    arrived: dict[str, list[float]] = {}
    uids: list[str] = []

    def store(event: evt.Event) -> int:
        uids.append(str(event.dataset.SOPInstanceUID))
        arrived.setdefault(str(event.dataset.StudyInstanceUID), []).append(time.monotonic())
        return 0

    node = AE(ae_title="PACS")
    for kind in (SecondaryCaptureImageStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
        node.add_supported_context(kind)
    server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process, port = start(Path(folder), server.server_address[1], options)
        print(f"start: {time.monotonic() - began:.1f} s; at rest {memory(process, 'VmRSS'):.2f} GiB")
        try:
            first = [wait(arrived, send(port, options.spacing_mm)) for _ in range(options.alone + 1)]
            print(f"first study: {first[0]:.2f} s from its last object to its last result")
            alone = sorted(first[1:])
            print(f"{options.alone} more, one at a time: {median(alone):.2f} s ({alone[0]:.2f} to {alone[-1]:.2f}), "
                  f"of which {options.quiet_seconds:g} s are the wait for more")  # fmt: skip
            print(f"peak memory {memory(process, 'VmHWM'):.2f} GiB")
            began = time.monotonic()
            sent = [send(port, options.spacing_mm) for _ in range(options.studies)]
            print(f"{options.studies} at once: all taken in {time.monotonic() - began:.1f} s")
            waits = sorted(wait(arrived, one) for one in sent)
            total = max(max(arrived[uid]) for uid, _ in sent) - began
            print(
                f"all returned in {total:.1f} s; a study {median(waits):.1f} s ({waits[0]:.1f} to {waits[-1]:.1f})"
            )
            print(
                f"peak memory {memory(process, 'VmHWM'):.2f} GiB; {len(uids)} objects, {len(set(uids))} UIDs"
            )
        finally:
            process.terminate()
            process.wait()
            server.shutdown()


def start(folder: Path, node_port: int, options: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """The server; returns with its port when it listens."""
    command = [sys.executable, "-m", "progression", "pacs", "serve", "--queue", str(folder), "--port", "0"]
    command += ["--peer", "PACS@127.0.0.1", "--to", f"PACS@127.0.0.1:{node_port}", "--engine", options.engine]
    command += ["--quiet-seconds", str(options.quiet_seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    found = re.search(r"port (\d+)", process.stdout.readline())
    assert found is not None
    return process, int(found[1])


def send(port: int, spacing_mm: float) -> tuple[str, float]:
    """A study of one knee; its UID, and when it was confirmed."""
    film = example.knee_film(
        read_image(resolve("default") / "example.png"), side=Side.RIGHT, spacing_mm=spacing_mm
    )
    entity = AE(ae_title="PACS")
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = entity.associate("127.0.0.1", port, ae_title="PROGRESSION")
    assert association.is_established and association.send_c_store(film).Status == 0
    confirmed = time.monotonic()
    association.release()
    return str(film.StudyInstanceUID), confirmed


def wait(arrived: dict[str, list[float]], sent: tuple[str, float]) -> float:
    """Seconds from a study's last object to its last result."""
    uid, confirmed = sent
    while len(arrived.get(uid, ())) < OBJECTS:
        time.sleep(0.01)
    return max(arrived[uid]) - confirmed


def memory(process: "subprocess.Popen[str]", which: str) -> float:
    """GiB of a process and its children, one of which predicts, as Linux counts them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    total = 0
    for one in (str(process.pid), *children):
        found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
        assert found is not None
        total += int(found[1])
    return total / (1 << 20)


if __name__ == "__main__":
    main()
