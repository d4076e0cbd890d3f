"""Inversion judged where it is perfect, where it is none, and in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.evaluate.inversion import evaluate_inversion, grade_agreement, inversion_table
from progression.evaluate.report import write_json

SUBJECT = ["a", "a", "b", "b", "c", "c", "d", "d"]
READ = [0, 1, 2, 3, 4, 0, 1, -1]


@pytest.fixture(scope="module")
def images() -> Tensor:
    source = torch.Generator().manual_seed(0)
    smooth = torch.rand(8, 1, 4, 4, generator=source)
    levels = torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)
    big = torch.nn.functional.interpolate(smooth * levels, size=16, mode="bilinear")
    return (big[:, 0] * 255).round().to(torch.uint8)


def invert(x: Tensor, steps: int) -> Tensor:
    """A code is the picture, less an error that halves with every step."""
    return x + 0.5 ** (steps + 2) * torch.sin(torch.arange(16.0))


def by_brightness(x: Tensor) -> Tensor:
    """The brighter, the higher the grade; a second network sees nothing."""
    level = (x.mean(dim=(1, 2, 3)) + 1) * 3
    first = torch.softmax(-10 * (level[:, None] - torch.arange(5.0)).square(), dim=1)
    return torch.stack([first, torch.full_like(first, 0.2)], dim=1)


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3))


def test_the_curve_rises_with_the_steps(images: Tensor, tmp_path: object) -> None:
    told: list[str] = []
    report = evaluate_inversion(
        images, invert, lambda w: w, subject=SUBJECT, read=READ, steps=(0, 2, 5), lpips=mean_square,
        grade=by_brightness, batch=3, n_draws=50, progress=told.append,
    )  # fmt: skip
    assert [entry["steps"] for entry in report["curve"]] == [0, 2, 5] and len(told) == 3
    for name, sign in (("psnr", 1), ("ssim", 1), ("lpips", -1)):
        values = [sign * entry[name]["mean"] for entry in report["curve"]]
        assert values == sorted(values) and values[0] > sign * report["mean_picture"][name]["mean"]
        low, high = report["curve"][0][name]["people"]
        assert low <= report["curve"][0][name]["mean"] <= high
    # a quarter of the error after two more steps: 12 dB, where nothing is clipped at the ends of the range
    assert report["curve"][1]["psnr"]["mean"] - report["curve"][0]["psnr"]["mean"] == pytest.approx(
        12.04, abs=1
    )
    last = report["curve"][2]["grades"]
    assert last["kappa_with_real"] > 0.8 and abs(last["shift"]) < 0.05
    assert last["kappa_with_real"] >= report["mean_picture"]["grades"]["kappa_with_real"]
    unseen = report["curve"][0]["grades_unseen"]
    assert (unseen["shift"], unseen["off"], unseen["same_as_real"]) == (0, 0, 1)
    assert last["off"] >= abs(last["shift"])
    assert -1 <= last["kappa_with_reading"] <= 1 and -1 <= last["kappa_of_real_with_reading"] <= 1
    assert len(inversion_table(report).splitlines()) == 8
    write_json(report, f"{tmp_path}/inversion.json")


def test_a_perfect_inversion(images: Tensor) -> None:
    report = evaluate_inversion(images, lambda x, n: x, lambda w: w, subject=SUBJECT, steps=(0,), n_draws=5)
    entry = report["curve"][0]
    assert entry["psnr"]["mean"] == float("inf") and entry["ssim"]["mean"] == pytest.approx(1)
    assert "lpips" not in entry and "grades" not in entry
    assert "inf" in inversion_table(report)


def test_shift_of_the_grade_has_its_sign() -> None:
    real, smoothed = torch.eye(5)[[2, 3, 4]].numpy(), torch.eye(5)[[1, 3, 3]].numpy()
    agreement = grade_agreement(real, smoothed)
    assert agreement["shift"] == pytest.approx(-2 / 3) and agreement["off"] == pytest.approx(2 / 3)
    assert agreement["same_as_real"] == pytest.approx(1 / 3)
    assert "kappa_with_reading" not in agreement


def test_refuses(images: Tensor) -> None:
    with pytest.raises(UsageError, match="steps of 0 or more"):
        evaluate_inversion(images, invert, lambda w: w, subject=SUBJECT, steps=(-1,))
