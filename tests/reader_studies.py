"""Made-up reader studies for tests: readers of different skill on the same cases."""

from __future__ import annotations

import numpy as np
import pandas as pd


def study(
    seed: int = 0,
    *,
    n_readers: int = 4,
    n_cases: int = 40,
    gain: float = 0.0,
    per_subject: int = 1,
    treatments: tuple[str, ...] = ("aided", "unaided"),
    levels: int = 5,
) -> pd.DataFrame:
    """Ratings 1 to `levels`; the first treatment is better by `gain` standard deviations.

    A case's difficulty is shared by all readers, half of it by the cases of one subject; what a
    treatment shows of a case is shared too.
    """
    rng = np.random.default_rng(seed)
    truth = np.tile([0, 1, 1, 0, 0], n_cases)[:n_cases]
    subject = np.arange(n_cases) // per_subject
    case_effect = rng.normal(size=n_cases) + rng.normal(size=n_cases)[subject]
    skill = 1 + 0.3 * rng.normal(size=n_readers)
    rows = []
    for i, treatment in enumerate(treatments):
        shown = 0.7 * rng.normal(size=n_cases)
        for j in range(n_readers):
            own = 0.3 * rng.normal() + (gain if i == 0 else 0.0)
            seen = truth * (skill[j] + own) * 2 + case_effect + shown + rng.normal(size=n_cases)
            rating = np.digitize(seen, np.linspace(-2, 4, levels - 1)) + 1
            rows.append(
                pd.DataFrame(
                    {"reader": f"r{j + 1}", "treatment": treatment, "case": np.arange(n_cases),
                     "truth": truth, "rating": rating, "subject": subject}
                )
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)
