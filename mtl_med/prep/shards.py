"""A study made by many machines: which cases each takes, what it leaves behind, and how all of it becomes one study.

A shard is told by nothing but its number, so that machines need not talk to each other. Each of them scans the whole
source and assigns the splits of all cases before it takes its own, so that all shards together give what one run gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import json_fault, read_json, sha256_bytes, within
from mtl_med.manifest import Case
from mtl_med.prep.convert import PREP_VERSION
from mtl_med.prep.raw import Source
from mtl_med.prep.splits import SPLITS_OF_GROUP
from mtl_med.prep.study import LOCK_NAME, STAGING_PREFIX, hold, is_staged_file, keep_apart, staged_case
from mtl_med.prep.wholeness import missing
from mtl_med.provenance import write_record

__all__ = ["Merged", "Shard", "ShardCase", "merge", "open_shard", "plan_digest", "require_shards", "write_shard"]

AnySource = TypeVar("AnySource", bound=Source)
_RUN_AGAIN = "Run that shard again"
_RECORD = re.compile(r"run-(\d+)of(\d+)\.json")
_FIELDS = {  # of a record, as far as a merge needs them
    "dataset": str,
    "plan": str,
    "deidentified?": bool,
    "cases": {...: {"group": str, "split": str, "source_hash?": str, "failure?": str, "converted?": bool}},
}
_RANDOM_PART = 9  # a staging folder's name ends in `-` and the eight letters of tempfile


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the cases.

    Args:
        index: 1 to `count`.
        count: number of parts.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Shard from `k/n`.

        Raises:
            UsageError: the text does not say which part of how many.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        shard = cls(int(match[1]), int(match[2])) if match else None
        if shard is None or not 1 <= shard.index <= shard.count:
            raise UsageError(f"'{text}' is no shard", fix="Write k/n with k from 1 to n, such as --shard 2/8")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, case_id: str) -> bool:
        """Whether a case belongs to this shard: by the end of its id's SHA-256, whose beginning chooses the split."""
        return int.from_bytes(hashlib.sha256(case_id.encode()).digest()[-8:], "big") % self.count == self.index - 1

    def select(self, sources: Iterable[AnySource]) -> list[AnySource]:
        """The sources of this shard, in their order."""
        return [source for source in sources if self.holds(source.id)]

    @property
    def _record(self) -> str:
        return f"run-{self.index}of{self.count}.json"

    @property
    def _lock(self) -> str:
        return f"{LOCK_NAME}-{self.index}of{self.count}"


@dataclass(frozen=True)
class ShardCase:
    """What became of one case in a shard.

    Args:
        group: "train", "validation" or "test", as published.
        split: the split it was assigned.
        source_hash: hash by which the finished case is recognised; empty when it failed.
        failure: why it failed, one sentence; empty when it is finished.
        converted: whether it was converted now and not found finished.
    """

    group: str
    split: str
    source_hash: str = ""
    failure: str = ""
    converted: bool = False


@contextlib.contextmanager
def open_shard(out: Path, source: Path, shard: Shard) -> Iterator[None]:
    """Make or enter the study folder `out` for one shard, and clear what a killed run of this shard left.

    Other shards may write there at the same time; the same shard, a whole run and a merge may not.

    Raises:
        UsageError: `out` lies in the raw data, or another run writes there.
        OutputError: `out` cannot be written.
    """
    keep_apart(out, source)
    with contextlib.ExitStack() as stack:
        try:
            (out / "cases").mkdir(parents=True, exist_ok=True)
            common, own = (stack.enter_context((out / name).open("a+b")) for name in (LOCK_NAME, shard._lock))
            hold(common, out, shared=True)
            hold(own, out)
            (out / shard._record).unlink(missing_ok=True)
            _clear(out, shard)
        except OSError as error:
            fix = "Choose another --out"
            raise OutputError(f"cannot write: {error.strerror or error}", where=out, fix=fix) from error
        yield
        with contextlib.suppress(OSError):  # what workers left that were killed on the way
            _clear(out, shard)


def _clear(out: Path, shard: Shard) -> None:
    """Remove temporary files of this shard's cases; those of other shards may be in use."""
    for path in (out / "cases").glob(f"{STAGING_PREFIX}*"):
        if shard.holds(path.name.removeprefix(STAGING_PREFIX)[:-_RANDOM_PART]) and staged_case(path):
            shutil.rmtree(path)
    for path in (out / "cases").glob(f"*/{STAGING_PREFIX}*"):
        if shard.holds(path.parent.name) and is_staged_file(path):
            path.unlink()


def plan_digest(recipe_digest: str, sources: Iterable[Source], splits: Mapping[str, str]) -> str:
    """Hash over what all shards have to agree on: recipe, version, and every case of the source with its split."""
    rows = sorted(f"{source.id}\t{source.group}\t{splits[source.id]}" for source in sources)
    return sha256_bytes("\n".join([recipe_digest, PREP_VERSION, *rows]).encode(errors="surrogateescape"))


def write_shard(
    out: Path, shard: Shard, dataset: str, plan: str, cases: Mapping[str, ShardCase], fields: dict[str, Any]
) -> None:
    """Write the record of a finished shard, `run-<k>of<n>.json`, which a merge reads.

    Args:
        out: the study folder.
        shard: the shard.
        dataset: name of the data set.
        plan: `plan_digest` of all sources.
        cases: id -> what became of each case of this shard.
        fields: what else a run has to tell.

    Raises:
        OutputError: the file cannot be written.
    """
    told = {
        "dataset": dataset,
        "shard": str(shard),
        "plan": plan,
        "cases": {case_id: asdict(case) for case_id, case in sorted(cases.items())},
    }
    write_record(out / shard._record, "prep", told | fields, packages=("numpy", "nibabel"))


