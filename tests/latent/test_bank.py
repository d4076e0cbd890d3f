"""The bank: exact search of other subjects' rows, building, and storage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.errors import UsageError, WeightsError
from progression.latent.bank import TrajectoryBank, check_built_with
from progression.latent.build import build_graded, build_imaged
from progression.weights import load_model, save_part


def make_bank(rows: int, *, subjects: int, dimensions: int = 8, seed: int = 0) -> TrajectoryBank:
    draws = torch.Generator().manual_seed(seed)
    return TrajectoryBank(
        subject=np.array([f"P{i % subjects}" for i in range(rows)]),
        w=torch.randn(rows, dimensions, generator=draws),
        displacement=torch.randn(rows, dimensions, generator=draws),
        interval_months=torch.rand(rows, generator=draws) * 90 + 6,
        grade_series=torch.zeros(rows, 2, dtype=torch.int8),
        series_months=torch.tensor([0.0, 12.0]),
        kind=np.full(rows, "imaged"),
    )


def brute_force(bank: TrajectoryBank, w: torch.Tensor, k: int, own: list[str | None]) -> np.ndarray:
    """Sorted distances of the k nearest rows of others, in double precision."""
    rows = bank.w.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for query, subject in zip(w.double().numpy(), own, strict=True):
        distance = np.linalg.norm(rows - query / np.linalg.norm(query), axis=1)
        found.append(np.sort(distance[bank.subject != subject])[:k])
    return np.array(found)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_search_equals_brute_force_and_leaves_out_the_subject(data: st.DataObject) -> None:
    rows = data.draw(st.integers(4, 60))
    subjects = data.draw(st.integers(2, rows))
    bank = make_bank(rows, subjects=subjects, seed=data.draw(st.integers(0, 99)))
    most = -(-rows // subjects)
    k = data.draw(st.integers(1, rows - most))
    own = data.draw(st.lists(st.sampled_from([None, "", "P0", "P1", "elsewhere"]), min_size=1, max_size=5))
    # Queries are bank rows themselves, the hardest case: distance 0 to the own row.
    w = bank.w[torch.arange(len(own)) % rows] * 3.0
    found = bank.search(w, k=k, exclude_subject=own)
    np.testing.assert_allclose(found.distance.numpy(), brute_force(bank, w, k, own), atol=1e-6)
    for rows_found, subject in zip(found.index.numpy(), own, strict=True):
        assert subject in (None, "") or subject not in bank.subject[rows_found]
        assert len(set(rows_found.tolist())) == k


def test_distance_ignores_length_of_w() -> None:
    bank = make_bank(20, subjects=20)
    near = bank.search(bank.w[3:4] * 100, k=1)
    assert near.index.tolist() == [[3]]
    assert near.distance.item() == pytest.approx(0.0, abs=1e-6)


def test_trajectories() -> None:
    bank = make_bank(10, subjects=10)
    found = bank.search(bank.w[:2], k=3)
    moves, times = bank.trajectories(found)
    assert moves.shape == (2, 3, 8)
    assert times[0, 0] == bank.interval_months[0]
    assert moves[1, 0].equal(bank.displacement[1])


@pytest.mark.parametrize("k", [0, 9])
def test_too_many_neighbours(k: int) -> None:
    bank = make_bank(10, subjects=5)  # two rows a subject: eight of others
    with pytest.raises(UsageError, match="expected 1 to 8"):
        bank.search(bank.w[:1], k=k, exclude_subject=["P0"])


def test_wrong_queries() -> None:
    bank = make_bank(10, subjects=5)
    with pytest.raises(UsageError, match="expected finite keys"):
        bank.search(torch.zeros(1, 5), k=1)
    with pytest.raises(UsageError, match="expected finite keys"):
        bank.search(torch.full((1, 8), torch.nan), k=1)
    with pytest.raises(UsageError, match="one subject to exclude a query"):
        bank.search(bank.w[:2], k=1, exclude_subject=["P0"])


def test_save_and_load(tmp_path: Path) -> None:
    bank = make_bank(12, subjects=4)
    bank.save(tmp_path / "model", resolution=32, dtype="float32")
    again = TrajectoryBank.load(load_model(tmp_path / "model"))
    assert again.subject.tolist() == bank.subject.tolist()
    assert again.kind.tolist() == bank.kind.tolist()
    assert again.w.equal(bank.w)
    assert again.displacement.equal(bank.displacement)
    assert again.grade_series.equal(bank.grade_series)
    torch.testing.assert_close(again.interval_months, bank.interval_months, atol=1e-3, rtol=0)


def test_half_precision_keeps_times(tmp_path: Path) -> None:
    bank = make_bank(3, subjects=3)
    bank.save(tmp_path / "model", resolution=32)
    again = TrajectoryBank.load(load_model(tmp_path / "model"))
    torch.testing.assert_close(again.interval_months, bank.interval_months, atol=1e-3, rtol=0)
    torch.testing.assert_close(again.w, bank.w, atol=1e-3, rtol=1e-3)


def test_bank_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_part(tmp_path / "model", "encoder", {"a": torch.zeros(1)}, {"resolution": 32})
    model = load_model(tmp_path / "model")
    bank = make_bank(3, subjects=3)
    bank.save(tmp_path / "good", resolution=32, built_with=model.hashes())
    bank.save(tmp_path / "bad", resolution=32, built_with={"encoder": "0" * 64})
    check_built_with(load_model(tmp_path / "good"), model)
    with pytest.raises(WeightsError, match="another encoder"):
        check_built_with(load_model(tmp_path / "bad"), model)


def test_damaged_bank(tmp_path: Path) -> None:
    save_part(tmp_path / "model", "bank", {"w": torch.zeros(2, 3)}, {"resolution": 32})
    with pytest.raises(WeightsError, match="bank is damaged"):
        TrajectoryBank.load(load_model(tmp_path / "model"))


VISITS = {
    "subject": ["A", "A", "A", "A", "B"],
    "side": ["left", "left", "left", "right", "left"],
    "months": [24.0, 0.0, 60.0, 0.0, 0.0],
    "grade": [2, 1, 3, 0, 2],
}
KEYS = torch.tensor([[2.0, 0.0], [1.0, 0.0], [4.0, 4.0], [9.0, 9.0], [5.0, 5.0]])


def test_imaged_first_to_last() -> None:
    bank = build_imaged(KEYS, **VISITS)  # type: ignore[arg-type]
    assert bank.subject.tolist() == ["A"]
    assert bank.w.tolist() == [[1.0, 0.0]]
    assert bank.displacement.tolist() == [[3.0, 4.0]]
    assert bank.interval_months.tolist() == [60.0]
    assert bank.series_months.tolist() == [0.0, 24.0, 60.0]
    assert bank.grade_series.tolist() == [[1, 2, 3]]


def test_imaged_consecutive() -> None:
    bank = build_imaged(KEYS, consecutive=True, **VISITS)  # type: ignore[arg-type]
    assert bank.displacement.tolist() == [[1.0, 0.0], [2.0, 4.0]]
    assert bank.interval_months.tolist() == [24.0, 36.0]
    assert bank.series_months.tolist() == [0.0, 24.0, 36.0, 60.0]
    assert bank.grade_series.tolist() == [[1, 2, -1, 3], [2, -1, 3, -1]]


def test_imaged_needs_two_visits() -> None:
    with pytest.raises(UsageError, match="two times"):
        build_imaged(KEYS[3:], subject=["A", "B"], side=["left", "left"], months=[0.0, 0.0])


def test_graded() -> None:
    draws = torch.Generator().manual_seed(1)
    grade = torch.arange(40) % 4
    w = torch.randn(40, 3, generator=draws) * 0.1
    w[:, 0] += grade
    series = torch.full((40, 3), -1)
    series[:, 0] = grade
    series[0] = torch.tensor([0, 1, 0])  # falls back: the running maximum counts
    series[1] = torch.tensor([1, 1, -1])  # stays
    series[2] = torch.tensor([2, -1, 4])
    bank = build_graded(
        w, subject=[str(i) for i in range(40)], grade_series=series.numpy(), series_months=[0, 12, 48]
    )
    assert bank.subject.tolist() == ["0", "1", "2"]  # the others have no later reading
    assert bank.interval_months.tolist() == [48.0, 12.0, 48.0]
    assert not bank.displacement[1].any()
    assert bank.displacement[0, 0].item() == pytest.approx(1.0, abs=0.15)
    assert bank.displacement[2, 0].item() == pytest.approx(2.0, abs=0.3)
    assert set(bank.kind) == {"graded"}


def test_graded_needs_a_later_grade() -> None:
    series = np.array([[0, -1], [1, -1], [-1, 2]])
    with pytest.raises(UsageError, match="later grade"):
        build_graded(torch.randn(3, 2), subject=["A", "B", "C"], grade_series=series, series_months=[0, 12])


def test_columns_must_agree() -> None:
    bank = make_bank(3, subjects=3)
    with pytest.raises(UsageError, match="agree in length"):
        TrajectoryBank(**{**vars(bank), "interval_months": torch.ones(2)})
    with pytest.raises(UsageError, match="interval is not positive"):
        TrajectoryBank(**{**vars(bank), "interval_months": torch.zeros(3)})
    assert len(bank.take([0, 2])) == 2
    assert len(bank.take(np.array([True, False, False]))) == 1
