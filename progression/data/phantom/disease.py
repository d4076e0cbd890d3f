"""Disease of a phantom knee over time, and its Kellgren-Lawrence grade by stated rules.

Severity S is one number a knee and visit, on the scale of the grade: it never falls, and everything in
`anatomy.JointState` is a monotone function of it that meets the rules' thresholds at whole numbers. Between
them a knee has its own balance: osteophytes run ahead of narrowing or behind it, bone is harder or softer;
and its own compartment and spurs.

Severity grows by S(t) = S(0) + r (t / 48 months)^shape. The rate r (grades per 48 months) is lognormal:

    log r = a[grade] + sigma[grade] (sqrt(rho) v + sqrt(1 - rho) e)

where v is standard normal and a function of what the baseline film shows (`anatomy.Signs`: malalignment, broad
bone ends, a stout leg, bone that is denser and grows spurs earlier than the grade asks for), e is standard normal
and shown nowhere. rho is thus the share of log rate's spread that a perfect reader of the baseline film could
predict; the place of S(0) within its grade, visible too, helps further.

a, sigma and shape were fitted once, to the rises in grade of the Osteoarthritis Initiative's knees
(`cohort.calibration`), before any model was trained on phantoms.
"""

import math
from dataclasses import dataclass

import numpy as np

from progression.data.phantom.anatomy import JointState, Signs, Sites

VISIT_MONTHS = (0.0, 12.0, 24.0, 36.0, 48.0, 72.0, 96.0)

GRADE_SHARES = (0.396, 0.181, 0.262, 0.131, 0.030)
"""Baseline grades 0 to 4, as in the real training knees."""

VISIBLE_SHARE = 0.5
"""rho above."""

_LOG_RATE = (-5.3, -3.15, -2.58, -2.04, -2.04)
_LOG_RATE_SPREAD = (3.1, 2.5, 1.35, 1.2, 1.2)
_SHAPE = (1.4, 1.0, 0.65, 0.8, 0.8)
"""a, sigma and shape by baseline grade: most knees hardly move, a few run."""

_FASTEST = 3.0
"""Limit of r: even the fastest knee is imaged on its way."""

# The rules. A film is graded from the joint spaces and the longest osteophyte, both as they are in three
# dimensions and so free of projection, noise and reader.
DOUBTFUL_OSTEOPHYTE_MM = 0.7
DEFINITE_OSTEOPHYTE_MM = 1.6
LARGE_OSTEOPHYTE_MM = 3.5
DEFINITE_NARROWING_MM = 3.0
SEVERE_NARROWING_MM = 1.2
SEVERE_SCLEROSIS = 0.5


def grade(state: JointState) -> int:
    """Kellgren-Lawrence grade 0 to 4 of a joint.

    ===== ==========================================================================================
    grade rule (each includes the ones before it)
    ===== ==========================================================================================
    1     osteophyte of 0.7 mm (doubtful)
    2     osteophyte of 1.6 mm (definite)
    3     and a joint space of at most 3.0 mm (definite narrowing)
    4     and a joint space of at most 1.2 mm, an osteophyte of 3.5 mm and severe sclerosis
    ===== ==========================================================================================
    """
    spur = max(state.osteophyte_mm)
    space = min(state.medial_space_mm, state.lateral_space_mm)
    sclerosis = max(state.medial_sclerosis, state.lateral_sclerosis)
    if spur < DOUBTFUL_OSTEOPHYTE_MM:
        return 0
    if spur < DEFINITE_OSTEOPHYTE_MM:
        return 1
    if space > DEFINITE_NARROWING_MM:
        return 2
    if space > SEVERE_NARROWING_MM or spur < LARGE_OSTEOPHYTE_MM or sclerosis < SEVERE_SCLEROSIS:
        return 3
    return 4


