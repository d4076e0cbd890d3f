"""GDCM in a process of its own: on damaged JPEG it ends the process that it runs in, which no `except` can catch.

Found by `benchmarks/fuzz_dicom.py`, about 3 times in 100,000 damaged files (python-gdcm 3.2.6).
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import pixel_array

from progression.errors import ImageError

PATIENCE_S = 120
_ROOT = str(Path(__file__).resolve().parents[2])
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from progression.dicom.isolated import _child; _child()"
)
_PIXEL_MODULE = (
    "SOPClassUID", "SOPInstanceUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


def unpack(data: FileDataset, label: str) -> npt.NDArray[np.integer]:
    """The pixels of a data set whose frame size was checked; nothing but them goes to the other process.

    Raises
    ------
    ImageError
        If the decoder fails or dies.
    """
    pixels = Dataset()
    for keyword in _PIXEL_MODULE:
        if keyword in data:
            pixels[keyword] = data[keyword]
    pixels.file_meta = FileMetaDataset()
    pixels.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    stream = BytesIO()
    pixels.save_as(stream, enforce_file_format=True)
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, _ROOT]
    try:
        done = subprocess.run(
            command, input=stream.getvalue(), capture_output=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"{label}: its pixels were not unpacked in {PATIENCE_S} s; get the file again"
        ) from error
    if done.returncode != 0:
        raise ImageError(f"{label}: its compressed pixels are damaged; get the file again")
    return np.asarray(np.load(BytesIO(done.stdout), allow_pickle=False))


def _child() -> None:
    """In the other process: a DICOM file on stdin, a NumPy array on stdout."""
    unpacked = pixel_array(dcmread(BytesIO(sys.stdin.buffer.read())), index=0, decoding_plugin="gdcm")
    stream = BytesIO()
    np.save(stream, unpacked, allow_pickle=False)
    sys.stdout.buffer.write(stream.getvalue())
