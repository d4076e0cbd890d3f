from pathlib import Path

import numpy as np
from PIL import Image

from progression.report.gif import FRAMES, LEAST_SIDE_PIXELS, frames, save_gif
from tests.fakes import prediction, radiograph


def test_frames_go_from_now_to_the_last_horizon() -> None:
    shown = frames(prediction(radiograph(), (24, 96)))
    assert len(shown) == FRAMES + 1
    pauses = [number for number, (duration, _) in enumerate(shown) if duration >= 1000]
    assert pauses == [0, FRAMES // 4, FRAMES]
    centres = [float(np.asarray(picture)[100:250, 150:250].mean()) for _, picture in shown]
    assert centres == sorted(centres)


def test_every_frame_is_marked() -> None:
    for _, picture in frames(prediction(radiograph(), (48,))):
        corner = np.asarray(picture)[-25:, :160]
        assert (corner < 30).mean() > 0.3 and (corner > 200).mean() > 0.05


def test_one_month_and_no_picture() -> None:
    assert len(frames(prediction(radiograph(), (1,)))) == FRAMES + 1
    assert len(frames(prediction(radiograph(), (48,), render=False))) == 1


def test_file(tmp_path: Path) -> None:
    save_gif(tmp_path / "future.gif", prediction(radiograph(), (48,)))
    with Image.open(tmp_path / "future.gif") as picture:
        assert picture.n_frames == FRAMES + 1
        assert picture.width >= LEAST_SIDE_PIXELS
        assert picture.info["loop"] == 0
        assert b"SYNTHETIC" in picture.info["comment"]
