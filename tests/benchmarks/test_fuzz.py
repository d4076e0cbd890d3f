"""A slice of the fuzzing: its mutations are drawn, read and told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="costs are counted as on Linux")
def test_three_hundred_mutations_of_all_formats() -> None:
    command = [sys.executable, "-W", "ignore", "benchmarks/fuzz.py", "--mutations", "300", "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "findings 0" in done.stdout and "files left: none" in done.stdout
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "npy", "dicom", "pickle"):
        assert f"{form}: " in done.stdout
