"""Jobs over processes: results as they come, errors of one job kept to itself, nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from mtl_med.errors import CaseError, MtlMedError

__all__ = ["available_cpus", "run_all"]


def available_cpus() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int
) -> Iterator[tuple[tuple, Any | CaseError]]:
    """Call `function(*job)` for each job.

    Args:
        function: importable by name; raises CaseError when only this job fails.
        jobs: arguments of each call.
        workers: number of processes; 1 stays in this one.

    Yields:
        each job with its result or its CaseError, in the order in which they end.

    Raises:
        MtlMedError: any other error of ours ends the run; a process that died is told as such.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _guarded(function, job)
        return
    # Forked workers start at once with everything imported; elsewhere the platform's own way is the safe one.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_guarded, function, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise MtlMedError(
            "a worker process was killed, most likely for want of memory",
            fix="Run the same command with fewer --workers; finished cases are kept",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _guarded(function: Callable[..., Any], job: tuple) -> Any | CaseError:
    try:
        return function(*job)
    except CaseError as error:
        return error


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
