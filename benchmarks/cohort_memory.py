"""How much memory a cohort takes, by its number of films.

    python benchmarks/cohort_memory.py --films 1000 4000

Small DICOM films of nobody, two a study, in folders; a predictor that only answers, so that what is measured is
finding, reading, pairing and writing. Each number of films is a process of its own; printed are the peak of its memory,
and seconds.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from progression.cohort import run_cohort
from progression.dicom import example
from progression.dicom.write import file_bytes
from progression.folders import find_films
from progression.types import HorizonPrediction, Prediction, Radiograph, Request, Side


class Answers:
    """A predictor that says the same of every knee."""

    def predict_batch(
        self, radiographs: Sequence[Radiograph], *, others: Sequence[Radiograph | None], **_: Any
    ) -> list[Prediction]:
        """One made-up answer a knee."""
        grades = (0.2,) * 5
        horizon = HorizonPrediction(48, None, 0.1, 0.2, 0.1, 0.2, grades)
        return [
            Prediction(r.name, r.side, (horizon,), r.pixels, r.pixels, grades, 1.0, (), other is not None)
            for r, other in zip(radiographs, others, strict=True)
        ]


def write_films(folder: Path, count: int) -> None:
    """So many films, two a study, a hundred a folder."""
    y, x = np.mgrid[0:96, 0:96] / 96
    knee = (0.2 + 0.6 * np.exp(-(((x - 0.5) / 0.3) ** 6)) - 0.3 * (np.abs(y - 0.5) < 0.04)).astype(np.float32)
    for number in range(count):
        made = example.dx(knee, side=tuple(Side)[number % 2], spacing_mm=1.4)
        made.StudyInstanceUID, made.PatientID = f"1.2.3.{number // 2}", f"P{number // 2}"
        below = folder / f"{number // 100:04d}"
        below.mkdir(exist_ok=True)
        (below / f"IM{number:06d}").write_bytes(file_bytes(made, "film"))


def _measure(folder: Path) -> None:
    started = time.monotonic()
    entries = find_films([folder]).entries
    found_s = time.monotonic() - started
    failed = run_cohort(Answers(), entries, folder.parent / "results.csv", request=Request()).failed
    paired = sum(entry.other is not None for entry in entries)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(entries)} films, {paired} with the other knee, {len(failed)} failed: peak {peak_mb:.1f} MB; "
        f"found in {found_s:.1f} s, all in {time.monotonic() - started:.1f} s",
        flush=True,
    )


def main() -> None:
    """Measure each number of films in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        _measure(given.measure)
        return
    for count in given.films:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "films")
            folder.mkdir()
            write_films(folder, count)
            subprocess.run([sys.executable, __file__, "--measure", str(folder)], check=True)


if __name__ == "__main__":
    main()
