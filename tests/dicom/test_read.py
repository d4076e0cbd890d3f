"""What is read, what is refused, and what a hostile file can do: nothing."""

import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

from progression.decoding import sandbox
from progression.dicom import decode, example
from progression.dicom.decode import stored_values
from progression.dicom.read import read_film, read_header
from progression.dicom.rle import unpack_frame
from progression.errors import DependencyError, ImageError, NotARadiographError
from progression.image import read_image
from progression.types import Side
from tests.dicom.films import RAMP, SECRETS, again, content, dx, forced, named, save
from tests.fakes import knee

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "made", [dx(), example.cr(knee(), spacing_mm=None), example.sc(knee())], ids=["DX", "CR", "SC"]
)
def test_three_kinds_are_read(made: Dataset, tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "film.dcm", made))
    assert pixels.shape == (96, 96) and pixels.dtype == np.float32
    scaled = (pixels - pixels.min()) / np.ptp(pixels)
    expected = (knee() - knee().min()) / np.ptp(knee())
    np.testing.assert_allclose(scaled, expected, atol=0.01)
    save(tmp_path / "no_suffix", made)
    np.testing.assert_array_equal(read_image(tmp_path / "no_suffix"), pixels)


def test_a_file_called_dicom_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(bytes(500))
    with pytest.raises(ImageError, match=r"film\.dcm: lacks the DICM mark"):
        read_image(tmp_path / "film.dcm")


def change(**values: object) -> Callable[[Dataset], None]:
    def apply(made: Dataset) -> None:
        forced(made, **values)

    return apply


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (change(NumberOfFrames=2), "2 frames; expected one radiograph"),
        (change(SOPClassUID=uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage), "frames; expected one"),
        (change(PresentationIntentType="FOR PROCESSING"), "For Processing"),
        (change(SOPClassUID=uid.DigitalXRayImageStorageForProcessing), "For Processing"),
        (change(SOPClassUID=uid.CTImageStorage), "CT Image Storage; expected CR, DX or Secondary"),
        (change(SOPClassUID="1.2.3"), "no known kind of image"),
        (change(PhotometricInterpretation="PALETTE COLOR"), "not grey"),
        (change(BodyPartExamined="CHEST"), "Body Part Examined is not a knee"),
        (change(ViewPosition="LL"), "View Position is lateral"),
        (change(BitsAllocated=32), "32 bits"),
        (change(BitsStored=17), "bits a value"),
        (change(Rows=60_000, Columns=60_000), "60000 x 60000 pixels; expected at most 40 megapixels"),
        (change(Rows=3), "expected at least 64"),
        (change(Rows=97), "18432 bytes of pixels; expected 18624"),
        (change(SamplesPerPixel=4), "4 samples"),
        (lambda made: made.pop("PixelData"), "no pixel data"),
        (lambda made: made.pop("Rows"), "lacks Rows; expected a radiograph"),
        (change(WindowWidth=0), "0 wide"),
    ],
)  # fmt: skip
def test_refused_by_name(alter: Callable[[Dataset], None], reason: str) -> None:
    made = dx()
    alter(made)
    with pytest.raises(ImageError, match=reason):
        read_film(content(made), "film.dcm")


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (change(HighBit=15), "High Bit 15 with 12 bits stored; expected 11"),
        (change(BitsStored=10, HighBit=9), "values wider than the 10 bits that it says are stored"),
        (change(BitsStored=10, HighBit=9, PixelRepresentation=1), "values wider than the 10 bits"),
        (change(SamplesPerPixel=3), "3 samples a pixel with MONOCHROME2, which contradict each other"),
        (change(PhotometricInterpretation="RGB"), "1 samples a pixel with RGB"),
        (change(BitsAllocated=12), "12 bits a value; expected 8 or 16"),
        (lambda made: made.pop("HighBit"), "lacks High Bit"),
    ],
)  # fmt: skip
def test_bits_that_lie_elsewhere_are_refused_for_what_they_are(
    alter: Callable[[Dataset], None], reason: str
) -> None:
    made = dx()
    alter(made)
    with pytest.raises(ImageError, match=reason):
        read_film(content(made), "film.dcm")


