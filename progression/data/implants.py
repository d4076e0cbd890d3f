"""Drawn metal in and about a knee: replacements, whole or of one compartment, nails, plates, screws, wires, pins.

    mask = implant(generator, R): (R, R) in [0, 1], how much of each pixel of a right knee's picture is metal

Places are shares of the picture's side, which is about 90 mm: the joint line lies at some 0.56 of its height, femur and
tibia reach from 0.1 to 0.9 of its width. Metal that touches an edge goes on beyond it (`progression.data.films`).
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from progression.types import Pixels

Point = tuple[float, float]
_FINER = 4


class _Metal:
    """Strokes and outlines in a layer of four times the pixels, turned and moved a little, mirrored or not."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, _FINER * size
        self.layer = Image.new("L", (self.size, self.size), 0)
        self.draw = ImageDraw.Draw(self.layer)
        self.line = float(rng.uniform(0.52, 0.6))
        angle, scale = np.deg2rad(rng.normal(0, 4)), rng.uniform(0.88, 1.12)
        self.turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            self.turn = self.turn @ np.diag([-1, 1])
        self.moved = rng.normal(0, 0.015, 2)

    def _at(self, points: npt.ArrayLike) -> list[Point]:
        about = np.array([0.5, self.line])
        placed = (np.asarray(points, float) - about) @ self.turn.T + about + self.moved
        return [(float(x), float(y)) for x, y in self.size * placed]

    def filled(self, *points: Point) -> None:
        """A polygon."""
        self.draw.polygon(self._at(points), fill=255)

    def removed(self, *points: Point) -> None:
        """A polygon of what is no metal."""
        self.draw.polygon(self._at(points), fill=0)

    def rod(self, *points: Point, wide: float) -> None:
        """A stroke."""
        at, width = self._at(points), max(1, round(wide * self.size))
        self.draw.line(at, fill=255, width=width, joint="curve")
        for x, y in at:
            self.draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)

    def disc(self, centre: Point, radius: float, *, inner: float = 0.0) -> None:
        """A disc, or a ring."""
        for reach, grey in ((radius, 255), (inner, 0)):
            if reach > 0:
                ((x, y),), r = self._at([centre]), reach * self.size
                self.draw.ellipse([x - r, y - r, x + r, y + r], fill=grey)

    def condyle(self, left: float, right: float, *, high: float) -> None:
        """A femoral component: an arch over the joint line with a straight upper edge or a notch."""
        t = np.linspace(0, np.pi, 14)
        middle, half = (left + right) / 2, (right - left) / 2
        round_off = float(self.rng.uniform(0.04, 0.1))
        below = [(middle + half * np.cos(a), self.line - 0.06 + round_off * np.sin(a)) for a in t]
        self.filled((right, self.line - high), *below, (left, self.line - high))

    def screw(self, start: Point, end: Point, *, wide: float, head: bool = True) -> None:
        """A screw, threaded for some of its length."""
        self.rod(start, end, wide=wide)
        if head:
            self.disc(start, 0.9 * wide)
        a, b = np.array(start), np.array(end)
        across = np.array([-(b - a)[1], (b - a)[0]]) / max(float(np.hypot(*(b - a))), 1e-6)
        for share in np.linspace(self.rng.uniform(0.2, 0.7), 0.97, 8):
            at, reach = a + share * (b - a), 0.85 * wide * across
            first, second = at - reach, at + reach
            self.rod((first[0], first[1]), (second[0], second[1]), wide=0.35 * wide)

    def mask(self) -> Pixels:
        """Of the picture's own pixels, its edges as sharp or soft as films show them."""
        soft = self.layer.filter(ImageFilter.GaussianBlur(_FINER * float(self.rng.uniform(0, 0.5))))
        size = self.size // _FINER
        return np.asarray(soft.resize((size, size), Image.Resampling.BOX), np.float32) / np.float32(255)


def _tray(m: _Metal, left: float, right: float) -> None:
    top = m.line + m.rng.uniform(0.01, 0.06)
    m.filled((left, top), (right, top), (right, top + m.rng.uniform(0.025, 0.06)), (left, top + 0.04))


