"""How fast is the search among many trajectories, and how long do 10,000 knees take?

    python benchmarks/speed.py search [--rows 52981 5000000] [--work FOLDER] [--model default]
    python benchmarks/speed.py cohort [--knees 200] [--engines torch openvino] [--model default]

`search` compares the bank's search with a full scan in NumPy (product with all normalised keys in float32, partition,
piece by piece where keys are on disk) in the same run, for one query and for batches. Keys are drawn from the Gaussian
of the model's own bank, or with `--keys mapping` made by its generator's mapping network; queries are other draws. A
million rows or more are written to `--work` in half precision and mapped, as a large bank is. Recall is the share of
the five nearest rows that the index finds. `cohort` runs `progression.cohort.run_cohort`, which writes the table, over
synthetic knees that the model's generator makes (enlarged twice) and that are read from PNG files like any others, and
scales the time to 10,000. Times are processor times of one thread: the wall times of a core to oneself. Memory is what
the process holds, mapped pages that the system may drop at any time among it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from latency import HORIZONS, synthetic_knees

from progression.cohort import run_cohort
from progression.entries import Entry
from progression.latent.bank import Neighbours, TrajectoryBank
from progression.latent.expected import principal_axes
from progression.latent.part import load_generator
from progression.latent.search import Index, pieces, sample_size
from progression.latent.stream import EXACT_ROWS, RECALL_NEIGHBOURS, choose_probes
from progression.predict import load_predictor
from progression.report.mark import to_grey8
from progression.types import Request
from progression.weights import load_model

BATCHES = (1, 8, 64)
SCALED_TO = 10_000
_CHUNK = 1 << 15


def draw_keys(model: str, keys: str) -> Callable[[int, int], torch.Tensor]:
    """A source of keys (count, D) by count and seed."""
    files = load_model(model)
    if keys == "bank":
        mean, axes = principal_axes(TrajectoryBank.load(files).w)

        def gaussian(count: int, seed: int) -> torch.Tensor:
            return mean + torch.randn(count, len(axes), generator=torch.Generator().manual_seed(seed)) @ axes

        return gaussian
    generator = load_generator(files)

    @torch.no_grad()
    def mapped(count: int, seed: int) -> torch.Tensor:
        z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
        return generator.mapping(z)[:, 0]

    return mapped


def bank_of(draw: Callable[[int, int], torch.Tensor], rows: int, work: Path) -> TrajectoryBank:
    """A bank of drawn keys, two rows a subject; on disk and in half precision from a million rows on."""
    if rows < EXACT_ROWS:
        w = draw(rows, 1)
    else:
        dimensions = draw(2, 1).shape[1]
        stored = np.memmap(work / "keys", np.float16, "w+", shape=(rows, dimensions))
        for piece in pieces(rows, _CHUNK):
            stored[piece] = draw(piece.stop - piece.start, piece.start + 1).half().numpy()
        stored.flush()
        w = torch.from_numpy(np.memmap(work / "keys", np.float16, "c", shape=stored.shape))
    return TrajectoryBank(
        subject=np.char.add("P", (np.arange(rows) // 2).astype(str)),
        w=w,
        displacement=torch.zeros(1, 1, dtype=w.dtype).expand(w.shape),  # what moves is not searched
        interval_months=torch.full((rows,), 48.0),
        grade_series=torch.full((rows, 1), -1, dtype=torch.int8),
        series_months=torch.zeros(1),
        kind=np.broadcast_to(np.array("synthetic"), rows),
    )


def full_scan(chunks: Iterator[tuple[int, np.ndarray]], queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, k) of the largest products, in NumPy."""
    near = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    for start, keys in chunks:
        product = queries @ keys.T
        few = (
            np.argpartition(-product, k, axis=1)[:, :k]
            if product.shape[1] > k
            else np.arange(len(keys))[None]
        )
        near = np.hstack([near, np.take_along_axis(product, few, axis=1)])
        rows = np.hstack([rows, few + start])
    order = np.argsort(-near, axis=1)[:, :k]
    return np.take_along_axis(rows, order, axis=1)


def milliseconds(work: Callable[[], object], *, repetitions: int) -> float:
    """Median processor time."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def memory_gib() -> float:
    """What the process holds, with mapped pages (Linux; 0 elsewhere)."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 / 2**30 if status.exists() else 0.0


def search(options: argparse.Namespace) -> None:
    """Print the table of searches."""
    draw = draw_keys(options.model, options.keys)
    print(f"ms a query, k = {RECALL_NEIGHBOURS}, keys like those of the {options.keys}, {options.model}")
    print(
        "| rows | search | "
        + " | ".join(f"{size} at once" for size in BATCHES)
        + " | recall | GiB | made in, s |"
    )
    print("|---" * (5 + len(BATCHES)) + "|")
    queries = draw(max(*BATCHES, options.queries), 0)
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            start = time.process_time()
            bank = bank_of(draw, rows, Path(folder))
            drawn = time.process_time() - start
            scan_all(bank, queries, drawn=drawn)
            if rows >= EXACT_ROWS or options.index_all:
                look_first(bank, queries, options.probes)


