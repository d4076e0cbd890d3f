"""Every picture of a sheet says that it is generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from progression.report.mark import burn
from progression.train.sheet import save_sheet


def test_every_picture_is_marked(tmp_path: Path) -> None:
    grey = torch.zeros(2, 3, 64, 64)  # 0 in [-1, 1] is 128 of 255, rounded to even
    sheet = save_sheet(tmp_path / "sheet.png", grey)
    marked = np.asarray(burn(Image.new("L", (64, 64), 128)))
    with Image.open(tmp_path / "sheet.png") as image:
        assert "SYNTHETIC" in image.info["Comment"] and image.info["Synthetic"] == "yes"
        written = np.asarray(image)
    assert written.shape == tuple(sheet.shape) == (128, 192)
    for row in (0, 64):
        for column in (0, 64, 128):
            assert np.array_equal(written[row : row + 64, column : column + 64], marked)
    np.testing.assert_allclose(sheet.numpy() * 255, written, atol=1e-4)
