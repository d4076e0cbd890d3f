"""Multi-reader multi-case studies: analysis after Obuchowski & Rockette, and planning.

Needs numpy, scipy, `progression.metrics.auc`, `progression.metrics.bootstrap`, and `errors`, `tables` and `texts` of
`progression`, nothing else: these files can be lifted out.
"""

from progression.metrics.readers.analysis import Analysis, ReaderStudy, analyse, obuchowski_rockette
from progression.metrics.readers.merit import Covariance, Merit
from progression.metrics.readers.power import Pilot, cases_needed, power
from progression.metrics.readers.ratings import Ratings

__all__ = [
    "Analysis",
    "Covariance",
    "Merit",
    "Pilot",
    "Ratings",
    "ReaderStudy",
    "analyse",
    "cases_needed",
    "obuchowski_rockette",
    "power",
]
