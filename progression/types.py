"""What goes in and what comes out: frozen dataclasses with units in their names."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from progression.errors import ImageError, UsageError

Pixels = npt.NDArray[np.float32]
"""A picture in display order: (H, W) float32 in [0, 1]."""

FIELD_MM = 90.0
"""Side of the square that the models know, in the plane of the knee: what training pictures show, to judge by their
tibias (`benchmarks/field_of_view.py`). Phantoms show as much, and as much is cut from a film around a centre alone."""
KL_GRADES = 5
MAX_HORIZON_MONTHS = 96
INVERSIONS = ("encoder", "projection")
METHODS = ("paper", "joint")
REFINE_STEPS = 0
"""Optimisation steps on the encoder's code where none are asked for."""
MAX_REFINE_STEPS = 10_000
PROJECTION_STEPS = 1000
"""Optimisation steps of the projection, which takes no other number."""


def check_unit_range(values: npt.NDArray[np.generic], label: str) -> None:
    """Refuse floats that are not all in [0, 1].

    Raises
    ------
    ImageError
        If a value is NaN, infinite or out of range.
    """
    lowest, highest = float(values.min()), float(values.max())
    if not math.isfinite(lowest + highest):
        raise ImageError(f"{label}: NaN or infinite values; replace them before predicting")
    if lowest < 0 or highest > 1:
        raise ImageError(f"{label}: floats from {lowest:g} to {highest:g}; rescale them to [0, 1]")


def _check_pixels(values: object, label: str) -> Pixels:
    """What a picture's dataclass may hold; what a file or array may is for `progression.image` to say."""
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind != "f":
        given = (
            f"an array {values.shape} of {values.dtype}"
            if isinstance(values, np.ndarray)
            else f"a {type(values).__name__}"
        )
        raise ImageError(
            f"{label}: {given}; expected pixels (height, width) as floats in [0, 1], as "
            "progression.image.read_image makes of files and arrays"
        )
    check_unit_range(values, label)
    return values.astype(np.float32, copy=False)


def _quoted(value: object) -> str:
    """As messages show a number that is none: texts in quotes."""
    return repr(value) if isinstance(value, str) else str(value)


class Side(StrEnum):
    """Which knee of the patient."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def other(self) -> "Side":
        """The patient's other knee."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT

    @classmethod
    def parse(cls, text: object) -> "Side":
        """Read a side from left, right, L or R in any case.

        Raises
        ------
        UsageError
            For anything else; a side is never guessed.
        """
        if text is None:
            raise UsageError("the side is not known: say left or right (--side left, --side right)")
        known = {"left": cls.LEFT, "l": cls.LEFT, "right": cls.RIGHT, "r": cls.RIGHT}
        side = known.get(str(text).strip().lower())
        if side is None:
            raise UsageError(
                f"unknown side {str(text)!r}: expected left or right (--side left, --side right)"
            )
        return side


def check_horizon_months(value: object) -> int:
    """A horizon as a whole number of months from 1 to 96, or UsageError."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        number = float(value)
        if 1 <= number <= MAX_HORIZON_MONTHS and number.is_integer():
            return int(number)
    raise UsageError(
        f"horizon {_quoted(value)}: expected whole months from 1 to {MAX_HORIZON_MONTHS} (--months 48)"
    )


def check_horizons(value: object) -> tuple[int, ...]:
    """One horizon or several, as whole months in ascending order, each once; UsageError for anything else."""
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    months = {check_horizon_months(one) for one in (value if several else (value,))}  # type: ignore[attr-defined]
    if not months:
        raise UsageError("no horizon: expected at least one, from 1 to 96 months (--months 48)")
    return tuple(sorted(months))


def check_grade(value: object) -> int:
    """A Kellgren-Lawrence grade from 0 to 4, or UsageError."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < KL_GRADES:
        return int(value)
    raise UsageError(f"grade {_quoted(value)}: expected a Kellgren-Lawrence grade from 0 to 4 (--grade 2)")


