"""Films for the tests, as bytes and as files."""

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from progression.dicom import example
from progression.dicom.parse import guarded
from progression.dicom.write import file_bytes
from progression.types import Pixels, Side
from tests.fakes import knee

RAMP: Pixels = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
SECRETS = ("Geheimnis", "Annegret", "PID-77123", "19561224", "ACC-99", "Hospital", "Doktor", "Strasse 5")
"""What must not be found where no patient is named."""
SYNTHETIC_DATA = "(0x0008,0x001c)"


def content(made: Dataset) -> bytes:
    """A data set as a file's bytes."""
    return file_bytes(made, "test")


def again(data: bytes) -> Dataset:
    """A file's bytes as a data set."""
    return pydicom.dcmread(BytesIO(data))


def named(made: Dataset) -> Dataset:
    """With a patient who has all of `SECRETS`."""
    made.PatientName, made.PatientID, made.PatientBirthDate = "Geheimnis^Annegret", "PID-77123", "19561224"
    made.AccessionNumber, made.InstitutionName = "ACC-99", "Hospital"
    made.ReferringPhysicianName, made.PatientAddress = "Doktor^Ein", "Strasse 5"
    return made


def forced(made: Dataset, **values: object) -> Dataset:
    """With values that pydicom would warn of: a damaged or careless film's."""
    with guarded("test"):
        for keyword, value in values.items():
            setattr(made, keyword, value)
    return made


def save(path: Path, made: Dataset) -> Path:
    """Write a data set as a file."""
    path.write_bytes(content(made))
    return path


def check_with_dciodvfy(*films: Path) -> None:
    """Skip where dciodvfy is not installed; fail on its errors, but for an attribute of 2024 that it may not know."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian package dicom3tools)")
    for film in films:
        done = subprocess.run(["dciodvfy", film], capture_output=True, text=True, check=False)
        told = (done.stdout + done.stderr).splitlines()
        assert not [line for line in told if line.startswith("Error") and SYNTHETIC_DATA not in line], (
            film.name
        )


def dx(side: Side | None = Side.LEFT, **options: object) -> Dataset:
    """A DX film of a test knee, 96 pixels wide; the right one is another knee than the left one."""
    return example.dx(knee(seed=int(side is Side.RIGHT)), side=side, **{"spacing_mm": 1.4} | options)