@dataclass(frozen=True)
class Course:
    """A knee's disease over all time.

    Attributes
    ----------
    severity
        S(0).
    rate
        r, grades per 48 months.
    signs
        What the baseline film shows of the rate.
    medial
        Whether the medial compartment is the one that narrows more.
    other_share
        Share of the narrowing that the other compartment suffers.
    spaces_mm
        Medial and lateral joint space without disease.
    spur_shares
        Size of each osteophyte relative to the longest.
    """

    severity: float
    rate: float
    signs: Signs
    medial: bool
    other_share: float
    spaces_mm: tuple[float, float]
    spur_shares: Sites

    def severity_at(self, months: float) -> float:
        """S(t)."""
        return min(self.severity + self.rate * (months / 48.0) ** _SHAPE[int(self.severity)], 5.0)

    def state(self, months: float) -> JointState:
        """The joint at a visit."""
        severity = self.severity_at(months)
        stage = min(int(severity), 4)
        ahead = stage + (severity - stage) ** np.exp(-0.6 * self.signs.bone_formation)
        spur = float(np.interp(ahead, _SEVERITY, _SPUR_MM))
        hard = float(np.interp(severity, _SEVERITY, _SCLEROSIS) * np.exp(0.5 * self.signs.bone_formation))
        hard = min(max(hard, SEVERE_SCLEROSIS), 1.0) if severity >= 4 else min(hard, 1.0)
        affected, other = self.spaces_mm if self.medial else self.spaces_mm[::-1]
        spaces = (affected, affected, 0.5 * (affected + 3.3), DEFINITE_NARROWING_MM, SEVERE_NARROWING_MM, 0.3)
        narrow = float(np.interp(severity, _SEVERITY, spaces))
        other = max(other - self.other_share * (affected - narrow), 3.2)
        other_hard = self.other_share * hard
        return JointState(
            medial_space_mm=narrow if self.medial else other,
            lateral_space_mm=other if self.medial else narrow,
            osteophyte_mm=Sites(*(spur * share for share in self.spur_shares)),
            medial_sclerosis=hard if self.medial else other_hard,
            lateral_sclerosis=other_hard if self.medial else hard,
            attrition_mm=float(np.interp(severity, (3.6, 5.0), (0.0, 2.5))),
        )


_SEVERITY = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
_SPUR_MM = (0.0, DOUBTFUL_OSTEOPHYTE_MM, DEFINITE_OSTEOPHYTE_MM, 3.0, 4.8, 7.0)
_SCLEROSIS = (0.14, 0.20, 0.28, 0.45, 0.75, 1.0)


def sample_course(rng: np.random.Generator) -> Course:
    """Draw a knee's course."""
    stage = int(rng.choice(5, p=np.array(GRADE_SHARES) / sum(GRADE_SHARES)))
    severity = stage + float(rng.uniform(0.0, 0.999))
    signs = Signs(*(float(value) for value in np.clip(rng.normal(size=4), -2.5, 2.5)))
    unseen = float(rng.normal())
    drive = np.sqrt(VISIBLE_SHARE) * signs.visible + np.sqrt(1 - VISIBLE_SHARE) * unseen
    rate = float(min(_FASTEST, np.exp(_LOG_RATE[stage] + _LOG_RATE_SPREAD[stage] * drive)))
    # Varus loads the medial compartment; even straight knees wear there more often.
    medial = bool(rng.random() < 0.78)
    longest = int(rng.integers(2)) * 2 + (0 if medial else 1)
    shares = rng.uniform(0.2, 0.7, size=4) * np.where(np.arange(4) % 2 == (0 if medial else 1), 1.25, 1.0)
    shares[longest] = 1.0
    return Course(
        severity=severity,
        rate=rate,
        signs=signs,
        medial=medial,
        other_share=float(rng.uniform(0.0, 0.25)),
        spaces_mm=(
            float(np.clip(rng.normal(4.5, 0.45), 3.7, 6.0)),
            float(np.clip(rng.normal(5.3, 0.55), 4.1, 7.0)),
        ),
        spur_shares=Sites(*(float(min(share, 1.0)) for share in shares)),
    )


def rise_chance(course: Course, *, step: int, months: float) -> float:
    """Chance that the grade rises by `step` or more within `months`, given all that a baseline film can show.

    What no film shows of the rate is e alone. As the grade is the whole part of S, that is P(r >= r*) with
    S(0) + r* (t / 48 months)^shape the grade to reach.
    """
    stage = int(course.severity)
    if stage + step > 4:
        return 0.0
    needed = (stage + step - course.severity) / (months / 48.0) ** _SHAPE[stage]
    if needed > _FASTEST:
        return 0.0
    drive = (math.log(needed) - _LOG_RATE[stage]) / _LOG_RATE_SPREAD[stage]
    unseen = (drive - np.sqrt(VISIBLE_SHARE) * course.signs.visible) / np.sqrt(1 - VISIBLE_SHARE)
    return 0.5 * math.erfc(float(unseen) / math.sqrt(2))