def test_signed_values_are_read_with_unused_bits_of_either_kind() -> None:
    """-5 in 12 bits: the sign goes on in the upper four, or they are empty."""
    made = dx()
    made.PixelRepresentation = 1
    values = np.tile(np.linspace(-900, 900, 96).astype("<i2"), (96, 1))
    found = []
    for words in (values, values & 0x0FFF):
        made.PixelData = words.tobytes()
        made.WindowCenter, made.WindowWidth = 0, 1800
        found.append(read_film(content(made), "x").values)
    np.testing.assert_array_equal(*found)
    assert found[0][0, 0] < 0.01 and found[0][0, -1] > 0.99


@pytest.mark.parametrize("interpretation", ["YBR_FULL", "RGB", "rgb"])
@pytest.mark.parametrize("planar", [0, 1])
def test_colour_captures_of_grey_are_grey_in_every_layout(interpretation: str, planar: int) -> None:
    """Y is grey, and Cb and Cr 128 are none; by pixel or by plane."""
    made = forced(example.sc(RAMP), SamplesPerPixel=3, PhotometricInterpretation=interpretation)
    made.PlanarConfiguration = planar
    grey = np.round(RAMP * 255).astype(np.uint8)
    rest = np.full_like(grey, 128) if interpretation == "YBR_FULL" else grey
    made.PixelData = np.stack([grey, rest, rest], axis=0 if planar else -1).tobytes()
    made["PixelData"].VR = "OB"
    np.testing.assert_array_equal(read_film(content(made), "x").values, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("value", ["YES", "Yes", "yes ", "Y", "TRUE", "1", "?", ["NO", "YES"]])
def test_burned_in_text_is_seen_in_every_spelling(value: str | list[str]) -> None:
    note = "the film has text burned into its pixels, which may name the patient"
    assert read_header(content(forced(dx(), BurnedInAnnotation=value)), "x").notes == (note,)


@pytest.mark.parametrize("value", ["NO", "no", "N", "", "False"])
def test_what_denies_burned_in_text_is_believed(value: str) -> None:
    assert read_header(content(forced(dx(), BurnedInAnnotation=value)), "x").notes == ()


@pytest.mark.parametrize(
    "values",
    [
        {"SOPClassUID": uid.ComprehensiveSRStorage},
        {"SOPClassUID": uid.EnhancedCTImageStorage, "NumberOfFrames": 20},
        {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "CT"},
        {"SOPClassUID": "1.2.3"},
        {"SyntheticData": "YES"},
    ],
)
def test_what_is_no_radiograph_is_told_from_a_radiograph_that_is_refused(values: dict[str, object]) -> None:
    made = dx()
    change(**values)(made)
    with pytest.raises(NotARadiographError):
        read_header(content(made), "x")
    chest = dx()
    change(BodyPartExamined="CHEST")(chest)
    with pytest.raises(ImageError) as refused:
        read_header(content(chest), "x")
    assert not isinstance(refused.value, NotARadiographError)


def test_the_last_film_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    def counted(data: Dataset, label: str) -> np.ndarray:
        unpacked.append(label)
        return stored_values(data, label)

    monkeypatch.setattr("progression.dicom.read.stored_values", counted)
    one, other = (content(forced(dx(), InstanceNumber=number)) for number in (11, 12))
    first = read_film(one, "one")
    assert first.values.flags.writeable
    first.values[:] = 0  # what is done to it does not reach the next reader
    assert read_film(bytes(bytearray(one)), "one").values.max() > 0.5
    assert read_film(other, "other").values.max() > 0.5 and unpacked == ["one", "other"]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"LossyImageCompression": "01"}, "with loss"),
        ({"BurnedInAnnotation": "YES"}, "burned into"),
    ],
)
def test_warned_of(values: dict[str, object], note: str) -> None:
    made = dx()
    change(**values)(made)
    assert note in read_header(content(made), "x").notes[0]


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLSLossless, uid.RLELossless, uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian]
)
def test_compressed_pixels_are_the_same(syntax: uid.UID) -> None:
    if syntax == uid.JPEG2000Lossless:
        pytest.importorskip("openjpeg", reason="needs the extra dicom")
    plain = dx()
    packed = again(content(plain))
    if syntax.is_compressed:
        packed.compress(syntax, generate_instance_uid=False)
    else:
        packed.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(
        read_film(content(packed), "x").values, read_film(content(plain), "x").values
    )


