"""Does any damaged or hostile file crash a reader, take too much of the machine, or leave something on the disk?

Seeds are made here, of every format that is read: pictures, arrays, NIfTI, members of archives, DICOM in the transfer
syntaxes that can be written here and in the files that pydicom brings, official snapshots, model folders. Each mutation
is read as a user would have it read; a DICOM file also by turns for its patient's name, for the study to which objects
return, as a cohort lists it, and de-identified. An answer or a ProgressionError is right. A finding is any other
exception, a killed process, a refusal that takes over 2 s of processor time or 1 GiB above the baseline, an answer with
over 1.2 GiB resident, or a file left behind; this process and its decoder count together (benchmarks/cost.py).

    python benchmarks/fuzz.py --mutations 200000

Mutations are drawn with a seed and their number: `--only NUMBER` repeats one, `--first NUMBER` goes on. Processes
read them in chunks, so that a crash is counted, not suffered.
"""

import argparse
import collections
import functools
import gzip
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cost import Cost, cost_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PATIENCE_S = 20
"""Of processor time of one process for a mutation; more is a hang."""
CHUNK = 2500
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_TEXTS = (
    b"../../../../etc/x", b"..\\..\\x", b"/tmp/fuzz-escape", b"\x1b$B\x1b(B", b"\xff\xfe\xfd", b"1.2.3/../4", b"%s%n",
    b"\0\0", b"NaN", b"1e999", b"\\\\\\\\\\\\\\\\",
)  # fmt: skip
_ESCAPES = ("/tmp/fuzz-escape", "/etc/x")
_TAGS = tuple(  # group and element of what the DICOM reader looks at
    struct.pack("<HH", group, element)
    for group, element in [
        (0x28, 0x10), (0x28, 0x11), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103), (0x28, 4), (0x28, 2), (0x28, 8),
        (0x28, 0x1050), (0x28, 0x1051), (0x28, 0x1053), (0x28, 0x30), (0x18, 0x1164), (0x8, 0x16), (0x8, 0x18),
        (0x2, 0x10), (0x20, 0xD), (0x20, 0x62), (0x8, 5), (0x10, 0x10), (0x7FE0, 0x10), (0x2, 0), (0x28, 0x3010),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """What is mutated.

    Attributes
    ----------
    kind : how it is read: picture, zip, dicom, pickle, model
    name : for the table
    content : the file; of a model its manifest
    suffix : what the file is called
    """

    kind: str
    name: str
    content: bytes
    suffix: str


SHARES = {"picture": 0.4, "dicom": 0.48, "zip": 0.03, "pickle": 0.06, "model": 0.03}
"""How often each kind is drawn."""


def knee(size: int = 96) -> np.ndarray:
    """Two bones and the gap between them, (size, size) in [0, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    values = 0.2 + 0.6 * np.exp(-(((x - 0.5) / 0.3) ** 6)) - 0.3 * (np.abs(y - 0.5) < 0.04)
    return values.clip(0, 1).astype(np.float32)


def picture_seeds() -> Iterator[Seed]:
    """PNG, JPEG, WebP and TIFF in their variants, .npy, NIfTI."""
    grey = Image.fromarray((knee() * 255).astype(np.uint8))
    deep = Image.fromarray((knee() * 4095).astype(np.uint16))
    info = PngInfo()
    for keyword, text in (("Laterality", "L"), ("Comment", "x" * 900)):
        info.add_text(keyword, text, zip=len(text) > 9)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytes(range(128)) * 8

    def saved(name: str, picture: Image.Image, form: str, **options: Any) -> Seed:
        stream = io.BytesIO()
        picture.save(stream, form, **options)
        return Seed("picture", f"{form} {name}", stream.getvalue(), f".{form.lower()}")

    yield saved("8 bits", grey, "PNG", pnginfo=info, icc_profile=profile, exif=exif)
    yield saved("16 bits", deep, "PNG")
    for mode in ("1", "LA", "P", "RGB", "RGBA"):
        yield saved(mode, grey.convert(mode), "PNG")
    yield saved("animated", grey, "PNG", save_all=True, append_images=[grey.rotate(90)])
    yield Seed("picture", "PNG interlaced", interlaced((knee() * 255).astype(np.uint8)), ".png")
    yield saved("baseline", grey, "JPEG", exif=exif, icc_profile=profile)
    yield saved("progressive", grey, "JPEG", progressive=True)
    yield saved(
        "progressive colour", grey.convert("RGB"), "JPEG", progressive=True, quality=95, subsampling=0
    )
    yield saved("restarts", grey.convert("RGB"), "JPEG", restart_marker_blocks=2)
    yield saved("CMYK", grey.convert("CMYK"), "JPEG")
    for name, mode, options in (
        ("lossy", "RGB", {}),
        ("lossless", "RGB", {"lossless": True}),
        ("lossy with alpha", "RGBA", {}),
        ("lossless with alpha", "RGBA", {"lossless": True, "exif": exif.tobytes()}),
    ):
        yield saved(name, grey.convert(mode), "WEBP", **options)
    yield saved(
        "animated", grey.convert("RGB"), "WEBP", save_all=True, append_images=[grey.rotate(90).convert("RGB")]
    )
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield saved(compression, grey, "TIFF", compression=compression)
    yield saved("group 4", grey.convert("1"), "TIFF", compression="group4")
    yield saved("16 bits", deep, "TIFF", compression="tiff_lzw", exif=exif)
    yield saved("floats", Image.fromarray(knee()), "TIFF")
    yield saved("32 bits", Image.fromarray((knee() * 70_000).astype(np.int32)), "TIFF")
    yield saved("CMYK", grey.convert("CMYK"), "TIFF")
    yield saved("big", grey, "TIFF", big_tiff=True)
    yield saved("pages", grey, "TIFF", save_all=True, append_images=[grey] * 20)
    for kind in ("u1", "<u2", ">u2", "<f4", "<f8", "i4", "?", "c8"):
        stream = io.BytesIO()
        np.save(stream, (knee() * (255 if np.dtype(kind).kind in "ui" else 1)).astype(kind))
        yield Seed("picture", f"npy {kind}", stream.getvalue(), ".npy")
    yield from nifti_seeds()


def nifti_seeds() -> Iterator[Seed]:
    """Plain and packed."""
    try:
        import nibabel
    except ImportError:  # the extra nifti is not installed
        return
    affine = np.diag([-0.15, -0.15, 0.15, 1])
    for kind, form in (
        ("u2", "Nifti1Image"),
        ("f4", "Nifti1Image"),
        (">i2", "Nifti1Image"),
        ("u1", "Nifti2Image"),
    ):
        made = getattr(nibabel, form)((knee().T * 255).astype(kind), affine)
        made.set_qform(affine, code=1)
        content = made.to_bytes()
        yield Seed("picture", f"NIfTI {kind} {form[5]}", content, ".nii")
        yield Seed("picture", f"NIfTI {kind} {form[5]} gz", gzip.compress(content, mtime=0), ".nii.gz")


def interlaced(grey: np.ndarray) -> bytes:
    """An interlaced PNG, which Pillow does not write (PNG, 8.2)."""
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in grey[top::down, left::right]
        if row.size
    )
    height, width = grey.shape
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zip_seeds() -> Iterator[Seed]:
    """Archives of one member, `knee.png` or `knee.dcm`."""
    stored = io.BytesIO()
    Image.fromarray((knee() * 255).astype(np.uint8)).save(stored, "PNG")
    for name, packed in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", packed) as archive:
            archive.writestr("knee.png", stored.getvalue())
        yield Seed("zip", f"zip {name}", stream.getvalue(), ".zip")


def dicom_seeds() -> Iterator[Seed]:
    """The example films, in every transfer syntax that can be written here; and pydicom's files, also as captures."""
    import pydicom
    from pydicom import uid
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_encoder

    from progression.dicom import example
    from progression.dicom.write import file_bytes
    from progression.types import Side

    for name, made in (
        ("dx", example.dx(knee(), side=Side.LEFT, spacing_mm=1.4, inverted=True)),
        ("cr", example.cr(knee(), spacing_mm=None, bits=10)),
        ("sc", example.sc(knee())),
    ):
        content = file_bytes(made, name)
        yield Seed("dicom", name, content, ".dcm")
        for syntax, options in (
            (uid.JPEGLSLossless, {}),
            (uid.JPEGLSNearLossless, {"jls_error": 2}),
            (uid.JPEG2000Lossless, {}),
            (uid.JPEG2000, {"j2k_cr": [10.0]}),
            (uid.RLELossless, {}),
        ):
            if not get_encoder(syntax).is_available:  # the extra dicom is not installed
                continue
            copy = pydicom.dcmread(io.BytesIO(content))
            copy.compress(syntax, generate_instance_uid=False, **options)
            yield Seed("dicom", f"{name}, {syntax.name}", file_bytes(copy, name), ".dcm")
        if (lossless := jpeg_lossless(content)) is not None:
            yield Seed("dicom", f"{name}, JPEG Lossless", lossless, ".dcm")
    for progressive in (False, True):
        copy, stream = pydicom.dcmread(io.BytesIO(content)), io.BytesIO()
        Image.fromarray((knee() * 255).astype(np.uint8)).save(stream, "JPEG", progressive=progressive)
        copy.PixelData = encapsulate([stream.getvalue()])
        copy["PixelData"].VR, copy["PixelData"].is_undefined_length = "OB", True
        copy.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        copy.BitsAllocated = copy.BitsStored = 8
        copy.HighBit = 7
        yield Seed("dicom", f"sc, JPEG{' progressive' * progressive}", file_bytes(copy, name), ".dcm")
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.rglob("*.dcm")):
        if path.stat().st_size < 400_000:
            yield Seed("dicom", path.name, path.read_bytes(), ".dcm")
            if (disguised := as_capture(path.read_bytes())) is not None:
                yield Seed("dicom", f"{path.name} as SC", disguised, ".dcm")
    for path in sorted(folder.rglob("DICOMDIR*")):
        if path.is_file():
            yield Seed("dicom", path.name, path.read_bytes(), "")


