"""Subject-level splits and folds, by a hash of the subject.

Where a subject falls depends on its own code, the seed and the sizes asked for, on nothing else: adding,
removing or re-ordering rows moves nobody. The price is that sizes hold on average only.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from progression.data.visits import SPLITS
from progression.errors import TableError, UsageError

DEFAULT_SHARES: Mapping[str, float] = MappingProxyType({"train": 0.7, "val": 0.1, "test": 0.2})


def subject_folds(subject: Iterable[str], *, folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Fold 0..folds-1 of every entry; equal subjects (both knees, all visits) share a fold.

    Raises
    ------
    UsageError
        Fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"folds {folds!r}: expected at least 2")
    return np.array([int(_unit(name, f"fold {seed}") * folds) for name in subject], dtype=np.int64)


def subject_splits(
    subject: Iterable[str], *, shares: Mapping[str, float] = DEFAULT_SHARES, seed: int = 0
) -> npt.NDArray[np.str_]:
    """ "train", "val" or "test" for every entry; equal subjects share a split.

    Parameters
    ----------
    shares
        Share of subjects of each split; they are scaled to sum to 1.

    Raises
    ------
    UsageError
        Unknown split, or shares that are negative or all zero.
    """
    unknown = set(shares) - set(SPLITS)
    values = np.array([shares.get(name, 0.0) for name in SPLITS])
    if unknown or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise UsageError(f"shares {dict(shares)}: expected non-negative shares of {', '.join(SPLITS)}")
    bounds = np.cumsum(values / values.sum())
    bounds[np.flatnonzero(values)[-1] :] = 1.0  # rounding must not push anybody past the last split in use
    units = [_unit(name, f"split {seed}") for name in subject]
    return np.array(SPLITS)[np.searchsorted(bounds, units, side="right")]


def split_visits(
    table: pd.DataFrame, *, shares: Mapping[str, float] = DEFAULT_SHARES, seed: int = 0, replace: bool = False
) -> pd.DataFrame:
    """A visits table with its `split` column set by `subject_splits`.

    Raises
    ------
    TableError
        The table has splits already and `replace` is not set.
    """
    if "split" in table and (table["split"] != "").any() and not replace:
        raise TableError("column 'split' is filled already; say replace (--replace) to draw new splits")
    return table.assign(split=subject_splits(table["subject"], shares=shares, seed=seed))


def _unit(subject: str, salt: str) -> float:
    """A number in [0, 1) from the subject's code; the salt keeps folds, splits and seeds independent."""
    digest = blake2b(f"{salt}\0{subject}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
