"""How a knee's picture was taken: exposure, blur, cropping and rotation. What is unusual is warned of, never refused.

| figure | what it is |
|---|---|
| contrast | 1st to 99th percentile of grey in the central square |
| sharpness | standard deviation of the Laplacian over that of grey, at 224 pixels |
| size | the square that the knee needs over the picture's central one: small is far away, large is cut off |
| off_x, off_y | middle of that square from the picture's, in sides |
| tilt_deg | of the limb, clockwise |

Usual is what all but one in a thousand training knees at either end have; the ranges are stored with part "localiser".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.ndimage import laplace
from torch.nn.functional import interpolate

from progression.image import PERCENTILES
from progression.localise.find import Finder
from progression.types import Pixels

_PIXELS = 224
_WORDS = {
    "contrast": ("its exposure is flat", "its contrast is harsh"),
    "sharpness": ("it is blurred", "it is noisy or sharpened"),
    "size": ("the knee is small in it", "the knee is cut off"),
    "off_x": ("the joint is far to the left", "the joint is far to the right"),
    "off_y": ("the joint is far up", "the joint is far down"),
    "tilt_deg": ("the limb is turned anticlockwise", "the limb is turned clockwise"),
}


@dataclass(frozen=True)
class Quality:
    """Figures of one picture; see the module. `size`, `off_*` and `tilt_deg` are NaN where no knee is found."""

    contrast: float
    sharpness: float
    size: float
    off_x: float
    off_y: float
    tilt_deg: float


def measure(pixels: Pixels, finder: Finder) -> Quality:
    """Measure a knee's picture (H, W) in [0, 1]."""
    height, width = pixels.shape
    side = min(height, width)
    square = pixels[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
    low, high = np.percentile(square, PERCENTILES)
    x = torch.from_numpy(np.ascontiguousarray(square))[None, None]
    small = interpolate(x, size=(_PIXELS, _PIXELS), mode="bilinear", antialias=True)[0, 0].numpy()
    sharpness = float(laplace(small).std() / max(float(small.std()), 1e-6))
    knees = finder(square).knees
    if not knees:
        return Quality(float(high - low), sharpness, *[float("nan")] * 4)
    knee = max(knees, key=lambda one: one.confidence)
    return Quality(
        contrast=float(high - low),
        sharpness=sharpness,
        size=knee.side_px / side,
        off_x=knee.x / side - 0.5,
        off_y=knee.y / side - 0.5,
        tilt_deg=knee.tilt_deg,
    )


def unusual(quality: Quality, usual: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """A line for each figure outside its usual range (low, high); figures without a range are not judged."""
    found = []
    for name, value in asdict(quality).items():
        low, high = usual.get(name, (-np.inf, np.inf))
        if value < low or value > high:
            what = _WORDS[name][int(value > high)]
            found.append(
                f"quality of the picture: {what} ({name} {value:.2f}, usual {low:.2f} to {high:.2f})"
            )
    return tuple(found)
