"""Look-up tables of a header: Modality LUT and VOI LUT (PS3.3, C.11.1.1 and C.11.2.1.1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from progression.dicom.values import numbers, told
from progression.errors import ImageError

_BITS = (8, 16)
_ENTRIES = 1 << 16
Values = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Lut:
    """A table: its entries, the value that the first is for, and the bits that they have."""

    entries: npt.NDArray[np.integer]
    first: int
    bits: int

    @classmethod
    def of(cls, item: Dataset, label: str, *, signed: bool) -> "Lut":
        """Read a table from its item; `signed` if the values that it is for can be negative.

        Raises
        ------
        ImageError
            If it is none.
        """
        descriptor = [int(value) for value in numbers(item, "LUTDescriptor", label) if value is not None]
        if len(descriptor) != 3:
            raise ImageError(
                f"{label}: a LUT Descriptor of {len(descriptor)} values; expected 3; export the film again"
            )
        count, first, bits = descriptor
        count, first = (count & 0xFFFF) or _ENTRIES, first & 0xFFFF
        if signed and first >= _ENTRIES // 2:  # the same two bytes, whichever type their writer called them
            first -= _ENTRIES
        low, high = _BITS
        if not low <= bits <= high:
            raise ImageError(
                f"{label}: a LUT of {bits} bits; expected {low} to {high}; export the film again"
            )
        entries = _entries(item, count, bits, label)
        if int(entries.max()) >= 2**bits:
            raise ImageError(
                f"{label}: a LUT of values beyond its {bits} bits; expected fewer; export the film again"
            )
        return cls(entries, first, bits)

    def __call__(self, x: Values) -> npt.NDArray[np.integer]:
        """What the values are shown as; those beyond its ends as the ends."""
        index = np.rint(x).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def _entries(item: Dataset, count: int, bits: int, label: str) -> npt.NDArray[np.integer]:
    """16 bits each, or 8 with two to a word."""
    value = item.get("LUTData")
    if value is None:
        raise ImageError(f"{label}: a LUT without {told('LUTData')}; export the film again")
    if isinstance(value, bytes):
        words = np.frombuffer(value[: len(value) // 2 * 2], _byte_order(item) + "u2")
    else:
        words = np.atleast_1d(np.asarray(value, np.int64)).astype(np.uint16)  # SS is another name for it
    if len(words) == (count + 1) // 2 and bits == _BITS[0] and count > 1:
        words = words.astype("<u2").view(np.uint8)
    if len(words) < count:
        raise ImageError(f"{label}: a LUT of {len(words)} values; expected {count}; export the film again")
    return words[:count].astype(np.int64)


def _byte_order(item: Dataset) -> str:
    return ">" if item.original_encoding[1] is False else "<"
