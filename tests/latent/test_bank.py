"""The bank: exact search of other subjects' rows, building, and storage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progression.errors import UsageError, WeightsError
from progression.latent import bank as module
from progression.latent.bank import TrajectoryBank, check_built_with
from progression.latent.search import Index
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


def exact_oracle(bank: TrajectoryBank, w: torch.Tensor, k: int, own: list[str | None]) -> list[list[int]]:
    """The k nearest rows of others, equally far ones by their number: from all distances, sorted."""
    keys = torch.nn.functional.normalize(bank.w.float(), dim=1).double()
    queries = torch.nn.functional.normalize(w.float(), dim=1).double()
    found = []
    for query, subject in zip(queries, own, strict=True):
        distance = (keys - query).square().sum(dim=1).sqrt().float().numpy()
        distance[bank.subject == (subject or "nobody")] = np.inf
        found.append(np.argsort(distance, kind="stable")[:k].tolist())
    return found


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_ties_pieces_and_batches_do_not_matter(data: st.DataObject) -> None:
    """With many rows equal, and equal but for their lengths, the first ones count, however keys are looked through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SPARE", data.draw(st.sampled_from([0, 1, 16])))
        patch.setattr(module, "_CHUNK", data.draw(st.sampled_from([3, 7, 1000])))
        patch.setattr(module, "_CACHED_BYTES", data.draw(st.sampled_from([0, 1 << 29])))
        check_ties(data)


def check_ties(data: st.DataObject) -> None:
    rows, seed = data.draw(st.integers(6, 50)), data.draw(st.integers(0, 99))
    bank = make_bank(rows, subjects=data.draw(st.integers(2, 8)), seed=seed)
    twins = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    lengths = 2.0 ** (torch.arange(rows) % 3)  # powers of two leave directions alone to the last bit
    bank = replace(bank, w=bank.w[twins] * lengths[:, None])
    own = data.draw(st.lists(st.sampled_from([None, "P0", "P1"]), min_size=1, max_size=4))
    w = torch.cat([bank.w[:2], torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))])[: len(own)]
    k = data.draw(st.integers(1, rows - max((bank.subject == name).sum() for name in ("P0", "P1"))))
    together = bank.search(w, k=k, exclude_subject=own)
    assert together.index.tolist() == exact_oracle(bank, w, k, own)
    for i, subject in enumerate(own):
        alone = bank.search(w[i : i + 1], k=k, exclude_subject=[subject])
        assert alone.index[0].equal(together.index[i]) and alone.distance[0].equal(together.distance[i])


def indexed(bank: TrajectoryBank, *, probes: int | None = None) -> TrajectoryBank:
    keys = torch.nn.functional.normalize(bank.w.float(), dim=1).numpy()
    index = Index.build(keys, [(0, keys[:100]), (100, keys[100:])], rows=len(bank), coordinates=4)
    return replace(bank, index=replace(index, probes=probes or index.lists.nlist))


def test_an_index_that_looks_everywhere_finds_what_a_scan_finds() -> None:
    bank = make_bank(600, subjects=300)
    w, own = bank.w[:20] * 3, bank.subject[:20].tolist()
    found = indexed(bank).search(w, k=5, exclude_subject=own)
    true = bank.search(w, k=5, exclude_subject=own)
    share = float((found.distance <= true.distance[:, -1:]).float().mean())
    assert share > 0.9  # four of eight coordinates propose 128 of 600 rows, whose distances are then measured
    assert indexed(bank).search(w, k=5, exclude_subject=own, exact=True).index.equal(true.index)
    for i in range(3):
        alone = indexed(bank).search(w[i : i + 1], k=5, exclude_subject=own[i : i + 1])
        assert alone.index[0].equal(found.index[i]) and alone.distance[0].equal(found.distance[i])


def test_an_index_passes_over_the_own_rows_however_many_are_near() -> None:
    """300 rows of one person around the query, more than the index proposes: the others are found behind them."""
    bank = make_bank(600, subjects=600)
    w = bank.w.clone()
    w[:300] = w[0] + 1e-3 * w[:300]
    bank = replace(bank, w=w, subject=np.array(["me"] * 300 + [f"P{i}" for i in range(300)]))
    for searched in (bank, indexed(bank), indexed(bank, probes=1)):
        found = searched.search(w[:1], k=5, exclude_subject=["me"])
        assert "me" not in bank.subject[found.index[0].numpy()]
        assert len(set(found.index[0].tolist())) == 5
    assert bank.search(w[:1], k=5, exclude_subject=["me"]).index.tolist() == exact_oracle(
        bank, w[:1], 5, ["me"]
    )


def test_an_index_of_other_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an index of the bank's 12 rows, got one of 600"):
        replace(make_bank(12, subjects=4), index=indexed(make_bank(600, subjects=4)).index)
    with pytest.raises(UsageError, match="an index of 64 lists needs as many keys"):
        Index.build(np.eye(8, dtype=np.float32), [], rows=1000)


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


def test_a_large_bank_is_mapped_and_answers_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(40, subjects=20)
    bank = replace(bank, subject=np.array([f"Zoë {name}" for name in bank.subject]))
    bank.save(tmp_path / "model", resolution=32)
    read = TrajectoryBank.load(load_model(tmp_path / "model"))
    monkeypatch.setattr(module, "MAPPED_BYTES", 0)
    mapped = TrajectoryBank.load(load_model(tmp_path / "model"))
    assert mapped.mapped and not read.mapped
    assert mapped.subject.tolist() == bank.subject.tolist() and mapped.kind.tolist() == bank.kind.tolist()
    own = bank.subject[:3].tolist()
    for k in (1, 7):
        a, b = (which.search(bank.w[:3], k=k, exclude_subject=own) for which in (read, mapped))
        assert a.index.equal(b.index) and a.distance.equal(b.distance)
        assert all(x.equal(y) for x, y in zip(read.trajectories(a), mapped.trajectories(b), strict=True))
    assert mapped.take([2, 0]).w.equal(read.w[[2, 0]])
    with (tmp_path / "model").glob("bank-*").__next__().open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(WeightsError, match="are not the ones"):
        TrajectoryBank.load(load_model(tmp_path / "model"))


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


def test_columns_must_agree() -> None:
    bank = make_bank(3, subjects=3)
    with pytest.raises(UsageError, match="agree in length"):
        TrajectoryBank(**{**vars(bank), "interval_months": torch.ones(2)})
    with pytest.raises(UsageError, match="interval is not positive"):
        TrajectoryBank(**{**vars(bank), "interval_months": torch.zeros(3)})
    assert len(bank.take([0, 2])) == 2
    assert len(bank.take(np.array([True, False, False]))) == 1
