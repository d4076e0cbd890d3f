"""Write the locks in requirements/: every package that an install takes, at one version, with its files' SHA-256.

    python -m pip install uv
    python .ci/lock.py

Versions are those of constraints.txt; hashes are of all files of a version that the index publishes, for any platform
and Python. Each lock holds what those before it do not:

base.txt    the package's dependencies but torch, and what builds the package
torch.txt   torch as the usual index has it, and what it needs there: on Linux, CUDA
test.txt    the extra `test`
dev.txt     all other extras, and the linters
audit.txt   the listing of known vulnerabilities, by itself

torch-cpu.txt, which may take the place of torch.txt, is written by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
BUILD = ("hatchling", "editables")
AUDIT = ("pip-audit", "safety-db")
TORCH = re.compile(r"torch$|nvidia-|cuda-|triton$")
HEADER = "# Written by .ci/lock.py; CONTRIBUTING.md says how to renew it.\n"
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==\S+", re.MULTILINE)

Lock = dict[str, str]
"""Entries of a lock, each a requirement with its hashes, by the package's name."""


def resolved(*sources: str, options: tuple[str, ...] = ()) -> Lock:
    """What these requirements come to, on any platform."""
    with tempfile.TemporaryDirectory() as work:
        wanted = Path(work) / "wanted.in"
        wanted.write_text("\n".join(sources))
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate"]
        command += ["--no-header", "--python-version", OLDEST_PYTHON, *options, str(wanted)]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return entries(text)


def entries(text: str) -> Lock:
    """The entries of a lock's text, in order."""
    lines = "\n".join(line for line in text.splitlines() if line and not line.startswith(("#", "-r ")))
    blocks = [block for block in re.split(r"\n(?=\S)", lines) if block]
    return {match.group(1): block for block in blocks if (match := _ENTRY.match(block))}


def write(name: str, lock: Lock, *, after: str | None = None) -> None:
    """Write one lock; with it, the one that it comes `after` is installed too."""
    first = f"-r {after}\n" if after else ""
    (FOLDER / name).write_text(HEADER + first + "".join(f"{entry}\n" for entry in lock.values()))
    print(f"{name}: {len(lock)} packages")


def main() -> None:
    """See the module."""
    project = ("pyproject.toml", "-c", "constraints.txt")
    seen: Lock = {}
    torch: Lock = {}
    previous = None
    for name, extras in (("base.txt", ()), ("test.txt", ("test",)), ("dev.txt", ("dev",))):
        chosen = tuple(word for extra in extras for word in ("--extra", extra))
        found = resolved(*BUILD, options=(*project, *chosen))
        torch |= {key: entry for key, entry in found.items() if TORCH.match(key)}
        new = {key: entry for key, entry in found.items() if key not in seen and key not in torch}
        write(name, new, after=previous)
        seen |= found
        previous = name
    write("torch.txt", torch)
    write("audit.txt", resolved(*AUDIT))


if __name__ == "__main__":
    sys.exit(main())
