import io
import os
import socket
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from progression.errors import ImageError
from progression.film import read_knee
from progression.image import (
    MAX_PIXELS,
    SPAN,
    Exposure,
    exposure,
    from_model,
    read_image,
    stated_side,
    to_model,
)
from progression.types import Side
from tests.fakes import knee, save_knee

GREY8 = (knee() * 255).round().astype(np.uint8)
UNIT = GREY8.astype(np.float32) / 255


def picture(mode: str) -> Image.Image:
    return Image.fromarray(GREY8).convert(mode)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"knee.{suffix}"
    picture("RGB" if suffix == "webp" else "L").save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_allclose(read_image(path), UNIT, atol=1e-6)


def test_jpeg_is_near(tmp_path: Path) -> None:
    picture("L").save(tmp_path / "knee.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "knee.jpg") - UNIT).mean() < 0.01


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_modes_of_a_grey_picture_give_the_same_pixels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("knee.tif" if mode == "CMYK" else "knee.png")
    picture(mode).save(path)
    np.testing.assert_allclose(read_image(path), UNIT, atol=2.5 / 255)


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    alpha = np.full_like(GREY8, 255)
    alpha[:, :48] = 0
    Image.merge("LA", (Image.fromarray(GREY8), Image.fromarray(alpha))).save(tmp_path / "knee.png")
    pixels = read_image(tmp_path / "knee.png")
    assert (pixels[:, :48] == 0).all()
    np.testing.assert_allclose(pixels[:, 48:], UNIT[:, 48:], atol=1e-6)


def test_16_bits_keep_their_precision(tmp_path: Path) -> None:
    values = (knee() * 65535).astype(np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "knee.png")
    Image.fromarray(values).save(tmp_path / "knee.tif")
    for name in ("knee.png", "knee.tif"):
        np.testing.assert_allclose(read_image(tmp_path / name), values / 65535, atol=1e-6)


def test_12_bits_in_16_are_scaled_by_their_used_bits() -> None:
    values = (knee() * 4000).astype(np.uint16)
    values[0, 0] = 4000
    np.testing.assert_allclose(read_image(values), values / 4095, atol=1e-6)


def test_npy_and_arrays_agree(tmp_path: Path) -> None:
    np.save(tmp_path / "knee.npy", GREY8)
    np.testing.assert_array_equal(read_image(tmp_path / "knee.npy"), read_image(GREY8))
    np.testing.assert_array_equal(read_image(GREY8[:, :, None]), UNIT)
    np.testing.assert_allclose(read_image(np.stack([UNIT] * 3, axis=2)), UNIT, atol=1e-6)


def test_archive_member(tmp_path: Path) -> None:
    stored = io.BytesIO()
    picture("L").save(stored, format="PNG")
    with zipfile.ZipFile(tmp_path / "knees.zip", "w") as archive:
        archive.writestr("a.png", stored.getvalue())
    np.testing.assert_array_equal(read_image(f"{tmp_path}/knees.zip::a.png"), UNIT)
    with pytest.raises(ImageError, match=r"b\.png: not in knees\.zip"):
        read_image(f"{tmp_path}/knees.zip::b.png")
    with pytest.raises(ImageError, match="no such archive"):
        read_image(f"{tmp_path}/other.zip::a.png")


def test_orientation_tag_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored left to right
    picture("L").save(tmp_path / "knee.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "knee.png"), UNIT[:, ::-1])


def test_two_pages_are_refused(tmp_path: Path) -> None:
    picture("L").save(tmp_path / "knee.tif", save_all=True, append_images=[picture("L")])
    with pytest.raises(ImageError, match="holds 2 pictures"):
        read_image(tmp_path / "knee.tif")


def test_damaged_dicom_is_named(tmp_path: Path) -> None:
    (tmp_path / "knee.dcm").write_bytes(bytes(128) + b"DICM" + bytes(500))
    with pytest.raises(ImageError, match=r"knee\.dcm: "):
        read_image(tmp_path / "knee.dcm")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((96, 96), np.nan, dtype=np.float32), "NaN or infinite"),
        (np.where(knee() > 0.7, np.inf, knee()), "NaN or infinite"),
        (knee() * 255, r"floats from .* rescale"),
        (knee() - 0.5, "rescale them"),
        ((knee() * 100).astype(np.int16) - 50, "negative values"),
        (knee() > 0.5, "of type bool"),
        (knee().astype(complex), "of type complex"),
        (np.zeros((96, 96), dtype=np.uint8), "all black"),
        (np.full((96, 96), 0.7), "without contrast"),
        (np.zeros((8, 8)), "8 x 8 pixels; expected at least 64"),
        (np.zeros((96, 300)), "crop it"),
        (np.zeros((96, 96, 2)), "shape"),
        (np.zeros(96), "shape"),
        (np.zeros((0, 0)), "0 x 0 pixels"),
        (
            np.broadcast_to(np.uint8(0), (20_000, 20_000)),
            "20000 x 20000 pixels; expected at most 40 megapixels",
        ),
        (np.stack([knee(), knee().T, 1 - knee()], axis=2), "colour picture"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(array)


@pytest.mark.parametrize("dye", [(0.4, 0.7, 1.0), (1.0, 0.8, 0.5), (1.0, 0.0, 0.0)])
def test_a_tinted_film_is_a_grey_one(dye: tuple[float, float, float]) -> None:
    tinted = knee()[:, :, None] ** np.array([1.4, 1.0, 0.8], np.float32) * np.array(dye, np.float32)
    np.testing.assert_allclose(
        read_image(tinted), tinted @ np.array([0.299, 0.587, 0.114], np.float32), atol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.97), suffix=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]))
