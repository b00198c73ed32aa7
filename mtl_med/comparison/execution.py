"""Runs as processes: training, evaluation, several at a time, all ended together, each able to go on."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from mtl_med.comparison.runs import FINISHED, OTHER, Run, finish, refuse_others
from mtl_med.comparison.settings import Bundle
from mtl_med.errors import MtlMedError
from mtl_med.files import write_json

__all__ = ["Children", "Command", "Job", "execute", "execute_all", "monai_command"]

_log = logging.getLogger(__name__)
_GRACE_S = 10.0
_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"}
_TAIL = 3  # last lines of a log in a message

Command = Callable[[Sequence[Path], Path], list[str]]


def monai_command(configs: Sequence[Path], args_file: Path) -> list[str]:
    """`python -m monai.bundle run` on some configs, everything else in a file."""
    # A list on the command line, since one in the args file is not seen by the check of overrides.
    listing = repr([str(config) for config in configs])
    words = ["--config_file", listing, "--args_file", str(args_file)]
    return [sys.executable, "-m", "monai.bundle", "run", *words]


@dataclass(frozen=True)
class Job:
    """How runs are executed.

    Args:
        bundle: what is trained.
        study: the study folder.
        processes: number of runs at a time.
        threads: per run.
        keep_predictions: keep the predicted volumes, which are large.
        overwrite: begin anew where a folder holds a run of other settings or data, which else fails.
        command: gives the command of one stage.
        gpus: as CUDA_VISIBLE_DEVICES names them; each run sees one. Without any, a run sees what this process sees.
    """

    bundle: Bundle
    study: Path
    processes: int = 1
    threads: int = 1
    keep_predictions: bool = False
    overwrite: bool = False
    command: Command = monai_command
    gpus: tuple[str, ...] = ()


class StoppedError(Exception):
    """All children are being ended; there is nothing to report."""


class Children:
    """Processes in groups of their own, which end together."""

    def __init__(self) -> None:
        self._alive: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self.stopping = False

    def run(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], keep_open: Sequence[int] = ()
    ) -> int:
        """Run a command to its end and give its exit code.

        Args:
            command: the words.
            log: what it prints is appended here.
            environment: variables beside those of this process.
            keep_open: file descriptors that it inherits.
        """
        with log.open("ab") as stream:
            stream.write(f"$ {shlex.join(command)}\n".encode())
            stream.flush()
            with self._lock:
                if self.stopping:
                    raise StoppedError
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=_own_environment() | {"PYTHONUNBUFFERED": "1"} | dict(environment),
                    pass_fds=keep_open,
                    start_new_session=True,
                )
                self._alive.add(process)
            code = process.wait()
            with self._lock:
                self._alive.discard(process)
        if self.stopping:
            raise StoppedError
        return code

    def stop(self) -> None:
        """End every process and its children, by force after some seconds."""
        with self._lock:
            self.stopping = True
            alive = list(self._alive)
        self._signal(alive, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        try:
            while any(process.poll() is None for process in alive) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            self._signal(alive, signal.SIGKILL)

    @staticmethod
    def _signal(processes: Sequence[subprocess.Popen], number: int) -> None:
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)


def _own_environment() -> dict[str, str]:
    """The environment without what torchrun may have left in it: each run is a process of its own."""
    return {name: value for name, value in os.environ.items() if name not in _TORCHRUN}


def execute_all(runs: Sequence[Run], job: Job, report: Callable[[Run, Mapping[str, Any] | None, str], None]) -> None:
    """Execute runs, some at a time; one that fails stops no other.

    Args:
        runs: in the order in which they are started.
        job: how.
        report: called after each run with its record, or with None and the reason of its failure.

    Raises:
        KeyboardInterrupt: a signal; every child has been ended, and every run can go on.
    """
    children = Children()
    places = _places(job)
    pool = ThreadPoolExecutor(max(1, job.processes), thread_name_prefix="run")
    try:
        futures = {pool.submit(_guarded, run, job, children, places): run for run in runs}
        for future in as_completed(futures):
            report(futures[future], *future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()
        pool.shutdown(wait=True)


def _places(job: Job) -> Queue[Mapping[str, str]]:
    """What the environment of each run that is at work says: its threads, and its own GPU in turn."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(job.threads))
    places: Queue[Mapping[str, str]] = Queue()
    for number in range(max(1, job.processes)):
        gpu = {"CUDA_VISIBLE_DEVICES": job.gpus[number % len(job.gpus)]} if job.gpus else {}
        places.put(threads | gpu)
    return places


def _guarded(
    run: Run, job: Job, children: Children, places: Queue[Mapping[str, str]]
) -> tuple[Mapping[str, Any] | None, str]:
    place = places.get()
    try:
        return execute(run, job, children, place), ""
    except StoppedError:
        return None, "interrupted"
    except MtlMedError as error:
        return None, str(error)
    except Exception as error:
        _log.debug("unexpected error", exc_info=True)
        return None, f"unexpected {type(error).__name__}: {error}"
    finally:
        places.put(place)


def execute(run: Run, job: Job, children: Children, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Train, evaluate and record one run, with these variables; goes on where an earlier call stopped.

    Raises:
        MtlMedError: a stage failed, or another process is at work on this run.
    """
    started = time.monotonic()
    with _only_one(run) as lock:
        if job.overwrite and run.state() == OTHER:
            run.clear()
        refuse_others([run])
        if run.state() == FINISHED:  # by another call meanwhile
            return run.record()
        run.begin(job.threads, job.processes)
        if not run.trained:
            _stage(run, job, children, "training", environment, lock)
            run.note_trained()
        _stage(run, job, children, "evaluation", environment, lock)
        try:
            record = finish(run, time.monotonic() - started)
        except MtlMedError as error:
            run.fail(str(error))
            raise
        _tidy(run.folder, keep_predictions=job.keep_predictions)
    return record


@contextlib.contextmanager
def _only_one(run: Run) -> Iterator[int]:
    """Hold the run's lock; its children inherit it, so that it lasts as long as one that outlived its parent."""
    run.folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run.folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MtlMedError(
                "another process is at work on this run", where=run.folder, fix="Wait for it, or end it"
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def _stage(run: Run, job: Job, children: Children, stage: str, environment: Mapping[str, str], lock: int) -> None:
    configs = getattr(job.bundle, stage)
    arguments = {
        "bundle_root": str(job.bundle.root),
        "dataset_dir": str(job.study.resolve()),
        "output_dir": str(run.folder),
        "seed": run.seed,
        **run.overrides,
    }
    if stage == "training":
        arguments["resume"] = (run.folder / "checkpoint.pt").is_file()
    elif run.settings.get("train", {}).get("limit") is not None:
        arguments["limit"] = None  # a shorter training is still scored on every patient
    file = run.folder / f"{stage}.json"
    write_json(file, arguments)
    job.bundle.require_unchanged()
    code = children.run(job.command(configs, file), run.log, environment, [lock])
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        sentence = f"{stage} ended with {how}: {_last_words(run.log)}"
        run.fail(sentence)
        raise MtlMedError(sentence, fix=f"See {run.log}")


def _last_words(log: Path) -> str:
    """Our own sentence of an error where there is one, else the last lines."""
    text = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    return ours[-1].removeprefix("error: ") if ours else " | ".join(lines[-_TAIL:]) or "no word"


def _tidy(folder: Path, *, keep_predictions: bool) -> None:
    """Take away what is large and has served its end: predicted volumes, and the state to resume from."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    if not keep_predictions:
        shutil.rmtree(folder / "predictions", ignore_errors=True)
