"""How far a comparison is, in words: what is finished, what its scores are, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtl_med.comparison.protocol import Protocol
from mtl_med.comparison.runs import FINISHED, Run
from mtl_med.comparison.scores import of_run, select

__all__ = ["duration", "left", "listing", "scores_in_words", "seconds_left"]


def listing(runs: Sequence[Run], processes: int) -> Iterator[str]:
    """One line per run, and the time that is left."""
    width = max(len("row"), *(len(run.row) for run in runs))
    finished: list[Run] = []
    waiting: list[Run] = []
    yield f"{'row':<{width}}  seed  {'took':>8}  state"
    for each in runs:
        state = each.state()
        seconds = each.seconds if state == FINISHED else None
        (finished if state == FINISHED else waiting).append(each)
        yield f"{each.row:<{width}}  {each.seed:4d}  {'' if seconds is None else duration(seconds):>8}  {state}"
    yield f"{len(finished)} of {len(runs)} runs are finished; {left(finished, waiting, processes)}"


def left(finished: Sequence[Run], waiting: Sequence[Run], processes: int) -> str:
    """What is left to do, as `seconds_left` expects it."""
    if not waiting:
        return "none is left"
    took = [(run.row, run.seconds) for run in finished]
    known = [(row, seconds) for row, seconds in took if seconds is not None]
    seconds = seconds_left(known, [run.row for run in waiting], processes)
    about = "" if seconds is None else f", about {duration(seconds)}"
    return f"{len(waiting)} to go{about}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def scores_in_words(protocol: Protocol, each: Run) -> str:
    """The run's scores in a few words."""
    rows = each.scores(protocol)
    found = []
    for column in protocol.metrics:
        own = select(column, rows)
        if own:
            found.append(f"{column.name} {of_run(column, own):.3f}{'' if column.unit == '1' else f' {column.unit}'}")
    return ", ".join(found) or "no scores"


def seconds_left(finished: Sequence[tuple[str, float]], waiting: Sequence[str], processes: int) -> float | None:
    """Expected time for the rows that wait, from the mean of what their row took, or all rows did.

    Args:
        finished: row and seconds of each finished run.
        waiting: row of each run that is to come.
        processes: runs at a time.

    Returns:
        Seconds; None where nothing is finished.
    """
    if not finished:
        return None
    everything = sum(seconds for _, seconds in finished) / len(finished)
    total = 0.0
    for row in waiting:
        own = [seconds for name, seconds in finished if name == row]
        total += sum(own) / len(own) if own else everything
    return total / max(1, min(processes, len(waiting)))
