"""Phantom knees: a procedural simulator of standing knee radiographs with disease that progresses.

Real follow-up films are hard to come by, so this cohort, whose films at every visit are computed from
three-dimensional bones and the attenuation of X-rays, is the ground truth for extrapolation.

| module | what |
|---|---|
| `anatomy` | outlines of the bones, with spurs and joint spaces |
| `geometry` | the bones in one pose: path lengths along the beam |
| `disease` | severity over time, the rules of the grade, rates visible in part at baseline |
| `acquisition` | pose, scanner, noise, window: what differs between films of one knee |
| `cohort` | subjects, files, the visits table, calibration to a real cohort |
"""

from progression.data.phantom.cohort import PhantomKnee, calibration, sample_knee, write_cohort
from progression.data.phantom.disease import VISIT_MONTHS, grade

__all__ = ["VISIT_MONTHS", "PhantomKnee", "calibration", "grade", "sample_knee", "write_cohort"]
