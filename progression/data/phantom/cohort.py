"""Phantom knees as a cohort: films at every visit, a visits table, and its calibration."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from progression.data.phantom.acquisition import Acquisition, expose, sample_acquisitions
from progression.data.phantom.anatomy import Anatomy, Array, JointState, sample_anatomy
from progression.data.phantom.disease import VISIT_MONTHS, Course, grade, sample_course
from progression.data.phantom.geometry import Knee
from progression.data.visits import write_visits
from progression.errors import UsageError
from progression.files import atomic_write
from progression.types import Side

MARK = "SYNTHETIC PHANTOM: computed by progression.data.phantom; no person was imaged"
TABLE_NAME = "visits.csv"
ARCHIVE_NAME = "images.zip"

_SPLIT_SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}
_MIN_RESOLUTION, _MAX_RESOLUTION = 64, 1024
# What each random stream of a subject is for; separate, so that a change in one leaves the others.
_COURSE, _ANATOMY, _FILMS, _ADMINISTRATION = range(4)


@dataclass(frozen=True)
class PhantomKnee:
    """One subject with one knee: its anatomy, the course of its disease, and a film for each visit."""

    subject: str
    side: Side
    split: str
    anatomy: Anatomy
    course: Course
    films: Sequence[Acquisition]

    def state(self, visit: int) -> JointState:
        """The joint at visit number `visit` of `VISIT_MONTHS`."""
        return self.course.state(VISIT_MONTHS[visit])

    def grade(self, visit: int) -> int:
        """Kellgren-Lawrence grade at a visit."""
        return grade(self.state(visit))

    @cached_property
    def _knee(self) -> Knee:
        return Knee(self.anatomy)

    def image(self, visit: int, *, resolution: int = 128, months: float | None = None) -> Array:
        """The film of a visit.

        Parameters
        ----------
        visit
            Whose pose, scanner and noise; and whose disease, unless `months` is given.
        resolution
            R, pixels a side. Below 224 the film is computed at twice the resolution and averaged.
        months
            Disease at any other time since baseline, seen as at `visit`: what changed without what differs.

        Returns
        -------
        (R, R) float32 in [0, 1]
            Left knees have their fibula at the right edge, as on a film.
        """
        film = self.films[visit]
        state = self.state(visit) if months is None else self.course.state(months)
        fold = 2 if resolution < 224 else 1
        picture = expose(self._knee.project(state, film.pose, resolution * fold), film)
        picture = picture.reshape(resolution, fold, resolution, fold).mean((1, 3))
        return picture[:, ::-1] if self.side is Side.LEFT else picture


def sample_knee(index: int, *, seed: int = 0) -> PhantomKnee:
    """Subject number `index` (from 0) of the cohort `seed`; the same however large the cohort is."""
    if index < 0 or seed < 0:
        raise UsageError(f"phantom index {index}, seed {seed}: expected whole numbers from 0")
    stream = [np.random.default_rng([seed, index, use]) for use in range(4)]
    course = sample_course(stream[_COURSE])
    rng = stream[_ADMINISTRATION]
    return PhantomKnee(
        subject=f"P{index + 1:05d}",
        side=Side.LEFT if rng.random() < 0.5 else Side.RIGHT,
        split=str(rng.choice(list(_SPLIT_SHARES), p=list(_SPLIT_SHARES.values()))),
        anatomy=sample_anatomy(stream[_ANATOMY], signs=course.signs, medial=course.medial),
        course=course,
        films=sample_acquisitions(stream[_FILMS], len(VISIT_MONTHS)),
    )


def encode_png(picture: Array) -> bytes:
    """8-bit PNG of a picture in [0, 1] whose text chunk says that it is a synthetic phantom."""
    note = PngInfo()
    note.add_text("Description", MARK)
    stream = io.BytesIO()
    grey = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(grey).save(stream, format="PNG", pnginfo=note)
    return stream.getvalue()


def write_cohort(
    folder: str | Path,
    *,
    subjects: int,
    seed: int = 0,
    resolution: int = 128,
    visits: Sequence[int] = tuple(range(len(VISIT_MONTHS))),
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a phantom cohort: `visits.csv` and `images.zip`, one subject with one knee each.

    Parameters
    ----------
    folder
        Made if missing.
    subjects, seed, resolution
        How many, which, and pixels a side (64 to 1024).
    visits
        Numbers of the visits in `VISIT_MONTHS` to write, in rising order; all by default.
    progress
        Called with the number of finished subjects.

    Returns
    -------
    Path
        The visits table. Beyond the usual columns it holds the truth: `medial_space_mm`,
        `lateral_space_mm`, `osteophyte_mm` (the longest), `sclerosis` (the larger), `severity`.

    Raises
    ------
    UsageError
        Numbers out of range.
    OutputError
        The folder cannot be written; nothing is left half written.
    """
    if subjects < 1 or subjects > 99_999:
        raise UsageError(f"{subjects} subjects: expected 1 to 99999")
    if not _MIN_RESOLUTION <= resolution <= _MAX_RESOLUTION:
        raise UsageError(f"resolution {resolution}: expected {_MIN_RESOLUTION} to {_MAX_RESOLUTION} pixels")
    folder = Path(folder)
    rows = []
    with (
        atomic_write(folder / ARCHIVE_NAME) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for index in range(subjects):
            knee = sample_knee(index, seed=seed)
            for visit in visits:
                months, state = VISIT_MONTHS[visit], knee.state(visit)
                name = f"{knee.subject}{knee.side.value[0].upper()}_{months:03.0f}m.png"
                # A fixed time stamp, so that equal cohorts are equal files.
                archive.writestr(
                    zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)),
                    encode_png(knee.image(visit, resolution=resolution)),
                )
                rows.append({
                    "subject": knee.subject, "side": knee.side.value, "months": months,
                    "image": f"{ARCHIVE_NAME}::{name}", "grade": grade(state), "split": knee.split,
                    "medial_space_mm": round(state.medial_space_mm, 3),
                    "lateral_space_mm": round(state.lateral_space_mm, 3),
                    "osteophyte_mm": round(max(state.osteophyte_mm), 3),
                    "sclerosis": round(max(state.medial_sclerosis, state.lateral_sclerosis), 3),
                    "severity": round(knee.course.severity_at(months), 4),
                })  # fmt: skip
            if progress:
                progress(index + 1)
    table = folder / TABLE_NAME
    write_visits(pd.DataFrame(rows), table)
    return table


