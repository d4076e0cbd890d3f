"""`progression weights list | verify | convert`."""

from pathlib import Path
from typing import Annotated

import typer

from progression.cli.console import say

app = typer.Typer(no_args_is_help=True, help="Shipped models, and conversion of official checkpoints.")


@app.command("list")
def list_() -> None:
    """List the models that can be asked for by name, with the size of their parts."""
    from progression.errors import ProgressionError
    from progression.weights import list_models, load_model

    models = list_models()
    if not models:
        say("no models are installed; install the package again, or give a folder to --model")
    for name, folder in models:
        try:
            files = load_model(folder)
        except ProgressionError as error:
            say(f"{name}: damaged ({error})")
            continue
        say(f"{name}: {files.resolution} x {files.resolution} pixels, {folder}")
        for part in files.parts:
            say(f"  {part:<10} {files.size_bytes(part) / 1e6:6.1f} MB  {files.hashes()[part][:12]}")


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(metavar="[NAME|DIR]...", help="Default: all.")] = None,
) -> None:
    """Check every part of models against its SHA-256; exit code 1 if one is missing, changed or truncated."""
    from progression.errors import ProgressionError, WeightsError
    from progression.weights import list_models, load_model

    asked = models or [str(folder) for _, folder in list_models()]
    if not asked:
        raise WeightsError("no models are installed; install the package again, or name a folder")
    damaged = 0
    for model in asked:
        try:
            parts = load_model(model).verify()
            say(f"{model}: ok ({', '.join(parts)})")
        except ProgressionError as error:
            damaged += 1
            say(f"progression: error: {error}", err=True)
    if damaged:
        raise typer.Exit(1)


@app.command()
def convert(
    network: Annotated[Path, typer.Argument(metavar="NETWORK.pkl", help="Official StyleGAN2-ADA snapshot.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the converted model.")],
) -> None:
    """Convert an official snapshot to safetensors; nothing in the pickle is executed."""
    from progression.convert import convert as convert_checkpoint

    convert_checkpoint(network, out)
    say(f"wrote {out}")