@dataclass(frozen=True)
class Merged:
    """All shards together.

    Args:
        cases: the finished cases, sorted by id.
        outcomes: id -> what became of each case, sorted by id.
        shards: number of shards.
        deidentified: whether their cases go by pseudonyms.
    """

    cases: tuple[Case, ...]
    outcomes: dict[str, ShardCase]
    shards: int
    deidentified: bool = False

    @property
    def converted(self) -> list[str]:
        """Ids that the last runs of the shards converted."""
        return [case_id for case_id, case in self.outcomes.items() if case.converted]

    @property
    def skipped(self) -> list[str]:
        """Ids that the last runs of the shards found finished."""
        return [case_id for case_id, case in self.outcomes.items() if not (case.converted or case.failure)]

    @property
    def failed(self) -> dict[str, str]:
        """Id -> why it failed."""
        return {case_id: case.failure for case_id, case in self.outcomes.items() if case.failure}

    def sources(self, out: Path) -> list[Source]:
        """The sources that the shards saw, without their files."""
        return [Source(case_id, case.group, out, ()) for case_id, case in self.outcomes.items()]


def require_shards(out: Path) -> None:
    """Refuse a folder that no shard was converted into, before anything is made there.

    Raises:
        UsageError: it holds none.
    """
    if not any(_RECORD.fullmatch(path.name) for path in out.glob("run-*of*.json")):
        fix = "Give the folder of the shards; run every shard first: --shard k/n"
        raise UsageError("holds no shards", where=out, fix=fix)


def merge(out: Path, dataset: str) -> Merged:
    """Read what all shards of a study folder left; the caller holds the study's lock.

    Raises:
        UsageError: a shard is missing, the shards do not belong together, or a case is not as its shard left it.
    """
    records = _records(out, dataset)
    outcomes: dict[str, ShardCase] = {}
    cases = []
    for shard, fields in records.items():
        outcomes |= fields["cases"]
        cases += [_case(out, name, item, shard) for name, item in fields["cases"].items() if not item.failure]
    for lock in out.glob(f"{LOCK_NAME}-*of*"):
        lock.unlink(missing_ok=True)
    ordered = tuple(sorted(cases, key=lambda case: case.id))
    hidden = any(fields["deidentified"] for fields in records.values())
    return Merged(ordered, dict(sorted(outcomes.items())), shards=len(records), deidentified=hidden)


def _records(out: Path, dataset: str) -> dict[Shard, dict[str, Any]]:
    """The record of every shard, checked to belong together."""
    require_shards(out)
    matches = [match for path in out.glob("run-*of*.json") if (match := _RECORD.fullmatch(path.name))]
    shards = sorted((Shard(int(match[1]), int(match[2])) for match in matches), key=lambda shard: shard.index)
    counts = sorted({shard.count for shard in shards})
    if len(counts) != 1:
        found = " and of ".join(map(str, counts))
        fix = "Remove the run-*of*.json of those that no longer hold"
        raise UsageError(f"holds shards of {found}", where=out, fix=fix)
    missing = [str(shard) for index in range(counts[0]) if (shard := Shard(index + 1, counts[0])) not in shards]
    if missing:
        told = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise UsageError(
            f"{len(missing)} of {counts[0]} shards are not finished: {told}", where=out, fix="Run them, then merge"
        )
    records = {shard: _record(out / shard._record) for shard in shards}
    for shard, fields in records.items():
        if fields["dataset"] != dataset:
            raise UsageError(f"shard {shard} is of '{fields['dataset']}', not of '{dataset}'", where=out)
        if fields["plan"] != records[shards[0]]["plan"]:
            raise UsageError(
                f"shards {shards[0]} and {shard} saw different sources, options or versions",
                where=out,
                fix="Run the older one again: same source, same options, same mtl_med",
            )
    return records


def _record(path: Path) -> dict[str, Any]:
    """The fields of a record that a merge needs, with a ShardCase for each case."""
    fields = read_json(path, _RUN_AGAIN)
    if fault := json_fault(fields, _FIELDS):
        raise UsageError(f"is no record of a shard: {fault}", where=path, fix=_RUN_AGAIN)
    try:
        cases = {case_id: ShardCase(**item) for case_id, item in fields["cases"].items()}
    except TypeError as error:
        raise UsageError(f"is no record of a shard: {error}", where=path, fix=_RUN_AGAIN) from error
    if unknown := next((case.group for case in cases.values() if case.group not in SPLITS_OF_GROUP), None):
        raise UsageError(f"is no record of a shard: there is no group {unknown!r}", where=path, fix=_RUN_AGAIN)
    return {name: fields.get(name, False) for name in ("dataset", "plan", "deidentified")} | {"cases": cases}


def _case(out: Path, case_id: str, outcome: ShardCase, shard: Shard) -> Case:
    folder = within(out / "cases", case_id)
    try:
        case = Case.read(folder)
    except UsageError:
        case = None
    if case is None or (case.source_hash, case.split) != (outcome.source_hash, outcome.split) or missing(case):
        raise UsageError(
            "is not as its shard left it: removed or changed since", where=folder, fix=f"Run --shard {shard} again"
        )
    return case
