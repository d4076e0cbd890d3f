"""Does any table crash a reader, hang it, exhaust memory, or make one person of two? Does a full disk cost a cohort?

Seeds are good tables of every kind that the package reads: cohort, visits, ratings, outcomes, results, knees, and a
release's text file. Mutations know how tables are made: delimiters, quotes, missing-value words, encodings, NULs, odd
numbers, columns that come twice or are called otherwise, and bytes anywhere. An answer or a ProgressionError is right;
any other exception, more than two seconds, or more than a gibibyte is a finding. So is, in a cohort that is read:

- a knee with another one in view of which nobody says the subject, or another subject;
- a row that gives another entry alone than among the other rows.

    python benchmarks/hostile_tables.py --mutations 20000 --disks 50

`--disks` also runs cohorts on disks that are full at random bytes: by the system's limit on a file's size, which cuts
writes in the middle, and, as root, on a small file system in memory. After every failure the run is started again with
more room; at the end every knee must be there once, and none may have failed that did not at first.

Mutations are drawn with a seed; a finding is told as its number, and `--only NUMBER` repeats it.
"""

import argparse
import collections
import csv
import io
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from progression import entries, tables
from progression.cohort import run_cohort
from progression.data.importers.knees import import_knees
from progression.data.importers.release import read_release
from progression.data.visits import read_visits
from progression.entries import Entry
from progression.errors import OutputError, ProgressionError
from progression.evaluate.followup import read_followup
from progression.evaluate.readers import read_ratings
from progression.evaluate.risk import read_results
from progression.types import HorizonPrediction, Prediction, Radiograph, Request, Side

MAX_SECONDS = 2.0
MAX_MEGABYTES = 1024.0
"""Above what the process has before the first mutation."""
_MISSING = (
    "NA",
    "nan",
    "N/A",
    "null",
    "None",
    "-",
    ".",
    "?",
    "#N/A",
    "<NA>",
    "",
    " ",
    "\u00a0",
    "#NV",
    "unknown",
)
_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "1,5",
    "1,234",
    "٢",
    "２",
    "0x1",
    "1_0",
    "9" * 400,
    "1e-320",
    "+2",
    "2.0",
)
_TEXTS = (
    "=1+1",
    "+cmd|x",
    "@a",
    "\x1b[2J",
    "\u202e",
    "a\nb",
    'say "x"',
    "'",
    "''=1",
    "李",
    "e\u0301",
    "\ufeff",
    "x" * 5000,
)
_NAMES = (
    "side",
    "Side",
    "SIDE ",
    "grad",
    "subject",
    "Subject",
    "",
    "name",
    "\u00a0name",
    "lateralty",
    "centre",
    "sid\u0435",
)
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "utf-32", "utf-7")
Read = Callable[[Path], object]


