"""What small hostile inputs cost, and the largest good ones: processor time and memory of reading each.

Each input is made here, read as a user would have it read, and thrown away. Good is a refusal within 2 s of processor
time and 1 GiB above the baseline, or an answer within 1.2 GiB resident; this process and its decoder count together
(benchmarks/cost.py). Ends with 1 if one is not.

    python benchmarks/bombs.py
    python benchmarks/bombs.py --only dicom
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cost import Cost, cost_of
from fuzz import knee, png_chunk
from PIL import Image, ImageFile

from progression.decoding import sandbox

ROOT = Path(__file__).resolve().parents[1]
Bomb = tuple[str, Callable[[Path], Callable[[], object]]]
"""A name, and what makes an input in a folder and returns what reads it."""
SIDE = 6320
"""Of pictures of 40 megapixels."""
PATIENCE_S = 60
"""By the clock; more is a hang."""
_PNG = b"\x89PNG\r\n\x1a\n"


def picture(content: Callable[[], bytes], suffix: str) -> Callable[[Path], Callable[[], object]]:
    """A file that is read as a knee's picture."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.film import read_knee
        from progression.types import Side

        path = folder / f"bomb{suffix}"
        path.write_bytes(content())
        return lambda: read_knee(path, side=Side.LEFT)

    return make


