"""What is installed is what was locked, may be used, and has its known vulnerabilities listed."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("base", "torch", "torch-cpu", "test", "dev", "audit")


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


licences, vulnerabilities, lock = script("licences"), script("vulnerabilities"), script("lock")


def entries(name: str) -> dict[str, str]:
    found: dict[str, str] = lock.entries((ROOT / "requirements" / f"{name}.txt").read_text())
    assert found
    return found


def version_of(entry: str) -> str:
    return re.split(r"[\s;]", entry.split("==")[1])[0]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_with_its_hashes_and_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    for entry in entries(name).values():
        first, *hashes = entry.split(" \\\n    ")
        assert re.match(r"^[a-z0-9-]+==\S+( ; .+)?$", first), first
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), first


def test_locks_and_constraints_have_the_same_versions() -> None:
    constraints = dict(
        (canonicalize_name(line.split("==")[0]), line.split("==")[1])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    locked = {name: version_of(entry) for lock in LOCKS[:-1] for name, entry in entries(lock).items()}
    cuda = {name for name in locked if re.match(r"nvidia-|cuda-|triton$", name)}
    assert locked.pop("torch").removesuffix("+cpu") == constraints.pop("torch")
    assert {name: version for name, version in locked.items() if name not in cuda} == constraints


def test_every_dependency_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock_of, wanted in (
        (("base", "torch"), project["dependencies"]),
        (("test",), extras["test"]),
        (("test", "dev"), [text for extra in extras.values() for text in extra]),
    ):
        found = {name: version_of(entry) for lock in lock_of for name, entry in entries(lock).items()}
        for requirement in map(Requirement, wanted):
            if requirement.name != project["name"]:
                assert found[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("BSD-3-Clause AND Zlib", True),
        ("BSD-3-Clause AND GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT", True),
        ("GPL-2.0-only OR AGPL-3.0-only", False),
        ("MIT AND (GPL-2.0-only OR ISC)", False),
        ("MIT AND (Apache-2.0 OR ISC)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("", False),
    ],
)
def test_a_licence_is_allowed_if_all_of_one_alternative_is(licence: str, allowed: bool) -> None:
    assert licences.is_allowed(licence) is allowed


def test_the_spdx_expression_counts_before_classifiers_and_these_before_words() -> None:
    bsd, osi = "License :: OSI Approved :: BSD License", "License :: OSI Approved"
    assert licences.declared({"License-Expression": "MIT"}, [bsd]) == ("MIT",)
    assert licences.declared({"License": "whatever"}, [bsd, "Topic :: Software"]) == ("BSD-3-Clause",)
    assert licences.declared({"License": "Apache 2.0"}, [osi]) == ("Apache-2.0",)
    assert licences.declared({"License": "UNKNOWN"}, []) == ()


def test_an_unknown_licence_needs_a_reason_and_the_gpl_among_core_packages_has_none() -> None:
    reason = {"odd": "why not"}

    def fault(*said: str, core: bool) -> str | None:
        found: str | None = licences.fault(licences.Package("odd", core, said), reason)
        return found

    for core in (True, False):
        assert fault("MIT", core=core) is None
        assert fault("Something Else", core=core) is None  # excused
    assert fault("GPL-3.0-or-later", core=False) is None
    for said in ("GPL-3.0-or-later", "AGPLv3", "LGPL-2.1", "GNU Affero General Public License v3"):
        assert "among the dependencies of no extra" in str(fault(said, core=True))
    assert fault("GPL-2.0-only OR MIT", core=True) is None
    assert "nothing is not on the list" in licences.fault(licences.Package("even", False, ()), reason)


def test_core_packages_are_those_that_no_extra_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    wants = {
        "ours": ["a>=1", "b; extra == 'more'", "c; python_version < '3'"],
        "a": ["d[fast]"],
        "d": ["e; extra == 'fast'", "f; extra == 'slow'"],
    }
    monkeypatch.setattr(
        licences, "distribution", lambda name: SimpleNamespace(requires=wants.get(name, ["a"]))
    )
    assert licences.core_of("ours") == {"a", "d", "e"}


def test_known_vulnerabilities_are_told_and_one_with_a_fix_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}
    answer = {
        "dependencies": [
            {"name": "Odd_One", "version": "1.0", "vulns": [fixed]},
            {"name": "open", "version": "2.0", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
            {"name": "fine", "version": "3.0", "vulns": []},
            {"name": "new", "version": "4.0", "skip_reason": "not found"},
        ]
    }  # fmt: skip
    found, known, reason = vulnerabilities.of_answer(answer)
    assert known == {"odd-one", "open", "fine"} and reason == "the service does not know them"
    assert vulnerabilities.told(found) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Odd_One 1.0: PYSEC-1, CVE-1: a newer version fixes it",
        "open 2.0: PYSEC-2: no fix is known",
    ]
    monkeypatch.setitem(vulnerabilities.WAIVED, "CVE-1", "only on Windows 95")
    assert vulnerabilities.told(found) == 0
    assert "CVE-1: only on Windows 95\n" in capsys.readouterr().out


def test_data_on_the_disk_know_ranges_of_versions() -> None:
    data = {
        "PyYAML": [
            {"id": "x-1", "cve": "CVE-9", "specs": ["<5.4", ">=6,<6.1"]},
            {"id": "x-2", "cve": None, "specs": [">0"]},
        ]
    }
    for version, expected in {
        "5.3": [(("x-1", "CVE-9"), True), (("x-2",), False)],
        "5.4": [(("x-2",), False)],
        "6.0": [(("x-1", "CVE-9"), True), (("x-2",), False)],
    }.items():
        found = vulnerabilities.on_disk({"pyyaml": version}, data)
        assert [(one.identifiers, one.fixed) for one in found] == expected


@pytest.mark.parametrize(("spec", "code"), [("<9", 1), ("<0.1", 0)])
def test_without_the_service_it_says_what_was_not_checked_and_how_old_its_data_are(
    spec: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulnerabilities, "locked", lambda: {"odd": "1.0", "even": "2.0"})
    monkeypatch.setattr(vulnerabilities, "asked", lambda pins: ([], set(), "no answer in 300 s"))
    made = {"$meta": {"timestamp": 86400 * 3}, "odd": [{"id": "x-1", "specs": [spec]}]}
    monkeypatch.setattr(vulnerabilities, "stored", lambda: made)
    monkeypatch.setattr(vulnerabilities.time, "time", lambda: 86400 * 10)
    assert vulnerabilities.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert "NOT CHECKED with current data: 2 packages (no answer in 300 s)" in last
    assert f"With data of 1970-01-04, 7 days old: {code} known" in last


def test_a_packages_locked_version_is_what_is_looked_up() -> None:
    pins = vulnerabilities.locked()
    assert pins["torch"] == version_of(entries("torch")["torch"])
    assert len(pins) == sum(len(entries(name)) for name in ("base", "torch", "test", "dev"))
