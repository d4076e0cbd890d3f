"""What the command line prints: the only place that does, so that no text of others moves a terminal's cursor.

Letters that the terminal's encoding lacks are printed as `\\u674e`, never an error.
"""

import io
import logging
import math
import sys
import traceback

import typer

from progression.errors import UsageError
from progression.files import output_error
from progression.texts import printable


def say(line: object = "", *, err: bool = False) -> None:
    """Print one line; where there is no room for it, the work goes on, and `check_said` tells it at the end."""
    try:
        print(printable(line), file=sys.stderr if err else sys.stdout, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        if not err:
            sys.stdout = _Lost(error)


def check_said() -> None:
    """See that all that was printed came to where it goes.

    Raises
    ------
    OutputError
        If it did not, as on a full disk.
    """
    if isinstance(sys.stdout, _Lost):
        raise output_error("the standard output", sys.stdout.error)


class _Lost(io.StringIO):
    """Takes what can no longer be printed."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


def say_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines."""
    for line in text.split("\n"):
        say(line, err=err)


def prepare(*, debug: bool) -> None:
    """From now on both streams write what they cannot encode as escapes, and warnings are lines on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    log = logging.getLogger("progression")
    if not any(isinstance(handler, _Warnings) for handler in log.handlers):
        log.addHandler(_Warnings())
    log.setLevel(logging.DEBUG if debug else logging.WARNING)


class _Warnings(logging.Handler):
    """The package's log, a line a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning; of an error, with --debug, where it came from."""
        if record.exc_info:
            say_lines("".join(traceback.format_exception(*record.exc_info)).rstrip(), err=True)
        else:
            say(f"progression: warning: {record.getMessage()}", err=True)


def finite(param: typer.CallbackParam, value: "float | list[float] | None") -> "float | list[float] | None":
    """Of an option that takes numbers: finite ones only, as nan and infinity pass limits in unexpected ways.

    Raises
    ------
    UsageError
        For any other.
    """
    for one in value if isinstance(value, list) else [value]:
        if one is not None and not math.isfinite(one):
            raise UsageError(f"{param.opts[0]} {one}: expected a finite number")
    return value
