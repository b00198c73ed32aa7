"""The runs of a comparison on disk: what each is, how far it is, and what a finished one leaves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mtl_med
from mtl_med.comparison.protocol import MethodRow, Protocol
from mtl_med.comparison.scores import under_own_tasks, wanted
from mtl_med.comparison.settings import Bundle, differences, hash_of, overrides_of, settings_of
from mtl_med.errors import MtlMedError, UsageError
from mtl_med.files import read_json, safe_name, sha256_file, write_json, write_text
from mtl_med.metrics.rows import Row, read_rows
from mtl_med.provenance import code_digest, write_record
from mtl_med.tasks import as_tasks

__all__ = [
    "FAILED",
    "FINISHED",
    "OTHER",
    "STARTED",
    "WAITING",
    "Earlier",
    "Run",
    "code_version",
    "finish",
    "plan",
    "refuse_others",
]

FINISHED, STARTED, FAILED, WAITING, OTHER = "finished", "started", "failed", "waiting", "other settings or data"
_RECORD, _SETTINGS, _FAILURE, _TRAINED = "comparison.json", "settings.json", "failure.txt", "trained"
_SHOWN = 4  # differing settings
_PRECISIONS = {"None": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}  # by the autocast of a training
_DIGEST = 10  # characters


@dataclass(frozen=True)
class Earlier:
    """A finished run of which only its part of the tables is left.

    Args:
        record: its line of `runs.csv`.
        scores: its rows of `scores.csv`.
        groups: patient or image -> what it belongs to.
    """

    record: Mapping[str, str]
    scores: Sequence[Row]
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One row with one seed.

    Args:
        row: name of the row.
        seed: its seed.
        folder: gets everything that the run writes.
        settings: everything it is trained and evaluated with.
        overrides: what its row and the comparison ask for.
        fingerprint: of the study; "" accepts any.
        earlier: the same run as tables hold it, which counts as long as its folder holds none.
    """

    row: str
    seed: int
    folder: Path
    settings: Mapping[str, Any] = field(repr=False)
    overrides: Mapping[str, Any] = field(repr=False)
    fingerprint: str = ""
    earlier: Earlier | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.row}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What training and evaluation print."""
        return self.folder / "run.log"

    @property
    def trained(self) -> bool:
        """Whether the whole training is over, with what follows its last epoch, such as the calibration."""
        return (self.folder / _TRAINED).is_file()

    def note_trained(self) -> None:
        """Note that the training ended well, so that a later call goes on with the evaluation."""
        write_text(self.folder / _TRAINED, "")

    def state(self) -> str:
        """`FINISHED`, `STARTED`, `FAILED`, `WAITING`, or `OTHER`: its folder holds a run of other settings or data."""
        if not (self.folder / _SETTINGS).is_file():
            return FINISHED if self.earlier else WAITING
        if self.strange():
            return OTHER
        if (self.folder / _RECORD).is_file():
            return FINISHED
        return FAILED if (self.folder / _FAILURE).is_file() else STARTED

    def strange(self) -> list[str]:
        """What differs between the run that the folder holds and this one."""
        found = read_json(self.folder / _SETTINGS)
        lines = differences(found["settings"], self.settings)
        if self.fingerprint and found["fingerprint"] != self.fingerprint:
            lines.append(f"the data were {found['fingerprint'][:12]}, now {self.fingerprint[:12]}")
        return lines

    @property
    def _in_tables(self) -> Earlier | None:
        return None if (self.folder / _SETTINGS).is_file() else self.earlier

    def record(self) -> Mapping[str, Any]:
        """What `finish` left, or what tables hold of it."""
        return self._in_tables.record if self._in_tables else read_json(self.folder / _RECORD)

    @property
    def seconds(self) -> float | None:
        """What it took, once it is finished; tables do not tell."""
        return self.record().get("seconds")

    def groups(self) -> Mapping[str, str]:
        """What its evaluation noted of the cases that belong together."""
        if self._in_tables:
            return self._in_tables.groups
        path = self.folder / "metrics.run.json"
        return read_json(path).get("groups", {}) if path.is_file() else {}

    def scores(self, protocol: Protocol) -> list[Row]:
        """The rows of its evaluation that the comparison's scores are made of, under the names of the run's tasks."""
        if self._in_tables:
            return wanted(protocol, self._in_tables.scores)
        rows = read_rows(self.folder / "metrics.csv")
        return wanted(protocol, under_own_tasks(rows, as_tasks(self.settings.get("train", {}).get("tasks", {}))))

    def clear(self) -> None:
        """Empty the folder."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def begin(self, threads: int, processes: int) -> None:
        """Note what this run is before it writes anything else, and how each part of it was computed."""
        path = self.folder / _SETTINGS
        parts = read_json(path)["parts"] if path.is_file() else []
        part = {"commit": code_version(), "threads": threads, "processes": processes}
        fields = {
            "row": self.row,
            "seed": self.seed,
            "settings_hash": hash_of(self.settings),
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "parts": parts if part in parts else [*parts, part],
        }
        write_json(path, fields)
        (self.folder / _FAILURE).unlink(missing_ok=True)

    def fail(self, sentence: str) -> None:
        """Note why it failed; the next call tries again."""
        write_text(self.folder / _FAILURE, sentence + "\n")


