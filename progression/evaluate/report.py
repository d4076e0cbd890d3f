"""What every evaluation leaves behind: a JSON file, and one table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from progression.errors import TableError
from progression.files import atomic_write, read_regular

_MAX_BYTES = 64 << 20


def write_json(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report; numbers that are not finite become null, which JSON has instead.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    write_text(json.dumps(_plain(report), indent=2, allow_nan=False, ensure_ascii=False), path)


def write_text(text: str, path: str | Path) -> None:
    """Write text as UTF-8, with a line's end at its end.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_write(path) as temporary:
        # what is no text, as in names of files that are not UTF-8, is written as JSON would: \\udcff
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a report back.

    Raises
    ------
    TableError
        The file cannot be read or is no report.
    """
    try:
        report = json.loads(read_regular(path, most=_MAX_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TableError(f"cannot read the report {path}: {reason}") from error
    if not isinstance(report, dict):
        raise TableError(f"cannot read the report {path}: expected a JSON object")
    return report


def as_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text, the first one flush left, the others right; floats to three digits after the point."""
    cells = [[str(cell) for cell in header], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """`as_table` for Markdown, padded so that it reads as text too."""
    cells = [[str(cell) for cell in header], *([_cell(value) for value in row] for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def interval(value: float, bounds: Sequence[float]) -> str:
    """A figure with its interval: 0.712 [0.640, 0.781]."""
    if any(not math.isfinite(bound) for bound in bounds):
        return _cell(value)
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, str | int | bool | None):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_plain(entry) for entry in value]
