"""In which characters a header's texts are really written, where its Specific Character Set does not tell the truth.

| the header says | its bytes | read as |
|---|---|---|
| nothing, or an unknown set | ASCII | ASCII |
| nothing, or an unknown set | UTF-8 | UTF-8, with a warning |
| nothing, or an unknown set | others | Latin-1, with a warning |
| a set of Latin letters | UTF-8, of more than ASCII | UTF-8, with a warning: hardly a Latin text is valid UTF-8 |
| any set | what is not in it | UTF-8 or else Latin-1, with a warning |

No byte is lost by this, which is to be believed with care: what returns to the film's study is written in UTF-8.
"""

from collections.abc import Collection, Iterable, Iterator

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS

from progression.dicom.values import every

_CHARACTERS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_LATIN = frozenset(python_encoding[f"ISO_IR {number}"] for number in (100, 101, 109, 110, 148))
_ESCAPE, _DAMAGED = b"\x1b", "\ufffd"
WARNING = (
    "the header's texts are not in the character set that it states, and were read as {}: check the patient's name in "
    "what returns to the study"
)


def settle(data: Dataset, keywords: Collection[str] | None = None) -> str:
    """Have texts read in the characters that they are written in; a warning where these are not the stated ones.

    Parameters
    ----------
    data : a data set, none of whose texts has been asked for.
    keywords : the attributes to look at, with what is in their items; all by default.
    """
    tags = list(data.keys()) if keywords is None else [Tag(keyword) for keyword in keywords]
    parts = [data, *_items(data, tags)]
    texts = [text for part in parts for text in _texts(part, tags if part is data else part.keys())]
    encodings = convert_encodings(every(data, "SpecificCharacterSet"))
    if not any(_lies(text, encodings) for text in texts):
        return ""
    beyond = [text for text in texts if not text.isascii()]
    fitting, name = (
        ("utf8", "UTF-8") if beyond and all(map(_is_utf8, beyond)) else (default_encoding, "Latin-1")
    )
    for part in parts:
        implicit, little = part.original_encoding
        part.set_original_encoding(implicit, little, [fitting])
    return WARNING.format(name)


def _lies(text: bytes, encodings: list[str]) -> bool:
    if encodings == [default_encoding]:  # none stated, or one that is unknown
        return _ESCAPE in text or not text.isascii()
    if text.isascii():
        return False
    if len(encodings) == 1 and encodings[0] in _LATIN:
        return _is_utf8(text)
    return _DAMAGED in decode_bytes(text, encodings, TEXT_VR_DELIMS)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _items(data: Dataset, tags: Iterable[BaseTag]) -> Iterator[Dataset]:
    """The items of these sequences, and of those in them."""
    for tag in tags:
        if tag in data and _vr(data.get_item(tag)) == "SQ":
            for item in data[tag].value:
                yield item
                yield from _items(item, list(item.keys()))


def _texts(data: Dataset, tags: Iterable[BaseTag]) -> Iterator[bytes]:
    for tag in tags:
        element = data.get_item(tag)
        if isinstance(element, RawDataElement) and element.value and _vr(element) in _CHARACTERS:
            yield element.value


def _vr(element: DataElement | RawDataElement) -> str:
    return element.VR or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN")
