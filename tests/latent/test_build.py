"""Banks from visits: which rows, in memory and in a stream, and going on after a kill."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from progression.encoder import Encoder, EncoderConfig
from progression.errors import ImageError, OutputError, UsageError
from progression.latent import build, stream
from progression.latent.bank import TrajectoryBank
from progression.latent.build import (
    build_graded,
    build_imaged,
    fit_transport,
    outline_graded,
    outline_imaged,
)
from progression.latent.stream import add_index, encoded_visits, write_bank
from progression.weights import load_model
from tests.latent.test_bank import make_bank

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


def rows_one_by_one(visits: dict[str, list[Any]], *, consecutive: bool) -> list[tuple[Any, ...]]:
    """(subject, first visit, later visit, readings by time since), knee by knee in plain Python."""
    knees: dict[tuple[str, str], list[int]] = {}
    for i in sorted(range(len(visits["months"])), key=lambda i: visits["months"][i]):
        rows = knees.setdefault((visits["subject"][i], visits["side"][i]), [])
        if not rows or visits["months"][i] > visits["months"][rows[-1]]:
            rows.append(i)
    found = []
    for (subject, _), rows in knees.items():
        pairs = list(pairwise(rows)) if consecutive else [(rows[0], rows[-1])] if len(rows) > 1 else []
        for n, (a, b) in enumerate(pairs):
            since = {visits["months"][r] - visits["months"][a]: visits["grade"][r] for r in rows[n:]}
            found.append((subject, a, b, since))
    return found


visit = st.tuples(
    st.sampled_from("ABC"),
    st.sampled_from(["left", "right"]),
    st.sampled_from([0.0, 12.0, 12.5, 48.0]),
    st.integers(-1, 4),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(visit, min_size=1, max_size=20), st.booleans())
def test_imaged_rows_are_those_found_one_by_one(table: list[tuple[Any, ...]], consecutive: bool) -> None:
    visits = dict(zip(VISITS, map(list, zip(*table, strict=True)), strict=True))
    expected = rows_one_by_one(visits, consecutive=consecutive)
    if not expected:
        with pytest.raises(UsageError, match="two times"):
            outline_imaged(**visits, consecutive=consecutive)
        return
    found = outline_imaged(**visits, consecutive=consecutive)
    months = sorted({since for *_, readings in expected for since in readings})
    assert found.series_months.tolist() == months
    assert found.subject.tolist() == [subject for subject, *_ in expected]
    assert [(a, b) for _, a, b, _ in expected] == list(zip(found.visit, found.later, strict=True))
    assert found.grade_series.tolist() == [[r.get(m, -1) for m in months] for *_, r in expected]


def test_a_streamed_bank_is_the_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_CHUNK", 2)
    outline = outline_imaged(consecutive=True, **VISITS)  # type: ignore[arg-type]
    assert outline.pictured.tolist() == [0, 1, 2]
    latents = outline.latents(KEYS[outline.pictured], outline.pictured)
    write_bank(tmp_path / "a", outline, latents, dimensions=2, built_with={"encoder": "x"}, resolution=32)
    build_imaged(KEYS, consecutive=True, **VISITS).save(  # type: ignore[arg-type]
        tmp_path / "b", built_with={"encoder": "x"}, resolution=32
    )
    a, b = (load_model(tmp_path / name) for name in "ab")
    assert a.hashes() == b.hashes()  # byte for byte
    assert a.config("bank") == b.config("bank")


def test_a_bank_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    make_bank(3, subjects=3).save(tmp_path, resolution=32)
    before = load_model(tmp_path).hashes()
    outline = outline_imaged(**VISITS)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not finite in half precision"):
        write_bank(tmp_path, outline, outline.latents(KEYS * 1e6), dimensions=2, built_with={}, resolution=32)
    assert load_model(tmp_path).hashes() == before and load_model(tmp_path).verify() == ("bank",)
    assert len(list(tmp_path.iterdir())) == 2


def test_transport_learns_from_a_part_of_many_knees(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    grade, subject = np.arange(60) % 4, [str(i) for i in range(60)]
    assert len(fit_transport(w, grade=grade, subject=subject).w) == 60
    monkeypatch.setattr(build, "TRANSPORT_KNEES", 40)
    part = fit_transport(w, grade=grade, subject=subject)
    assert len(part.w) == 40
    assert all(
        w[int(name)].equal(row) and grade[int(name)] == k
        for name, row, k in zip(part.subject, part.w, part.grade, strict=True)
    )
    series = np.stack([grade, np.minimum(grade + 1, 4)], axis=1)
    outline = outline_graded(subject=subject, grade_series=series, series_months=[0, 12])
    (keys, moved), *_ = outline.latents(w, part)
    assert keys.equal(w) and moved.shape == (60, 3) and bool(moved.any())


def pictures(folder: Path, count: int) -> dict[str, list[str]]:
    draws = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(draws.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / f"{i}.png")
    return {"images": [f"{i}.png" for i in range(count)], "side": ["left", "right"] * (count // 2)}


def test_encoding_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PICTURES", 4)
    encoder = Encoder(EncoderConfig(16, 6, 8, 1, 8, 16, hidden=16)).eval()
    torch.nn.init.normal_(encoder.base.weight, std=0.1)
    given: dict[str, Any] = pictures(tmp_path, 10) | {"root": tmp_path, "built_with": {"encoder": "x"}}
    with encoded_visits(tmp_path / "whole", encoder, **given) as keys:
        expected = keys.clone()
    assert expected.shape == (10, 8) and len(expected.unique(dim=0)) == 10
    assert not (tmp_path / "whole").exists()
    lost = (tmp_path / "9.png").read_bytes()
    (tmp_path / "9.png").write_text("no picture")
    out, seen = tmp_path / "bank", []
    with pytest.raises(ImageError, match=r"9\.png"), encoded_visits(out, encoder, **given):
        pass
    (tmp_path / "9.png").write_bytes(lost)
    (tmp_path / "0.png").unlink()  # is not looked at again
    with encoded_visits(out, encoder, **given, progress=seen.append) as keys:
        assert keys.equal(expected)
    assert seen == [8, 10]
    with (
        pytest.raises(RuntimeError, match="disk full"),
        encoded_visits(out, encoder, **given | {"images": given["images"][1:], "side": given["side"][1:]}),
    ):
        raise RuntimeError("disk full")
    with pytest.raises(OutputError, match="other inputs"), encoded_visits(out, encoder, **given):
        pass


def test_an_index_is_stored_with_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(800, subjects=400)
    bank.save(tmp_path, resolution=32)
    probes, share = add_index(tmp_path, load_model(tmp_path))
    files = load_model(tmp_path)
    assert share >= 0.99 and files.config("bank_index")["recall"] == share
    loaded = TrajectoryBank.load(files)
    assert loaded.index is not None and loaded.index.probes == probes and len(loaded.index) == 800
    assert loaded.search(bank.w[:2], k=1).index.tolist() == [[0], [1]]
    make_bank(800, subjects=400, seed=1).save(tmp_path)  # the index is of the older bank
    assert TrajectoryBank.load(load_model(tmp_path)).index is None
