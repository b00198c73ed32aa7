"""Work on cases: order, one failure among many, and processes that die."""

from __future__ import annotations

import os

import pytest

from mtl_med.errors import CaseError, MtlMedError, OutputError
from mtl_med.parallel import map_cases


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
