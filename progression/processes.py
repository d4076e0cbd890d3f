"""The same work in several processes, of this machine or of a Ray cluster; results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from progression.errors import ProgressionError, StoppedProcessError, import_extra

Tool = TypeVar("Tool")
Task = TypeVar("Task")
Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)
_AHEAD = 2  # tasks a process that are handed out before results are taken


@runtime_checkable
class Workers(Protocol[Made]):
    """Processes that each have a tool of their own."""

    def map(self, work: Callable[[Made, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """work(tool, task) of every task in the tasks' order; all arguments must be picklable.

        Tasks are taken and results kept only a few ahead.

        Raises
        ------
        StoppedProcessError
            If a process ends by itself, as one does that is out of memory. What `work` raises, or the making of its
            tool, comes as it is.
        """
        ...


@dataclass(frozen=True)
class Processes(Generic[Tool]):
    """`count` processes of this machine, started anew (spawned), so that a GPU and threads work in them.

    `load`, which must be picklable, makes the tool, once a process.
    """

    load: Callable[[], Tool]
    count: int

    def map(self, work: Callable[[Tool, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Workers`."""
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.count, mp_context=spawned, initializer=go_with_the_parent) as pool:
            try:
                yield from _in_order(
                    lambda task: pool.submit(_work, work, self.load, task),
                    lambda future: future.result(),
                    tasks,
                    ahead=_AHEAD * self.count,
                )
            except BrokenProcessPool as error:
                raise StoppedProcessError(
                    f"one of {self.count} processes was stopped, perhaps for lack of memory: run it again with fewer "
                    "to go on"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Ray(Generic[Tool]):
    """All cores of the Ray cluster at an address (or its GPUs); "local" starts one here, which ends with the work.

    A program that is in a cluster already stays there. `load` makes the tool, once a process; it and the tasks must
    mean the same on every machine: the same paths, and the same version of this package. Needs the extra `ray`.
    """

    load: Callable[[], Tool]
    address: str
    gpu: bool = False

    def map(self, work: Callable[[Tool, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Workers`. A process that ends by itself is started again three times, as its machine may have gone."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
        ray = import_extra("ray", feature="--ray", extra="ray", otherwise=", or use --workers")
        ours = not ray.is_initialized()
        try:
            if ours:
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ProgressionError(
                f"no Ray cluster at {self.address!r} ({' '.join(str(error).split())[:200]}); start one with "
                "ray start --head, or pass --ray local"
            ) from error
        try:
            count = int(ray.cluster_resources().get("GPU" if self.gpu else "CPU", 0))
            if count < 1:
                raise ProgressionError(f"the Ray cluster at {self.address!r} has no GPU; pass --device cpu")
            remote = ray.remote(num_cpus=1, num_gpus=int(self.gpu))(_work)
            yield from _in_order(
                lambda task: remote.remote(work, self.load, task), ray.get, tasks, ahead=_AHEAD * count
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, ProgressionError) else error from None
        except ray.exceptions.RayError as error:
            raise StoppedProcessError(
                f"the Ray cluster lost a process ({type(error).__name__}), perhaps for lack of memory: run it again "
                "to go on"
            ) from error
        finally:
            if ours:
                ray.shutdown()


def _in_order(
    submit: Callable[[Task], Any], result: Callable[[Any], Any], tasks: Iterable[Task], *, ahead: int
) -> Iterator[Any]:
    """Results of what is handed out, in the tasks' order."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def go_with_the_parent() -> None:
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
