"""Cases over a Dask cluster: the outcomes of one machine, also when a worker is killed; else one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mtl_med.errors import CaseError, MtlMedError, OutputError, UsageError
from mtl_med.parallel import Outcome, map_cases
from mtl_med.prep.cluster import map_cases_on_cluster
from mtl_med.prep.engine import How, prepare
from mtl_med.prep.recipe import Recipe


class Cluster:
    """A scheduler and workers as a person starts them, one process each, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.log = (folder / "log.txt").open("ab")
        self.processes: list[subprocess.Popen] = []
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 60
        while not (self.file.is_file() and self.file.read_text().strip().endswith("}")):
            if time.monotonic() > deadline:
                pytest.fail("the scheduler did not start: " + (folder / "log.txt").read_text()[-2000:], pytrace=False)
            time.sleep(0.1)

    def start(self, program: str, *arguments: str) -> subprocess.Popen:
        words = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *arguments]
        variables = {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        process = subprocess.Popen(words, stdout=self.log, stderr=self.log, env=os.environ | variables)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen:
        folder = str(self.file.parent)
        arguments = ("--nthreads", "1", "--no-nanny", "--local-directory", folder, "--death-timeout", "60")
        return self.start("dask_worker", "--scheduler-file", str(self.file), *arguments)

    @property
    def address(self) -> str:
        return json.loads(self.file.read_text())["address"]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, require_judge: Callable[[str], str]) -> Iterator[Cluster]:
    """A scheduler; the tests below add workers in their order."""
    require_judge("distributed")
    started = Cluster(tmp_path_factory.mktemp("dask"))
    yield started
    started.close()


def test_a_cluster_without_workers_is_refused(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="has no worker.*dask worker"):
        list(map_cases_on_cluster(int, ["1"], scheduler=cluster.address, timeout_s=0.5))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere://", "127.0.0.1"])
def test_an_address_where_nothing_answers_is_refused(address: str, require_judge: Callable[[str], str]) -> None:
    require_judge("distributed")
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        list(map_cases_on_cluster(int, ["1"], scheduler=address, timeout_s=0.5))


def test_outcomes_are_those_of_one_machine(cluster: Cluster) -> None:
    cluster.worker()
    cluster.worker()

    def work(item: int) -> int:
        if item == 3:
            raise CaseError("has no dose", where="case_3")
        return 100 // item

    items = [5, 3, 0, 4, 2]
    found = list(map_cases_on_cluster(work, items, scheduler=cluster.address))
    assert found == list(map_cases(work, items))
    assert [outcome.value for outcome in found] == [20, None, None, 25, 50]
    assert found[1].failure == "case_3: has no dose." and "ZeroDivisionError" in found[2].failure


def test_both_workers_work_and_are_other_processes(cluster: Cluster) -> None:
    def pid(item: int) -> int:
        time.sleep(0.2)
        return os.getpid()

    outcomes = map_cases_on_cluster(pid, range(8), scheduler=cluster.address)
    assert {outcome.value for outcome in outcomes} == {process.pid for process in cluster.processes[1:]}


def test_an_output_that_cannot_be_written_ends_the_work(cluster: Cluster) -> None:
    def work(item: str) -> str:
        raise OutputError("cannot write", where=item)

    with pytest.raises(OutputError, match="first: cannot write"):
        list(map_cases_on_cluster(work, ["first", "second"], scheduler=cluster.address))


def test_when_a_worker_is_killed_its_case_goes_to_the_other(cluster: Cluster, tmp_path: Path) -> None:
    marker = tmp_path / "killed"

    def work(item: int) -> int:
        if item == 3 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return item * item

    found = list(map_cases_on_cluster(work, range(12), scheduler=cluster.address))
    assert found == [Outcome(item * item) for item in range(12)]
    (killed,) = [process for process in cluster.processes[1:] if process.poll() is not None]
    assert killed.returncode == -signal.SIGKILL and int(marker.read_text()) == killed.pid


def test_a_study_made_by_a_cluster_that_loses_a_worker_is_that_of_one_machine(
    cluster: Cluster, patient_template: Path, recipe: Recipe, tree: Callable[[Path], dict[str, bytes]], tmp_path: Path
) -> None:
    for number in range(1, 5):
        shutil.copytree(patient_template, tmp_path / f"raw/train-pats/pt_{number}")
    expected = prepare(recipe, tmp_path / "raw", tmp_path / "one")
    cluster.worker()
    old, new = (process for process in cluster.processes[1:] if process.poll() is None)

    def kill_one() -> None:
        while not list((tmp_path / "many/cases").glob("*/case.json")):
            time.sleep(0.01)
        old.kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    report = prepare(recipe, tmp_path / "raw", tmp_path / "many", How(scheduler=cluster.address))
    killer.join(timeout=10)
    assert old.wait(timeout=10) == -signal.SIGKILL and new.poll() is None
    assert report.manifest.fingerprint == expected.manifest.fingerprint and not report.failed
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_a_case_that_kills_worker_after_worker_has_failed_and_others_go_on(cluster: Cluster) -> None:
    for _ in range(4):
        cluster.worker()

    def work(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    found = list(map_cases_on_cluster(work, range(6), scheduler=cluster.address))
    assert found.pop(1).failure == "every worker that took it was killed, most likely for want of memory"
    assert found == [Outcome(item) for item in (0, 2, 3, 4, 5)]
    assert sum(process.poll() is None for process in cluster.processes[1:]) == 1


def test_a_lost_scheduler_is_one_sentence(cluster: Cluster) -> None:
    def work(item: int) -> int:
        time.sleep(0.3 * item)
        return item

    outcomes = map_cases_on_cluster(work, [0, 100], scheduler=cluster.address, timeout_s=2)
    assert next(outcomes) == Outcome(0)
    cluster.processes[0].kill()
    with pytest.raises(MtlMedError, match="scheduler is lost.*finished cases are kept"):
        next(outcomes)


def test_nothing_to_do_needs_no_cluster() -> None:
    assert list(map_cases_on_cluster(int, [], scheduler="nowhere")) == []


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'mtl_med\[scale\]'"):
        list(map_cases_on_cluster(int, ["1"], scheduler="tcp://127.0.0.1:9"))