@dataclass(frozen=True)
class Target:
    """An aggregate of the real cohort, as a share; `low` and `high` where censoring leaves it open."""

    name: str
    low: float
    high: float


# Shares of the 5778 training knees (Osteoarthritis Initiative). Rises: lower, unread visits count as no
# rise; upper, Kaplan-Meier. At 72 and 96 months 40 % are read, more of those that progress, so the truth
# lies between.
REAL = (
    Target("baseline grade 0", 0.396, 0.396),
    Target("baseline grade 1", 0.181, 0.181),
    Target("baseline grade 2", 0.262, 0.262),
    Target("baseline grade 3", 0.131, 0.131),
    Target("baseline grade 4", 0.030, 0.030),
    Target("any rise by 24 months", 0.091, 0.091),
    Target("fast rise by 24 months", 0.017, 0.017),
    Target("any rise by 48 months", 0.143, 0.153),
    Target("fast rise by 48 months", 0.036, 0.039),
    Target("any rise by 96 months", 0.202, 0.281),
    Target("fast rise by 96 months", 0.063, 0.094),
)


def calibration(subjects: int = 5778, *, seed: int = 0) -> pd.DataFrame:
    """Phantom against real: shares of baseline grades, and of knees whose grade rises.

    `any` is a rise by at least 1 among knees of baseline grade 0 to 3, `fast` by at least 2 among 0 to 2.
    No film is computed, only the course of the disease.

    Returns
    -------
    DataFrame
        Columns `aggregate`, `real_low`, `real_high`, `phantom`; shares in [0, 1].
    """
    courses = [sample_course(np.random.default_rng([seed, index, _COURSE])) for index in range(subjects)]

    def graded(months: float) -> npt.NDArray[np.int_]:
        return np.array([grade(course.state(months)) for course in courses])

    first = graded(0.0)
    shares = [float(np.mean(first == value)) for value in range(5)]
    for months in (24.0, 48.0, 96.0):
        rise = graded(months) - first
        shares += [float(np.mean(rise[first <= 3] >= 1)), float(np.mean(rise[first <= 2] >= 2))]
    return pd.DataFrame([
        {"aggregate": real.name, "real_low": real.low, "real_high": real.high, "phantom": round(share, 3)}
        for real, share in zip(REAL, shares, strict=True)
    ])  # fmt: skip
