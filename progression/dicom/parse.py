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
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.config import IGNORE, settings
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from progression.dicom.structure import MAX_READS_OF_DIRECTORY, Budget, Metered, weigh
from progression.errors import ImageError, ProgressionError
from progression.files import open_regular

MAX_FILE_BYTES = 128 << 20
"""Largest file that is opened; 40 megapixels take 80 MB in 16 bits, and 120 MB in colour."""
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
        If it is too large, has more structure than a film, is deflated as a whole (it may expand without bound),
        damaged, or nested too deeply.
    """
    with guarded(label):
        return _parsed(BytesIO(content), len(content), Budget(label))


def parse_header(path: str | Path, label: str) -> FileDataset:
    """What a DICOM file says before its pixels, which are not read; raises as `parse`."""
    with guarded(label), _opened(path, label) as stream:
        return _parsed(stream, os.fstat(stream.fileno()).st_size, Budget(label), pixels=False)


def parse_directory(path: str | Path, label: str) -> FileDataset:
    """A DICOMDIR, which may list some thousands of files; raises as `parse`."""
    with guarded(label), _opened(path, label) as stream:
        budget = Budget(label, reads=MAX_READS_OF_DIRECTORY, values=MAX_READS_OF_DIRECTORY)
        return _parsed(stream, os.fstat(stream.fileno()).st_size, budget, pixels=False)


def media_class(path: str | Path, label: str) -> str:
    """The kind of object that the first lines of a file state; raises as `parse`."""
    with guarded(label), _opened(path, label) as stream:
        return str(_meta(stream, Budget(label)).get("MediaStorageSOPClassUID"))


def _opened(path: str | Path, label: str) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise ImageError(f"{label}: {error.strerror}; expected a file that can be read") from error


def _parsed(stream: BinaryIO, size_bytes: int, budget: Budget, *, pixels: bool = True) -> FileDataset:
    if size_bytes > MAX_FILE_BYTES:
        raise ImageError(
            f"{budget.label}: over {MAX_FILE_BYTES >> 20} MB; expected one radiograph; export it alone"
        )
    if _meta(stream, budget).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError(
            f"{budget.label}: deflated as a whole, and may expand without bound; convert it (dcmconv +te)"
        )
    stream.seek(0)
    data = dcmread(Metered(stream, budget), stop_before_pixels=not pixels)
    budget.check_reads()
    weigh(data, budget)
    return data


def _meta(stream: BinaryIO, budget: Budget) -> Dataset:
    """The file meta information, which says how the rest is written."""
    stream.seek(_MARK_END)
    metered: Any = Metered(stream, budget)
    meta = read_dataset(metered, False, True, stop_when=lambda tag, *_: tag.group != 2)
    weigh(meta, budget)
    return meta


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
