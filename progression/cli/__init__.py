"""The command line: parses and calls, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failure, 2 wrong use, 130 stopped by Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import typer

from progression import __version__
from progression.cli import cohort as _cohort
from progression.cli import explain as _explain_knee
from progression.cli import predict as _predict
from progression.cli.console import check_said, prepare, say, say_lines
from progression.errors import ProgressionError, failure
from progression.memory import keep_freed_memory

GROUPS = ("weights", "bank", "data", "phantom", "train", "evaluate", "readers", "dicom", "pacs")
"""Sub-commands, each in its own module as `app`; these import what is heavy inside their functions."""

EXIT_STOPPED = 130


def _version(asked: bool) -> None:
    if asked:
        say(f"progression {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="progression",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Predict how a knee radiograph will look in the future, and the risk of progression.",
        epilog="Research use, not a medical device. With --debug, errors show their traceback.",
    )

    @app.callback()
    def _options(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
    ) -> None:
        pass

    app.command("demo")(_predict.demo)
    app.command("predict")(_predict.predict)
    app.command("cohort")(_cohort.cohort)
    app.command("explain")(_explain_knee.explain)
    for group in GROUPS:
        app.add_typer(import_module(f"progression.cli.{group}").app, name=group)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code, with errors told in one line on stderr."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    prepare(debug=debug)
    try:
        code = build_app()(args=rest, prog_name="progression", standalone_mode=False)
        check_said()
        if code == EXIT_STOPPED:  # Ctrl-C, as some versions of typer tell it
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("stopped")
        return EXIT_STOPPED
    except BrokenPipeError:  # the reader of our output, `head` for one, has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  closed by the interpreter's exit
        return 1
    except Exception as error:  # the boundary: whatever it is, one line and an exit code
        if debug and isinstance(error, ProgressionError):  # of any other `failure` tells it
            traceback.print_exc()
        return _explain(error)


def main() -> None:
    """Entry point of the `progression` command."""
    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


def _explain(error: Exception) -> int:
    """Tell an error in one line; returns the exit code that goes with it."""
    # wrong use, as the parser tells it: its classes move between versions of typer, this method does not
    formatted = getattr(error, "format_message", None)
    if isinstance(error, ProgressionError):
        _say(f"error: {error}")
    elif formatted is None:
        _say(f"error: {failure(error)}")
    elif formatted().startswith("Usage:"):  # a command without arguments: its help
        say_lines(formatted(), err=True)
    else:
        _say(f"error: {formatted()} (progression COMMAND --help)")
    return int(getattr(error, "exit_code", 1))


def _say(message: str) -> None:
    say("progression: " + " ".join(message.split()), err=True)
