"""Does any damaged or hostile DICOM file crash the reader, exhaust memory, or leave something on the disk?

Seeds: the package's own example films in every transfer syntax that can be written here, and the DICOM files that
pydicom brings, as they are and as Secondary Captures. Each mutation is read as a film; in turn it is also looked at for
its patient's name, for the study to which objects return, as a cohort lists it, and de-identified. An answer or a
ProgressionError is right; any other exception, a killed process, a hang, too much memory, or a file written is a
finding.

    python benchmarks/fuzz_dicom.py --mutations 100000

Mutations are drawn with a seed; a finding is told as its seed and number, and `--only NUMBER` repeats it. Worker
processes do the reading, so that a crash of a decoder is seen and counted, not suffered.
"""

import argparse
import collections
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

MAX_MEMORY_MB = 1500
PATIENCE_S = 20
"""Of processor time a mutation; more is a hang."""
CHUNK = 5000
_INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
_TEXTS = (
    b"../../../../etc/x",
    b"..\\..\\x",
    b"/tmp/fuzz-escape",
    b"\x1b$B\x1b(B",
    b"\xff\xfe\xfd",
    b"1.2.3/../4",
    b"%s%n",
    b"\0\0",
)
_ESCAPES = ("/tmp/fuzz-escape", "/etc/x")
_TAGS = tuple(  # group and element of what the reader looks at
    struct.pack("<HH", group, element)
    for group, element in [
        (0x28, 0x10), (0x28, 0x11), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103), (0x28, 4), (0x28, 2), (0x28, 8),
        (0x28, 0x1050), (0x28, 0x1051), (0x28, 0x1053), (0x28, 0x30), (0x18, 0x1164), (0x8, 0x16), (0x8, 0x18),
        (0x2, 0x10), (0x20, 0xD), (0x20, 0x62), (0x8, 5), (0x10, 0x10), (0x7FE0, 0x10), (0x2, 0),
    ]
)  # fmt: skip


def seeds() -> dict[str, bytes]:
    """Name to content of what is mutated."""
    import pydicom
    from pydicom import uid
    from pydicom.pixels import get_encoder

    from progression.dicom import example
    from progression.dicom.write import file_bytes
    from progression.types import Side

    y, x = np.mgrid[0:96, 0:96] / 96
    knee = (0.2 + 0.6 * np.exp(-(((x - 0.5) / 0.3) ** 6)) - 0.3 * (np.abs(y - 0.5) < 0.04)).astype(np.float32)
    found = {}
    for name, made in (
        ("dx", example.dx(knee, side=Side.LEFT, spacing_mm=1.4, inverted=True)),
        ("cr", example.cr(knee, spacing_mm=None, bits=10)),
        ("sc", example.sc(knee)),
    ):
        found[name] = file_bytes(made, name)
        for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless):
            if not get_encoder(syntax).is_available:  # the extra dicom is not installed
                continue
            copy = pydicom.dcmread(BytesIO(found[name]))
            copy.compress(syntax, generate_instance_uid=False)
            found[f"{name}, {syntax.name}"] = file_bytes(copy, name)
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm")):
        if path.stat().st_size < 400_000:
            found[path.name] = path.read_bytes()
            if (disguised := _as_capture(found[path.name])) is not None:
                found[f"{path.name} as SC"] = disguised
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("DICOMDIR*")):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


def _as_capture(content: bytes) -> bytes | None:
    """An image of another kind as Secondary Capture of no named part, so that its pixels are reached."""
    import pydicom
    from pydicom import uid

    from progression.dicom.write import file_bytes

    try:
        data = pydicom.dcmread(BytesIO(content))
        if "PixelData" not in data or data.get("NumberOfFrames", 1) != 1:
            return None
        data.SOPClassUID = uid.SecondaryCaptureImageStorage
        data.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
        data.pop("BodyPartExamined", None)
        return file_bytes(data, "seed")
    except Exception:  # some of pydicom's files are damaged on purpose
        return None


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to six changes: bits, bytes, numbers, texts, lengths after known tags, cuts, repeats."""
    data = bytearray(content)
    for _ in range(min(6, int(rng.geometric(0.6)))):
        if len(data) < 8:
            break
        # headers are short and pixels long: most changes go to the first 4 kB
        reach = len(data) if rng.random() < 0.5 else min(len(data), 4096)
        at = int(rng.integers(0, reach - 7))
        kind = int(rng.integers(0, 9))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", int(rng.choice(_INTERESTING)))
        elif kind == 3:
            data[at : at + 2] = struct.pack("<H", int(rng.choice(_INTERESTING)) & 0xFFFF)
        elif kind == 4:
            text = _TEXTS[int(rng.integers(0, len(_TEXTS)))]
            data[at : at + len(text)] = text
        elif kind == 5 and rng.random() < 0.3:
            del data[at:]
        elif kind == 6:
            length = int(rng.integers(1, 64))
            data[at:at] = data[at : at + length] * int(rng.integers(1, 8))
        elif kind == 7:
            del data[at : at + int(rng.integers(1, 64))]
        else:
            place = data.find(_TAGS[int(rng.integers(0, len(_TAGS)))], 128)
            if place >= 0 and place + 12 < len(data):
                value = int(rng.choice(_INTERESTING)) & 0xFFFF
                data[place + 8 : place + 10] = struct.pack(
                    "<H", value if rng.random() < 0.7 else int(rng.integers(0, 4096))
                )
    return bytes(data)


def mutations(seed: int, first: int, count: int) -> Iterator[tuple[int, str, bytes]]:
    """Number, seed's name, content; each depends on the seed and its own number only."""
    sources = list(seeds().items())
    reading = [
        (name, content)
        for name, content in sources
        if name.startswith(("dx", "cr", "sc", "SC")) or "as SC" in name
    ]
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        # every other from the radiographs and captures, which the reader goes through to the end
        reach = reading if rng.random() < 0.5 else sources
        name, content = reach[int(rng.integers(0, len(reach)))]
        yield number, name, mutate(content, rng)