def test_a_picture_cut_anywhere_is_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, share: float, suffix: str
) -> None:
    stored = io.BytesIO()
    picture("L").save(stored, format=suffix)
    path = tmp_path_factory.mktemp("cut") / "knee.bin"
    path.write_bytes(stored.getvalue()[: int(share * len(stored.getvalue()))])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_picture_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    stored = io.BytesIO()
    picture("L").save(stored, format="PNG")
    content = bytearray(stored.getvalue())
    content[position % len(content)] = value
    path = tmp_path_factory.mktemp("changed") / "knee.png"
    path.write_bytes(content)
    try:
        assert read_image(path).dtype == np.float32
    except ImageError as error:
        assert "\n" not in str(error)


def test_to_model_puts_the_percentiles_at_the_span() -> None:
    ramp = np.tile(np.linspace(0.2, 0.8, 101, dtype=np.float32), (101, 1))
    assert exposure(ramp) == Exposure(pytest.approx(0.206), pytest.approx(0.794))
    x = to_model(ramp, side=Side.RIGHT, resolution=101)
    assert x.shape == (1, 101, 101)
    assert x[0, 0, 1].item() == pytest.approx(-SPAN, abs=1e-5)
    assert x[0, 0, 50].item() == pytest.approx(0, abs=1e-5)
    assert x[0, 0, 99].item() == pytest.approx(SPAN, abs=1e-5)


def test_left_knees_are_mirrored_and_mirrored_back() -> None:
    right = to_model(knee(), side=Side.RIGHT, resolution=64)
    left = to_model(np.ascontiguousarray(knee()[:, ::-1]), side=Side.LEFT, resolution=64)
    torch.testing.assert_close(left, right)
    np.testing.assert_allclose(from_model(left, side=Side.LEFT), from_model(right, side=Side.RIGHT)[:, ::-1])


def test_inverted_films_are_turned_and_turned_back() -> None:
    inverted = 1 - knee()
    reference = exposure(inverted)
    assert reference.low > reference.high
    x = to_model(inverted, side=Side.RIGHT, resolution=96)
    torch.testing.assert_close(x, to_model(knee(), side=Side.RIGHT, resolution=96), atol=1e-4, rtol=0)
    assert np.abs(from_model(x, side=Side.RIGHT, exposure=reference) - inverted).mean() < 0.003


def test_oblong_pictures_are_cropped_at_the_centre() -> None:
    padded = np.pad(knee(), ((0, 0), (20, 20)))
    torch.testing.assert_close(
        to_model(padded, side=Side.RIGHT, resolution=64), to_model(knee(), side=Side.RIGHT, resolution=64)
    )


@settings(max_examples=40, deadline=None)
@given(gain=st.floats(0.1, 1), offset=st.floats(0, 1), side=st.sampled_from(Side), seed=st.integers(0, 99))
def test_exposure_does_not_matter_and_comes_back(gain: float, offset: float, side: Side, seed: int) -> None:
    original = knee(seed=seed)
    exposed = (gain * original + offset * (1 - gain)).astype(np.float32)
    x = to_model(exposed, side=side, resolution=96)
    torch.testing.assert_close(x, to_model(original, side=side, resolution=96), atol=2e-4, rtol=0)
    assert x.abs().max() <= 1
    back = from_model(x, side=side, exposure=exposure(exposed))
    assert back.dtype == np.float32
    assert np.abs(back - exposed).mean() < 0.003


