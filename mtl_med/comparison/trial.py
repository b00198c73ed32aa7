"""Rows tried before their first run: the parts of a training that are built without reading an image.

A typo in the value of an override would else be found when its run starts, hours later. Building imports torch and
MONAI, which the comparison itself can do without, so that it is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl_med.comparison.protocol import Protocol
from mtl_med.comparison.runs import Run
from mtl_med.comparison.settings import Bundle
from mtl_med.errors import MtlMedError, UsageError, find_error
from mtl_med.files import read_json, write_json

__all__ = ["TRIED", "try_rows"]

TRIED = (
    "train#dataset#data",
    "train#preprocessing",
    "autocast_dtype",
    "schedule",  # with optimizer, network, weights and loss
    "train#trainer#aggregator",
)
"""Ids of a training config, each tried where a bundle has it."""


def try_rows(protocol: Protocol, bundle: Bundle, runs: Sequence[Run], study: Path) -> None:
    """Build what each row trains, and refuse all where one cannot be built.

    Args:
        protocol: named in the message.
        bundle: what is trained.
        runs: those that are to come; one of each row is tried.
        study: the study folder.

    Raises:
        UsageError: names the first such row and what is wrong with it.
    """
    asked = {
        run.row: {
            "configs": [str(path) for path in bundle.training],
            "overrides": {
                "bundle_root": str(bundle.root),
                "dataset_dir": str(study.resolve()),
                "seed": run.seed,
                **run.overrides,
            },
        }
        for run in reversed(runs)
    }
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "rows.json", Path(folder) / "faults.json"
        write_json(question, asked)
        words = [sys.executable, "-m", "mtl_med.comparison.trial", str(question), str(answer)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode or not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise MtlMedError(f"the rows cannot be tried: {last}", fix="See: mtl-med doctor")
        faults = read_json(answer)
    for run in runs:
        if run.row in faults:
            what, fix = faults[run.row]
            raise UsageError(what, where=f"{protocol.where}: rows.{run.row}", fix=fix)


def _fault(configs: Sequence[str], overrides: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with one row, and how to mend it."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(configs)
    parser.update(overrides)
    try:
        for name in TRIED:
            if name in parser:
                parser.get_parsed_content(name)
    except Exception as error:
        ours = find_error(error)
        if ours is None:
            return f"cannot be built: {type(error).__name__}: {' '.join(str(error).split())[:300]}", ""
        return f"{ours.where}: {ours.what}" if ours.where else ours.what, ours.fix
    return None


def _main(question: str, answer: str) -> None:
    faults = {row: _fault(**asked) for row, asked in read_json(Path(question)).items()}
    write_json(Path(answer), {row: fault for row, fault in faults.items() if fault})


if __name__ == "__main__":
    _main(*sys.argv[1:])
