"""How much structure a DICOM file may have: elements, items, sequences in sequences, lists of values.

pydicom makes an object of every element, item, and value of a list, of which a small file can have millions. So it
reads through a stream that counts, and what it leaves for later (sequences of known length, lists) is weighed at once.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.hooks import raw_element_vr

from progression.errors import ImageError

MAX_READS = 60_000
"""Of pieces of a file: an element takes one to three, an item one to four. Real films have a few hundred elements."""
MAX_READS_OF_DIRECTORY = 200_000
"""Of a DICOMDIR, which has about thirty for each of its files."""
MAX_DEPTH = 16
"""Of sequences in sequences."""
MAX_SEQUENCE_BYTES = 16 << 20
MAX_TEXT_BYTES = 1 << 20
"""Of all texts together."""
MAX_VALUES = 20_000
"""Of all texts that are lists, and parts of names."""
MAX_NUMBERS = 400_000
"""Of all lists of binary numbers; a lookup table has 65,536."""
_CHARACTER_SETS = (b"\x08\x00\x05\x00", b"\x00\x08\x00\x05")
_MAX_CHARACTER_SET_BYTES = 1_024
_LISTS = frozenset(["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI", "UR"])
_TEXTS = _LISTS | {"LT", "ST", "UT"}
_NUMBER_BYTES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}


class TooMuchError(ImageError):
    """More structure than a film has."""


@dataclass
class Budget:
    """What is left for one file."""

    label: str
    reads: int = MAX_READS
    text_bytes: int = MAX_TEXT_BYTES
    values: int = MAX_VALUES
    numbers: int = MAX_NUMBERS

    def check_reads(self) -> None:
        """Raise if they are spent; pydicom takes that for the end of a file in some places."""
        if self.reads < 0:
            raise self.refuse("too many elements, items or fragments")

    def refuse(self, what: str) -> TooMuchError:
        """The error to raise."""
        return TooMuchError(
            f"{self.label}: {what}; no radiograph's header has as many; export the film again"
        )


class Metered:
    """A stream of which as much is read as the budget has."""

    def __init__(self, stream: BinaryIO, budget: Budget) -> None:
        self._stream, self._budget = stream, budget
        self._start = b""
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """As of a stream."""
        self._budget.reads -= 1
        self._budget.check_reads()
        if size > _MAX_CHARACTER_SET_BYTES and self._start in _CHARACTER_SETS:
            raise self._budget.refuse("too long a list of character sets")  # pydicom takes it apart at once
        content = self._stream.read(size) or b""
        if size == 8:
            self._start = content[:4]
        elif size != 4:
            self._start = b""
        return content


def weigh(data: Dataset, budget: Budget, *, depth: int = 0) -> None:
    """Charge what a data set's elements cost once they are asked for; nothing in it is changed.

    Raises
    ------
    TooMuchError
        If that is more than the budget has.
    """
    if depth > MAX_DEPTH:
        raise budget.refuse("sequences nested too deeply")
    for element in data.elements():
        if isinstance(element, RawDataElement):
            _weigh_raw(element, data, budget, depth)
        elif element.VR == "SQ":
            for item in element.value:
                weigh(item, budget, depth=depth + 1)


def _weigh_raw(raw: RawDataElement, data: Dataset, budget: Budget, depth: int) -> None:
    value = raw.value
    if not isinstance(value, bytes) or not value:
        return
    found: dict[str, str] = {}
    raw_element_vr(raw, found, ds=data)
    vr = found["VR"]
    if vr == "SQ":
        if len(value) > MAX_SEQUENCE_BYTES:
            raise budget.refuse("too long a sequence")
        _weigh_sequence(value, raw, budget, depth)
    elif vr in _TEXTS:
        budget.text_bytes -= len(value)
        if vr in _LISTS:
            budget.values -= value.count(b"\\") + value.count(b"^") * (vr == "PN") + value.count(b"\x1b")
        if budget.text_bytes < 0 or budget.values < 0:
            raise budget.refuse("too much text")
    elif any(one in _NUMBER_BYTES for one in vr.split(" or ")):
        budget.numbers -= len(value) // min(_NUMBER_BYTES.get(one, 8) for one in vr.split(" or "))
        if budget.numbers < 0:
            raise budget.refuse("too many numbers")


def _weigh_sequence(value: bytes, raw: RawDataElement, budget: Budget, depth: int) -> None:
    stream = Metered(BytesIO(value), budget)
    try:
        items = read_sequence(stream, raw.is_implicit_VR, raw.is_little_endian, len(value), "iso8859")  # type: ignore[arg-type]
    except (
        Exception
    ):  # pydicom raises nearly anything on a damaged sequence, as it will for who asks for this one
        budget.check_reads()
        return
    for item in items:
        weigh(item, budget, depth=depth + 1)
