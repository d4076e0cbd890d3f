"""Errors a user can act on: each message is one line saying what was expected, what came, and what to do."""

import logging
import re
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from progression.texts import printable

LONGEST_MESSAGE = 900
_LONGEST_REASON = 160
_QUOTED_OR_PATH = re.compile(r"""'[^']*'|"[^"]*"|b'[^']*'|\S*[/\\]\S*""")


class ProgressionError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line: 1 for a failure, 2 for wrong use.
    """

    exit_code: int = 1

    def __str__(self) -> str:
        """The message: one line of at most `LONGEST_MESSAGE` characters, whatever texts of others it quotes."""
        text = printable(super().__str__())
        if len(text) <= LONGEST_MESSAGE:
            return text
        kept = LONGEST_MESSAGE // 3  # of the end, which says what to do
        return f"{text[: LONGEST_MESSAGE - kept - 1]}…{text[-kept:]}"


class UsageError(ProgressionError):
    """An argument is wrong: side, horizon, option."""

    exit_code = 2


class ImageError(ProgressionError):
    """A picture cannot be read, or cannot be a knee radiograph."""


class NotARadiographError(ImageError):
    """No projection radiograph: another kind of object, or one that is synthetic, as this package's own results are."""


class NotAKneeError(ImageError):
    """A picture was read, but lies too far from the training radiographs to be predicted.

    Attributes
    ----------
    refused : position in its batch, and message, of every picture that was refused; empty where there was no batch
    """

    def __init__(self, message: str, refused: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.refused = dict(refused or {})


class FilmRefusedError(ImageError):
    """A film was read, but no knee is to be cut from it: an implant, a side view, another part, nothing, too many."""


class TableError(ProgressionError):
    """A table cannot be read, or a row or column in it is wrong."""


class WeightsError(ProgressionError):
    """Weights are missing, damaged, or do not fit together."""


class OutputError(ProgressionError):
    """A result cannot be written."""


class StoppedProcessError(ProgressionError):
    """A process that did some of the work ended by itself, as one does that is out of memory."""


class DependencyError(ProgressionError):
    """An optional package is not installed."""


class UnexpectedError(ProgressionError):
    """Something went wrong that this package did not foresee."""


def failure(error: Exception) -> ProgressionError:
    """Whatever went wrong with one item, as an error of this package: the item fails, the rest goes on.

    One of this package's own stays as it is. Of any other the kind is told, and its text without what it quotes and
    without paths, either of which may be a patient's. Where it came from is its cause, and goes to the log at level
    DEBUG.
    """
    if isinstance(error, ProgressionError):
        return error
    made = _unexpected(error)
    made.__cause__ = error
    return made


def _unexpected(error: Exception) -> "UnexpectedError":
    logging.getLogger("progression").debug("unexpected error", exc_info=error)
    if isinstance(error, MemoryError):
        return UnexpectedError("out of memory; expected a smaller picture, or more memory")
    if isinstance(error, OSError):
        text = error.strerror or ""
    elif isinstance(error, UnicodeError):
        text = getattr(error, "reason", "")
    else:
        text = str(error)
    text = printable(" ".join(_QUOTED_OR_PATH.sub("…", text).split()))
    text = text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
    told = f" ({text})" if text else ""
    return UnexpectedError(
        f"unexpected {type(error).__name__}{told}; leave this one out, or run again with --debug for the traceback"
    )


def import_extra(module: str, *, feature: str, extra: str, otherwise: str = "") -> ModuleType:
    """Import a package that only an extra of this one brings; `otherwise` names a way that does without.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{feature} needs {module}, which is not installed: pip install 'progression-imaging[{extra}]'{otherwise}"
        ) from error
