"""One compressed frame to stored values; runs in the worker of `progression.decoding.sandbox`.

JPEG, JPEG-LS and RLE need nothing more than the core installs; JPEG Lossless (frequent in CR and DX) and JPEG 2000
need the extra `dicom`, of permissive licences: pylibjpeg and pylibjpeg-openjpeg MIT, python-gdcm Apache 2.0.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, pixel_array

from progression.decoding.sandbox import Decoded
from progression.dicom.rle import unpack_frame
from progression.errors import DependencyError

JPEG_2000 = frozenset(
    {uid.JPEG2000, uid.JPEG2000Lossless, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL}
)
PLUGINS = {  # which decoder, so that it does not depend on what else is installed
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys(JPEG_2000, "pylibjpeg"),
}
DESCRIPTION = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
               "PlanarConfiguration", "PhotometricInterpretation")  # fmt: skip
"""What a decoder is told of a frame."""


def prepare() -> None:
    """pydicom is imported with this module."""


def decode(content: BytesIO, label: str, options: Mapping[str, Any]) -> Decoded:
    """A frame, which its header describes in `options`, under its transfer syntax: (H, W), or (H, W, 3) RGB.

    Raises
    ------
    DependencyError
        If its decoder is not installed.
    """
    syntax, frame = uid.UID(options["syntax"]), content.getvalue()
    described = {name: options[name] for name in DESCRIPTION if options[name] is not None}
    if syntax == uid.RLELossless:
        return Decoded.whole(
            unpack_frame(
                frame,
                rows=described["Rows"],
                columns=described["Columns"],
                samples=described["SamplesPerPixel"],
                bytes_a_value=described["BitsAllocated"] // 8,
                label=label,
            )
        )
    if PLUGINS[syntax] not in get_decoder(syntax).available_plugins:
        raise DependencyError(
            f"{label} is {syntax.name}, which needs a decoder that is not installed: "
            "pip install 'progression-imaging[dicom]', or convert it (gdcmconv --raw)"
        )
    data = Dataset()
    for name, value in described.items():
        setattr(data, name, value)
    data.PixelData = encapsulate([frame], has_bot=False)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    return Decoded.whole(np.asarray(pixel_array(data, index=0, decoding_plugin=PLUGINS[syntax])))
