"""Is anything lost, doubled or left behind when `cohort` and `train joint` are killed, or their disk is full?

    python benchmarks/kill_drills.py --kills 50 --fills 50 --out drills        # about twenty minutes on one core

A command is killed (SIGKILL) and repeated, up to four times before it is left to end, in turn at a random moment and at
a random file operation (the n-th time that it opens, renames, truncates or removes something in its folder). For the
other drill its folder is a small file system of its own, on which a ballast file leaves a random number of bytes (in
blocks of the system's); once the command has failed, the command is repeated with another ballast or without. Mounting
takes root on Linux; elsewhere that drill is left out, and said to be.

Right is: the ended command's files are those of an undisturbed run, byte for byte (but for times), with nothing beside
them; each row of a log and each point of a curve is there once; and a full disk is told in one line that names it.

`cohort` is the command line on pictures of nobody, with a model of tiny untrained networks (`--model default`: with the
shipped one, which takes longer); `train joint` is a training in miniature. Draws come from --seed. Results go to OUT
line by line, and the same command goes on after the last.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from progression import cli
from progression.encoder import Encoder, EncoderConfig
from progression.errors import ProgressionError
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.stylegan2 import Generator
from progression.train.checkpoint import load_checkpoint
from progression.train.joint import CHECKPOINT, train_joint
from progression.train.joint_trainer import JointConfig
from progression.train.run_log import CURVES, LOG
from progression.weights import load_model, save_part
from tests.models import write_model

KNEES = 40
"""Of the cohort: two groups that are written in one piece each, and a part of one."""
MONTHS = (12, 24, 36, 48, 60, 72, 84, 96)
IN_A_ROW = 4
"""Kills, or full disks, before the command is left alone."""
POLL_SECONDS = 0.002
PATIENCE_SECONDS = 600
TOLD = "progression: error: "
OPERATIONS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")
TINY = JointConfig(
    kimg=0.32, batch=8, codes=32, mapped=32, slices=8, shift=1, path_interval=2, warmup_kimg=0.016,
    snapshot_kimg=0.016, precision="float32",
)  # fmt: skip


@dataclass(frozen=True)
class Drill:
    """A command that writes into a folder, and what its files say once it has ended."""

    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its result, how long it worked, in how many file operations, and its bytes."""

    result: dict[str, Any]
    seconds: float
    operations: int
    bytes_written: int


# What is killed -------------------------------------------------------------------------------------------------


def write_cohort(folder: Path, seed: int) -> None:
    """Pictures that could be knees, their table, and a model of tiny networks."""
    write_model(folder / "model", seed=seed)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:160, 0:160] / 160
    rows = ["name,image,side,grade,subject"]
    for i in range(KNEES):
        shaft = 0.65 * np.exp(-(((x - 0.5) / rng.uniform(0.3, 0.36)) ** 6))
        gap = 0.4 * np.exp(-(((y - 0.5) / rng.uniform(0.03, 0.05)) ** 2)) * (np.abs(x - 0.5) < 0.35)
        noisy = 0.15 + shaft - gap + 0.02 * rng.standard_normal(x.shape)
        Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"knee{i},{i}.png,{'left' if i % 2 else 'right'},{i % 4},P{i // 2}")
    (folder / "knees.csv").write_text("\n".join(rows) + "\n")


def cohort(inputs: Path, model: str) -> Drill:
    """The command line."""

    def arguments(folder: Path) -> list[str]:
        months = [word for month in MONTHS for word in ("--months", str(month))]
        chosen = str(inputs / "model") if model == "tiny" else model
        options = ["--out", str(folder / "results.csv"), "--model", chosen, "--device", "cpu"]
        return ["cohort", str(inputs / "knees.csv"), *options, "--accept-atypical", *months]

    def result(folder: Path) -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return Drill(arguments, result)


def write_joint(folder: Path, seed: int) -> None:
    """A model of tiny networks, and pictures."""
    torch.manual_seed(seed)
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    save_part(folder / "model", "generator", generator.state_dict(), generator.config(), dtype="float32")
    stages = (Stage(1, 3, 1, 1, 4), Stage(1, 3, 2, 2, 6))
    network = EfficientNet(1, NUM_OUTPUTS, stem_width=4, head_width=8, stages=stages)
    grader = Grader([network], input_resolution=16)
    save_part(folder / "model", "grader", grader.state_dict(), grader.config(), dtype="float32")
    encoder = Encoder(EncoderConfig(16, generator.num_ws, 16, 1, 8, 16, 32, offset_rank=0))
    save_part(folder / "model", "encoder", encoder.state_dict(), encoder.config(), dtype="float32")
    ramp = torch.linspace(0, 255, 16)
    tilt = torch.rand(64, 2, 1, 1)
    images = (tilt[:, 0] * ramp + tilt[:, 1] * ramp[:, None]).clamp(0, 255).to(torch.uint8)
    np.save(folder / "images.npy", images.numpy())


