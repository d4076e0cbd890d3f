"""List the known vulnerabilities of the locked packages.

    python -m pip install --require-hashes -r requirements/audit.txt        # into an environment of its own
    python .ci/vulnerabilities.py

Asked is pip-audit's service. What that does not answer for, because there is no network or it does not know a package,
is looked up in the package safety-db, which is data on the disk; how old these are is said, and old data know nothing
of newer vulnerabilities. It fails on a vulnerability that a newer version fixes, unless `WAIVED` gives a reason; one
without a fix is listed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
LOCKS = ("base.txt", "torch.txt", "test.txt", "dev.txt")
WAIVED: dict[str, str] = {}
"""Reason by the vulnerability's identifier."""
PATIENCE_SECONDS = 300
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """A vulnerability of a locked package."""

    package: str
    version: str
    identifiers: tuple[str, ...]
    fixed: bool

    @property
    def waived(self) -> str | None:
        """Why it does not matter here."""
        return next((WAIVED[name] for name in self.identifiers if name in WAIVED), None)


def locked() -> dict[str, str]:
    """Version by name of every locked package."""
    return dict(entry for name in LOCKS for entry in _ENTRY.findall((FOLDER / name).read_text()))


def asked(pins: Mapping[str, str]) -> tuple[list[Found], set[str], str]:
    """What pip-audit's service knows: vulnerabilities, names that it answered for, and why it did not, if so."""
    with tempfile.TemporaryDirectory() as work:
        wanted = Path(work) / "pins.txt"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
        command += ["--progress-spinner", "off", "-r", str(wanted)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            answer = json.loads(ended.stdout)
        except subprocess.TimeoutExpired:
            return [], set(), f"no answer in {PATIENCE_SECONDS} s"
        except ValueError:
            return [], set(), " ".join(ended.stderr.split())[-200:] or "it said nothing"
    return of_answer(answer)


def of_answer(answer: Mapping[str, Any]) -> tuple[list[Found], set[str], str]:
    """As `asked`, of what pip-audit prints."""
    found, known, reason = [], set(), ""
    for package in answer["dependencies"]:
        if "skip_reason" in package:
            reason = "the service does not know them"
            continue
        known.add(canonicalize_name(package["name"]))
        for one in package["vulns"]:
            names = (one["id"], *one.get("aliases", ()))
            found.append(Found(package["name"], package["version"], names, bool(one["fix_versions"])))
    return found, known, reason


def stored() -> dict[str, Any]:
    """The data of the package safety-db; the package itself cannot be imported."""
    package = find_spec("safety_db")
    if package is None or package.origin is None:
        raise SystemExit("no data: install requirements/audit.txt, which has safety-db")
    text = Path(package.origin).with_name("insecure_full.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def on_disk(pins: Mapping[str, str], data: Mapping[str, Any]) -> list[Found]:
    """What safety-db says of these packages; a range of versions with an end was fixed at that."""
    by_name = {canonicalize_name(name): entries for name, entries in data.items()}
    found = []
    for name, version in pins.items():
        for one in by_name.get(canonicalize_name(name), ()):
            ranges = [SpecifierSet(text) for text in one["specs"]]
            if hit := [some for some in ranges if some.contains(version, prereleases=True)]:
                fixed = all(any(part.operator in ("<", "<=", "==") for part in some) for some in hit)
                names = (one["id"], *filter(None, [one.get("cve")]))
                found.append(Found(name, version, names, fixed))
    return found


def told(found: Iterable[Found]) -> int:
    """Print them; returns how many fail the check."""
    failing = 0
    for one in found:
        failing += one.fixed and one.waived is None
        state = one.waived or ("a newer version fixes it" if one.fixed else "no fix is known")
        print(f"{one.package} {one.version}: {', '.join(one.identifiers)}: {state}")
    return failing


def main() -> int:
    """See the module."""
    pins = locked()
    # where the service does not know the first one, it is not there: no need to ask for a hundred
    found, known, reason = asked(dict(list(pins.items())[:1]))
    if known:
        found, known, reason = asked(pins)
    failing = told(found)
    print(
        f"vulnerabilities: the service answered for {len(known)} of {len(pins)} packages: {len(found)} known"
    )
    rest = {name: version for name, version in pins.items() if name not in known}
    if rest:
        data = stored()
        made = data["$meta"]["timestamp"]
        days = int((time.time() - made) / 86400)
        found = on_disk(rest, data)
        failing += told(found)
        print(
            f"vulnerabilities: NOT CHECKED with current data: {len(rest)} packages ({reason}). With data of "
            f"{time.strftime('%Y-%m-%d', time.gmtime(made))}, {days} days old: {len(found)} known"
        )
    return int(failing > 0)


if __name__ == "__main__":
    sys.exit(main())
