"""How much structure a DICOM file may have: a small file with millions of pieces costs little and is refused."""

import struct
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from progression.dicom.catalogue import directory_files, is_directory, listed
from progression.dicom.deidentify import Deidentifier
from progression.dicom.identify import identify
from progression.dicom.read import read_film
from progression.errors import ImageError
from progression.image import read_image
from tests.dicom.films import content, dx

ITEM, LAST = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
CLOSE_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
UNKNOWN = 0xFFFFFFFF


def element(vr: bytes, length: int, tag: tuple[int, int] = (0x5401, 0x100)) -> bytes:
    """The start of an element with a long length."""
    return struct.pack("<HH2sHI", *tag, vr, 0, length)


def short(tag: tuple[int, int], vr: bytes, value: bytes = b"") -> bytes:
    """An element with a short length."""
    return struct.pack("<HH2sH", *tag, vr, len(value)) + value


def before_pixels(more: bytes) -> bytes:
    """A film with more elements."""
    whole = content(dx())
    at = whole.rindex(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    return whole[:at] + more + whole[at:]


def implicit(more: bytes) -> bytes:
    """A film in Implicit VR Little Endian with more elements."""
    film = dcmread(BytesIO(content(dx())))
    film.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    whole = content(film)
    at = whole.rindex(struct.pack("<HH", 0x7FE0, 0x10))
    return whole[:at] + more + whole[at:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "sequence of unknown length": lambda: before_pixels(element(b"SQ", UNKNOWN) + ITEM * 150_000 + LAST),
    "sequence of known length": lambda: before_pixels(element(b"SQ", 1_200_000) + ITEM * 150_000),
    "sequence of many megabytes": lambda: before_pixels(element(b"SQ", 24_000_000) + ITEM * 3_000_000),
    "unknown element with items": lambda: before_pixels(element(b"UN", UNKNOWN) + ITEM * 150_000 + LAST),
    "implicit sequence": lambda: implicit(
        struct.pack("<HHI", 0x0008, 0x1140, UNKNOWN) + ITEM * 150_000 + LAST
    ),
    "implicit sequence of known length": lambda: implicit(
        struct.pack("<HHI", 0x0008, 0x1140, 1_200_000) + ITEM * 150_000
    ),
    "sequences in a sequence": lambda: before_pixels(
        element(b"SQ", UNKNOWN)
        + (OPEN_ITEM + element(b"SQ", 8_000) + ITEM * 1_000 + CLOSE_ITEM) * 300
        + LAST
    ),
    "empty elements": lambda: before_pixels(
        b"".join(short((0x5003 + 2 * (n >> 16), n & 0xFFFF), b"LO") for n in range(150_000))
    ),
    "one element again and again": lambda: before_pixels(short((0x5003, 1), b"LO") * 150_000),
    "file meta": lambda: content(dx())[:132] + short((2, 0x102), b"LO") * 150_000 + content(dx())[132:],
    "deep": lambda: before_pixels((element(b"SQ", UNKNOWN) + OPEN_ITEM) * 3_000),
    "texts": lambda: before_pixels(element(b"UC", 3_000_000) + b"\\" * 3_000_000),
    "numbers as texts": lambda: before_pixels(short((0x5401, 1), b"DS", b"1\\" * 30_000)),
    "character sets": lambda: before_pixels(element(b"UC", 3_000_000, (0x0008, 0x0005)) + b"\\" * 3_000_000),
    "shifts of character set": lambda: before_pixels(short((0x0010, 0x1000), b"LO", b"\x1b$" * 30_000)),
    "parts of a name": lambda: before_pixels(short((0x0010, 0x1005), b"PN", b"^" * 60_000)),
    "binary numbers": lambda: before_pixels(element(b"UL", 8_000_000) + bytes(8_000_000)),
    "values without an end": lambda: before_pixels(
        element(b"SQ", UNKNOWN) + (OPEN_ITEM + element(b"OB", UNKNOWN)) * 20_000 + b"\1" * 5_000_000
    ),
    "fragments": lambda: before_pixels(element(b"OB", UNKNOWN, (0x7FE0, 0x10)) + ITEM * 150_000 + LAST),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little_and_are_refused(name: str, tmp_path: Path) -> None:
    whole = BOMBS[name]()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(whole)
    started = time.process_time()
    with pytest.raises(ImageError, match=r"^x: "):
        read_film(whole, "x")
    with pytest.raises(ImageError, match=r"^x: "):
        Deidentifier(key=b"k" * 32).file(whole, "x")
    assert listed(path, "film").name and not is_directory(path)
    assert time.process_time() - started < 4  # a second or so on an idle machine


def test_a_film_with_much_that_is_right_is_read() -> None:
    """A lookup table, overlays, private blocks of bytes, a report's sequences four deep."""
    film = dx()
    lut = Dataset()
    lut.add_new(0x00283002, "US", [65_536 & 0xFFFF, 0, 16])
    lut.add_new(0x00283006, "US", list(range(65_536)))
    film.ModalityLUTSequence = []
    film.add_new(0x00091001, "OB", bytes(3_000_000))
    film.add_new(0x60003000, "OW", bytes(96 * 96 // 8))
    film.IconImageSequence = [lut]
    inner = Dataset()
    inner.CodeMeaning = "a" * 64
    for _ in range(4):
        outer = Dataset()
        outer.ContentSequence = [inner] * 5
        inner = outer
    film.ContentSequence = [inner]
    film.ImageComments = "x" * 10_000
    assert identify(content(film), "x").is_film
    np.testing.assert_array_equal(read_film(content(film), "x").values, read_film(content(dx()), "x").values)


def directory(records: int) -> bytes:
    """A DICOMDIR that lists one film so many times."""
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID, record.RecordInUseFlag = "IMAGE", ["A", "B"], 0xFFFF
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, record)
    item = ITEM[:4] + struct.pack("<I", len(stream.getvalue())) + stream.getvalue()
    whole, written = Dataset(), BytesIO()
    whole.FileSetID, whole.file_meta = "A", FileMetaDataset()
    whole.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    whole.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    whole.save_as(written, enforce_file_format=True)
    return written.getvalue() + element(b"SQ", UNKNOWN, (4, 0x1220)) + item * records + LAST


def test_a_directory_of_thousands_is_read_and_one_of_a_million_is_not(tmp_path: Path) -> None:
    path = tmp_path / "DICOMDIR"
    path.write_bytes(directory(3_000))
    assert is_directory(path) and directory_files(path) == [(tmp_path / "A" / "B", True)] * 3_000
    path.write_bytes(directory(100_000))
    started = time.process_time()
    with pytest.raises(ImageError, match="DICOMDIR: too many elements, items or fragments"):
        directory_files(path)
    assert time.process_time() - started < 3


def test_one_frame_in_many_fragments_is_one_frame() -> None:
    packed = dcmread(BytesIO(content(dx())))
    packed.compress(uid.JPEGLSLossless, generate_instance_uid=False)
    frame = next(generate_frames(packed.PixelData, number_of_frames=1))
    packed.PixelData = encapsulate([frame], fragments_per_frame=50)
    packed["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(
        read_film(content(packed), "x").values, read_film(content(dx()), "x").values
    )


@pytest.mark.parametrize("seed", range(6))
def test_damaged_jpeg_ls_is_refused_in_bounded_time(seed: int) -> None:
    """A frame of 500 bytes of noise that claims 2,000 pixels a side."""
    film = dcmread(BytesIO(content(dx(bits=8))))
    film.Rows = film.Columns = 2000
    start = b"\xff\xd8\xff\xf7\0\x0b\x08" + struct.pack(">HH", 2000, 2000) + b"\x01\x01\x11\0"
    noise = np.random.default_rng(seed).bytes(500)
    film.PixelData = encapsulate([start + b"\xff\xda\0\x08\x01\x01\0\0\0\0" + noise + b"\xff\xd9"])
    film["PixelData"].VR, film["PixelData"].is_undefined_length = "OB", True
    film.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    with pytest.raises(ImageError, match=r"x: (damaged|takes more than 1\.5 s)"):
        read_film(content(film), "x")


def test_a_header_is_read_from_ordinary_files_only(tmp_path: Path) -> None:
    assert listed(tmp_path, "film").side is None and not is_directory(tmp_path)
    with pytest.raises(ImageError, match="not an ordinary file"):
        directory_files(tmp_path)
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_image(tmp_path)