def plan(protocol: Protocol, bundle: Bundle, out: str | Path, fingerprint: str = "") -> list[Run]:
    """Every run of a comparison in the order in which they are done."""
    return [_run(protocol, row, seed, bundle, Path(out), fingerprint) for row, seed in protocol.order()]


def _run(protocol: Protocol, row: MethodRow, seed: int, bundle: Bundle, out: Path, fingerprint: str) -> Run:
    return Run(
        row=row.name,
        seed=seed,
        folder=out.resolve() / "runs" / safe_name(row.name) / f"seed_{seed}",
        settings=settings_of(protocol, row, seed, bundle),
        overrides=overrides_of(protocol, row),
        fingerprint=fingerprint,
    )


def refuse_others(runs: Sequence[Run]) -> None:
    """Refuse to go on where a folder holds a run of other settings or data.

    Raises:
        UsageError: names the first and what differs.
    """
    others = [run for run in runs if run.state() == OTHER]
    if others:
        lines = others[0].strange()
        more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
        count = len(others) - 1
        rest = "; so does 1 other run" if count == 1 else f"; so do {count} other runs" if count else ""
        raise UsageError(
            f"differs from what is asked for: {'; '.join(lines[:_SHOWN])}{more}{rest}",
            where=others[0].folder,
            fix="Use --overwrite to make such runs again, or choose another --out",
        )


def finish(run: Run, seconds: float) -> Mapping[str, Any]:
    """Write the record of a run, last of all, by which it counts as finished.

    Args:
        run: trained and evaluated.
        seconds: that the last call spent on it.

    Returns:
        The record.

    Raises:
        MtlMedError: the evaluation left no scores or the training no weights.
    """
    for name in ("model.pt", "run.json", "metrics.csv"):
        if not (run.folder / name).is_file():
            raise MtlMedError(f"left no {name}", where=run.folder, fix=f"See {run.log}")
    training = read_json(run.folder / "run.json")
    parts = read_json(run.folder / _SETTINGS)["parts"]
    best = {name: item.get("epoch") for name, item in training.get("best", {}).items()}
    fields = {
        "row": run.row,
        "seed": run.seed,
        "settings_hash": hash_of(run.settings),
        "fingerprint": run.fingerprint,
        "weights_sha256": sha256_file(run.folder / "model.pt"),
        "commit": _joined(part["commit"] for part in parts),
        "threads": _joined(part["threads"] for part in parts),
        "processes": _joined(part["processes"] for part in parts),
        "seconds": round(max(seconds, 60 * (training.get("minutes") or 0)), 1),
        "precision": _PRECISIONS.get(str(training.get("settings", {}).get("autocast", "")), ""),
        "best_epoch": " ".join(str(epoch) if name == "all" else f"{name}:{epoch}" for name, epoch in best.items()),
        **{name: training.get(name) for name in ("steps", "epochs", "parameters")},
        **{name: training.get(name) for name in ("seconds_per_step", "peak_memory_mib")},
    }
    write_record(run.folder / _RECORD, "compare", fields, ("torch", "monai", "numpy"))
    (run.folder / _TRAINED).unlink(missing_ok=True)
    return run.record()


def _joined(values: Any) -> str:
    """The values of a run that was done in parts, each once."""
    return "/".join(dict.fromkeys(str(value) for value in values))


def code_version() -> str:
    """Commit of the checkout that mtl_med runs from, and a hash of the code where it differs or there is no commit."""
    root = Path(mtl_med.__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed below somebody else's checkout, that one's commit would say nothing.
    top = git("rev-parse", "--show-toplevel")
    commit = git("rev-parse", "HEAD") if top and Path(top).resolve() == root else None
    code = f"code:{code_digest()[:_DIGEST]}"
    if not commit:
        return f"mtl_med {mtl_med.__version__} {code}"
    return f"{commit}+{code}" if git("status", "--porcelain", "--untracked-files=no", "--", "mtl_med") else commit