def line(
    bank: TrajectoryBank,
    name: str,
    look: Callable[[torch.Tensor], object],
    queries: torch.Tensor,
    *,
    repetitions: int,
    rest: tuple[str, ...],
) -> None:
    """Time a search in batches and print it."""
    if repetitions > 1:
        look(queries[:1])  # warms up
    times = [milliseconds(partial(look, queries[:size]), repetitions=repetitions) / size for size in BATCHES]
    cells = (str(len(bank)), name, *(f"{ms:.2f}" for ms in times), *rest)
    print("| " + " | ".join(cells) + " |", flush=True)


def find(bank: TrajectoryBank, queries: torch.Tensor, *, exact: bool = False) -> Neighbours:
    """The search, with an exclusion of somebody who is not in the bank."""
    return bank.search(queries, k=RECALL_NEIGHBOURS, exclude_subject=["nobody"] * len(queries), exact=exact)


def scan_all(bank: TrajectoryBank, queries: torch.Tensor, *, drawn: float) -> None:
    """NumPy's full scan and the exact search."""
    repetitions = 1 if len(bank) >= EXACT_ROWS else 9

    def scanned(some: torch.Tensor) -> np.ndarray:
        return full_scan(bank.chunks(), F.normalize(some, dim=1).numpy(), RECALL_NEIGHBOURS)

    few = queries[: BATCHES[-1]]
    same = float((find(bank, few, exact=True).index.numpy() == scanned(few)).mean())
    rest = ("1", f"{memory_gib():.1f}", f"{drawn:.0f}")
    line(bank, "NumPy, all rows", scanned, queries, repetitions=repetitions, rest=rest)
    rest = (f"{same:.4f} as NumPy", f"{memory_gib():.1f}", "")
    exact = partial(find, bank, exact=True)
    line(bank, "exact", exact, queries, repetitions=repetitions, rest=rest)


def look_first(bank: TrajectoryBank, queries: torch.Tensor, probed: list[int]) -> None:
    """The index: of its own choice of lists, and of others."""
    start = time.process_time()
    rows = np.sort(np.random.default_rng(0).choice(len(bank), sample_size(len(bank)), replace=False))
    sample = F.normalize(bank.w[rows].float(), dim=1).numpy()
    index = Index.build(sample, bank.chunks(), rows=len(bank))
    made = time.process_time() - start
    chosen, share = choose_probes(bank, index, rows[:: max(1, len(rows) // 200)])
    assert chosen.index is not None
    size = len(faiss.serialize_index(index.lists)) / 2**30
    true = find(bank, queries, exact=True).distance[:, -1:]
    for probes in sorted({chosen.index.probes, *probed}):
        looking = partial(find, replace(bank, index=replace(index, probes=probes)))
        recall = float((looking(queries).distance <= true).float().mean())
        name = f"index, {probes} of {index.lists.nlist} lists" + ", chosen" * (probes == chosen.index.probes)
        rest = (f"{recall:.4f}", f"{size:.2f} (index)", f"{made:.0f}")
        line(bank, name, looking, queries, repetitions=9, rest=rest)
    print(f"recall of {len(queries)} queries; {share:.4f} of rows of the bank, by which lists are chosen")


def cohort(options: argparse.Namespace) -> None:
    """Print the table of cohort runs."""
    torch.set_num_threads(1)
    files = load_model(options.model)
    print(
        "| engine | knees | s a knee | 10,000 knees, h | loading, s | memory at the start, GiB | at the end |"
    )
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        entries: list[Entry] = []
        for engine in options.engines:
            start = time.process_time()
            predictor = load_predictor(options.model, device="cpu", engine=engine)
            predictor.check_method("joint")
            loading = time.process_time() - start
            if not entries:
                for piece in pieces(options.knees, 16):
                    for number, knee in enumerate(
                        synthetic_knees(predictor, piece.stop)[piece], start=piece.start
                    ):
                        path = Path(folder) / f"{number}.png"
                        to_grey8(np.kron(knee.pixels, np.ones((2, 2)))).save(path)
                        entries.append(Entry(f"k{number}", str(path), knee.side.value))
            request = Request(horizon_months=HORIZONS)
            run_cohort(predictor, entries[:8], Path(folder) / "first.csv", request=request)
            before, start = memory_gib(), time.process_time()
            failed = run_cohort(predictor, entries, Path(folder) / f"{engine}.csv", request=request).failed
            seconds = (time.process_time() - start) / len(entries)
            if failed:
                raise SystemExit(f"{len(failed)} knees failed: {failed[0].result}")
            cells = (
                f"{engine}, {predictor.engine.precision}",
                str(len(entries)),
                f"{seconds:.3f}",
                f"{seconds * SCALED_TO / 3600:.2f}",
                f"{loading:.1f}",
                f"{before:.2f}",
                f"{memory_gib():.2f}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"four horizons, no pictures kept, one thread; model {files.name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("search")
    one.set_defaults(run=search)
    one.add_argument("--rows", type=int, nargs="+", default=[52_981, 5_000_000])
    one.add_argument("--keys", choices=("bank", "mapping"), default="bank")
    one.add_argument("--queries", type=int, default=200, help="for recall")
    one.add_argument("--probes", type=int, nargs="*", default=[8, 32, 128])
    one.add_argument("--index-all", action="store_true", help="index banks below a million rows too")
    two = commands.add_parser("cohort")
    two.set_defaults(run=cohort)
    two.add_argument("--knees", type=int, default=200)
    two.add_argument("--engines", nargs="+", default=["torch", "openvino"])
    for command in (one, two):
        command.add_argument("--model", default="default")
        command.add_argument("--work", help="folder for large files [the system's]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