def seeds() -> dict[str, tuple[str, list[list[str]], Read]]:
    """File name, cells with the header first, and reader of each kind of table."""
    cohort = [["name", "image", "side", "grade", "subject", "centre", "spacing_mm"]]
    cohort += [
        [
            f"k{i}",
            f"{i}.png",
            ("left", "right")[i % 2],
            str(i % 5),
            f"p{i // 2}",
            ("", "610,300")[i % 2],
            "0.2",
        ]
        for i in range(12)
    ]
    visits = [["subject", "side", "months", "image", "grade", "split", "age", "sex", "bmi", "clinic"]]
    at_baseline = ("train", "61", "F", "27.5", "x")
    visits += [
        [f"p{i // 4}", ("left", "right")[i % 2], str(12 * (i % 4 // 2)), f"{i}.png", str(i % 5), *at_baseline]
        for i in range(16)
    ]
    ratings = [["reader", "treatment", "case", "truth", "rating", "subject"]]
    ratings += [
        [str(r), t, str(c), str(c % 2), str((c * 7 + r) % 5), f"p{c // 2}"]
        for r in range(2)
        for t in ("aided", "unaided")
        for c in range(8)
    ]
    outcomes = [["name", "subject", "side", "kl_m00", "kl_m24", "kl_m48"]]
    outcomes += [[f"k{i}", f"p{i // 2}", "LR"[i % 2], str(i % 4), str(i % 4), str(i % 5)] for i in range(12)]
    results = [["name", "side", "horizon_months", "risk_fast", "risk_any", "typicality", "warnings"]]
    results += [
        [f"k{i // 2}", "left", str(24 + 24 * (i % 2)), "0.1", "0.2", "0.9", "none; of it"] for i in range(12)
    ]
    knees = [["name", "subject", "side", "split", "kl_m00", "kl_m24"]]
    knees += [[f"k{i}", f"p{i // 2}", "LR"[i % 2], "train", str(i % 5), str(i % 5)] for i in range(12)]
    release = [["ID", "SIDE", "READPRJ", "V00XRKL"]]
    release += [
        [str(9000000 + i), f"{1 + i % 2}: Right", "15", ("2: Definite", ".M: Missing")[i % 2]]
        for i in range(12)
    ]

    def of_release(path: Path) -> object:
        read = read_release(path)
        read.require("id", "side", "v00xrkl")
        return read.participants(), read.numbers("v00xrkl")

    return {
        "cohort": ("table.csv", cohort, entries.read_table),
        "visits": ("visits.csv", visits, read_visits),
        "ratings": ("ratings.csv", ratings, read_ratings),
        "outcomes": ("outcomes.csv", outcomes, read_followup),
        "results": ("results.csv", results, read_results),
        "knees": ("train.csv", knees, lambda path: import_knees(path.parent)),
        "release": ("kxr_sq_bu00.txt", release, of_release),
    }


def mutated(cells: list[list[str]], draw: random.Random) -> bytes:
    """A table's bytes after one to four changes."""
    table = [list(row) for row in cells]
    delimiter, encoding, quoting = ",", "utf-8", csv.QUOTE_MINIMAL
    end = draw.choice(("\n", "\n", "\r\n", "\r"))
    for _ in range(draw.randint(1, 4)):
        row, column = draw.randrange(len(table)), draw.randrange(len(table[0]))
        kind = draw.randrange(14)
        if kind < 4:
            words = (_MISSING, _NUMBERS, _TEXTS, _MISSING)[kind]
            word = draw.choice(words)
            for chosen in {row, *draw.choices(range(1, len(table)), k=draw.choice((0, 1, len(table))))}:
                if column < len(table[chosen]) and (chosen or kind != 3):
                    table[chosen][column] = word
        elif kind == 4:
            table[0][column % len(table[0])] = draw.choice(_NAMES)
        elif kind == 5:  # one column twice
            for line in table:
                line.append(line[column] if column < len(line) else "")
            table[0][-1] += draw.choice(("", " ", "\u00a0"))
            table[0][-1] = draw.choice((str.upper, str.title, str.lower))(table[0][-1])
        elif kind == 6:
            delimiter = draw.choice((";", "\t", "|", ":", " "))
        elif kind == 7:
            encoding = draw.choice(_ENCODINGS)
        elif kind == 8:
            table[row] = table[row][: draw.randrange(len(table[row]) + 1)] + [""] * draw.choice((0, 0, 1, 9))
        elif kind == 9:
            table.insert(
                draw.randrange(len(table)), draw.choice(([], [""] * len(table[0]), list(table[row])))
            )
        elif kind == 10:
            quoting = csv.QUOTE_ALL
        elif kind == 11:
            for line in table:
                line.reverse()
        elif kind == 12 and len(table) > 2:
            del table[row]
        else:
            table[0] = [
                draw.choice((str.upper, str.title, lambda text: f" {text} "))(name) for name in table[0]
            ]
        if not table or not table[0]:
            table = [list(line) for line in cells]
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(table)
    text = draw.choice(("", "", "", "", f"sep={delimiter}{end}", "\ufeff")) + stream.getvalue()
    content = bytearray(text.encode(encoding, errors="replace"))
    for _ in range(draw.choice((0, 0, 0, 1, 1, 3))):
        at = draw.randrange(len(content) + 1)
        content[at : at + draw.choice((0, 1, 1, 40))] = draw.choice(
            (
                b"\0",
                b'"',
                b"\xff\xfe",
                b"\r",
                b",",
                b"\n",
                bytes([draw.randrange(256)]),
                b'"' * 9,
                b"," * 3000,
            )
        )
    return bytes(content)


def check_cohort(path: Path, found: Sequence[Entry]) -> str:
    """What a cohort that was read breaks of the promises; empty if it keeps them."""
    for entry in found:
        if entry.other is not None and (not entry.subject or tables.is_missing(entry.subject)):
            return "a pair of which nobody knows the subject"
        if entry.other is not None and entry.other.subject != entry.subject:
            return "a pair of two subjects"
    read = tables.read_table(path, known=entries._COLUMNS, required=entries._NEEDED, tell="nothing")
    for entry, cells in zip(found, read.rows, strict=True):
        alone = path.with_name("alone.csv")
        with alone.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([read.header, [tables.inert(cell) for cell in cells]])
        if entries.read_table(alone) != [replace(entry, other=None)]:
            return "a row that says something else among other rows"
    return ""


def fuzz(mutations: int, seed: int, only: int | None) -> int:
    """Read mutations; returns the number of findings."""
    kinds = seeds()
    names = list(kinds)
    outcomes: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    findings, slowest, checked = 0, (0.0, 0), 0
    baseline_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        for number in range(mutations) if only is None else (only,):
            draw = random.Random(f"{seed} {number}")
            kind = names[number % len(names)]
            file, cells, read = kinds[kind]
            path = Path(folder, file)
            path.write_bytes(mutated(cells, draw))
            started = time.process_time()
            try:
                found = read(path)
                outcome = "read"
                fault = ""
                if kind == "cohort" and isinstance(found, list) and number % 5 == 0:
                    checked += 1
                    fault = check_cohort(path, found)
            except ProgressionError as error:
                outcome = type(error).__name__
                several = "\n" in str(error) or len(str(error)) > 2000
                fault = f"no short line: {str(error)[:300]!r}" if several else ""
            except Exception as error:
                outcome, fault = "FINDING", f"{type(error).__name__}: {error}"
                if only is not None:
                    traceback.print_exc()
            slowest = max(slowest, (time.process_time() - started, number))
            outcomes[kind][outcome] += 1
            if fault:
                findings += 1
                print(f"finding {number} ({kind}): {fault}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - baseline_mb
    for kind, counts in outcomes.items():
        print(f"{kind:<9} {dict(counts)}")
    print(
        f"mutations {mutations}, seed {seed}; findings {findings}; slowest {slowest[0]:.2f} s (number {slowest[1]}); "
        f"memory above the start {peak_mb:.0f} MB; rows read again alone in {checked} cohorts"
    )
    return findings + (slowest[0] > MAX_SECONDS) + (peak_mb > MAX_MEGABYTES)


class Constant:
    """A predictor that needs no weights: the risk goes with the mean grey."""

    finder = None

    def predict_batch(
        self, radiographs: Sequence[Radiograph], *, horizon_months: Sequence[int], **_: Any
    ) -> list[Prediction]:
        """One prediction a knee."""
        made = []
        for one in radiographs:
            mean = float(one.pixels.mean())
            future = (0.2,) * 5
            horizons = tuple(
                HorizonPrediction(month, None, mean / 2, mean, 0.1, 0.2, future) for month in horizon_months
            )
            made.append(
                Prediction(one.name, Side(one.side), horizons, one.pixels, one.pixels, future, 0.9, ())
            )
        return made


def fill_disks(disks: int, seed: int) -> int:
    """Cohorts on disks that are full at random bytes; returns the number of those that lost or doubled something."""
    import numpy as np
    from PIL import Image

    draw, findings, stops = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for number in range(4):
            grey = np.random.default_rng(number).integers(0, 255, (96, 96), dtype=np.uint8)
            pictures.append(Path(folder, f"{number}.png"))
            Image.fromarray(grey).save(pictures[-1])
        pictures.append(Path(folder, "none.png"))
        pictures[-1].write_text("no picture")
        asked = [Entry(f"k{i}", str(pictures[i % 5]), "left") for i in range(60)]
        request = Request(horizon_months=(24, 48))
        run_cohort(Constant(), asked, Path(folder, "whole.csv"), request=request, batch=4)  # type: ignore[arg-type]
        whole = Path(folder, "whole.csv").read_bytes()
        for disk in range(disks):
            out = Path(folder, f"disk{disk}", "r.csv")
            room, failed = draw.randrange(len(whole) + 200), 0
            while True:
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
                try:
                    done = run_cohort(Constant(), asked, out, request=request, batch=4)  # type: ignore[arg-type]
                    break
                except OutputError:
                    failed += 1
                    room += draw.randrange(1, 4000)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
            stops += failed
            findings += out.read_bytes() != whole or len(done.failed) != 12
        print(
            f"files limited at {disks} random bytes: {stops} stops, {findings} tables that are not the whole one"
        )
        found, more = _small_disks(disks, asked, request, whole, Path(folder, "mount"), draw)
    print(found)
    return findings + more


def _small_disks(
    disks: int, asked: Sequence[Entry], request: Request, whole: bytes, folder: Path, draw: random.Random
) -> tuple[str, int]:
    """On a real file system of 128 kB, part of which something else takes until the first run has failed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        return "no small file system: only root may mount one", 0
    wrong = stops = 0
    try:
        for disk in range(disks):
            out, filler = folder / f"r{disk}.csv", folder / "filler"
            filler.write_bytes(bytes(draw.randrange(90_000, 128_000)))
            while True:
                try:
                    done = run_cohort(Constant(), asked, out, request=request, batch=4)  # type: ignore[arg-type]
                    break
                except OutputError as error:
                    stops += 1
                    wrong += "No space left on device; free some space" not in str(error)
                    os.truncate(filler, max(0, filler.stat().st_size - 4096))
            wrong += out.read_bytes() != whole or len(done.failed) != 12
            for path in folder.iterdir():
                path.unlink()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return f"file systems of 128 kB, filled at {disks} random bytes: {stops} stops, {wrong} wrong", wrong


def main() -> int:
    """Run both; returns 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--disks", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat one mutation")
    given = parser.parse_args()
    logging.getLogger("progression").setLevel(logging.ERROR)
    findings = fuzz(given.mutations, given.seed, given.only)
    if given.disks:
        findings += fill_disks(given.disks, given.seed)
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
