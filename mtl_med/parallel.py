"""The same function on every case, on one or several processes, with progress; a case that fails stops no other."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from mtl_med.errors import MtlMedError, OutputError

__all__ = ["Outcome", "at_least_one", "in_processes", "in_threads", "map_cases", "worker_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)
_pool: ProcessPoolExecutor | None = None  # worker processes that stay for several rounds of work
_threads = 1  # that this process may use: its share of the workers while cases are worked on, afterwards all of them


def at_least_one(text: str) -> int:
    """A number of workers or cases, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: no whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one case.

    Args:
        value: the function's result; None after a failure.
        failure: one sentence; empty after success.
    """

    value: Result | None
    failure: str = ""


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 1, label: str = "cases"
) -> Iterator[Outcome[Result]]:
    """Outcomes in the order of the items.

    Args:
        function: called with one item; for several workers it has to be importable by name.
        items: what to work on.
        workers: number of processes, at most one per item; 1 works in this one. What they are more than the items,
            `function` may use as threads (`in_threads`).
        label: name of the progress bar, which shows only on a terminal.

    Raises:
        OutputError: the output cannot be written, which no other case could either.
        MtlMedError: a worker process was killed.
    """
    global _threads
    from tqdm import tqdm

    bar = partial(tqdm, total=len(items), desc=label, disable=not sys.stderr.isatty(), leave=False)
    threads = workers // max(1, min(workers, len(items)))
    guarded = partial(_guarded, function, threads)
    try:
        if min(workers, len(items)) <= 1:
            yield from bar(map(guarded, items))
            return
        with _opened(min(workers, len(items))) as pool:
            yield from bar(_over(pool, guarded, items))
    finally:
        _threads = workers


@contextmanager
def worker_processes(number: int) -> Iterator[None]:
    """Processes that all work within uses, so that they start once; they start with the first work there is.

    Args:
        number: how many; 1 is this process alone.
    """
    if number < 2:
        yield
        return
    with _opened(number):
        yield


@contextmanager
def _opened(number: int) -> Iterator[ProcessPoolExecutor]:
    """The processes that are open already, else new ones."""
    global _pool
    if _pool is not None:
        yield _pool
        return
    # Spawned and not forked: the caller may hold threads of torch or ITK, which do not survive a fork.
    pool = _pool = ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    finally:
        _pool = None
        pool.shutdown(wait=True, cancel_futures=True)


def in_processes(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in the order of the items, from the `worker_processes` that are open, else one by one in this one.

    Args:
        function: importable by name; what it raises is raised here.
        items: few and large, for each travels on its own.

    Raises:
        MtlMedError: a worker process was killed.
    """
    return map(function, items) if _pool is None or len(items) < 2 else _over(_pool, function, items)


def _over(pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    try:
        with _interrupts_held():  # processes start with the first work, and keep what is held at that moment
            results = pool.map(function, items)
        yield from results
    except BrokenProcessPool as error:
        raise MtlMedError(
            "a worker process was killed, most likely for want of memory", fix="Use fewer --workers"
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Interrupts come after this, where the system can hold them back.

    A process that is starting would end with a traceback at Ctrl-C, for `_begin` is not reached yet.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in the order of the items, in threads where `map_cases` left workers to spare for that, else one by one.

    A run over many cases has a process per worker, and its cases would gain nothing from threads; a run over a single
    case would leave all workers but one idle, as would what follows on the cases. Threads help what leaves Python's
    lock: packing, hashing, pictures.
    """
    if _threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_threads) as pool:
        return list(pool.map(function, items))


def _guarded(function: Callable[[Item], Result], threads: int, item: Item) -> Outcome[Result]:
    global _threads
    _threads = threads
    try:
        return Outcome(function(item))
    except OutputError:
        raise
    except MtlMedError as error:
        return Outcome(None, str(error))
    except Exception as error:
        _log.debug("unexpected error", exc_info=True)
        return Outcome(None, f"unexpected {type(error).__name__}: {error}")


def _begin() -> None:
    """In a worker: leave interrupts to the parent, and end with it when it is killed; else it would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