def large(size: int = SIDE, levels: int = 256) -> np.ndarray:
    """A picture of a knee's shape, with a little noise in its lowest bits."""
    values = np.asarray(Image.fromarray(knee()).resize((size, size), Image.Resampling.BILINEAR)) * (
        levels - 4
    )
    noise = np.random.default_rng(0).integers(0, 4, (size, 64), np.uint16)
    return values.astype(np.uint16) + np.tile(noise, (1, -(-size // 64)))[:, :size]


def saved(mode: str, form: str, **options: Any) -> Callable[[], bytes]:
    """40 megapixels in a mode and format of Pillow's."""

    def make() -> bytes:
        values = large(levels=65536 if mode == "I;16" else 256)
        made = Image.fromarray(values if mode == "I;16" else values.astype(np.uint8))
        if mode == "F":
            made = Image.fromarray((values / 255).clip(0, 1).astype(np.float32))
        elif mode != "I;16":
            made = made.convert(mode)
        stream = io.BytesIO()
        ImageFile.MAXBLOCK = 1 << 28
        made.save(stream, form, **options)
        return stream.getvalue()

    return make


def pictures() -> Iterator[Bomb]:
    """PNG, JPEG, WebP, TIFF, .npy, NIfTI, archives; bombs, and 40 megapixels that are right."""
    for mode in ("L", "P", "RGB", "RGBA", "I;16"):
        yield f"PNG {mode}, 40 megapixels", picture(saved(mode, "PNG", compress_level=1), ".png")
    for mode in ("L", "RGB", "CMYK"):
        yield f"JPEG {mode}, 40 megapixels", picture(saved(mode, "JPEG"), ".jpg")
        if mode != "CMYK":
            yield (
                f"JPEG {mode} progressive, 40 megapixels",
                picture(saved(mode, "JPEG", progressive=True), ".jpg"),
            )
    for mode in ("RGB", "RGBA"):
        yield f"WebP {mode}, 40 megapixels", picture(saved(mode, "WEBP", method=0), ".webp")
        yield (
            f"WebP {mode} lossless, 40 megapixels",
            picture(saved(mode, "WEBP", lossless=True, method=0), ".webp"),
        )
    yield (
        "WebP of one colour, 40 megapixels",
        picture(lambda: flat("WEBP", "RGBA", lossless=True, method=0), ".webp"),
    )
    for mode in ("L", "RGBA", "I;16", "F", "CMYK"):
        yield f"TIFF {mode}, 40 megapixels", picture(saved(mode, "TIFF", compression="tiff_lzw"), ".tif")
    yield "PNG of 400 megapixels", picture(lambda: flat("PNG", "1", size=20_000), ".png")
    yield "PNG of 2 billion columns", picture(lambda: png([header(2**31 - 1, 64), *pixels(b"")]), ".png")
    yield (
        "PNG, 1,000,000 empty chunks",
        picture(
            lambda: png([header(96, 96), *[(b"tEXt", b"")] * 1_000_000, *pixels(bytes(97 * 96))]), ".png"
        ),
    )
    yield (
        "PNG, 20,000 compressed texts",
        picture(
            lambda: png(
                [
                    header(96, 96),
                    *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))] * 20_000,
                    *pixels(b""),
                ]
            ),
            ".png",
        ),
    )
    yield (
        "PNG, profile of 1 GB",
        picture(
            lambda: png([header(96, 96), (b"iCCP", b"a\0\0" + zeros(1 << 30)), *pixels(bytes(97 * 96))]),
            ".png",
        ),
    )
    yield (
        "PNG, pixels that go on for 1 GB",
        picture(lambda: png([header(96, 96), (b"IDAT", zeros(1 << 30)), (b"IEND", b"")]), ".png"),
    )
    for scans, size in ((2_000, 800), (2_000, 2_000), (100, SIDE)):
        yield f"JPEG of {scans} scans, {size} a side", picture(lambda s=scans, n=size: scans_of(s, n), ".jpg")
    yield "TIFF, 30,000 pages", picture(many_pages, ".tif")
    yield "TIFF, a directory that leads to itself", picture(circular_tiff, ".tif")
    yield "TIFF, a tag of 4 billion values", picture(huge_tag, ".tif")
    yield (
        "WebP of 3,000 pictures",
        picture(lambda: many(Image.new("RGB", (64, 64)), "WEBP", 3_000, lossless=True), ".webp"),
    )
    yield "picture of 2 GB, sparse", sparse("bomb.tif", b"II*\0\x08\0\0\0", 2 << 30)
    yield (
        ".npy (100, 100, 300000), sparse",
        sparse("bomb.npy", npy_header("|u1", (100, 100, 300_000)), 3 * 10**9),
    )
    yield (
        ".npy (6000, 6000, 4) of 64 bits, sparse",
        sparse("bomb.npy", npy_header("<f8", (6000, 6000, 4)), 8 * 36_000_000 * 4),
    )
    yield ".npy of 16-byte floats", sparse("bomb.npy", npy_header("<f16", (SIDE, SIDE)), 16 * SIDE**2)
    yield ".npy, header of 3 GB", sparse("bomb.npy", b"\x93NUMPY\x02\0" + struct.pack("<I", 3 << 30), 3 << 30)
    yield (
        ".npy, deeply nested header",
        picture(lambda: b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000, ".npy"),
    )
    yield ".npy of objects", picture(lambda: npy_header("|O", (96, 96)) + bytes(9216 * 8), ".npy")
    for kind in ("|u1", "<u2", "<f4", "<f8", "<i8"):
        yield f".npy {kind}, 40 megapixels", picture(lambda k=kind: npy(k, ()), ".npy")
    for kind, more in (("|u1", (4,)), ("<u2", (3,))):
        yield f".npy {kind} in colours, 40 megapixels", picture(lambda k=kind, m=more: npy(k, m), ".npy")
    for kind in ("u2", "i2", "f4", "f8"):
        yield f"NIfTI {kind}, 40 megapixels", picture(lambda k=kind: nifti(k), ".nii")
        yield f"NIfTI {kind} gz, 40 megapixels", picture(lambda k=kind: gzip.compress(nifti(k), 1), ".nii.gz")
    yield (
        "NIfTI gz that goes on for 4 GB",
        picture(lambda: gzip.compress(nifti("u1", 96), 1) + gz_zeros(4), ".nii.gz"),
    )
    yield "NIfTI gz, extension of 4 GB before it", picture(lambda: gz_zeros(4), ".nii.gz")
    yield (
        "NIfTI gz, 5,000,000 empty members",
        picture(lambda: gzip.compress(b"", 9, mtime=0) * 5_000_000, ".nii.gz"),
    )
    yield "zip, 1,000,000 members", many_members
    yield "zip, member of 4 GB", deep_member("bomb.png", 4)
    yield "zip, NIfTI member of 4 GB", deep_member("bomb.nii", 4)
    yield "zip, DICOM member of 4 GB", deep_member("bomb.dcm", 4)
    yield "zip, member packed with LZMA", lzma_member


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    """PNG's first chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def pixels(rows: bytes) -> list[tuple[bytes, bytes]]:
    """PNG's last chunks."""
    return [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A file of chunks."""
    return _PNG + b"".join(png_chunk(*chunk) for chunk in chunks)


def zeros(count: int) -> bytes:
    """So many zeros, packed by zlib."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(count >> 24)) + packer.flush()


def gz_zeros(gigabytes: int) -> bytes:
    """So many, packed by gzip."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(gigabytes << 6)) + packer.flush()


def flat(form: str, mode: str, size: int = SIDE, **options: Any) -> bytes:
    """A picture of one colour."""
    stream = io.BytesIO()
    Image.new(mode, (size, size)).save(stream, form, **options)
    return stream.getvalue()


def scans_of(scans: int, size: int) -> bytes:
    """A progressive JPEG, its last scan many times over."""
    stream = io.BytesIO()
    Image.fromarray(large(size).astype(np.uint8)).save(stream, "JPEG", progressive=True, quality=30)
    content = stream.getvalue()
    start = content.rfind(b"\xff\xda")
    short = content[start:-2][:100]  # the rest is taken for zeros, block by block
    return content[:start] + short * scans + b"\xff\xd9"


def many(one: Image.Image, form: str, count: int, **options: Any) -> bytes:
    """A file of many pictures."""
    stream = io.BytesIO()
    others = [Image.new(one.mode, one.size, (i % 256, i // 256, 0)) for i in range(1, count)]
    one.save(stream, form, save_all=True, append_images=others, **options)
    return stream.getvalue()


def tiff_directory(after: int, *, strips: int = 1) -> bytes:
    """Of 96 x 96 pixels, with so many strips, and where the next one is."""
    fields = {256: (4, 1, 96), 257: (4, 1, 96), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    fields |= {273: (4, strips, 8), 279: (4, strips, 9216)}
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in fields.items())
    return struct.pack("<H", len(fields)) + entries + struct.pack("<I", after)


def many_pages() -> bytes:
    """Directories that all show the same pixels."""
    size = len(tiff_directory(0))
    pages = [tiff_directory(8 + (page + 1) * size) for page in range(29_999)]
    return b"II*\0\x08\0\0\0" + b"".join(pages) + tiff_directory(0) + bytes(9216)


def circular_tiff() -> bytes:
    """Two directories, each after the other."""
    return b"II*\0\x08\0\0\0" + tiff_directory(8 + len(tiff_directory(0))) + tiff_directory(8) + bytes(9216)


def huge_tag() -> bytes:
    """Strips of any number."""
    return b"II*\0\x08\0\0\0" + tiff_directory(0, strips=2**32 - 1) + bytes(1 << 22)


def npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """Of an array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npy(kind: str, more: tuple[int, ...]) -> bytes:
    """40 megapixels."""
    values = large(levels=65536 if kind == "<u2" else 256)
    plain = values / values.max() if "f" in kind else values
    made = np.ascontiguousarray(
        np.broadcast_to(plain.reshape(*plain.shape, *(1 for _ in more)), (SIDE, SIDE, *more))
    )
    return npy_header(kind, made.shape) + made.astype(kind).tobytes()


def nifti(kind: str, size: int = SIDE) -> bytes:
    """A picture of a type."""
    import nibabel

    values = large(size)
    made = nibabel.Nifti1Image(
        (values / 255 if "f" in kind else values).astype(kind), np.diag([-0.1, -0.1, 0.1, 1])
    )
    made.set_qform(made.affine, code=1)
    return made.to_bytes()


def sparse(name: str, start: bytes, size: int) -> Callable[[Path], Callable[[], object]]:
    """A file that takes no room on the disk."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.image import read_image

        path = folder / name
        with path.open("wb") as stream:
            stream.write(start)
            stream.truncate(len(start) + size)
        return lambda: read_image(path)

    return make


def many_members(folder: Path) -> Callable[[], object]:
    """A list of members, and no members."""
    from progression.image import read_image

    entry = (
        struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
        + b"a"
    )
    directory = entry * 1_000_000
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, len(directory), 0, 0)
    (folder / "bomb.zip").write_bytes(directory + end)
    return lambda: read_image(f"{folder}/bomb.zip::a")


def deep_member(name: str, gigabytes: int) -> Callable[[Path], Callable[[], object]]:
    """A member that unpacks to far more than it takes."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.film import read_knee

        with (
            zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(name, "w", force_zip64=True) as member,
        ):
            member.write(bytes(128) + b"DICM" if name.endswith(".dcm") else _PNG)
            for _ in range(gigabytes << 6):
                member.write(bytes(1 << 24))
        return lambda: read_knee(f"{folder}/bomb.zip::{name}")

    return make


def lzma_member(folder: Path) -> Callable[[], object]:
    """A packing that may ask for gigabytes."""
    from progression.image import read_image

    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", bytes(1 << 20))
    return lambda: read_image(f"{folder}/bomb.zip::a.png")


# ---------------------------------------------------------------------------- DICOM


def dicoms() -> Iterator[Bomb]:
    """Structure, fragments and compressed pixels; bombs, and 40 megapixels that are right."""
    item, last = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    open_item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)

    def element(vr: bytes, length: int, tag: tuple[int, int] = (0x5401, 0x100)) -> bytes:
        return struct.pack("<HH2sHI", *tag, vr, 0, length)

    inside: dict[str, Callable[[], bytes]] = {
        "sequence of 500,000 items": lambda: element(b"SQ", 0xFFFFFFFF) + item * 500_000 + last,
        "sequence of 500,000 items, of known length": lambda: element(b"SQ", 4_000_000) + item * 500_000,
        "unknown element of 500,000 items": lambda: element(b"UN", 0xFFFFFFFF) + item * 500_000 + last,
        "unknown element that is a sequence": lambda: element(b"UN", 60_000, (0x0008, 0x1140)) + item * 7_500,
        "sequence of 16,000,000 items": lambda: element(b"SQ", 128_000_000) + item * 16_000_000,
        "1,000,000 empty elements": lambda: b"".join(
            struct.pack("<HH2sH", 0x5003 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(1_000_000)
        ),
        "1,000,000 times the same element": lambda: struct.pack("<HH2sH", 0x5003, 1, b"LO", 0) * 1_000_000,
        "sequences nested 5,000 deep": lambda: (element(b"SQ", 0xFFFFFFFF) + open_item) * 5_000,
        "list of 10,000,000 texts": lambda: element(b"UC", 10_000_000) + b"\\" * 10_000_000,
        "list of 30,000 numbers as text": lambda: (
            struct.pack("<HH2sH", 0x5401, 1, b"DS", 60_000) + b"1\\" * 30_000
        ),
        "40,000,000 character sets": lambda: (
            element(b"UC", 40_000_000, (0x0008, 0x0005)) + b"\\" * 40_000_000
        ),
        "60,000 shifts of character set": lambda: (
            struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 60_000) + b"\x1b$" * 30_000
        ),
        "list of 50,000,000 binary numbers": lambda: (
            element(b"UL", 200_000_000 // 4 * 4) + bytes(100_000_000)
        ),
        "20,000 values without an end": lambda: (
            element(b"SQ", 0xFFFFFFFF)
            + (open_item + element(b"OB", 0xFFFFFFFF)) * 20_000
            + b"\1" * 20_000_000
        ),
        "2,000,000 fragments": lambda: element(b"OB", 0xFFFFFFFF, (0x7FE0, 0x10)) + item * 2_000_000 + last,
    }
    for name, content in inside.items():
        for use in ("read", "list", "de-identify"):
            yield f"DICOM, {name}: {use}", dicom(lambda c=content: with_elements(c()), use)
    yield "DICOM, 1,000,000 elements of file meta", dicom(many_meta, "read")
    yield "DICOMDIR of 1,000,000 records", dicom(lambda: directory(1_000_000), "directory")
    yield "DICOMDIR of 4,000 images", dicom(lambda: directory(4_000), "directory")
    yield (
        "DICOM, progressive JPEG of 2,000 scans",
        dicom(lambda: jpeg_film(scans_of(2_000, 800), 800), "read"),
    )
    yield (
        "DICOM, progressive JPEG of 10,000 scans",
        dicom(lambda: jpeg_film(scans_of(10_000, 2_000), 2_000), "read"),
    )
    for nth in range(12):
        yield f"DICOM, damaged JPEG-LS {nth}", dicom(lambda n=nth: damaged_jpeg_ls(n), "read")
    yield "DICOM, run lengths of one byte", dicom(run_lengths, "read")
    yield (
        "DICOM, JPEG of 1,000,000 markers",
        dicom(lambda: jpeg_film(b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000, 96), "read"),
    )
    yield "DICOM, JPEG 2000 of 40 megapixels in 200 bytes", dicom(lambda: empty_jpeg_2000(0), "read")
    yield "DICOM, JPEG 2000 of 1,600,000 tiles", dicom(lambda: empty_jpeg_2000(5), "read")
    for bits in (8, 12, 16):
        yield f"DICOM, {bits} bits, 40 megapixels", dicom(lambda b=bits: film(b, None), "read")
    yield "DICOM in colour, 40 megapixels", dicom(lambda: film(24, None), "read")
    for syntax in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless"):
        yield f"DICOM, {syntax}, 40 megapixels", dicom(lambda s=syntax: film(12, s), "read")


def dicom(content: Callable[[], bytes], use: str) -> Callable[[Path], Callable[[], object]]:
    """A file, and what is done with it."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.dicom.catalogue import directory_files, is_directory, listed
        from progression.dicom.deidentify import Deidentifier
        from progression.film import read_knee
        from progression.types import Side

        path = folder / "bomb.dcm"
        path.write_bytes(content())
        uses: dict[str, Callable[[], object]] = {
            "read": lambda: read_knee(path, side=Side.LEFT),
            "list": lambda: listed(path, "x"),
            "de-identify": lambda: Deidentifier(key=b"k" * 32).file(path.read_bytes(), "x"),
            "directory": lambda: is_directory(path) and directory_files(path),
        }
        return uses[use]

    return make


def base() -> bytes:
    """A small film."""
    from progression.dicom import example
    from progression.dicom.write import file_bytes
    from progression.types import Side

    return file_bytes(example.dx(knee(), side=Side.LEFT, spacing_mm=1.4), "x")


def with_elements(content: bytes) -> bytes:
    """More elements before a film's pixels."""
    whole = base()
    at = whole.rindex(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    return whole[:at] + content + whole[at:]


def many_meta() -> bytes:
    """In the group that says how the rest is written."""
    whole = base()
    more = b"".join(struct.pack("<HH2sH", 2, n & 0xFFFF, b"LO", 0) for n in range(1_000_000))
    return whole[:132] + more + whole[132:]


def directory(records: int) -> bytes:
    """A DICOMDIR."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["A", "B"]
    record.InstanceNumber, record.RecordInUseFlag = 1, 0xFFFF
    one = io.BytesIO()
    from pydicom.filebase import DicomIO
    from pydicom.filewriter import write_dataset

    stream = DicomIO(one)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, record)
    body = struct.pack("<HHI", 0xFFFE, 0xE000, len(one.getvalue())) + one.getvalue()
    whole = Dataset()
    whole.FileSetID = "A"
    whole.file_meta = FileMetaDataset()
    whole.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    whole.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    written = io.BytesIO()
    whole.save_as(written, enforce_file_format=True)
    return (
        written.getvalue()
        + struct.pack("<HH2sHI", 4, 0x1220, b"SQ", 0, 0xFFFFFFFF)
        + body * records
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )


def packed(frame: bytes, size: int, syntax: str, bits: int = 8) -> bytes:
    """A Secondary Capture with a compressed frame."""
    import pydicom
    from pydicom import uid
    from pydicom.encaps import encapsulate

    from progression.dicom import example
    from progression.dicom.write import file_bytes

    made = pydicom.dcmread(io.BytesIO(file_bytes(example.sc(knee(), bits=bits), "x")))
    made.Rows = made.Columns = size
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    return file_bytes(made, "x")


def jpeg_film(frame: bytes, size: int) -> bytes:
    """A JPEG in DICOM."""
    return packed(frame, size, "JPEGBaseline8Bit")


def damaged_jpeg_ls(nth: int) -> bytes:
    """A short frame of 2,000 pixels a side whose data are noise."""
    rng = np.random.default_rng(nth)
    start = b"\xff\xd8\xff\xf7\0\x0b\x08" + struct.pack(">HH", 2000, 2000) + b"\x01\x01\x11\0"
    return packed(
        start + b"\xff\xda\0\x08\x01\x01\0\0\0\0" + rng.bytes(500) + b"\xff\xd9", 2000, "JPEGLSLossless"
    )


def run_lengths() -> bytes:
    """A literal run for every pixel."""
    segment = b"\0\5" * SIDE**2
    return packed(struct.pack("<16I", 1, 64, *[0] * 14) + segment, SIDE, "RLELossless")


def empty_jpeg_2000(tile_log2: int) -> bytes:
    """A code stream that is all header, in tiles of that size or in one."""
    tile = 1 << tile_log2 if tile_log2 else SIDE
    size = struct.pack(">HH8IHBBB", 41, 0, SIDE, SIDE, 0, 0, tile, tile, 0, 0, 1, 7, 1, 1)
    style = struct.pack(">HBBHBBBBBB", 12, 0, 0, 1, 0, 0, 4, 4, 0, 1)
    steps = struct.pack(">HBB", 4, 0x40, 0x40)
    part = struct.pack(">HHIBB", 10, 0, 0, 0, 1)
    stream = (
        b"\xff\x4f\xff\x51"
        + size
        + b"\xff\x52"
        + style
        + b"\xff\x5c"
        + steps
        + b"\xff\x90"
        + part
        + b"\xff\x93"
    )
    return packed(stream + bytes(64) + b"\xff\xd9", SIDE, "JPEG2000Lossless")


def film(bits: int, syntax: str | None) -> bytes:
    """40 megapixels."""
    import pydicom
    from pydicom import uid

    from progression.dicom import example
    from progression.dicom.write import file_bytes

    colour = bits == 24
    made = pydicom.dcmread(io.BytesIO(file_bytes(example.sc(knee(), bits=8 if colour else bits), "x")))
    values = large(levels=256 if colour else 2**bits)
    made.Rows = made.Columns = SIDE
    if colour:
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
        values = np.repeat(values[:, :, None], 3, axis=2)
    made.PixelData = values.astype("<u2" if bits in (12, 16) else "u1").tobytes()
    if syntax:
        made.compress(getattr(uid, syntax), generate_instance_uid=False)
    return file_bytes(made, "x")


# ---------------------------------------------------------------------------- models


def models() -> Iterator[Bomb]:
    """Official snapshots and model folders."""

    def number(value: int) -> bytes:
        written = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + struct.pack("<i", len(written)) + written

    rebuild = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n"
    scalar = b"\x80\x04cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x02f8\x85R"
    of: dict[str, Callable[[], bytes]] = {
        "size of bytes times 3 billion": lambda: (
            rebuild + b"(NK\0C\1x" + number(3 * 10**9) + b"\x86C\1x" + number(3 * 10**9) + b"\x86\x89}tR."
        ),
        "100,000 keys of one hash": lambda: (
            b"\x80\x04}(" + b"".join(number(k * ((1 << 61) - 1)) + b"N" for k in range(100_000)) + b"u."
        ),
        "keys of 64 MB": lambda: b"\x80\x04}(" + (number(1 << 500_000_000) + b"N") * 4 + b"u.",
        "5,000,000 opcodes": lambda: b"\x80\x04](" + b"N" * 5_000_000 + b"e.",
        "tuples nested 390,000 deep": lambda: b"\x80\x04N" + b"\x85" * 390_000 + b".",
        "a call with 150,000 arguments": lambda: (
            b"\x80\x04cnumpy\ndtype\nq\0(" + b"N" * 150_000 + b"tq\1]" + b"h\0h\1Ra" * 40_000 + b"."
        ),
        "a set of 150,000": lambda: (
            b"\x80\x04cbuiltins\nset\nq\0](" + b"K\1" * 150_000 + b"e\x85q\1]" + b"h\0h\1Ra" * 40_000 + b"."
        ),
        "a number of 300 MB": lambda: (
            scalar + b"B" + struct.pack("<I", 300_000_000) + bytes(300_000_000) + b"\x86R."
        ),
        "a tuple that doubles 60 times": lambda: b"\x80\x04N" + b"q\0h\0\x86" * 60 + b".",
    }
    for name, content in of.items():
        yield f"pickle, {name}", snapshot(content)
    yield "pickle, one storage 60 times", snapshot(storages)
    yield "pickle, a cycle of modules", snapshot(lambda: tree(1))
    yield "pickle, modules that share modules", snapshot(lambda: tree(50))
    for name, value in (("mapping layers", 131_072), ("mapping layers", 10**7), ("resolution", 131_072)):
        yield f"pickle, {value:,} {name}", snapshot(lambda n=name, v=value: options(n, v))
    yield "pickle of 3 GB, sparse", sparse_snapshot
    for part, field, value in (
        ("generator", "mapping_layers", 10**7), ("generator", "channel_base", 2**40),
        ("generator", "channel_max", 2**20), ("generator", "z_dim", 10**9),
        ("generator", "c_dim", 10**9), ("generator", "w_dim", 10**6),
        ("generator", "img_resolution", 2**40), ("generator", "img_channels", 10**9), ("grader", "networks", 10**7),
        ("grader", "input_resolution", 10**6),
    ):  # fmt: skip
        yield (
            f"model, {part} {field} {value:,}",
            model(lambda m, p=part, f=field, v=value: m["parts"][p]["config"].update({f: v})),
        )
    for field, value in (("width", 10**7), ("max_width", 10**9), ("hidden", 10**9), ("offset_rank", 10**8),
                         ("num_ws", 10**8), ("resolution", 2**60)):  # fmt: skip
        yield (
            f"model, encoder {field} {value:,}",
            model(lambda m, f=field, v=value: m["parts"]["encoder"]["config"]["encoder"].update({f: v})),
        )
    yield (
        "model, 10,000,000 repeats of a block",
        model(lambda m: m["parts"]["grader"]["config"]["architecture"]["stages"][0].__setitem__(0, 10**7)),
    )
    yield "model, resolution 10^9", model(lambda m: m.update(resolution=10**9))
    yield "model, manifest of 1 GB", model_file("manifest.json", lambda path: os.truncate(path, 1 << 30))
    yield "model, part of 8 GB", model_part(lambda path: os.truncate(path, 8 << 30))
    yield (
        "model, table of tensors of 100 MB",
        model_part(lambda path: path.write_bytes(struct.pack("<Q", 10**8) + b" " * 10**8)),
    )
    yield "model, table of 60,000 tensors", model_part(lambda path: path.write_bytes(table_of(60_000)))


def snapshot(content: Callable[[], bytes]) -> Callable[[Path], Callable[[], object]]:
    """An official snapshot that is converted."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.convert import convert

        path = folder / "bomb.pkl"
        path.write_bytes(content())
        return lambda: convert(path, folder / "made")

    return make


def sparse_snapshot(folder: Path) -> Callable[[], object]:
    """Larger than any."""
    from progression.convert import convert

    (folder / "bomb.pkl").touch()
    os.truncate(folder / "bomb.pkl", 3 << 30)
    return lambda: convert(folder / "bomb.pkl", folder / "made")


def storages() -> bytes:
    """50 MB, asked for again and again."""
    import torch

    stream = io.BytesIO()
    storage = torch.zeros(12_500_000).untyped_storage()
    torch.save(
        torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
        stream,
        _use_new_zipfile_serialization=False,
    )
    content = stream.getvalue()
    load = b"ctorch.storage\n_load_from_bytes\nq\0"
    return (
        b"\x80\x04]("
        + load
        + b"B"
        + struct.pack("<I", len(content))
        + content
        + b"q\1\x85R"
        + b"h\0h\1\x85R" * 60
        + b"e."
    )


def tree(shared: int) -> bytes:
    """A network whose module holds itself so many times, under other names."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    state = b"".join(
        [
            text("_init_args") + b")",
            text("_init_kwargs") + b"}",
            text("_parameters") + b"}",
            text("_buffers") + b"}",
        ]
    )
    meta = (
        text("type")
        + text("class")
        + text("class_name")
        + text("Generator")
        + text("state")
        + b"}q\5("
        + state
    )
    network = (
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}("
        + meta
        + text("_modules")
        + b"}q\6uu\x85Rq\7"
    )
    inside = b"".join(text(f"m{n}") + b"h\7" for n in range(shared))
    # the network, then its own modules filled with itself, then both thrown into the answer
    return b"\x80\x04}(" + text("G_ema") + network + text("more") + b"h\6(" + inside + b"uu."


def options(name: str, value: int) -> bytes:
    """A network that is right but for one of its numbers."""
    from tests.stylegan2 import official_files

    arrays = official_files.golden(ROOT / "tests" / "golden", "uncond_32")
    usual = official_files._generator_options

    def changed() -> dict[str, Any]:
        found = usual()
        if name == "resolution":
            found["img_resolution"] = value
        else:
            found["mapping_kwargs"]["num_layers"] = value
        return found

    official_files._generator_options = changed
    try:
        return official_files.snapshot(arrays)
    finally:
        official_files._generator_options = usual


def model(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Callable[[], object]]:
    """A model whose manifest is changed; its parts' files are as they were."""

    def rewrite(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return model_file("manifest.json", rewrite)


def model_file(name: str, change: Callable[[Path], object]) -> Callable[[Path], Callable[[], object]]:
    """A model with one changed file."""

    def make(folder: Path) -> Callable[[], object]:
        from progression.predict import load_predictor
        from tests.models import write_model

        made = write_model(folder / "model")
        change(made / name)
        return lambda: load_predictor(made, device="cpu", engine="torch")

    return make


def model_part(change: Callable[[Path], object]) -> Callable[[Path], Callable[[], object]]:
    """A model whose generator's file is changed, and its hash with it where that can be."""

    def rewrite(manifest: Path) -> None:
        stated = json.loads(manifest.read_text())
        part = manifest.parent / stated["parts"]["generator"]["file"]
        change(part)
        if part.stat().st_size < 1 << 30:
            hashed = hashlib.sha256(part.read_bytes()).hexdigest()
            stated["parts"]["generator"]["sha256"] = stated["parts"]["bank"]["config"]["built_with"][
                "generator"
            ] = hashed
            stated["parts"]["encoder"]["config"]["generator"] = hashed
        manifest.write_text(json.dumps(stated))

    return model_file("manifest.json", rewrite)


def table_of(count: int) -> bytes:
    """A file of empty tensors."""
    header = json.dumps(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(count)}
    ).encode()
    return struct.pack("<Q", len(header)) + header


# ---------------------------------------------------------------------------- special files


def special() -> Iterator[Bomb]:
    """Pipes, devices and folders where a file is expected."""
    readers = {
        "a picture": lambda path: __import__("progression.image", fromlist=["x"]).read_image(path),
        "a film": lambda path: __import__("progression.film", fromlist=["x"]).read_knee(path),
        "an archive": lambda path: __import__("progression.image", fromlist=["x"]).read_image(
            f"{path}::a.png"
        ),
        "a snapshot": lambda path: __import__("progression.convert", fromlist=["x"]).convert(
            path, path.parent / "made"
        ),
    }
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir), ("link to /dev/zero", None)):
        for suffix in (".png", ".dcm", ".npy", ".nii.gz", ".pkl"):
            for what, read in readers.items():

                def prepared(
                    folder: Path, m: Any = make, s: str = suffix, r: Any = read
                ) -> Callable[[], object]:
                    path = folder / f"special{s}"
                    m(path) if m else path.symlink_to("/dev/zero")
                    return lambda: r(path)

                yield f"{name} called {suffix} as {what}", prepared
    for name, make in (("pipe", os.mkfifo), ("link to /dev/zero", lambda path: path.symlink_to("/dev/zero"))):

        def replaced(path: Path, m: Any = make) -> None:
            path.unlink()
            m(path)

        yield f"model, manifest that is a {name}", model_file("manifest.json", replaced)

        def part(manifest: Path, m: Any = make) -> None:
            path = manifest.parent / json.loads(manifest.read_text())["parts"]["bank"]["file"]
            path.unlink()
            m(path)

        yield f"model, part that is a {name}", model_file("manifest.json", part)


