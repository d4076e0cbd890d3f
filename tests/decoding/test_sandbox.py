"""Decoders that are not ours cost what they may, and no more; nothing they do reaches this process."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progression.decoding import sandbox
from progression.errors import ImageError
from progression.image import MAX_PIXELS, read_image
from tests.fakes import knee, save_knee

GREY = Image.fromarray((knee() * 255).round().astype(np.uint8))


def scans(count: int, size: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: a hundred bytes, and a turn over all blocks, each."""
    stream = io.BytesIO()
    GREY.resize((size, size)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    start = content.rfind(b"\xff\xda")
    return content[:start] + content[start:-2][:100] * count + b"\xff\xd9"


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "bomb.jpg").write_bytes(scans(10_000, 2_000))
    before = sum(os.times()[:4])
    with pytest.raises(ImageError, match=r"bomb\.jpg: takes more than 1\.5 s of processor time"):
        read_image(tmp_path / "bomb.jpg")
    assert sum(os.times()[:4]) - before < 4  # 2 s on an idle machine; a busy one counts more
    assert read_image(save_knee(tmp_path / "knee.png")).shape == (96, 96)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_a_picture_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (6320, 6320)).save(tmp_path / "bomb.webp", lossless=True, method=0)
    assert (tmp_path / "bomb.webp").stat().st_size < 100
    with pytest.raises(ImageError, match=r"bomb\.webp: takes more than 600 MB of memory"):
        read_image(tmp_path / "bomb.webp")
    assert read_image(save_knee(tmp_path / "knee.png")).shape == (96, 96)


def test_threads_read_at_once(tmp_path: Path) -> None:
    """Each gets its own picture."""
    paths = []
    for seed in range(8):
        save_knee(tmp_path / f"{seed}.png", seed=seed)
        paths.append(tmp_path / f"{seed}.png")
    expected = [read_image(path) for path in paths]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, read_image(paths[i]))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_array_equal(found[i], expected[i])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_worker_of_its_own(tmp_path: Path) -> None:
    path = save_knee(tmp_path / "knee.png")
    read_image(path)
    ours = sandbox.process_id()
    child = os.fork()
    if not child:
        fine = read_image(path).shape == (96, 96) and sandbox.process_id() != ours
        sandbox.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_image(path).shape == (96, 96) and sandbox.process_id() == ours


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up as on Linux")
def test_the_worker_goes_when_its_process_is_killed(tmp_path: Path) -> None:
    path = save_knee(tmp_path / "knee.png")
    code = (
        "import os, signal; from progression.image import read_image; from progression.decoding import sandbox\n"
        f"read_image({str(path)!r}); print(sandbox.process_id(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    worker = Path(f"/proc/{int(done.stdout)}")
    for _ in range(100):
        if not worker.exists() or "\nState:\tZ" in (worker / "status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


def test_modules_in_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    """Pictures often lie in the folder in which they are looked at; a PIL.py beside them is none of ours."""
    save_knee(tmp_path / "knee.png")
    for name in ("PIL", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')")
    code = "import sys; from progression.image import read_image; print(read_image('knee.png').shape)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(96, 96)" and not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "answer",
    [
        b'{"shape": [100000, 100000], "dtype": "<f4"}',
        b'{"shape": [96, 96], "dtype": "|O"}',
        b'{"shape": [96, -1], "dtype": "|u1"}',
        b'{"shape": [96, 96, 1000000], "dtype": "|u1"}',
        b'{"shape": "x", "dtype": "|u1"}',
        b'{"error": "SystemExit", "message": "x"}',
        b"[]",
        b"no JSON",
        b"",
    ],
)
def test_what_a_captured_worker_answers_is_not_believed(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = struct.pack("<I", len(answer)) + answer
    monkeypatch.setattr(
        sandbox,
        "_CHILD",
        f"import sys; sys.stdout.buffer.write({told!r}); sys.stdout.flush(); sys.stdin.read()",
    )
    sandbox.close()
    with pytest.raises(ImageError, match=r"knee\.png: damaged: its decoder ended"):
        read_image(save_knee(tmp_path / "knee.png"))
    monkeypatch.undo()
    sandbox.close()
    assert read_image(tmp_path / "knee.png").shape == (96, 96)


def test_a_large_picture_comes_whole(tmp_path: Path) -> None:
    """It is decoded and handed over in strips of rows."""
    wide = np.asarray(GREY.resize((1500, 1501), Image.Resampling.BILINEAR))
    Image.fromarray(wide).convert("RGBA").save(tmp_path / "large.png", compress_level=1)
    assert wide.size <= MAX_PIXELS
    np.testing.assert_allclose(read_image(tmp_path / "large.png"), wide / 255, atol=1e-6)