@dataclass(frozen=True)
class Request:
    """What is asked about a knee or a cohort; the defaults of the API and of the command line.

    Attributes
    ----------
    horizon_months : whole months from 1 to 96, one or several; kept as an ascending tuple, each once
    refine_steps : optimisation steps on the encoder's code, 0 to 10,000; None for none. Not with "projection"
    inversion : "encoder", or "projection" (1,000 optimisation steps from the mean latent)
    method : "paper", the closed form of Han et al. 2022; or "joint", the change that the whole bank's knees lead to
        expect, by this knee's chances of rising
    seed : of every random draw
    spread : whether pictures at percentiles of the change are wanted too; with method "joint" only
    accept_atypical : predict also pictures that are unlike the training radiographs, with a warning

    Raises
    ------
    UsageError
        If a value is out of range, or two do not go together.
    """

    horizon_months: tuple[int, ...] = (48,)
    refine_steps: int | None = None
    inversion: str = "encoder"
    method: str = "joint"
    seed: int = 0
    spread: bool = False
    accept_atypical: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "horizon_months", check_horizons(self.horizon_months))
        if self.inversion not in INVERSIONS:
            raise UsageError(f"inversion {self.inversion!r}: expected {' or '.join(INVERSIONS)}")
        if self.refine_steps is not None:
            if not isinstance(self.refine_steps, int) or not 0 <= self.refine_steps <= MAX_REFINE_STEPS:
                raise UsageError(
                    f"refine steps {self.refine_steps}: expected a whole number from 0 to {MAX_REFINE_STEPS:,} "
                    f"(--refine-steps {REFINE_STEPS})"
                )
            if self.inversion == "projection":
                raise UsageError(
                    f"refine steps {self.refine_steps} with inversion projection, which has its own "
                    f"{PROJECTION_STEPS:,} steps: give one or the other"
                )
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r}: expected {' or '.join(METHODS)}")
        if self.spread and self.method != "joint":
            raise UsageError(
                f"spread with method {self.method}: expected joint, which knows the chances of each future "
                "(--method joint)"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed}: expected 0 to 2^63 - 1")

    @property
    def steps(self) -> int:
        """Number of optimisation steps that the inversion takes."""
        if self.inversion == "projection":
            return PROJECTION_STEPS
        return REFINE_STEPS if self.refine_steps is None else self.refine_steps


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One knee's picture.

    Attributes
    ----------
    pixels : (H, W) floats in [0, 1], in the orientation in which it was read (left knees not mirrored); kept as float32
    side : which knee; left, right, L or R as text become a `Side`
    name : short name without path, for outputs

    Raises
    ------
    ImageError
        If the pixels have another shape or type, or values that are NaN, infinite or out of range.
    UsageError
        If the side is none of these.
    """

    pixels: Pixels = field(repr=False)
    side: Side
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", _check_pixels(self.pixels, str(self.name)))
        object.__setattr__(self, "side", Side.parse(self.side))


@dataclass(frozen=True, eq=False)
class EarlierFilm:
    """An earlier radiograph of the same knee.

    Attributes
    ----------
    pixels : as of a `Radiograph`, the same side
    months_before : > 0, before the radiograph that is predicted from
    grade : KL grade that a reader gave, None if unread

    Raises
    ------
    ImageError
        As a `Radiograph`.
    UsageError
        If a value is out of range.
    """

    pixels: Pixels = field(repr=False)
    months_before: float
    grade: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", _check_pixels(self.pixels, "earlier film"))
        if not 0 < self.months_before < math.inf:
            raise UsageError(
                f"earlier film {self.months_before} months before: expected a number above 0 (--previous OLD.png:24)"
            )
        if self.grade is not None:
            check_grade(self.grade)


@dataclass(frozen=True, eq=False)
class SpreadPicture:
    """One of the futures between which a knee's is expected.

    Attributes
    ----------
    percentile : of the change of the grade
    change_grades : that change, >= 0, in grades
    image : (R, R) float32 in [0, 1]; None if not rendered
    """

    percentile: int
    change_grades: float
    image: Pixels | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class HorizonPrediction:
    """A knee's predicted state at one horizon.

    Attributes
    ----------
    horizon_months : months after the radiograph, 1 to 96
    image : (R, R) float32 in [0, 1], oriented and exposed as the baseline; None if not rendered
    risk_fast, risk_any : probability that the KL grade rises by at least 2, at least 1, by the horizon
    risk_fast_product, risk_any_product : the same by the product of the two gradings (Han et al. 2022)
    kl_future : probability of each KL grade at the horizon, sums to 1
    risk_fast_excess, risk_any_excess : the product with the reconstruction graded in the radiograph's place, above
        its value for no change: (R − R_0) / (1 − R_0), at least 0; grades two synthetic pictures, and is 0 at T = 0
    risk_fast_interval, risk_any_interval : how sure the risk is, 90 %: what other training people and another training
        would have said, not where this knee's own chance lies (`progression.risk.model`); None where unknown
    kl_read : probability of each grade to be the highest read by the horizon; the risks are of this distribution. None
        without a risk model
    kl_set : the grades that hold that one nine times in ten (`progression.risk.conformal`); None where unknown
    spread : futures at ascending percentiles of the change, if asked for
    """

    horizon_months: int
    image: Pixels | None = field(repr=False)
    risk_fast: float
    risk_any: float
    risk_fast_product: float
    risk_any_product: float
    kl_future: tuple[float, ...]
    risk_fast_excess: float = 0.0
    risk_any_excess: float = 0.0
    risk_fast_interval: tuple[float, float] | None = None
    risk_any_interval: tuple[float, float] | None = None
    kl_read: tuple[float, ...] | None = None
    kl_set: tuple[int, ...] | None = None
    spread: tuple[SpreadPicture, ...] = ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything said about one knee.

    Attributes
    ----------
    name, side : of the radiograph
    horizons : one entry a horizon asked for, in ascending order
    baseline : (R, R) float32 in [0, 1], the radiograph as the model saw it, in its original orientation
    reconstruction : (R, R) float32 in [0, 1], what the generator makes of the radiograph's code
    kl_now : probability of each KL grade now, sums to 1
    typicality : 0 (nothing like a knee) to 1 (as knee-like as the training radiographs)
    neighbour_distances : distances to the nearest knees of the bank, whose change method "paper" borrows, ascending
    other_knee : whether the person's other knee was seen too, and had a part in the risks
    warnings : one line each
    provenance : versions, weights' hashes, seed and arguments; JSON-serialisable
    """

    name: str
    side: Side
    horizons: tuple[HorizonPrediction, ...]
    baseline: Pixels = field(repr=False)
    reconstruction: Pixels = field(repr=False)
    kl_now: tuple[float, ...]
    typicality: float
    neighbour_distances: tuple[float, ...]
    other_knee: bool = False
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
