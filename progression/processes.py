"""The same work in several processes, results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any, TypeVar

from progression.errors import ProgressionError

Tool = TypeVar("Tool")
Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 2  # tasks a process that are handed out before results are taken


def map_in_processes(
    work: Callable[[Tool, Task], Result], tasks: Iterable[Task], *, load: Callable[[], Tool], count: int
) -> Iterator[Result]:
    """work(tool, task) of every task in the tasks' order, `tool` being made once a process by `load`.

    Processes are started anew (spawned), so that a GPU and threads work in them; all arguments must be picklable. Tasks
    are taken and results kept only a few ahead.

    Raises
    ------
    ProgressionError
        If a process ends by itself, as one does that is out of memory; and whatever `load` or `work` raises.
    """
    waiting: deque[Future[Result]] = deque()
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawned, initializer=_go_with_the_parent) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(_work, work, load, task))
                if len(waiting) >= _AHEAD * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ProgressionError(
                f"one of {count} processes was stopped, perhaps for lack of memory: run it again with fewer to go on"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _go_with_the_parent() -> None:
    """Ctrl-C is the parent's to handle; a parent that was killed leaves no process behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(work: Callable[[Any, Task], Result], load: Callable[[], Any], task: Task) -> Result:
    return work(_tool(load), task)


@cache
def _tool(load: Callable[[], Tool]) -> Tool:
    return load()
