"""`mtl-med demo`: the documented commands one after the other, from raw data to a table and files to open."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mtl_med.errors import EXIT_OK, MtlMedError, UsageError
from mtl_med.files import shipped

__all__ = ["DEMOS", "SPLIT", "Demo", "Step", "add_arguments", "create_demo", "run"]

DEMOS = {
    "openkbp_dose_oar_segmentation": "mtl_med.demo_doses.DoseDemo",
    "ham10000_lesion_classification": "mtl_med.demo_images.LesionDemo",
    "stoic_covid_classification": "mtl_med.demo_images.ChestDemo",
}
"""Bundle -> the class that shows it, imported when it is needed."""

SPLIT = "validation"
Step = tuple[str, list[str]]
"""Title and command."""


@dataclass(frozen=True)
class Demo(ABC):
    """What a demo does and where; those of a bundle derive from it.

    Args:
        out: folder of everything it writes.
        data: folder of real patients; None for phantoms.
        minutes: length of the training.
        method: a method's name.
        workers: number of processes.
    """

    out: Path
    data: Path | None = None
    minutes: float = 1.0
    method: str = "ctan"
    workers: int = 2

    bundle: ClassVar[str]
    dataset: ClassVar[str]
    raw: ClassVar[str]  # what the folder of real patients is called
    training: ClassVar[tuple[str, ...]]  # overrides that suit a training of minutes

    @property
    def source(self) -> Path:
        """The raw data."""
        return self.data or self.out / "phantoms"

    @property
    def study(self) -> Path:
        """The study folder."""
        return self.out / "study"

    @property
    def predictions(self) -> Path:
        """What was predicted."""
        return self.out / "predictions"

    @abstractmethod
    def make_phantoms(self) -> None:
        """Write the raw data that are made up."""

    @abstractmethod
    def steps(self) -> list[Step]:
        """Every step behind the raw data, as one would type it."""

    @abstractmethod
    def result(self) -> Iterable[str]:
        """The short table, and what to open."""

    def prepare(self, what: str) -> Step:
        """The step from raw data to the study folder."""
        folders = ("--source", str(self.source), "--out", str(self.study), "--workers", str(self.workers))
        return f"prepare: {what}", ["python", "-m", "mtl_med.prep", self.dataset, *folders]

    def train(self) -> Step:
        """The step that trains the bundle."""
        options = ("--output_dir", f"{self.out}/model", "--method", self.method, *self.training)
        title = f"train {self.method.upper()} for {self.minutes:g} minutes (MONAI bundle)"
        return title, self._monai("train", *options, "--minutes", f"{self.minutes:g}")

    def predict(self, what: str, *options: str) -> Step:
        """The step that predicts the validation cases."""
        given = ("--output_dir", str(self.predictions), "--weights", f"{self.out}/model/model.pt")
        splits = ("--splits", f"['{SPLIT}']", *options)
        return f"predict {what} (MONAI bundle)", self._monai("inference", *given, *splits)

    def evaluate(self, title: str, predictions: str, out: str, *options: str) -> Step:
        """A step that scores predictions."""
        words = ["mtl-med", "evaluate", "--study", str(self.study), "--split", SPLIT, "--workers", str(self.workers)]
        return title, [*words, "--predictions", predictions, "--out", out, *options]

    def report(self, *others: str) -> Step:
        """The step that makes pages of the predictions, compared with others."""
        words = ["mtl-med", "report", "--study", str(self.study), "--predictions", str(self.predictions), *others]
        return "make pages to look at", [*words, "--out", f"{self.out}/report", "--workers", str(self.workers)]

    def _monai(self, config: str, *options: str) -> list[str]:
        bundle = _short(shipped("bundles") / self.bundle)
        start = ("python", "-m", "monai.bundle", "run", "--bundle_root", bundle, "--dataset_dir", str(self.study))
        return [*start, "--config_file", f"{bundle}/configs/{config}.json", *options]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med demo`."""
    first = next(iter(DEMOS))
    parser.add_argument("--bundle", choices=DEMOS, default=first, help=f"what to show (default: {first})")
    about = "folder of everything it writes (default: demo; of the other bundles demo-ham10000, demo-stoic)"
    parser.add_argument("--out", type=Path, help=about)
    about = "real patients: open-kbp/provided-data, or what else the bundle's data set is published as"
    parser.add_argument("--data", type=Path, help=f"{about} (default: phantoms are made)")
    about = "length of the training (default: 3.5; of the other bundles 1)"
    parser.add_argument("--minutes", type=float, help=about)
    parser.add_argument("--method", default="ctan", help="method to train (default: ctan; see: mtl-med info methods)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Run every step and print the result; a step that fails ends the demo with its exit code."""
    demo = create_demo(args)
    start = time.monotonic()
    _check(demo)
    steps = demo.steps()
    total = len(steps) + (demo.data is None)
    if demo.data is None:
        _headline(1, total, "make phantom patients: made up by a program, never real ones")
        demo.make_phantoms()
    for number, (title, command) in enumerate(steps, start=total - len(steps) + 1):
        _headline(number, total, title)
        _run_step(command)
    _say("")
    for line in demo.result():
        _say(line)
    _say(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")
    return EXIT_OK


def create_demo(args: argparse.Namespace) -> Demo:
    """The demo that was asked for, with the defaults of its bundle."""
    module, _, name = DEMOS[args.bundle].rpartition(".")
    kind: type[Demo] = getattr(importlib.import_module(module), name)
    out = args.out or Path("demo" if args.bundle == next(iter(DEMOS)) else f"demo-{kind.dataset}")
    minutes = {} if args.minutes is None else {"minutes": args.minutes}
    return kind(out, args.data, method=args.method, workers=args.workers, **minutes)


def _check(demo: Demo) -> None:
    """Refuse what would fail minutes later, or mix phantoms with patients."""
    if demo.minutes <= 0:
        raise UsageError(
            f"the training cannot last {demo.minutes:g} minutes", where="--minutes", fix="Give more than 0"
        )
    if demo.workers < 1:
        raise UsageError(f"{demo.workers} processes cannot work", where="--workers", fix="Give 1 or more")
    if demo.data is None:
        if demo.study.exists() and not demo.source.exists():
            raise UsageError("holds a study that is not of phantoms", where=demo.out, fix="Choose another --out")
        return
    if not demo.data.is_dir():
        raise UsageError("is no folder", where=demo.data, fix=f"Give the folder {demo.raw}")
    if (demo.out / "phantoms").exists():
        raise UsageError("holds a demo of phantoms", where=demo.out, fix="Choose another --out for real patients")


def _run_step(command: Sequence[str]) -> None:
    """Print a command as one would type it, then run it with its output going straight to the terminal."""
    _say(f"$ {shlex.join(command)}\n")
    programs = {"python": [sys.executable], "mtl-med": [sys.executable, "-m", "mtl_med"]}
    code = subprocess.run(
        [*programs[command[0]], *command[1:]], env=os.environ | {"PYTHONUNBUFFERED": "1"}, check=False
    ).returncode
    if code:
        error = MtlMedError(
            f"the step ended with exit code {code}",
            where=shlex.join(command[:4]),
            fix="Its message stands above; the same command can be run alone",
        )
        error.exit_code = code if code > 0 else 1  # negative: ended by a signal
        raise error


def _headline(number: int, total: int, title: str) -> None:
    _say(f"\n[{number}/{total}] {title}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