GROUPS: dict[str, Callable[[], Iterator[Bomb]]] = {
    "picture": pictures, "dicom": dicoms, "model": models, "special": special,
}  # fmt: skip


def apart(read: Callable[[], object]) -> Cost:
    """The cost in a forked process, which leaves nothing behind for the next one."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(receiver)
            signal.alarm(PATIENCE_S)
            os.write(sender, json.dumps(asdict(cost_of(read, watch=True))).encode())
            sandbox.close()
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with open(receiver, "rb") as stream:
        told = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not told:
        return Cost(f"UNTYPED the process ended with {status}, or was ended after {PATIENCE_S} s", 0, 0, 0)
    return Cost(**json.loads(told))


def warm_up(folder: Path) -> None:
    """What is imported for the first input of a kind is none of its cost."""
    sys.path.insert(0, str(ROOT))
    for make in (
        dicom(base, "read"),
        dicom(lambda: film_small(), "read"),
        picture(lambda: nifti("u1", 96), ".nii"),
    ):
        make(folder)()
    model(lambda manifest: None)(folder)()
    shutil.rmtree(folder / "model")


def film_small() -> bytes:
    """A JPEG in DICOM that is right."""
    stream = io.BytesIO()
    Image.fromarray((knee() * 255).astype(np.uint8)).save(stream, "JPEG")
    return jpeg_film(stream.getvalue(), 96)


def main() -> int:
    """Print a table; returns 1 if an input costs too much or is not told as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=GROUPS, help="one group of inputs")
    parser.add_argument("--name", default="", help="only inputs whose name holds this")
    given = parser.parse_args()
    findings = 0
    with tempfile.TemporaryDirectory() as first:
        warm_up(Path(first))
    print("| input | bytes | seconds | MB above | MB in all | outcome |\n|---|---|---|---|---|---|")
    for group in [given.only] if given.only else GROUPS:
        for name, make in GROUPS[group]():
            if given.name not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                read = make(Path(folder))
                size = sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())
                cost = apart(read)
            found = cost.finding
            findings += bool(found)
            told = (
                f"**{found}**"
                if found
                else cost.outcome
                if cost.outcome == "read"
                else cost.message[:90].replace("|", "/")
            )
            print(
                f"| {name} | {size:,} | {cost.seconds:.2f} | {cost.above_mb:.0f} | {cost.resident_mb:.0f} | {told} |",
                flush=True,
            )
    print(f"\n{findings} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