def jpeg_lossless(content: bytes) -> bytes | None:
    """A film as GDCM packs it in JPEG Lossless; None where it is not installed or will not."""
    try:
        import gdcm
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = f"{folder}/plain.dcm", f"{folder}/packed.dcm"
        Path(plain).write_bytes(content)
        reader = gdcm.ImageReader()
        reader.SetFileName(plain)
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        if not reader.Read():
            return None
        change.SetInput(reader.GetImage())
        if not change.Change():
            return None
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(packed)
        return Path(packed).read_bytes() if writer.Write() else None


def as_capture(content: bytes) -> bytes | None:
    """An image of another kind as Secondary Capture of no named part, so that its pixels are reached."""
    import pydicom
    from pydicom import uid

    from progression.dicom.write import file_bytes

    try:
        data = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in data or data.get("NumberOfFrames", 1) != 1:
            return None
        data.SOPClassUID = uid.SecondaryCaptureImageStorage
        data.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
        data.pop("BodyPartExamined", None)
        return file_bytes(data, "seed")
    except Exception:  # some of pydicom's files are damaged on purpose
        return None


def pickle_seeds() -> Iterator[Seed]:
    """Snapshots as the official code writes them."""
    from tests.stylegan2.official_files import golden, snapshot

    arrays = golden(ROOT / "tests" / "golden", "uncond_32")
    for protocol in (2, 4):
        yield Seed("pickle", f"pickle {protocol}", snapshot(arrays, protocol=protocol), ".pkl")