def read_everything(content: bytes, turn: int) -> str:
    """What becomes of one file as a film: "read", or the kind of the typed error; and one more use, by turns."""
    from progression.dicom.deidentify import Deidentifier
    from progression.dicom.read import read_film
    from progression.dicom.study import Study, neutral_name_of
    from progression.errors import ProgressionError
    from progression.image import check_pixels

    uses = (
        lambda: neutral_name_of(content, "x", "x.dcm"),
        lambda: Study.of(content, label="x.dcm").evidence(),
        lambda: Deidentifier(key=b"k" * 32, keep_intervals=True).file(content, "x.dcm"),
        lambda: _list(content),
    )
    told = []
    for step in (lambda: check_pixels(read_film(content, "x.dcm").values, "x.dcm"), uses[turn % len(uses)]):
        try:
            step()
            told.append("read")
        except ProgressionError as error:
            if "\n" in str(error) or len(str(error)) > 400:
                raise AssertionError(f"a message of {len(str(error))} characters or several lines") from error
            told.append(type(error).__name__)
    return told[0]


def _list(content: bytes) -> None:
    """As the films of a folder, and of a DICOMDIR, are looked at."""
    from progression.dicom.catalogue import directory_files, is_directory, listed

    with tempfile.NamedTemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        path = Path(stream.name)
        listed(path, "x")
        if is_directory(path):
            inside = [
                found.resolve().is_relative_to(path.parent.resolve()) for found, _ in directory_files(path)
            ]
            assert all(inside), "a DICOMDIR leads out of its folder"


def _work(seed: int, first: int, count: int) -> None:
    """In a child process: read, and print one JSON line a finding and one at the end."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "", 0)
    for number, name, content in mutations(seed, first, count):
        print(json.dumps({"at": number}), flush=True)
        signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)  # its signal ends the process
        started = time.monotonic()
        try:
            outcomes[read_everything(content, number)] += 1
        except Exception as error:
            outcomes["FINDING"] += 1
            print(
                json.dumps({"finding": number, "name": name, "error": f"{type(error).__name__}: {error}"}),
                flush=True,
            )
        slowest = max(slowest, (time.monotonic() - started, name, number))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"outcomes": outcomes, "peak_mb": peak_mb, "slowest": slowest}), flush=True)


def main() -> int:
    """Run all chunks; returns 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", type=int, help="repeat one mutation in this process")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        _work(given.seed, *given.work)
        return 0
    if given.only is not None:
        print(read_everything(next(mutations(given.seed, given.only, 1))[2], given.only))
        return 0
    outcomes: collections.Counter[str] = collections.Counter()
    findings, peak_mb, slowest = [], 0.0, (0.0, "", 0)
    with tempfile.TemporaryDirectory() as folder:
        first, end = given.first, given.first + given.mutations
        while first < end:
            count = min(CHUNK, end - first)
            command = [
                sys.executable,
                os.path.abspath(__file__),
                "--seed",
                str(given.seed),
                "--work",
                str(first),
                str(count),
            ]
            # what a crash leaves among temporary files is seen, too
            environment = {**os.environ, "TMPDIR": folder}
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=folder, env=environment, check=False
            )
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            findings += [line for line in lines if "finding" in line]
            if done.returncode == 0:
                outcomes.update(lines[-1]["outcomes"])
                peak_mb, slowest = (
                    max(peak_mb, lines[-1]["peak_mb"]),
                    max(slowest, tuple(lines[-1]["slowest"])),
                )
                first += count
            else:
                last = max((line["at"] for line in lines if "at" in line), default=first)
                reason = f"process ended with {done.returncode}: {done.stderr.strip()[-200:]}"
                findings.append({"finding": last, "error": reason})
                outcomes["CRASH"] += 1
                first = last + 1
            print(
                f"{first} of {end}, findings {len(findings)}, peak {peak_mb:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
        left = sorted(os.listdir(folder)) + [name for name in _ESCAPES if os.path.exists(name)]
    for finding in findings:
        print(finding)
    print(
        f"mutations {given.mutations} from {given.first}, seed {given.seed}; "
        f"outcome of reading the film: {dict(outcomes)}"
    )
    print(
        f"findings {len(findings)}; peak memory {peak_mb:.0f} MB; "
        f"slowest file {slowest[0]:.2f} s ({slowest[1]}); files left: {left or 'none'}"
    )
    return int(bool(findings or left or peak_mb > MAX_MEMORY_MB))


if __name__ == "__main__":
    sys.exit(main())
