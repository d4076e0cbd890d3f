import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from progression.decoding import sandbox
from progression.errors import DependencyError, ImageError
from progression.film import read_knee
from progression.image import read_image
from progression.types import Side
from tests.fakes import knee

nibabel = pytest.importorskip("nibabel")
SHOWN = np.round(knee()[:80] * 4095).astype(np.uint16)
"""As it should be seen: (80, 96), the patient's right at the left, the head at the top."""


def save(
    path: Path, array: npt.NDArray[np.generic], codes: str, *, form: str = "both", kind: str = "Nifti1Image"
) -> Path:
    """An array whose axes lead to the directions of `codes`, as LAS."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, code in enumerate(codes):
        affine["RL AP SI".replace(" ", "").index(code) // 2, axis] = 0.15 if code in "RAS" else -0.15
    made = getattr(nibabel, kind)(array, affine)
    made.set_sform(affine, code=1 if form in ("both", "sform") else 0)
    made.set_qform(affine, code=1 if form in ("both", "qform") else 0)
    nibabel.save(made, path)
    return path


@pytest.mark.parametrize(
    ("codes", "array"),
    [
        ("LIP", SHOWN.T[:, :, None]),
        ("RIP", SHOWN.T[::-1, :, None]),
        ("LSP", SHOWN.T[:, ::-1, None]),
        ("SRA", SHOWN[::-1, ::-1, None]),
        ("ILA", SHOWN[:, :, None]),
        ("LPS", SHOWN.T),  # as written by ITK from a picture without an orientation
        ("LAS", SHOWN.T[:, ::-1]),
        ("RAS", SHOWN.T[::-1, None, ::-1]),
        ("PLI", SHOWN.T[None]),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
def test_a_knee_is_turned_as_it_is_looked_at(
    tmp_path: Path, codes: str, array: npt.NDArray[np.uint16], suffix: str, kind: str
) -> None:
    path = save(tmp_path / f"knee{suffix}", array, codes, kind=kind)
    np.testing.assert_array_equal(read_image(path), SHOWN.astype(np.float32) / 4095)


@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("kind", [">i2", "<f4", ">f8", "u2"])
def test_whole_numbers_are_what_they_are_however_stored(tmp_path: Path, form: str, kind: str) -> None:
    path = save(tmp_path / "knee.nii", SHOWN.T.astype(kind), "LPS", form=form)
    np.testing.assert_array_equal(read_image(path), SHOWN.astype(np.float32) / 4095)


def test_scale_and_fractions(tmp_path: Path) -> None:
    path = save(tmp_path / "unit.nii", (SHOWN.T / 4095).astype(np.float32), "LPS")
    np.testing.assert_allclose(read_image(path), SHOWN / 4095, atol=1e-7)
    made = nibabel.load(save(tmp_path / "scaled.nii", SHOWN.T // 2, "LPS"))
    made.header.set_slope_inter(2, 1)
    made.header["vox_offset"] = 352
    content = bytearray((tmp_path / "scaled.nii").read_bytes())
    content[:348] = made.header.binaryblock
    (tmp_path / "scaled.nii").write_bytes(content)
    np.testing.assert_allclose(
        read_image(tmp_path / "scaled.nii"), (2.0 * (SHOWN // 2) + 1) / 4095, atol=1e-7
    )


def test_which_knee_is_not_said(tmp_path: Path) -> None:
    path = save(tmp_path / "knee.nii.gz", SHOWN.T, "LPS")
    assert read_knee(path).side is None
    assert read_knee(path, side=Side.LEFT).side is Side.LEFT


@pytest.mark.parametrize(
    ("shape", "codes", "reason"),
    [
        ((96, 96, 3), "LPS", "96 x 96 x 3: expected one radiograph, not a volume"),
        ((96, 96, 1, 2), "LPS", "96 x 96 x 1 x 2: expected one radiograph"),
        ((96, 1, 1), "LPS", "not a volume or a series"),
        ((96, 96, 1), "PIL", "from the side"),
        ((30, 96, 1), "LPS", "30 x 96 pixels; expected at least 64"),
    ],
)
def test_refused(tmp_path: Path, shape: tuple[int, ...], codes: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(save(tmp_path / "knee.nii", np.ones(shape, np.uint8), codes))


def test_an_orientation_that_is_not_stated_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not say how it is oriented"):
        read_image(save(tmp_path / "knee.nii", SHOWN.T, "LPS", form="none"))
    made = nibabel.load(save(tmp_path / "two.nii", SHOWN.T, "LPS"))
    made.set_qform(np.diag([0.15, -0.15, 0.15, 1]), code=1)
    nibabel.save(nibabel.Nifti1Image(SHOWN.T, None, made.header), tmp_path / "three.nii")
    with pytest.raises(ImageError, match="contradict each other"):
        read_image(tmp_path / "three.nii")


def changed(tmp_path: Path, at: int, value: bytes) -> Path:
    content = bytearray(save(tmp_path / "knee.nii", SHOWN.T, "LPS").read_bytes())
    content[at : at + len(value)] = value
    (tmp_path / "changed.nii").write_bytes(content)
    return tmp_path / "changed.nii"


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\0\0\0\0", "not a NIfTI file of one part"),
        (344, b"ni1\0", "not a NIfTI file of one part"),
        (42, b"\xff\x7f\xff\x7f", "32767 x 32767 pixels; expected at most 40 megapixels"),
        (42, b"\xff\xff", "expected"),
        (70, b"\x80\0\x18\0", "not grey"),
        (70, b"\xff\x7f", "damaged or truncated"),
        (108, np.float32(1e30).tobytes(), "its pixels begin at byte"),
        (108, np.float32("nan").tobytes(), "damaged or truncated"),
    ],
)
def test_hostile_headers(tmp_path: Path, at: int, value: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(changed(tmp_path, at, value))


def test_only_what_the_header_promises_is_unpacked(tmp_path: Path) -> None:
    plain = save(tmp_path / "knee.nii", SHOWN.T, "LPS").read_bytes()
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(plain)
        for _ in range(64):
            stream.write(bytes(1 << 22))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"damaged at its end, which is not looked at"[:9])
    np.testing.assert_array_equal(read_image(path), SHOWN.astype(np.float32) / 4095)
    path.write_bytes(gzip.compress(plain)[:2000])
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(path)


def test_a_file_of_many_members_is_put_together_and_one_of_millions_is_not(tmp_path: Path) -> None:
    plain = save(tmp_path / "knee.nii", SHOWN.T, "LPS").read_bytes()
    parts = [gzip.compress(plain[at : at + 1000]) for at in range(0, len(plain), 1000)]
    (tmp_path / "knee.nii.gz").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(read_image(tmp_path / "knee.nii.gz"), SHOWN.astype(np.float32) / 4095)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(b"") * 1_000_000)
    with pytest.raises(ImageError, match="not a NIfTI file of one part"):
        read_image(tmp_path / "bomb.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damage_is_told_in_one_line(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"knee{suffix}", SHOWN.T, "LPS").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for at in rng.integers(0, min(len(content), 400), size=rng.integers(1, 4)):
            content[at] = rng.integers(0, 256)
        (tmp_path / f"damaged{suffix}").write_bytes(content[: int(rng.integers(1, 2 * len(content)))])
        try:
            read_image(tmp_path / f"damaged{suffix}")
        except ImageError as error:
            assert "\n" not in str(error) and str(error).startswith(f"damaged{suffix}")


def test_without_nibabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "knee.nii", SHOWN.T, "LPS")
    (tmp_path / "nibabel.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    sandbox.close()  # the next worker looks there
    try:
        with pytest.raises(DependencyError, match=r"progression-imaging\[nifti\]"):
            read_image(path)
    finally:
        sandbox.close()
