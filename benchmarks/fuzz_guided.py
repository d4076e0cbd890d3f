"""Fuzzing that follows which branches an input takes, over the readers that are written here.

    pip install atheris
    python benchmarks/fuzz_guided.py pickle -max_total_time=300
    python benchmarks/fuzz_guided.py --all --runs 20000

What a reader raises must be a ProgressionError; anything else is a finding, and so is an input over 2 s or 1 GiB, which
libFuzzer watches. The corpus begins with the seeds of benchmarks/fuzz.py, and is kept in memory only. Readers that hand
their input to the worker of `progression.decoding.sandbox` are for benchmarks/fuzz.py: branches of other processes are
not seen.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(
    include=["progression.decoding", "progression.dicom", "progression.nifti", "progression.stylegan2.inert"]
):
    from progression.decoding.npy import read_npy
    from progression.decoding.png_text import png_texts
    from progression.decoding.sources import members_of, opened
    from progression.dicom import parse
    from progression.dicom.decode import stored_values
    from progression.nifti import _Gzip
    from progression.stylegan2.inert import read_pickle

from fuzz import seeds  # noqa: E402

from progression.errors import ProgressionError  # noqa: E402
from progression.weights import load_model  # noqa: E402

_FOLDER = Path(tempfile.mkdtemp(prefix="guided-"))


def _file(content: bytes, name: str) -> Path:
    path = _FOLDER / name
    path.write_bytes(content)
    return path


def _zip(content: bytes) -> None:
    path = _file(content, "a.zip")
    for name in members_of(path)[:3]:
        with opened(f"{path}::{name}") as stream:
            while stream.read(1 << 20):
                pass


def _dicom(content: bytes) -> None:
    data = parse.parse(content, "x")
    with parse.guarded("x"):
        stored_values(data, "x")


def _manifest(content: bytes) -> None:
    _file(content, "manifest.json")
    load_model(_FOLDER)


READERS: dict[str, tuple[Callable[[bytes], object], str, str]] = {
    "npy": (lambda content: read_npy(BytesIO(content), "x", max_pixels=40_000_000), "picture", ".npy"),
    "png": (lambda content: png_texts(BytesIO(content)), "picture", ".png"),
    "gzip": (lambda content: _Gzip(BytesIO(content)).read(1 << 20), "picture", ".nii.gz"),
    "zip": (_zip, "zip", ".zip"),
    "dicom": (_dicom, "dicom", ".dcm"),
    "pickle": (lambda content: read_pickle(content, source="x"), "pickle", ".pkl"),
    "manifest": (_manifest, "model", ".json"),
}
"""What reads an input, and the kind and the suffix of the seeds."""
_ALREADY_TYPED = (ProgressionError,)
_IN_DECODING = {"npy": (Exception,), "gzip": (Exception,), "zip": (Exception,)}
"""What `progression.image` turns into an ImageError wherever it comes from."""


def main() -> int:
    """Fuzz one reader for ever, or all for some inputs each."""
    if sys.argv[1:2] == ["--all"]:
        runs = sys.argv[3] if len(sys.argv) > 3 else "20000"
        failed = 0
        for name in READERS:
            done = subprocess.run(
                [sys.executable, __file__, name, f"-runs={runs}", "-timeout=2", "-rss_limit_mb=1800"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            told = [
                line
                for line in done.stderr.splitlines()
                if "cov:" in line or "ERROR" in line or "Error" in line
            ]
            print(
                f"{name}: {'fine' if done.returncode == 0 else 'FINDING'}; {told[-1][:200] if told else ''}",
                flush=True,
            )
            failed += done.returncode != 0
        return int(bool(failed))
    read, kind, suffix = READERS[sys.argv[1]]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(seeds()[kind]):
        if seed.suffix == suffix:
            (corpus / str(number)).write_bytes(seed.content)
    expected = (*_ALREADY_TYPED, *_IN_DECODING.get(sys.argv[1], ()))

    def one(content: bytes) -> None:
        with contextlib.suppress(*expected):
            read(content)

    atheris.Setup([sys.argv[0], str(corpus), "-max_len=20000", *sys.argv[2:]], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
