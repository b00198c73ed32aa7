"""Work on cases: order, one failure among many, and processes that die."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mtl_med import parallel
from mtl_med.errors import CaseError, MtlMedError, OutputError
from mtl_med.parallel import in_processes, in_threads, map_cases, worker_processes


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_keep_the_order_and_a_failure_stops_no_other(workers):
    outcomes = list(map_cases(int, ["7", "x", "9"], workers=workers))
    assert [outcome.value for outcome in outcomes] == [7, None, 9]
    assert "unexpected ValueError" in outcomes[1].failure
    assert outcomes[0].failure == outcomes[2].failure == ""


def test_our_own_errors_are_their_sentence():
    def fail(item):
        raise CaseError("has no dose", where=item)

    (outcome,) = map_cases(fail, ["pt_1"])
    assert outcome.failure == "pt_1: has no dose."


def test_an_output_that_cannot_be_written_ends_the_work():
    done = []

    def write(item):
        done.append(item)
        raise OutputError("cannot write", where=item)

    with pytest.raises(OutputError, match="first"):
        list(map_cases(write, ["first", "second"]))
    assert done == ["first"]


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(MtlMedError, match="killed"):
        list(map_cases(os._exit, [9, 9, 9], workers=2))


def test_nothing_to_do_is_nothing():
    assert list(map_cases(int, [], workers=4)) == []


def threads_beside(item: int) -> int:
    """How many calls run at a time, of those that wait for each other."""
    barrier = threading.Barrier(item)
    try:
        in_threads(lambda _: barrier.wait(timeout=0.2), range(item))
    except threading.BrokenBarrierError:
        return 1
    return item


@pytest.mark.parametrize(("workers", "items", "found"), [(2, [2], [2]), (1, [2], [1]), (2, [2, 2], [1, 1])])
def test_workers_beyond_the_cases_are_threads(workers, items, found):
    assert [outcome.value for outcome in map_cases(threads_beside, items, workers=workers)] == found


def test_threads_keep_the_order_and_raise(monkeypatch):
    monkeypatch.setattr(parallel, "_threads", 3)
    assert in_threads(int, ["3", "1", "2"]) == [3, 1, 2]
    with pytest.raises(ValueError, match="x"):
        in_threads(int, ["3", "x"])


def test_processes_that_are_open_serve_every_round():
    with worker_processes(2):
        found = {outcome.value for outcome in map_cases(process_of, range(8), workers=2)}
        found |= set(in_processes(process_of, range(8)))
        assert os.getpid() not in found
        assert len(found) <= 2
        assert list(in_processes(int, ["3", "1"])) == [3, 1]
        with pytest.raises(ValueError, match="x"):
            list(in_processes(int, ["3", "x"]))
    assert list(in_processes(process_of, range(2))) == [os.getpid()] * 2


def process_of(_: int) -> int:
    """Where it is called."""
    return os.getpid()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="the system cannot hold interrupts back")
def test_processes_start_with_interrupts_held_back():
    """A process that is still starting would end with a traceback at Ctrl-C; this one is told of it as ever."""
    with worker_processes(2):
        (held,) = set(in_processes(interrupts_are_held, range(2)))
    assert held
    assert not interrupts_are_held(0)


def interrupts_are_held(_: int) -> bool:
    """Whether the process started so."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
