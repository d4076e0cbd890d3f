"""Texts of others, names above all, on their way out: to a terminal, a spreadsheet, a file's name.

| goes to | what could happen | what is done |
|---|---|---|
| a terminal, a report | control characters move the cursor, turn the text round, end the line | `printable` |
| a spreadsheet | a cell that begins with = + - @ is computed, which may start a program | `inert`; back: `literal` |
| a file's or folder's name | leads elsewhere, is another one's on some systems, is too long | `file_name` |

Only the standard library is needed.
"""

import re
import unicodedata
from hashlib import sha256

MAX_NAME_BYTES = 180
"""Of a file's or folder's name: systems allow 255, and temporary names and endings are longer."""
_UNDECODABLE = range(0xDC80, 0xDD00)  # bytes that are no UTF-8, as Python keeps them in names of files
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset("\u00ad\u180e\u200b\u2028\u2029\u2060\ufeff\ufff9\ufffa\ufffb")
_FORMULA = re.compile(r"'*[\s\"'\u200b\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212]|'*[\t\r\n]")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_NOT_IN_NAMES = frozenset('<>:"/\\|?*')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)


def printable(text: object) -> str:
    r"""A text in which every character that is not to be seen is written out, on one line.

    Control characters become `\x1b`, marks that turn the direction of writing `\u202e`, and bytes of a file's name that
    are not UTF-8 `\xff`. Letters of every script stay, and so do the joiners that some of them need.
    """
    shown = str(text)
    return shown if shown.isascii() and shown.isprintable() else "".join(map(_seen, shown))


def _seen(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    code = ord(character)
    if code in _UNDECODABLE:
        return f"\\x{code - 0xDC00:02x}"
    unseen = character in _TURNING or character in _UNSEEN or 0xE0000 <= code <= 0xE0FFF
    if unseen or unicodedata.category(character) in ("Cc", "Cs") or code & 0xFFFE == 0xFFFE:
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def inert(text: str) -> str:
    """A cell's text that no spreadsheet computes: with an apostrophe before it where one would.

    That is where it begins with = + - @ (wide ones too), a tab or a line's end, also behind spaces, quotes and
    apostrophes; plain numbers stay as they are. `literal` gives the text back.
    """
    return "'" + text if _computed(text) else text


def literal(cell: str) -> str:
    """The text that `inert` made a cell of."""
    return cell[1:] if cell.startswith("'") and _computed(cell[1:]) else cell


def _computed(text: str) -> bool:
    return _FORMULA.match(text) is not None and _PLAIN_NUMBER.fullmatch(text) is None


def file_name(name: str) -> str:
    """What a file or folder is called for something of this name, on any system; most names stay as they are.

    Characters that some system does not allow in names become `%3A`, as in addresses; so does what would make the name
    a device's, hidden by a point or a space at its end, or the folder above. A long name is cut, and a digest of it
    added.
    """
    text = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", unicodedata.normalize("NFC", printable(name)))
    text = "".join(_escaped(one) if one in _NOT_IN_NAMES else one for one in text)
    if text and (text[-1] in ". " or _DEVICE.fullmatch(text)):
        place = len(text) - 1 if text[-1] in ". " else 0
        text = text[:place] + _escaped(text[place]) + text[place + 1 :]
    text = text or "%00"
    if len(text.encode()) > MAX_NAME_BYTES:
        kept = text.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore")
        text = f"{kept}~{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return text


def same_name(name: str) -> str:
    """A key that is equal for names which are one on some system: its case and the way of its accents do not count."""
    folded = unicodedata.normalize("NFC", printable(name)).casefold()
    return unicodedata.normalize("NFC", file_name(folded).casefold())


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