@functools.cache
def model_folder() -> Path:
    """A whole model of tiny networks, whose manifest is mutated; made once a process."""
    from tests.models import write_model

    return write_model(Path(tempfile.mkdtemp(prefix="fuzz-model-")) / "tiny")


def model_seeds() -> Iterator[Seed]:
    """The manifest of `model_folder`, without whitespace."""
    text = json.dumps(json.loads((model_folder() / "manifest.json").read_text()))
    yield Seed("model", "model folder", text.encode(), ".json")


@functools.cache
def seeds() -> dict[str, list[Seed]]:
    """By kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom and nibabel, on what is odd on purpose
        makers = (picture_seeds, zip_seeds, dicom_seeds, pickle_seeds, model_seeds)
        found = [seed for make in makers for seed in make()]
    return {kind: [seed for seed in found if seed.kind == kind] for kind in SHARES}


# ---------------------------------------------------------------------------- mutations


def mutate(seed: Seed, rng: np.random.Generator) -> bytes:
    """One to six changes, by turns where a decoder will see them: behind checksums, in compressed frames, unpacked."""
    content = seed.content
    if seed.kind == "model":
        return mutated_manifest(content, rng)
    if seed.suffix == ".png" and rng.random() < 0.6:
        return mutated_png(content, rng)
    if seed.suffix == ".nii.gz" and rng.random() < 0.6:
        return gzip.compress(changed(gzip.decompress(content), rng), 1, mtime=0)
    if seed.suffix == ".jpeg" and rng.random() < 0.15:
        return repeated_scans(content, rng)
    if seed.kind == "dicom" and rng.random() < 0.5:
        at = content.rfind(struct.pack("<HH", 0x7FE0, 0x10))
        if at > 0:
            return content[: at + 12] + changed(content[at + 12 :], rng)
    return changed(content, rng, dicom=seed.kind == "dicom")


def changed(content: bytes, rng: np.random.Generator, *, dicom: bool = False) -> bytes:
    """Bits, bytes, numbers, texts, cuts, repeats; of DICOM also values after known tags."""
    data = bytearray(content)
    for _ in range(min(6, int(rng.geometric(0.6)))):
        if len(data) < 8:
            break
        # headers are short and pixels long: most changes go to the first 4 kB
        reach = len(data) if rng.random() < 0.5 else min(len(data), 4096)
        at = int(rng.integers(0, reach - 7))
        kind = int(rng.integers(0, 10 if dicom else 8))
        number = int(rng.choice(_NUMBERS))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I" if rng.random() < 0.6 else ">I", number)
        elif kind == 3:
            data[at : at + 2] = struct.pack("<H" if rng.random() < 0.6 else ">H", number & 0xFFFF)
        elif kind == 4:
            text = _TEXTS[int(rng.integers(0, len(_TEXTS)))]
            data[at : at + len(text)] = text
        elif kind == 5 and rng.random() < 0.3:
            del data[at:]
        elif kind == 6:
            length = int(rng.integers(1, 64))
            data[at:at] = data[at : at + length] * int(rng.integers(1, 8))
        elif kind == 7:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind > 7:
            place = data.find(_TAGS[int(rng.integers(0, len(_TAGS)))], 128)
            if place >= 0 and place + 12 < len(data):
                value = number & 0xFFFF if rng.random() < 0.7 else int(rng.integers(0, 4096))
                data[place + 8 : place + 10] = struct.pack("<H", value)
    return bytes(data)


def mutated_png(content: bytes, rng: np.random.Generator) -> bytes:
    """A chunk's body changed, and its checksum made right; of pixels, unpacked and packed again."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = int(rng.integers(0, len(chunks)))
    kind, body = chunks[chosen]
    if kind == b"IDAT" and rng.random() < 0.7:
        try:
            body = zlib.compress(changed(zlib.decompress(body), rng), 1)
        except zlib.error:  # one of several
            body = changed(body, rng)
    else:
        body = changed(body + bytes(8), rng)[: max(0, len(body) + int(rng.integers(-2, 3)))]
    repeats = int(rng.integers(1, 200)) if rng.random() < 0.05 else 1
    chunks[chosen : chosen + 1] = [(kind, body)] * repeats
    return content[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def repeated_scans(content: bytes, rng: np.random.Generator) -> bytes:
    """The last scan of a JPEG, many times over."""
    start = content.rfind(b"\xff\xda")
    scan = content[start:-2]
    return content[:start] + scan * int(rng.integers(2, 400)) + b"\xff\xd9"


def mutated_manifest(content: bytes, rng: np.random.Generator) -> bytes:
    """A value somewhere in a JSON replaced; its parts' files stay."""
    if rng.random() < 0.2:
        return changed(content, rng)
    whole = json.loads(content)
    for _ in range(int(rng.integers(1, 3))):
        here: Any = whole
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            key = keys[int(rng.integers(0, len(keys)))]
            if not isinstance(here[key], dict | list) or not here[key] or rng.random() < 0.05:
                break
            here = here[key]
        odd: list[Any] = [
            0,
            1,
            -1,
            3,
            64,
            10**7,
            2**31,
            2**63,
            10**40,
            1.5,
            1e308,
            "",
            "x",
            None,
            True,
            [],
            {},
            [1] * 99,
        ]
        here[key] = odd[int(rng.integers(0, len(odd)))]
    return json.dumps(whole).encode()


def mutations(seed: int, first: int, count: int) -> Iterator[tuple[int, Seed, bytes]]:
    """Number, what it was made of, content; each depends on the seed and its own number only."""
    by_kind, kinds = seeds(), list(SHARES)
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        of = by_kind[kinds[int(rng.choice(len(kinds), p=list(SHARES.values())))]]
        if of[0].kind == "dicom" and rng.random() < 0.5:  # those that the reader goes through to the end
            of = [one for one in of if one.name.startswith(("dx", "cr", "sc", "SC")) or "as SC" in one.name]
        source = of[int(rng.integers(0, len(of)))]
        yield number, source, mutate(source, rng)


# ---------------------------------------------------------------------------- readers


def read_everything(kind: str, path: Path, turn: int) -> list[Callable[[], object]]:
    """What is done with a file of a kind."""
    from progression.film import read_knee
    from progression.image import read_image
    from progression.types import Side

    if kind == "zip":
        return [lambda: read_image(f"{path}::knee.png")]
    if kind == "pickle":
        from progression.stylegan2.checkpoint import discriminator_of, generator_of, read_official

        def networks() -> None:
            found = read_official(path)
            generator_of(found.G_ema)
            if found.D is not None:
                discriminator_of(found.D)

        return [networks]
    if kind == "model":
        from progression.predict import load_predictor

        manifest = model_folder() / "manifest.json"
        manifest.write_bytes(path.read_bytes())
        return [lambda: load_predictor(model_folder(), device="cpu", engine="torch")]
    if kind == "picture":
        return [lambda: read_knee(path, side=Side.LEFT)]
    from progression.dicom.deidentify import Deidentifier
    from progression.dicom.study import Study, neutral_name_of

    content = path.read_bytes()
    uses: tuple[Callable[[], object], ...] = (
        lambda: neutral_name_of(content, "x", "x.dcm"),
        lambda: Study.of(content, label="x.dcm").evidence(),
        lambda: Deidentifier(key=b"k" * 32, keep_intervals=True).file(content, "x.dcm"),
        lambda: listed_as_cohorts_do(path),
    )
    return [lambda: read_image(path), uses[turn % len(uses)]]


def listed_as_cohorts_do(path: Path) -> None:
    """As the films of a folder, and of a DICOMDIR, are looked at."""
    from progression.dicom.catalogue import directory_files, is_directory, listed

    listed(path, "x")
    if is_directory(path):
        inside = [found.resolve().is_relative_to(path.parent.resolve()) for found, _ in directory_files(path)]
        assert all(inside), "a DICOMDIR leads out of its folder"


def costs(number: int, source: Seed, content: bytes, folder: Path) -> list[Cost]:
    """Of each thing that is done with one mutation."""
    path = folder / f"mutation{source.suffix}"
    path.write_bytes(content)
    found = [cost_of(use) for use in read_everything(source.kind, path, number)]
    path.unlink()
    return found


def work(seed: int, first: int, count: int) -> None:
    """In a child process: read, and print one JSON line a mutation, and one at the end."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, largest = (0.0, "", 0), (0.0, "", 0)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for of in seeds().values():  # what is imported for the first input of a kind is none of its cost
            costs(0, of[0], of[0].content, Path(folder))
        for number, source, content in mutations(seed, first, count):
            print(json.dumps({"at": number}), flush=True)
            signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)  # its signal ends the process
            for nth, cost in enumerate(costs(number, source, content, Path(folder))):
                if not nth:
                    form = source.name.split()[0].split(",")[0] if source.kind == "picture" else source.kind
                    outcomes[
                        f"{form}: {cost.outcome if not cost.outcome.startswith('UNTYPED') else 'UNTYPED'}"
                    ] += 1
                if cost.finding:
                    print(
                        json.dumps({"finding": number, "of": source.name, "what": cost.finding}), flush=True
                    )
                slowest = max(slowest, (round(cost.seconds, 2), source.name, number))
                largest = max(largest, (round(cost.above_mb), source.name, number))
    if (model := model_folder()).is_dir():
        import shutil

        shutil.rmtree(model.parent)
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "largest": largest}), flush=True)


def main() -> int:
    """Run all chunks; returns 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", type=int, help="repeat one mutation in this process")
    parser.add_argument("--keep", type=Path, help="with --only: write it there")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.seed, *given.work)
        return 0
    if given.only is not None:
        number, source, content = next(mutations(given.seed, given.only, 1))
        if given.keep:
            given.keep.write_bytes(content)
        with tempfile.TemporaryDirectory() as folder:
            for cost in costs(number, source, content, Path(folder)):
                print(source.name, cost)
        return 0
    outcomes: collections.Counter[str] = collections.Counter()
    findings, slowest, largest = [], (0.0, "", 0), (0.0, "", 0)
    with tempfile.TemporaryDirectory() as folder:
        first, end = given.first, given.first + given.mutations
        while first < end:
            count = min(CHUNK, end - first)
            command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--seed", str(given.seed)]
            # what a crash leaves among temporary files is seen, too
            environment = {**os.environ, "TMPDIR": folder}
            done = subprocess.run(
                [*command, "--work", str(first), str(count)],
                capture_output=True,
                text=True,
                cwd=folder,
                env=environment,
                check=False,
            )
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            found = [line for line in lines if "finding" in line]
            if done.returncode == 0:
                outcomes.update(lines[-1]["outcomes"])
                slowest = max(slowest, tuple(lines[-1]["slowest"]))
                largest = max(largest, tuple(lines[-1]["largest"]))
                first += count
            elif not lines:
                sys.exit(f"no mutation could be made: {done.stderr.strip()[-500:]}")
            else:
                last = max((line["at"] for line in lines if "at" in line), default=first)
                reason = f"process ended with {done.returncode}: {done.stderr.strip()[-300:]}"
                found.append({"finding": last, "what": reason})
                outcomes["CRASH"] += 1
                first = last + 1
            for finding in found:
                print(finding, flush=True)
            findings += found
            print(
                f"{first} of {end}, findings {len(findings)}, slowest {slowest}, largest {largest}",
                file=sys.stderr,
                flush=True,
            )
        own = ("torchinductor",)  # a cache of PyTorch's
        left = sorted(name for name in os.listdir(folder) if not name.startswith(own)) + [
            name for name in _ESCAPES if os.path.exists(name)
        ]
    print(f"mutations {given.mutations} from {given.first}, seed {given.seed}; outcomes:")
    for outcome, times in sorted(outcomes.items()):
        print(f"  {times:7d}  {outcome}")
    print(
        f"findings {len(findings)}; slowest {slowest[0]:.2f} s ({slowest[1]}, {slowest[2]}); largest "
        f"{largest[0]:.0f} MB above the baseline ({largest[1]}, {largest[2]}); files left: {left or 'none'}"
    )
    return int(bool(findings or left))


ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # for the tests' own tiny models and snapshots
    sys.exit(main())
