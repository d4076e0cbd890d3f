"""Generators whose faults are known: the perfect one, the copier, the collapsed one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from progression.errors import UsageError
from progression.evaluate.generator import (
    compare_features,
    evaluate_generator,
    generator_table,
    memorisation,
    sample_images,
)
from progression.evaluate.report import write_json
from progression.metrics.features import Extractor


class Fake:
    """Pictures of four grey quarters, their levels normal with mean 0 and deviation 0.2."""

    z_dim, c_dim = 4, 0

    def __init__(self, channels: int = 1) -> None:
        self.channels = channels

    def mapping(self, z: Tensor, c: Tensor, truncation_psi: float = 1) -> Tensor:
        return z.unsqueeze(1) * truncation_psi

    def synthesis(self, ws: Tensor, noise_mode: str) -> Tensor:
        levels = 0.2 * ws[:, 0].view(-1, 1, 2, 2).expand(-1, self.channels, -1, -1)
        return torch.nn.functional.interpolate(levels, size=8, mode="nearest")

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1)


QUARTERS = Extractor("quarters", lambda x: torch.nn.functional.avg_pool2d(x, 4).flatten(1))


def normal(seed: int, n: int = 300, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_the_table_shows_figures_of_features_of_any_scale() -> None:
    kid = {"mean": 2.58e-5, "low": 2.46e-5, "high": 2.68e-5}
    figures = {"n": 826, "fid": {"mean": 0.011247}, "kid": kid, "precision": 0.44, "recall": 0.03}
    table = generator_table({"features": {"VGG-16": figures}})
    assert "0.01125" in table
    assert "0.0258 [0.0246, 0.0268]" in table


def test_a_perfect_generator_is_at_the_floor(tmp_path: object) -> None:
    held_out, train = (sample_images(Fake(), 400, seed=s) for s in (101, 102))
    told: list[str] = []
    report = evaluate_generator(
        Fake(), held_out, extractors=[QUARTERS], train=train, n_samples=500, n_path=50, n_draws=5,
        distance=lambda a, b: (a - b).square().mean(dim=(1, 2, 3)), distance_name="mse", progress=told.append,
    )  # fmt: skip
    figures = report["features"]["quarters"]
    assert figures["n"] == 400 and figures["fid"]["n"] == figures["fid_floor"]["n"] == 400
    assert 0.2 < figures["fid_ratio"] < 5
    assert abs(figures["kid"]["mean"]) < 0.01
    assert figures["precision"] > 0.8 and figures["recall"] > 0.8
    assert figures["memorisation"]["by_chance"] == 0.5
    assert figures["memorisation"]["nearer_to_train"] == pytest.approx(0.5, abs=0.1)
    assert report["path_length"]["mean"] > 0 and told[-1] == "path length by mse"
    assert "quarters" in generator_table(report) and "mse" in generator_table(report)
    write_json(report, f"{tmp_path}/generator.json")


def test_truncation_costs_recall() -> None:
    held_out = sample_images(Fake(), 300, seed=101)
    reports = [
        evaluate_generator(
            Fake(), held_out, extractors=[QUARTERS], n_samples=300, n_draws=2, truncation_psi=psi
        )
        for psi in (1.0, 0.3)
    ]
    full, cut = (report["features"]["quarters"] for report in reports)
    assert cut["recall"] < full["recall"] and cut["fid"]["mean"] > 10 * full["fid"]["mean"]
    assert "fid_floor" not in full and "path_length" not in reports[0]
    assert "quarters" in generator_table(reports[0])


def test_a_copier_is_caught() -> None:
    train, held_out = normal(0), normal(1)
    copies = train[:200] + 1e-3 * normal(2, 200)
    caught = memorisation(copies, held_out[:100], train)
    assert caught["by_chance"] == 0.75 and caught["excess"] > 0.9
    assert caught["generated_to_train"]["median"] < 0.1 * caught["held_out_to_train"]["median"]
    honest = memorisation(normal(3), held_out[:100], train)
    assert honest["excess_interval"][0] < 0.15 and honest["excess_interval"][1] > -0.15


def test_all_sets_are_cut_to_the_smallest() -> None:
    assert compare_features(normal(0, 90), normal(1, 70), normal(2, 50), n_draws=2)["n"] == 50


def test_samples_repeat_with_the_seed_and_are_bytes() -> None:
    a = sample_images(Fake(), 10, batch=3, seed=1)
    assert a.dtype == torch.uint8 and a.shape == (10, 8, 8)
    assert torch.equal(a, sample_images(Fake(), 10, batch=3, seed=1))
    assert not torch.equal(a, sample_images(Fake(), 10, batch=3, seed=2))


def test_refuses() -> None:
    with pytest.raises(UsageError, match="grey pictures, received one of 3 channels"):
        sample_images(Fake(channels=3), 2)
    with pytest.raises(UsageError, match="expected real pictures of"):
        evaluate_generator(Fake(), torch.zeros(4, 9, 9, dtype=torch.uint8), extractors=[], n_samples=4)
