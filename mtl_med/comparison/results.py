"""What finished runs leave in two small tables, from which alone the reports are made."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from mtl_med.comparison.protocol import Protocol, read_protocol
from mtl_med.comparison.runs import FINISHED, Earlier, Run
from mtl_med.comparison.settings import hash_of
from mtl_med.errors import UsageError
from mtl_med.files import write_json, write_text
from mtl_med.metrics.rows import COLUMNS, Row

__all__ = ["RUN_COLUMNS", "Results", "collect", "read_results", "with_earlier", "write_results"]

RUN_COLUMNS = (
    *("row", "seed", "steps", "epochs", "parameters", "seconds_per_step", "peak_memory_mib"),
    *("threads", "processes", "precision", "best_epoch", "settings_hash", "fingerprint", "weights_sha256", "commit"),
)
_SCORE_COLUMNS = ("row", "seed", *COLUMNS)
_GROUP_COLUMNS = ("case", "group")
_LATER_COLUMNS = {"precision"}  # that older tables do not have

Key = tuple[str, int]


@dataclass(frozen=True)
class Results:
    """The finished runs of a comparison.

    Args:
        protocol: the comparison.
        scores: (row, seed) -> the rows of its scores.
        runs: (row, seed) -> its line of `runs.csv`; "" where something is not known.
        groups: patient or image -> what it belongs to, such as its lesion; empty where all stand alone.
    """

    protocol: Protocol
    scores: Mapping[Key, Sequence[Row]]
    runs: Mapping[Key, Mapping[str, str]]
    groups: Mapping[str, str] = field(default_factory=dict)

    def seeds(self, row: str) -> list[int]:
        """Seeds of a row's finished runs, in the order of the comparison."""
        return [seed for seed in self.protocol.row(row).seeds if (row, seed) in self.runs]


def collect(protocol: Protocol, runs: Iterable[Run]) -> Results:
    """Read what the finished runs left.

    Raises:
        UsageError: finished runs were made on different data.
    """
    done = [run for run in runs if run.state() == FINISHED]
    records = {(run.row, run.seed): run.record() for run in done}
    first: dict[str, str] = {}
    for run in done:
        first.setdefault(records[run.row, run.seed]["fingerprint"], run.name)
    if len(first) > 1:
        names = list(first.values())
        raise UsageError(
            f"'{names[0]}' and '{names[1]}' were made on different data",
            where=protocol.name,
            fix="Make one of them again with --overwrite",
        )
    return Results(
        protocol,
        {(run.row, run.seed): run.scores(protocol) for run in done},
        {key: {name: _text(record.get(name)) for name in RUN_COLUMNS} for key, record in records.items()},
        dict(done[0].groups()) if done else {},  # of equal data they are the same for all runs
    )


def with_earlier(protocol: Protocol, runs: Iterable[Run], results: Results) -> list[Run]:
    """The runs, those that tables hold with the same settings, data and scores as finished ones.

    Tables hold what their own comparison's scores are made of and nothing else.

    Args:
        protocol: the comparison.
        runs: its runs.
        results: of this comparison or another one, from tables.
    """
    kept = {(score.task, score.metric, score.structures) for score in results.protocol.metrics}
    found = []
    for run in runs:
        key = (run.row, run.seed)
        line = results.runs.get(key, {})
        wanted = {name for group in protocol.groups if run.row in group.rows for name in group.metrics}
        scores = [protocol.metric(name) for name in wanted]
        scored = all((score.task, score.metric, score.structures) in kept for score in scores)
        same = (
            scored
            and line.get("settings_hash") == hash_of(run.settings)
            and run.fingerprint in ("", line["fingerprint"])
        )
        found.append(replace(run, earlier=Earlier(line, results.scores[key], results.groups)) if same else run)
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def write_results(results: Results, out: str | Path) -> None:
    """Write `scores.csv`, `runs.csv`, `groups.csv` where cases belong together, and a copy of the comparison file.

    The reports are made from these alone.
    """
    out = Path(out)
    lines = [
        [row, str(seed), *(repr(float(item)) if isinstance(item, float) else item for item in astuple(score))]
        for (row, seed), scores in results.scores.items()
        for score in scores
    ]
    write_text(out / "scores.csv", _csv(_SCORE_COLUMNS, lines))
    write_text(out / "runs.csv", _csv(RUN_COLUMNS, [list(line.values()) for line in results.runs.values()]))
    if results.groups:
        write_text(out / "groups.csv", _csv(_GROUP_COLUMNS, sorted(results.groups.items())))
    write_json(out / "protocol.json", results.protocol.source)


def read_results(folder: str | Path) -> Results:
    """What `write_results` wrote; each table may have been packed by gzip since, as `scores.csv.gz`.

    Raises:
        UsageError: a file is missing, has other columns, or names a run that the comparison does not have.
    """
    folder = Path(folder)
    protocol = read_protocol(folder / "protocol.json")
    known = {(row.name, seed) for row, seed in protocol.order()}
    runs: dict[Key, dict[str, str]] = {}
    for number, line in _lines(folder / "runs.csv", RUN_COLUMNS):
        runs[_key(line, known, folder / "runs.csv", number)] = line
    scores: dict[Key, list[Row]] = {key: [] for key in runs}
    for number, line in _lines(folder / "scores.csv", _SCORE_COLUMNS):
        key = _key(line, set(runs), folder / "scores.csv", number)
        try:
            value = float(line["value"])
        except ValueError as error:
            raise UsageError(f"line {number}: {error}", where=folder / "scores.csv") from error
        scores[key].append(Row(**{**{name: line[name] for name in COLUMNS}, "value": value}))  # type: ignore[arg-type]
    grouped = any(folder.glob("groups.csv*"))
    listed = _lines(folder / "groups.csv", _GROUP_COLUMNS) if grouped else ()
    return Results(protocol, scores, runs, {line["case"]: line["group"] for _, line in listed})


def _key(line: Mapping[str, str], known: set[Key], path: Path, number: int) -> Key:
    key = (line["row"], int(line["seed"]) if line["seed"].isdecimal() else -1)
    if key not in known:
        raise UsageError(
            f"line {number}: no run '{line['row']}' with seed {line['seed']} belongs here",
            where=path,
            fix="Write the tables again with: mtl-med compare --tables",
        )
    return key


def _lines(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        with _opened(path) as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be read: {reason}", where=path, fix="Check the path, or write it again") from error
    present = [name for name in columns if name in header or name not in _LATER_COLUMNS]
    if header != present:
        raise UsageError(f"has the columns {header}, expected {list(columns)}", where=path)
    for number, line in enumerate(lines, start=2):
        if len(line) != len(present):
            raise UsageError(f"line {number} has {len(line)} fields, expected {len(present)}", where=path)
        found = dict(zip(present, line, strict=True))
        yield number, {name: found.get(name, "") for name in columns}


def _opened(path: Path) -> TextIO:
    packed = path.with_name(f"{path.name}.gz")
    if packed.is_file() and not path.is_file():
        return gzip.open(packed, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _csv(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return stream.getvalue()
