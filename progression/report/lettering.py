"""Texts of others in matplotlib's figures, where dollar signs make formulas and not every letter can be drawn.

A letter that the figures' font lacks, or that is written from right to left, which takes an engine that matplotlib does
not have, is drawn as its code, \\u674e: readable by whoever looks it up, the same on every machine. The JSON, HTML and
table of a prediction hold the name itself.
"""

import textwrap
import unicodedata
from functools import cache

from matplotlib import font_manager, rcParams

from progression.texts import printable

_BLANK_MARK = "\u2009"


def drawn(text: object) -> str:
    r"""A text as figures can draw it: printable, no formula, `\u674e` for a letter that cannot be drawn."""
    return _no_formula(_lettered(text))


def drawn_lines(text: object, characters: int) -> list[str]:
    """`drawn`, in lines of at most so many characters."""
    return [_no_formula(line) for line in textwrap.wrap(_lettered(text), characters, break_on_hyphens=False)]


def label(text: object) -> str:
    """`drawn`, for legends: these leave out what begins with an underscore."""
    found = drawn(text)
    return _BLANK_MARK + found if found.startswith("_") else found


def _lettered(text: object) -> str:
    return "".join(map(_letter, printable(text)))


def _no_formula(text: str) -> str:
    return text.replace("$", r"\$")


def _letter(character: str) -> str:
    if character.isascii():
        return character
    code = ord(character)
    leftwards = unicodedata.bidirectional(character) in ("R", "AL", "AN")
    if code in _letters_of(tuple(rcParams["font.family"])) and not leftwards:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _letters_of(family: tuple[str, ...]) -> frozenset[int]:
    """Codes that the first font found of a family has."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=list(family))))
    return frozenset(font.get_charmap())
