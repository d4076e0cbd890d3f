"""What an element says: as text, as a number, as yes or no; and what must be one thing and is several.

Headers come from many hands. What can be read in one way only is read, with a note where it is not written as the
standard has it; what could mean two things is refused, by the name of its attribute. Nothing that a header states is
passed over in silence, for a window or a spacing that is dropped makes another picture.
"""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress

from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from progression.errors import ImageError

_DECIMAL = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
"""2,048 is two thousand in one country, and two in another."""
_NO = frozenset({"NO", "N", "FALSE", "F", "0", "NONE"})
DECIMAL_COMMA = (
    "the header writes numbers with a decimal comma, which the standard does not know: read as such"
)


def elements(data: Dataset) -> Iterator[DataElement]:
    """All elements but those of a value representation that nobody knows, as bytes behind the pixels make."""
    for tag in sorted(data.keys()):
        with suppress(NotImplementedError):
            yield data[tag]


def every(data: Dataset, keyword: str | BaseTag) -> list[str]:
    """All values of an element as stripped text, empty ones among them; none where it is absent or empty."""
    element = data.get_item(keyword)
    if element is None or element.value is None:
        return []
    value = element.value
    if isinstance(element, RawDataElement):
        # not converted, for of numbers that are none nothing would be left
        numeric = (element.VR or dictionary_VR(keyword)) in ("DS", "IS")
        value = value if numeric else data[keyword].value
    if isinstance(value, bytes):
        value = value.decode(default_encoding)
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    texts = [part for one in values for part in _plain("" if one is None else str(one))]
    return texts if any(texts) else []


def _plain(value: str) -> list[str]:
    """A text's values: what was stored with a VR that may hold the backslash can hold several, too."""
    return [part.strip(" \0\t\r\n") for part in value.split("\\")]


def first(data: Dataset, keyword: str) -> str:
    """The first value of an element that may rightly have several; empty where it is absent."""
    return (every(data, keyword) or [""])[0]


def one(data: Dataset, keyword: str, label: str) -> str:
    """The value of an element that can only have one; empty where it is absent.

    Raises
    ------
    ImageError
        If it has several that differ.
    """
    different = {folded(value): value for value in every(data, keyword) if value}
    if len(different) > 1:
        raise ImageError(
            f"{label}: {told(keyword)} has {len(different)} values; expected one; correct the header"
        )
    return next(iter(different.values()), "")


def term(data: Dataset, keyword: str, label: str) -> str:
    """`one` of the standard's terms, whatever its case, spaces and hyphens: "linear-exact" is LINEAREXACT."""
    return folded(one(data, keyword, label))


def folded(written: str) -> str:
    """Capital letters without accents, and digits; nothing else."""
    return re.sub(r"[\W_]+", "", plain_letters(written).upper())


def plain_letters(written: str) -> str:
    """Without accents and ligatures: Hüfte is Hufte, Fuß is Fuss, ø is o."""
    decomposed = unicodedata.normalize("NFKD", written.translate(_LETTERS))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


_LETTERS = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "ı": "i",
     "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "TH", "ħ": "h", "Ħ": "H", "ŋ": "n", "ŧ": "t"}
)  # fmt: skip


def number(data: Dataset, keyword: str, label: str) -> float | None:
    """The number of an element that can only have one; None where it is absent.

    Raises
    ------
    ImageError
        If it has several that differ, or is no finite number.
    """
    written = one(data, keyword, label)
    return decimal(written, keyword, label) if written else None


def numbers(data: Dataset, keyword: str, label: str) -> list[float | None]:
    """The numbers of an element that may have several, None for empty ones; raises as `number`."""
    return [decimal(value, keyword, label) if value else None for value in every(data, keyword)]


def decimal(written: str, keyword: str, label: str) -> float:
    """A text as a number, its comma taken for a point where it can be nothing else; raises as `number`."""
    if _THOUSANDS.fullmatch(written):
        raise ImageError(
            f"{label}: {told(keyword)} has a comma that may part thousands or decimals; expected a point; "
            "export the film again"
        )
    found = float(written.replace(",", ".")) if _DECIMAL.fullmatch(written) else float("inf")
    if not abs(found) < float("inf"):
        raise ImageError(f"{label}: {told(keyword)} is no number; expected one; export the film again")
    return found


def whole(data: Dataset, keyword: str, label: str) -> int | None:
    """`number` where only a whole one will do."""
    found = number(data, keyword, label)
    if found is not None and not found.is_integer():
        raise ImageError(f"{label}: {told(keyword)} is no whole number; expected one; export the film again")
    return None if found is None else int(found)


def needed(data: Dataset, keyword: str, label: str) -> int:
    """`whole` of what no image is without."""
    found = whole(data, keyword, label)
    if found is None:
        raise ImageError(f"{label}: lacks {told(keyword)}; expected a radiograph; export the film again")
    return found


def with_comma(data: Dataset, keywords: tuple[str, ...]) -> bool:
    """Whether any of these numbers has a decimal comma."""
    return any("," in value for keyword in keywords for value in every(data, keyword))


def not_denied(data: Dataset, keyword: str) -> bool:
    """Whether an element says yes in any way: anything but NO and nothing, for what harms if it is overlooked."""
    return any(value and (folded(value) or "?") not in _NO for value in every(data, keyword))


def items(data: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; empty where it is absent or not one."""
    value = data.get(keyword)
    if value is None or isinstance(value, str | bytes | int | float):
        return []
    return [item for item in value if isinstance(item, Dataset)]


def told(keyword: str) -> str:
    """An attribute as the standard calls it, for messages."""
    return dictionary_description(keyword)