def _total(m: _Metal) -> None:
    left, right = m.rng.uniform(0.08, 0.2), m.rng.uniform(0.8, 0.92)
    high = m.rng.uniform(0.1, 0.28)
    if m.rng.random() < 0.6:
        m.condyle(left, 0.47, high=high)
        m.condyle(0.53, right, high=high)
        m.filled(
            (0.42, m.line - high),
            (0.58, m.line - high),
            (0.56, m.line - 0.45 * high),
            (0.44, m.line - 0.45 * high),
        )
    else:
        m.condyle(left, right, high=high)
    _tray(m, left + m.rng.uniform(-0.03, 0.06), right + m.rng.uniform(-0.06, 0.03))
    wide, deep = m.rng.uniform(0.03, 0.09), m.rng.uniform(0.12, 0.36)
    m.filled(
        (0.5 - wide, m.line + 0.06),
        (0.5 + wide, m.line + 0.06),
        (0.515, m.line + deep),
        (0.485, m.line + deep),
    )
    if m.rng.random() < 0.3:  # a keel's wings
        m.filled((0.3, m.line + 0.06), (0.7, m.line + 0.06), (0.5, m.line + 0.2))


def _stemmed(m: _Metal) -> None:
    """A revision or a hinge: a replacement on stems that leave the picture or end in the shafts."""
    _total(m)
    for sign in (-1, 1):
        if m.rng.random() < 0.8:
            m.rod(
                (0.5, m.line), (0.5, m.line + sign * m.rng.uniform(0.35, 0.7)), wide=m.rng.uniform(0.07, 0.14)
            )
    if m.rng.random() < 0.4:
        m.filled((0.4, m.line - 0.2), (0.6, m.line - 0.2), (0.6, m.line + 0.15), (0.4, m.line + 0.15))


def _half(m: _Metal) -> None:
    left, right = m.rng.uniform(0.08, 0.16), m.rng.uniform(0.38, 0.46)
    if m.rng.random() < 0.9:
        m.condyle(left, right, high=m.rng.uniform(0.08, 0.2))
    _tray(m, left, right)
    if m.rng.random() < 0.6:
        m.rod((0.28, m.line + 0.05), (0.28, m.line + m.rng.uniform(0.1, 0.16)), wide=0.025)


def _nail(m: _Metal) -> None:
    up = m.rng.random() < 0.5
    wide, x = m.rng.uniform(0.07, 0.14), m.rng.uniform(0.44, 0.56)
    start, end = (m.line - m.rng.uniform(0.02, 0.2), -0.4) if up else (m.line + m.rng.uniform(0.02, 0.2), 1.4)
    m.rod((x, start), (x, end), wide=wide)
    for _ in range(m.rng.integers(0, 4)):
        y = start + (-1 if up else 1) * m.rng.uniform(0.03, 0.3)
        m.screw((m.rng.uniform(0.1, 0.25), y), (m.rng.uniform(0.7, 0.9), y), wide=m.rng.uniform(0.025, 0.05))


def _plate(m: _Metal) -> None:
    up = m.rng.random() < 0.4
    sign = -1 if up else 1
    x, near = m.rng.uniform(0.1, 0.2), m.line + sign * m.rng.uniform(0.03, 0.08)
    far = m.line + sign * m.rng.uniform(0.3, 0.9)
    shaft, wide = m.rng.uniform(0.18, 0.32), m.rng.uniform(0.03, 0.07)
    m.rod(
        (x, near),
        (x, near + 0.35 * (far - near)),
        (shaft, near + 0.6 * (far - near)),
        (shaft, far),
        wide=wide,
    )
    for share in np.linspace(0.03, 0.97, int(m.rng.integers(3, 8))):
        y = near + share * (far - near)
        start = np.interp(share, [0.35, 0.6], [x, shaft])
        if m.rng.random() < 0.85:
            end = (start + m.rng.uniform(0.25, 0.6), y + m.rng.normal(0, 0.02))
            m.screw((start, y), end, wide=m.rng.uniform(0.022, 0.045))


def _screws(m: _Metal) -> None:
    """Cannulated or compression screws across condyle or plateau; interference screws of a ligament's tunnel."""
    for _ in range(m.rng.integers(1, 4)):
        y = m.line + m.rng.choice([-1, 1]) * m.rng.uniform(0.08, 0.3)
        x, length = m.rng.uniform(0.1, 0.6), m.rng.uniform(0.15, 0.6)
        angle = m.rng.normal(0, 0.35) if m.rng.random() < 0.7 else m.rng.uniform(0.8, 2.3)
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        m.screw((x, y), end, wide=m.rng.uniform(0.03, 0.075), head=bool(m.rng.random() < 0.7))
        if m.rng.random() < 0.25:
            m.disc((x, y), m.rng.uniform(0.04, 0.06), inner=0.0)