def test_stated_side(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Laterality", "L")
    picture("L").save(tmp_path / "right.png", pnginfo=info)
    assert stated_side(tmp_path / "right.png") is Side.LEFT
    assert stated_side(save_knee(tmp_path / "left.png")) is None
    assert stated_side(tmp_path / "missing.png") is None
    assert stated_side("knees.zip::left.png") is None


def test_the_limit_is_checked_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (8000, MAX_PIXELS // 8000 + 1)).save(tmp_path / "large.png")
    content = (tmp_path / "large.png").read_bytes()
    (tmp_path / "large.png").write_bytes(content[: content.index(b"IDAT") + 20])  # decoding it would tell
    with pytest.raises(ImageError, match="at most 40 megapixels"):
        read_image(tmp_path / "large.png")


def test_real_knees_fill_the_range(shared: Path) -> None:
    archive = shared / "data" / "knees" / "val.zip"
    with zipfile.ZipFile(archive) as opened:
        names = sorted(opened.namelist())[:40]
    clipped = []
    for name in names:
        pixels = read_image(f"{archive}::{name}")
        x = to_model(pixels, side=Side.parse(Path(name).stem[-1]), resolution=128)
        clipped.append(float((x.abs() == 1).float().mean()))
    assert np.mean(clipped) < 0.01
    assert max(clipped) < 0.03


ODD_FILES = ["pipe", "socket", "folder", "endless"]


def odd_file(kind: str, path: Path) -> Path:
    """Something that is no ordinary file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices as on Linux and macOS")
@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("suffix", ["png", "dcm", "npy", "nii.gz"])
def test_only_ordinary_files_are_read(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
    path = odd_file(kind, Path(f"odd.{suffix}"))
    for read in (read_image, read_knee):
        with pytest.raises(ImageError, match=rf"odd\.{suffix}: (not an ordinary file|No such device)"):
            read(path)
    with pytest.raises(ImageError, match=rf"odd\.{suffix}: "):
        read_image(f"{path}::knee.png")
    assert stated_side(path) is None


def test_a_link_to_a_picture_is_a_picture(tmp_path: Path) -> None:
    save_knee(tmp_path / "knee.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "knee.png")
    np.testing.assert_array_equal(read_image(tmp_path / "link.png"), read_image(tmp_path / "knee.png"))


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A large file that takes no room on the disk."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(len(start) + size)
    return path


def npy_header(kind: str, shape: tuple[int, ...], *, by_columns: bool = False) -> bytes:
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": by_columns, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("start", "size", "reason"),
    [
        (npy_header("|u1", (100, 100, 300_000)), 3 * 10**9, r"over 256 MB|shape \(100, 100, 300000\)"),
        (npy_header("|u1", (100, 100, 20_000)), 2 * 10**8, r"shape \(100, 100, 20000\)"),
        (npy_header("|u1", (10**9, 10**9)), 96, "1000000000 x 1000000000 pixels; expected at most 40 megapixels"),
        (npy_header("<f8", (6300, 6300)), 96, "over 256 MB; save it as float32"),
        (npy_header("|u1", (96, 96)), 96 * 96 - 1, "damaged or truncated"),
        (npy_header("|O", (96, 96)), 96 * 96 * 8, "not of numbers"),
        (npy_header("<V2147483647", (96, 96)), 96, "not of numbers"),
        (b"\x93NUMPY\x02\0" + struct.pack("<I", 3 << 30), 10**8, "damaged or truncated"),
        (b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000, 96, "damaged or truncated"),
        (b"\x93NUMPY\x09\0", 96, "version|damaged"),
    ],
)  # fmt: skip
def test_arrays_on_disk_that_are_refused_before_they_are_read(
    start: bytes, size: int, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(sparse(tmp_path / "knee.npy", start, size))


def test_an_array_stored_by_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "knee.npy", np.asfortranarray(GREY8[:, :80]))
    np.testing.assert_array_equal(read_image(tmp_path / "knee.npy"), UNIT[:, :80])


def zip_directory(entries: int) -> bytes:
    """An archive that is only its list."""
    fields = (0x02014B50, 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    listed = (struct.pack("<IHHHHHHIIIHHHHHII", *fields) + b"a") * entries
    return listed + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, len(listed), 0, 0)


def test_archives_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "many.zip").write_bytes(zip_directory(300_000))
    with pytest.raises(ImageError, match=r"many\.zip: its list of members is over 12 MB"):
        read_image(f"{tmp_path}/many.zip::a")
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr("lzma.png", b"x" * 999, zipfile.ZIP_LZMA)
    with pytest.raises(ImageError, match=r"lzma\.png: packed in a way that is not read"):
        read_image(f"{tmp_path}/odd.zip::lzma.png")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep.png", bytes(300 << 20), compresslevel=1)
    with pytest.raises(ImageError, match=r"deep\.png: over 256 MB"):
        read_image(f"{tmp_path}/deep.zip::deep.png")
    (tmp_path / "none.zip").write_text("no archive")
    with pytest.raises(ImageError, match=r"none\.zip: no readable zip archive"):
        read_image(f"{tmp_path}/none.zip::a")


def test_the_side_is_found_among_other_texts(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", "x" * 100_000)
    info.add_text("Software", "y" * 100, zip=True)
    info.add_itxt("Laterality", "R")
    picture("L").save(tmp_path / "knee.png", pnginfo=info, icc_profile=bytes(5000))
    assert stated_side(tmp_path / "knee.png") is Side.RIGHT


def test_texts_in_a_picture_of_many_chunks_are_looked_for_in_bounded_time(tmp_path: Path) -> None:
    stored = io.BytesIO()
    picture("L").save(stored, format="PNG")
    empty = struct.pack(">I4sI", 0, b"tEXt", zlib.crc32(b"tEXt"))
    content = stored.getvalue()
    (tmp_path / "bomb.png").write_bytes(content[:33] + empty * 1_000_000 + content[33:])
    started = time.process_time()
    assert stated_side(tmp_path / "bomb.png") is None
    assert time.process_time() - started < 1
