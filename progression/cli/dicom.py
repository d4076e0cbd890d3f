"""`progression dicom`: de-identify films; write example films."""

from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import say

_MAX_KEY_BYTES = 4_096  # of a key file, which has 65

app = typer.Typer(help="DICOM films: de-identify them; examples to try.", no_args_is_help=True)


@app.command("deidentify")
def deidentify_command(
    films: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILM", help="CR, DX or Secondary Capture files, or folders: all that is DICOM in them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder; files are called by their new UIDs.")],
    keep_date_intervals: Annotated[
        bool, typer.Option("--keep-date-intervals", help="Move dates, by one number of days a patient.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", help="Secret of pseudonyms, UIDs and dates, made if missing [a new one, not kept]."
        ),
    ] = None,
) -> None:
    """De-identify by the Basic Profile of PS3.15. Text burned into pixels is not looked for.

    A file that fails is reported by its number (in folders in the order of their paths), the others are written, and
    the exit code is 1.
    """
    from progression.dicom.deidentify import Deidentifier, new_key
    from progression.errors import ImageError, UsageError, failure
    from progression.files import atomic_write, check_writable
    from progression.image import dicom_content

    paths = [path for film in films for path in _dicom_files(film, out)]
    if not paths:
        raise UsageError("no DICOM file in these folders; name the films, or a folder that holds them")
    check_writable(out)
    key = new_key() if key_file is None else _key(key_file)
    deidentifier = Deidentifier(key=key, keep_intervals=keep_date_intervals)
    failed = unknown = 0
    for number, path in enumerate(paths, start=1):
        try:
            content = dicom_content(path)
            if content is None:
                fault = "not a DICOM file" if path.is_file() else "no such file; check the path"
                raise ImageError(f"file {number}: {fault}")
            made = deidentifier.file(content, f"file {number}")
            with atomic_write(out / f"{made.uid}.dcm") as temporary:
                temporary.write_bytes(made.content)
            unknown += not made.of_known_person
        except Exception as error:  # whatever it is, it is this film's
            failed += 1
            wrong = failure(error)
            told = str(wrong) if wrong is error else f"file {number}: {wrong}"
            say(f"progression: error: {told}", err=True)  # names of files may be names of patients
    say(f"{len(paths) - failed} of {len(paths)} films de-identified: {out}")
    if unknown:
        say(f"{unknown} of them do not say whose they are: their pseudonyms hold within one study only")
    if failed:
        raise typer.Exit(1)


@app.command("example")
def example_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for knee.dcm and film.dcm.")],
) -> None:
    """Write two DICOM films of nobody: one knee, and both knees; prints how to predict them."""
    from progression.cli.predict import EXAMPLE
    from progression.dicom import example
    from progression.dicom.write import file_bytes
    from progression.files import atomic_write
    from progression.image import read_image
    from progression.types import Side
    from progression.weights import resolve

    knee = read_image(resolve("default") / EXAMPLE)
    for name, made in (
        ("knee.dcm", example.knee_film(knee, side=Side.RIGHT)),
        ("film.dcm", example.bilateral_film(knee)),
    ):
        with atomic_write(out / name) as temporary:
            temporary.write_bytes(file_bytes(made, name))
    say(f"progression predict {out / 'knee.dcm'} --months 48")
    say(f"progression predict {out / 'film.dcm'} --months 48")


def _dicom_files(film: Path, out: Path) -> list[Path]:
    """A file itself; of a folder all DICOM files in it and below, but for hidden ones, DICOMDIRs and those in `out`."""
    from progression.dicom.catalogue import is_directory
    from progression.image import is_dicom

    if not film.is_dir():
        return [film]
    found = []
    for path in sorted(film.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(film).parts)
        own = path.resolve().is_relative_to(out.resolve())
        if path.is_file() and not hidden and not own and is_dicom(path) and not is_directory(path):
            found.append(path)
    return found


def _key(path: Path) -> bytes:
    """The key in a file, which is made, readable by its owner only, if it is missing."""
    import os

    from progression.dicom.deidentify import KEY_BYTES, new_key
    from progression.errors import UsageError
    from progression.files import output_error, read_regular

    try:
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(new_key().hex() + "\n")
        key = bytes.fromhex(read_regular(path, most=_MAX_KEY_BYTES).decode("ascii").strip())
    except OSError as error:
        raise output_error(path, error) from error
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"{path} is no key: expected {2 * KEY_BYTES} hexadecimal digits; name a file that is missing"
        )
    return key