def test_jpeg_lossless_as_modalities_write_it() -> None:
    """One frame of pydicom's files in JPEG Lossless, against the same picture in another syntax."""
    pytest.importorskip("gdcm", reason="needs the extra dicom")
    from pydicom.data import get_testdata_file

    packed, plain = (
        Path(str(get_testdata_file(name, download=False))).read_bytes()
        for name in ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm")
    )
    assert again(packed).file_meta.TransferSyntaxUID == uid.JPEGLosslessSV1
    np.testing.assert_array_equal(read_film(packed, "x").values, pixel_array(again(plain)))


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = again(content(dx()))
    packed.compress(uid.JPEGLSLossless, generate_instance_uid=False)
    (tmp_path / "jpeg_ls.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    sandbox.close()  # the next worker looks there
    try:
        with pytest.raises(DependencyError, match=r"JPEG-LS.*progression-imaging\[dicom\]"):
            read_film(content(packed), "x")
    finally:
        sandbox.close()


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_run_lengths_are_pydicoms(bits: int, signed: bool) -> None:
    made = again(content(example.sc(RAMP, bits=bits)))
    if signed:
        values = (RAMP * 100 - 50).astype(f"<i{made.BitsAllocated // 8}")
        made.PixelRepresentation, made.PixelData = 1, values.tobytes()
    made.compress(uid.RLELossless, generate_instance_uid=False)
    found = decode.stored_values(made, "x")
    np.testing.assert_array_equal(found, pixel_array(made, decoding_plugin="pydicom"))
    assert found.dtype.kind == ("i" if signed else "u")


def test_run_lengths_do_not_grow_beyond_the_picture() -> None:
    segment = b"\x81\x05" * 200_000  # 128 bytes each: 25 MB from 400 kB
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + segment
    found = unpack_frame(frame, rows=64, columns=64, samples=1, bytes_a_value=1, label="x")
    assert found.shape == (64, 64) and (found == 5).all()
    with pytest.raises(ImageError, match="ends before 4096 pixels"):
        unpack_frame(frame[:66], rows=64, columns=64, samples=1, bytes_a_value=1, label="x")
    with pytest.raises(ImageError, match="1 run-length segments; expected 2"):
        unpack_frame(frame, rows=64, columns=64, samples=1, bytes_a_value=2, label="x")


def bomb(syntax: uid.UID, frame: bytes) -> bytes:
    made = again(content(dx()))
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    return content(made)


@pytest.mark.parametrize(
    ("syntax", "frame", "reason"),
    [
        (uid.JPEGLSLossless, b"\xff\xd8\xff\xf7\x00\x0b\x10\xff\xff\xff\xff\x01\x01\x11\x00", "65535 x 65535"),
        (uid.JPEGLosslessSV1, b"\xff\xd8\xff\xc3\x00\x0b\x10\xff\xff\xff\xff\x01\x01\x11\x00", "65535 x 65535"),
        (uid.JPEGBaseline8Bit, b"\xff\xd8\xff\xe0\x00\x04\x00\x00\xff\xc0\x00\x0b\x08\x7f\xff\x7f\xff\x01\x01\x11\x00",
         "32767"),
        (uid.JPEG2000Lossless,
         b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 41, 0, 2**31, 2**31, 0, 0, 64, 64, 0, 0, 1) + b"\0" * 9,
         "2147483648"),
        (uid.JPEG2000, b"no code stream", "no readable header"),
        (uid.JPEG2000, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "no readable header"),  # a box of no length
        (uid.JPEGLSLossless, b"\xff\xd8" + b"\xff" * 5000, "no readable header"),
        (uid.MPEG2MPML, b"\0" * 64, "a transfer syntax that is not read"),
        (uid.JPEGExtended12Bit, b"\0" * 64, "a transfer syntax that is not read"),
    ],
)  # fmt: skip
def test_decompression_bombs_are_seen_before_they_are_unpacked(
    syntax: uid.UID, frame: bytes, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        read_film(bomb(syntax, frame), "x")


def test_a_deflated_file_is_not_inflated() -> None:
    made = dx()
    made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(ImageError, match="deflated as a whole"):
        read_film(content(made), "x")


def test_sequences_in_sequences_in_sequences() -> None:
    """10,000 deep."""
    level = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    start = content(dx())
    head = start[: start.index(struct.pack("<HH", 8, 0x2218))]
    with pytest.raises(ImageError, match="RecursionError"):
        read_film(head + level * 10_000, "x")


def test_a_film_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    whole = content(dx())
    for end in range(132, len(whole), 97):
        with pytest.raises(ImageError):
            read_film(whole[:end], "x")


@pytest.mark.parametrize(
    "keyword",
    [
        "BodyPartExamined",
        "VOILUTFunction",
        "SOPClassUID",
        "PhotometricInterpretation",
        "PresentationIntentType",
    ],
)
def test_messages_name_no_patient(keyword: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever a careless hand wrote the name, it is not quoted, nor are its neighbours."""
    film = forced(
        named(dx()), **{keyword: "Geheimnis", "SpecificCharacterSet": "Geheimnis", "StudyDate": "Annegret"}
    )
    if keyword == "PresentationIntentType":
        film.NumberOfFrames = 2
    with pytest.raises(ImageError) as told:
        read_film(content(film), "x")
    assert [secret for secret in SECRETS if secret in str(told.value) + caplog.text] == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as on Linux")
def test_a_claim_of_four_gigabytes_takes_none() -> None:
    whole = bytearray(content(dx()))
    at = whole.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    whole[at + 8 : at + 12] = struct.pack("<I", 0xFFFFFFF0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_film(bytes(whole), "x").values  # what is there is a whole picture
    np.testing.assert_array_equal(found, read_film(content(dx()), "x").values)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_pngs_are_read_without_pydicom(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from progression.film import read_knee\n"
        "from tests.fakes import save_knee\n"
        f"read_knee(save_knee(Path({str(tmp_path)!r}) / 'k.png'));"
        "print(sorted({'pydicom', 'highdicom'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"


def test_the_examples_are_what_they_say() -> None:
    film = example.bilateral_film(knee())
    header = read_header(content(film), "x")
    assert header.laterality.both and header.spacing is not None and header.spacing.mm == example.SPACING_MM
    pixels = read_film(content(film), "x").values
    width = pixels.shape[1]
    np.testing.assert_allclose(
        pixels[:, : width // 2], pixels[:, : width // 2 - 1 : -1], atol=1e-3
    )  # two mirrored knees
    assert read_header(content(example.knee_film(knee(), side=Side.LEFT)), "x").laterality.side is Side.LEFT


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("option", ["+e1", "+el"])
def test_jpeg_lossless_of_another_writer(bits: int, option: str, tmp_path: Path) -> None:
    """Grey films as dcmtk packs them, in JPEG Lossless of the first and of any predictor."""
    pytest.importorskip("gdcm", reason="needs the extra dicom")
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("needs dcmcjpeg (Debian package dcmtk)")
    film = save(tmp_path / "film.dcm", dx(bits=bits, inverted=True))
    subprocess.run(["dcmcjpeg", option, film, tmp_path / "packed.dcm"], check=True)
    packed = (tmp_path / "packed.dcm").read_bytes()
    assert again(packed).file_meta.TransferSyntaxUID in (uid.JPEGLossless, uid.JPEGLosslessSV1)
    np.testing.assert_array_equal(read_film(packed, "x").values, read_film(film.read_bytes(), "x").values)


def test_a_decoder_that_ends_its_process_does_not_end_ours() -> None:
    """One byte of a JPEG marker changed, on which GDCM aborts."""
    pytest.importorskip("gdcm", reason="needs the extra dicom")
    from pydicom.data import get_testdata_file

    packed = Path(str(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))).read_bytes()
    assert read_film(packed, "x").values.shape == (100, 100, 3)
    with pytest.raises(ImageError, match="its decoder ended with it"):
        read_film(packed.replace(b"\xff\xc4", b"\xff\x00", 1), "x")
