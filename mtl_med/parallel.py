"""The same function on every case, on one or several processes, with progress; a case that fails stops no other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from mtl_med.errors import MtlMedError, OutputError

__all__ = ["Outcome", "map_cases"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


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
        workers: number of processes; 1 works in this one.
        label: name of the progress bar, which shows only on a terminal.

    Raises:
        OutputError: the output cannot be written, which no other case could either.
        MtlMedError: a worker process was killed.
    """
    from tqdm import tqdm

    guarded = partial(_guarded, function)
    bar = partial(tqdm, total=len(items), desc=label, disable=not sys.stderr.isatty(), leave=False)
    workers = min(workers, len(items))
    if workers <= 1:
        yield from bar(map(guarded, items))
        return
    # Spawned and not forked: the caller may hold threads of torch or ITK, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_depend_on_the_parent)
    try:
        yield from bar(pool.map(guarded, items))
    except BrokenProcessPool as error:
        raise MtlMedError(
            "a worker process was killed, most likely for want of memory", fix="Use fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _guarded(function: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    try:
        return Outcome(function(item))
    except OutputError:
        raise
    except MtlMedError as error:
        return Outcome(None, str(error))
    except Exception as error:
        _log.debug("unexpected error", exc_info=True)
        return Outcome(None, f"unexpected {type(error).__name__}: {error}")


def _depend_on_the_parent() -> None:
    """Leave interrupts to the parent, and end with it when it is killed; else a worker would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
