"""The same function on every case, over the workers of a Dask cluster: `mtl_med.parallel.map_cases` for many machines.

Scheduler and workers need this version of mtl_med, and workers must see source and study under the same paths as the
caller. A scheduler runs whatever it is sent: use one that only you can reach, or one with TLS (`tls://...` and Dask's
own configuration). Start workers with one thread each (`dask worker ADDRESS --nworkers N --nthreads 1`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mtl_med.errors import MtlMedError, UsageError
from mtl_med.parallel import Outcome, map_cases

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["map_cases_on_cluster"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_AT_ONCE = 100  # cases sent in one message


def map_cases_on_cluster(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    scheduler: str,
    label: str = "cases",
    timeout_s: float = 30.0,
) -> Iterator[Outcome[Result]]:
    """Outcomes in the order of the items, as `map_cases` gives them.

    A case whose worker dies goes to another worker. When worker after worker dies of the same case (as many as
    `distributed.scheduler.allowed-failures` says, and again as many when nothing else runs), that case has failed and
    the others go on.

    Args:
        function: called with one item on a worker.
        items: what to work on.
        scheduler: address of the scheduler, such as "tcp://10.0.0.1:8786".
        label: name of the progress bar, which shows only on a terminal.
        timeout_s: how long to wait for the scheduler, and for a worker when there is none, seconds.

    Raises:
        UsageError: Dask is not installed, or no scheduler with a worker answers.
        OutputError: the output cannot be written, which no other case could either.
        MtlMedError: the scheduler or all workers are lost, or the workers cannot run the function.
    """
    from tqdm import tqdm

    if not items:
        return
    client = _connect(scheduler, timeout_s)
    try:
        work = partial(_on_a_worker, function)
        futures = deque(client.map(work, items, key=label, pure=False, batch_size=_AT_ONCE))
        with tqdm(total=len(items), desc=label, disable=not sys.stderr.isatty(), leave=False) as bar:
            for item in items:
                # Let go of each, so that the cluster need not keep what was fetched.
                yield _outcome(client, work, item, futures.popleft(), futures, timeout_s)
                bar.update()
    finally:
        # With the last hold on their results the scheduler drops the cases that nobody waits for any more.
        client.close()


def _on_a_worker(function: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    """One case as `map_cases` does it in its own process."""
    (outcome,) = map_cases(function, [item])
    return outcome


def _connect(scheduler: str, timeout_s: float) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        fix = "pip install 'mtl_med[scale]'"
        raise UsageError("Dask is not installed", where="--scheduler", fix=fix) from error
    try:
        client = Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers ({type(error).__name__})", where=scheduler, fix="Check the address"
        ) from error
    try:
        _wait_for_a_worker(client, timeout_s)
    except MtlMedError:
        client.close()
        raise
    return client


def _wait_for_a_worker(client: Client, timeout_s: float) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout_s)
    except (OSError, CancelledError) as error:  # TimeoutError is an OSError
        raise UsageError(
            "the cluster has no worker",
            where="--scheduler",
            fix="Start one (dask worker ADDRESS --nthreads 1) and run the command again: finished cases are kept",
        ) from error


def _outcome(client: Client, work: Callable, item: Any, future: Future, others: Iterable, timeout_s: float) -> Outcome:
    """What became of a case; one that several workers died of gets a last chance when nothing else runs."""
    from distributed import KilledWorker

    try:
        return _patient(client, partial(future.result, timeout_s), timeout_s)
    except KilledWorker:
        # Dask suspects every case that a dying worker had been given, also those that only waited there.
        for other in others:
            _patient(client, partial(other.exception, timeout_s), timeout_s)
    try:
        return _patient(client, partial(client.submit(work, item, pure=False).result, timeout_s), timeout_s)
    except KilledWorker:
        return Outcome(None, "every worker that took it was killed, most likely for want of memory")


def _patient(client: Client, ask: Callable[[], Any], timeout_s: float) -> Any:
    """What `ask` answers, however long it takes; but not for ever where no worker is left."""
    from distributed import KilledWorker

    while True:
        try:
            return ask()
        except (MtlMedError, KilledWorker):
            raise
        except TimeoutError:
            _wait_for_a_worker(client, timeout_s)
        except CancelledError as error:
            fix = "Run the command again: finished cases are kept"
            raise MtlMedError("the Dask scheduler is lost", fix=fix) from error
        except Exception as error:
            raise MtlMedError(
                f"the workers cannot run the function: {type(error).__name__}: {error}",
                fix="Install this version of mtl_med for the scheduler and all workers",
            ) from error
