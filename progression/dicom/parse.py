"""DICOM bytes to a data set, with what is hostile or damaged told as one typed error.

Nothing of the file's own text goes into a message: it may be a patient's.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import BinaryIO

from pydicom import dcmread
from pydicom.config import IGNORE, settings
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from progression.errors import ImageError, ProgressionError

MAX_FILE_BYTES = 256 << 20
"""Largest file that is opened; 40 megapixels of 16 bits in one channel take 80 MB."""
_MARK_END = 132
"""Bytes of the preamble and the DICM mark."""
_ONE_AT_A_TIME = RLock()
"""What `guarded` sets is pydicom's, and so the whole process's."""


def parse(content: bytes, label: str) -> FileDataset:
    """Parse a DICOM file's bytes; element values are converted when they are asked for.

    Parameters
    ----------
    content : the whole file, with its 128-byte preamble and the DICM mark.
    label : file name, for messages.

    Raises
    ------
    ImageError
        If it is too large, deflated as a whole (it may expand without bound), damaged, or nested too deeply.
    """
    with guarded(label):
        return _parsed(BytesIO(content), len(content), label)


def parse_header(path: str | Path, label: str) -> FileDataset:
    """What a DICOM file says before its pixels, which are not read; raises as `parse`."""
    with guarded(label), open(path, "rb") as stream:
        return _parsed(stream, os.fstat(stream.fileno()).st_size, label, pixels=False)


def _parsed(stream: BinaryIO, size_bytes: int, label: str, *, pixels: bool = True) -> FileDataset:
    if size_bytes > MAX_FILE_BYTES:
        raise ImageError(f"{label}: over {MAX_FILE_BYTES >> 20} MB; expected one radiograph; export it alone")
    stream.seek(_MARK_END)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError(
            f"{label}: deflated as a whole, and may expand without bound; convert it (dcmconv +te)"
        )
    stream.seek(0)
    return dcmread(stream, stop_before_pixels=not pixels)


@contextmanager
def guarded(label: str) -> Iterator[None]:
    """Whatever goes wrong with a file inside becomes an ImageError; pydicom's own checks and warnings stay silent.

    Both may quote values, so only the kind of failure is told. Threads wait for each other.
    """
    with _ONE_AT_A_TIME:
        yield from _guarded(label)


def _guarded(label: str) -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    disabled = logger.disabled
    reading, writing = settings.reading_validation_mode, settings.writing_validation_mode
    try:
        logger.disabled = True
        settings.reading_validation_mode = settings.writing_validation_mode = IGNORE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ProgressionError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ImageError(f"{label}: damaged or unusual DICOM ({kind}); export the film again") from error
    finally:
        logger.disabled = disabled
        settings.reading_validation_mode, settings.writing_validation_mode = reading, writing