def _wires(m: _Metal) -> None:
    """Two wires and a loop in eight about the kneecap, wires across a fracture, or a loop about a shaft."""
    wide = m.rng.uniform(0.014, 0.03)
    if m.rng.random() < 0.6:
        a, b = m.rng.uniform(0.36, 0.44), m.rng.uniform(0.56, 0.64)
        top, low = m.line - m.rng.uniform(0.3, 0.42), m.line - m.rng.uniform(-0.02, 0.1)
        for x in (a, b):
            m.rod((x, top - 0.05), (x + m.rng.normal(0, 0.02), low + 0.05), wide=1.3 * wide)
        m.rod((a, top), (b, low), (a, low), (b, top), (a, top), wide=wide)
    else:
        for _ in range(m.rng.integers(2, 5)):
            x, angle = m.rng.uniform(0.25, 0.75), m.rng.uniform(0.3, 2.8)
            y, reach = m.line + m.rng.uniform(-0.35, 0.35), m.rng.uniform(0.15, 0.4)
            m.rod((x, y), (x + reach * np.cos(angle), y + reach * np.sin(angle)), wide=max(wide, 0.02))


def _staples(m: _Metal) -> None:
    for _ in range(m.rng.integers(1, 4)):
        x, y = m.rng.uniform(0.12, 0.25), m.line + m.rng.choice([-1, 1]) * m.rng.uniform(0.08, 0.28)
        wide, tall, deep = m.rng.uniform(0.025, 0.04), m.rng.uniform(0.1, 0.2), m.rng.uniform(0.1, 0.22)
        m.rod(
            (x + deep, y - tall / 2),
            (x, y - tall / 2),
            (x, y + tall / 2),
            (x + deep, y + tall / 2),
            wide=wide,
        )


def _anchors(m: _Metal) -> None:
    """What holds a new ligament: a button at the femur's cortex, a screw or staple at the tibia."""
    x, y = m.rng.uniform(0.12, 0.3), m.line - m.rng.uniform(0.18, 0.35)
    m.rod((x, y), (x + 0.05, y - m.rng.uniform(0.1, 0.14)), wide=m.rng.uniform(0.035, 0.055))
    x, y = m.rng.uniform(0.4, 0.6), m.line + m.rng.uniform(0.15, 0.3)
    m.screw((x, y), (x - 0.06, y - m.rng.uniform(0.18, 0.28)), wide=m.rng.uniform(0.06, 0.1), head=False)


def _pins(m: _Metal) -> None:
    """An external fixator: pins through the bone, a bar beside it."""
    up = m.rng.random() < 0.5
    ys = m.line + (-1 if up else 1) * (m.rng.uniform(0.12, 0.2) + np.arange(m.rng.integers(2, 4)) * 0.15)
    bar = m.rng.uniform(-0.15, 0.06)
    for y in ys:
        m.rod(
            (bar, y), (m.rng.uniform(0.6, 1.1), y + m.rng.normal(0, 0.03)), wide=m.rng.uniform(0.035, 0.055)
        )
    m.rod((bar, -0.3), (bar, 1.3), wide=m.rng.uniform(0.06, 0.12))


STYLES: Mapping[str, Callable[[_Metal], None]] = {
    "total": _total, "stemmed": _stemmed, "half": _half, "nail": _nail, "plate": _plate, "screws": _screws,
    "wires": _wires, "staples": _staples, "anchors": _anchors, "pins": _pins,
}  # fmt: skip
_SHARES = (0.24, 0.08, 0.14, 0.1, 0.14, 0.1, 0.06, 0.05, 0.05, 0.04)


def implant(rng: np.random.Generator, size: int, *, style: str | None = None) -> Pixels:
    """Metal in a right knee's picture of `size` pixels a side; of a style of `STYLES`, drawn where not given."""
    metal = _Metal(rng, size)
    STYLES[style or str(rng.choice(list(STYLES), p=_SHARES))](metal)
    return metal.mask()