def joint(inputs: Path) -> Drill:
    """The training that `progression train joint` runs, in miniature."""

    def arguments(folder: Path) -> list[str]:
        return ["joint", str(inputs), str(folder)]

    def result(folder: Path) -> dict[str, Any]:
        run, parts = folder / "run", load_model(folder / "model")
        rows = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
        for row in rows:
            row.pop("kimg_per_s", None)
        return {
            "log": rows,
            "curves": curve_steps(run / CURVES),
            "checkpoint": load_checkpoint(run / CHECKPOINT),
            "parts": {part: parts.hashes()[part] for part in parts.parts},
            "files": sorted(
                path.name for below in (folder, run, run / "snapshot") for path in below.iterdir()
            ),
        }

    return Drill(arguments, result)


def curve_steps(folder: Path) -> dict[str, list[int]]:
    """The steps of every curve, where TensorBoard is installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return {}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # says that it purges, as it should
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    steps = {tag: [point.step for point in events.Scalars(tag)] for tag in tags["scalars"]}
    return steps | {tag: [picture.step for picture in events.Images(tag)] for tag in tags["images"]}


def same(found: Any, expected: Any) -> bool:
    """Whether two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


# The process that is killed -------------------------------------------------------------------------------------


def work(arguments: Sequence[str], *, folder: Path, last: int, counted: Path | None) -> int:
    """Run a command in this process; it dies before its file operation number `last`, 0 for never.

    How many there were is written to the file `counted`.
    """
    count, inside = 0, os.fspath(folder)

    def look(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        paths = (str(path) for path in details if isinstance(path, str | Path))
        if event in OPERATIONS and any(path.startswith(inside) for path in paths):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    if arguments[0] == "joint":
        inputs, out = Path(arguments[1]), Path(arguments[2])
        images = torch.from_numpy(np.load(inputs / "images.npy"))
        model = load_model(inputs / "model")
        try:
            train_joint(model, images, images[:8], run=out / "run", save=out / "model", config=TINY)
            code = 0
        except ProgressionError as error:  # as the command line does
            print(f"{TOLD}{error}", file=sys.stderr)
            code = 1
    else:
        code = cli.run(arguments)
    if counted is not None:
        counted.write_text(str(count))
    return code


class Command:
    """A command in a process of its own, forked from this one, which has loaded what it needs."""

    def __init__(self, drill: Drill, folder: Path, *, last: int = 0, counted: Path | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`

        def run() -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self._said.fileno(), 2)
            sys.exit(work(drill.arguments(folder), folder=folder, last=last, counted=counted))

        self._process = multiprocessing.get_context("fork").Process(target=run)
        self._process.start()

    def is_over(self, seconds: float) -> bool:
        """Whether it has ended within so long."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def end(self) -> tuple[int, str]:
        """Wait for it; the exit code (less than 0: of a signal), and what was said on stderr."""
        if not self.is_over(PATIENCE_SECONDS):
            self.kill()
        self._process.join()
        self._said.seek(0)
        with self._said:
            return int(self._process.exitcode or 0), self._said.read().decode(errors="replace")


def undisturbed(drill: Drill, folder: Path) -> Whole:
    """Run it once without disturbing it."""
    with tempfile.TemporaryDirectory() as beside:
        counted = Path(beside) / "operations"
        command = Command(drill, folder, counted=counted)
        began = wait_for_files(command, folder)
        code, said = command.end()
        if code:
            raise SystemExit(f"the undisturbed run failed: {said}")
        seconds = time.monotonic() - began
        operations = int(counted.read_text())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Whole(drill.result(folder), seconds, operations, size)


def wait_for_files(command: Command, folder: Path) -> float:
    """Wait until the command changes something in its folder, or ends; returns when that was."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    while not command.is_over(POLL_SECONDS):
        try:
            if {path: path.stat().st_mtime_ns for path in folder.rglob("*")} != before:
                break
        except FileNotFoundError:
            break
    return time.monotonic()


# The drills -----------------------------------------------------------------------------------------------------


def kills(drill: Drill, whole: Whole, folder: Path, *, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Kill the command and repeat it until it was killed so often; an entry for each run that ended."""
    killed = run = 0
    while killed < count:
        rng = np.random.default_rng((seed, run))
        run += 1
        before = killed
        folder.mkdir()
        while True:
            spared = killed == count or killed - before == IN_A_ROW
            at_operation = bool(killed % 2) and not spared
            last = int(rng.integers(1, whole.operations + 1)) if at_operation else 0
            command = Command(drill, folder, last=last)
            if not at_operation and not spared:
                wait_for_files(command, folder)
                if not command.is_over(rng.uniform(0, whole.seconds)):
                    command.kill()
            code, said = command.end()
            if code != -signal.SIGKILL:
                break
            killed += 1
        found = verdict(drill, whole, folder, code, said)
        yield {"drill": "kill", "kills": killed - before} | found
        shutil.rmtree(folder)


def fills(drill: Drill, whole: Whole, mounted: Path, *, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Let the disk be full at random bytes until it was so often; an entry for each run that ended."""
    ballast, folder = mounted / "ballast", mounted / "files"
    filled = run = 0
    while filled < count:
        rng = np.random.default_rng((seed, run))
        run += 1
        before, untold = filled, ""
        while True:
            spared = filled == count or filled - before == IN_A_ROW
            if not spared:
                space, left = os.statvfs(mounted), int(rng.integers(0, whole.bytes_written))
                with ballast.open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, max(1, space.f_bavail * space.f_frsize - left))
            code, said = Command(drill, folder).end()
            ballast.unlink(missing_ok=True)
            if code == 0 or spared:
                break
            filled += 1
            line = (said.splitlines() or [""])[-1]
            if not (line.startswith(TOLD) and "No space left" in line):
                untold = f"the full disk was told so: {said[-500:]}"
        found = verdict(drill, whole, folder, code, said)
        yield {"drill": "fill", "full": filled - before} | ({"fault": untold} if untold else found)
        shutil.rmtree(folder)


def verdict(drill: Drill, whole: Whole, folder: Path, code: int, said: str) -> dict[str, Any]:
    """What is wrong with what an ended command left; "fault" is empty if nothing is."""
    if code:
        return {"fault": f"exit code {code}: {said[-500:]}"}
    try:
        found = drill.result(folder)
    except Exception as error:  # whatever it is, it is a finding
        return {"fault": f"{type(error).__name__}: {error}"}
    other = [
        name
        for name in whole.result.keys() | found.keys()
        if not same(found.get(name), whole.result.get(name))
    ]
    return {"fault": f"unlike the undisturbed run: {', '.join(sorted(other))}" if other else ""}


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system in memory of so many bytes; None where none can be mounted."""
    folder.mkdir(exist_ok=True)
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def practise(name: str, out: Path, *, count: dict[str, int], seed: int, model: str) -> list[dict[str, Any]]:
    """Both drills of one command; what is in OUT already is not done again."""
    path = out / f"{name}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    inputs, place = out / f"{name}-inputs", Path(tempfile.mkdtemp(prefix=f"{name}-", dir=out))
    try:
        if not inputs.exists():
            {"cohort": write_cohort, "joint": write_joint}[name](inputs, seed)
        drill = cohort(inputs, model) if name == "cohort" else joint(inputs)
        (place / "files").mkdir()
        # everything at one and the same path, as that may be said in what is written
        whole = undisturbed(drill, place / "files")
        shutil.rmtree(place / "files")
        so_far = Counter(entry["drill"] for entry in done)
        to_kill = count["kill"] - sum(entry.get("kills", 0) for entry in done)
        to_fill = count["fill"] - sum(entry.get("full", 0) for entry in done)
        with path.open("a") as stream:

            def keep(entries: Iterator[dict[str, Any]]) -> None:
                for entry in entries:
                    done.append(entry)
                    stream.write(json.dumps(entry) + "\n")
                    stream.flush()
                    print(f"{name}: {entry}", flush=True)

            keep(kills(drill, whole, place / "files", count=to_kill, seed=seed + so_far["kill"]))
            if to_fill > 0:
                with small_disk(place / "disk", 64 * whole.bytes_written + (64 << 20)) as mounted:
                    if mounted is None:
                        print(f"{name}: no file system can be mounted here, so no disk was filled")
                    else:
                        drilled = fills(drill, whole, mounted, count=to_fill, seed=seed + so_far["fill"])
                        keep(drilled)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return done


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """What came out, as Markdown."""
    lines = [
        "| command | killed | disk full | runs that ended | other than undisturbed |",
        "|---|---|---|---|---|",
    ]
    for name, entries in results.items():
        killed, full = (sum(entry.get(what, 0) for entry in entries) for what in ("kills", "full"))
        faults = sum(bool(entry["fault"]) for entry in entries)
        lines.append(f"| {name} | {killed} | {full} | {len(entries)} | {faults} |")
    return "\n".join(lines)


def import_all() -> None:
    """Load what the commands load, once for all."""
    for name in ("cohort", "engine", "entries", "folders", "predict", "processes"):
        import_module(f"progression.{name}")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commands", nargs="*", default=["cohort", "joint"], metavar="cohort|joint")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fills", type=int, default=50)
    parser.add_argument("--model", default="tiny", help="of cohort: tiny, or a name or folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("drills"))
    given = parser.parse_args()
    if unknown := set(given.commands) - {"cohort", "joint"}:
        parser.error(f"unknown command {', '.join(sorted(unknown))}: expected cohort or joint")
    torch.set_num_threads(1)
    import_all()
    given.out.mkdir(parents=True, exist_ok=True)
    out = given.out.resolve()
    count = {"kill": given.kills, "fill": given.fills}
    results = {
        name: practise(name, out, count=count, seed=given.seed, model=given.model) for name in given.commands
    }
    print(table(results))
    return int(any(entry["fault"] for entries in results.values() for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
