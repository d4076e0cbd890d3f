"""Sheets of generated pictures, each one marked, so that a piece of a sheet is marked too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from progression.files import atomic_write
from progression.report.mark import burn, synthetic_metadata, to_grey8


def save_sheet(path: Path, pictures: Tensor) -> Tensor:
    """Write generated pictures side by side as a PNG that says SYNTHETIC in every picture and its metadata.

    Parameters
    ----------
    pictures : (rows, columns, R, R) in [-1, 1], clipped to it.

    Returns
    -------
    Tensor
        The marked sheet, (rows · R, columns · R) in [0, 1].
    """
    unit = (pictures.detach().to("cpu", torch.float32) + 1) / 2
    sheet = np.block([[np.asarray(burn(to_grey8(picture.numpy()))) for picture in row] for row in unit])
    info = PngInfo()
    for key, value in synthetic_metadata().items():
        info.add_text(key, value)
    with atomic_write(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG", pnginfo=info)
    return torch.from_numpy(sheet) / 255
