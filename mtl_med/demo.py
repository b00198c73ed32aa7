"""`mtl-med demo`: the documented commands one after the other, from raw data to a table and files for 3D Slicer."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_med.errors import EXIT_OK, MtlMedError, UsageError
from mtl_med.files import shipped

__all__ = ["Demo", "add_arguments", "run"]

BUNDLE = "openkbp_dose_oar_segmentation"
SPLIT = "validation"
BASELINE = "combination"
# Phantoms: enough to learn from within minutes on two cores.
TRAIN_PATIENTS, VALIDATION_PATIENTS, TRAIN_MINUTES = 14, 3, 3.5
# Pelvises as DICOM, one in the manner of each vendor.
DICOM_PATIENTS, DICOM_SHAPE = 5, (96, 80, 56)
# Many cheap steps: in a few minutes small patches learn more than large ones.
SHORT_TRAINING = ("--patch_size", "[64, 64, 64]", "--repeats", "10")


@dataclass(frozen=True)
class Demo:
    """What the demo does and where.

    Args:
        out: folder of everything it writes.
        data: folder of real patients (`provided-data`); None for phantoms.
        minutes: length of the training.
        method: a method's name.
        workers: number of processes.
    """

    out: Path
    data: Path | None = None
    minutes: float = TRAIN_MINUTES
    method: str = "ctan"
    workers: int = 2

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
        """One folder per predicted case."""
        return self.out / "predictions"

    @property
    def exports(self) -> Path:
        """What a clinic's export would be."""
        return self.out / "exports"

    def dicom_steps(self) -> list[tuple[str, list[str]]]:
        """The same for DICOM studies: to a study folder, and a dose back to DICOM."""
        study = str(self.out / "dicom_study")
        prep = ["--source", str(self.exports), "--out", study, "--workers", str(self.workers)]
        return [
            ("look at a clinic's DICOM export", ["python", "-m", "mtl_med.prep", "dicom_rt", *prep[:2], "--check"]),
            ("prepare it without names", ["python", "-m", "mtl_med.prep", "dicom_rt", *prep, "--deidentify"]),
        ]

    def steps(self) -> list[tuple[str, list[str]]]:
        """Title and command of every step behind the raw data, as one would type them."""
        bundle = _short(shipped("bundles") / BUNDLE)
        out, study, model = str(self.out), str(self.study), str(self.out / "model")
        monai = ["python", "-m", "monai.bundle", "run", "--bundle_root", bundle, "--dataset_dir", study]
        evaluate = ["mtl-med", "evaluate", "--study", study, "--split", SPLIT, "--workers", str(self.workers)]
        prep = ["--source", str(self.source), "--out", study, "--workers", str(self.workers)]
        return [
            ("prepare: raw CSV to a study folder of NIfTI files", ["python", "-m", "mtl_med.prep", "openkbp", *prep]),
            (
                f"train {self.method.upper()} for {self.minutes:g} minutes (MONAI bundle)",
                [
                    *monai,
                    *("--config_file", f"{bundle}/configs/train.json", "--output_dir", model),
                    *("--method", self.method, "--inputs", "ct+ptv", *SHORT_TRAINING),
                    *("--minutes", f"{self.minutes:g}"),
                ],
            ),
            (
                "predict dose and organs of the validation patients (MONAI bundle)",
                [
                    *monai,
                    *("--config_file", f"{bundle}/configs/inference.json", "--output_dir", str(self.predictions)),
                    *("--weights", f"{model}/model.pt", "--splits", f"['{SPLIT}']"),
                ],
            ),
            (
                "for comparison: the median dose per combination of structures",
                ["mtl-med", "baseline", "--kind", BASELINE, "--study", study, "--out", f"{out}/baseline"],
            ),
            ("score the comparison", [*evaluate, "--predictions", f"{out}/baseline", "--out", f"{out}/baseline.csv"]),
            ("score the network", [*evaluate, "--predictions", str(self.predictions), "--out", f"{out}/metrics.csv"]),
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything it writes (default: demo)")
    parser.add_argument("--data", type=Path, help="real patients: open-kbp/provided-data (default: phantoms are made)")
    parser.add_argument(
        "--minutes", type=float, default=TRAIN_MINUTES, help=f"length of the training (default: {TRAIN_MINUTES:g})"
    )
    parser.add_argument("--method", default="ctan", help="method to train (default: ctan; see: mtl-med info methods)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Run every step and print the result; a step that fails ends the demo with its exit code."""
    demo = Demo(args.out, args.data, args.minutes, args.method, args.workers)
    start = time.monotonic()
    _check(demo)
    steps = demo.steps()
    if demo.data is None:
        steps += demo.dicom_steps()
    total = len(steps) + (demo.data is None)
    if demo.data is None:
        _headline(1, total, "make phantom patients: made up by a program, never real ones")
        _make_phantoms(demo)
    for number, (title, command) in enumerate(steps, start=total - len(steps) + 1):
        _headline(number, total, title)
        _run_step(command)
    _say("")
    for line in _result(demo):
        _say(line)
    _say(f"Planned beside predicted dose: {', '.join(map(str, _pictures(demo)))}")
    _say(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")
    return EXIT_OK


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
        raise UsageError("is no folder", where=demo.data, fix="Give the folder provided-data of open-kbp")
    if (demo.out / "phantoms").exists():
        raise UsageError("holds a demo of phantoms", where=demo.out, fix="Choose another --out for real patients")


def _make_phantoms(demo: Demo) -> None:
    from mtl_med.phantoms import write_openkbp_cohort
    from mtl_med.phantoms.dicom_cohort import write_dicom_cohort

    write_dicom_cohort(demo.exports, patients=DICOM_PATIENTS, shape=DICOM_SHAPE, workers=demo.workers)
    write_openkbp_cohort(demo.source, train=TRAIN_PATIENTS, validation=VALIDATION_PATIENTS, workers=demo.workers)


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


def _result(demo: Demo) -> Iterable[str]:
    """The short table, the comparison beside it, and what to open."""
    from mtl_med.metrics.rows import read_rows
    from mtl_med.metrics.summary import overall

    rows = read_rows(demo.out / "metrics.csv")
    ours, baseline = overall(rows), overall(read_rows(demo.out / "baseline.csv"))
    cases = sorted({row.case for row in rows if row.case})
    who = "real patients" if demo.data else "phantom patients, which say nothing about real ones"
    yield f"Result on {len(cases)} {who}: {demo.method.upper()} after {demo.minutes:g} minutes of training"
    yield f"  {'':<20}{demo.method.upper():>8}   median dose per combination of structures"
    for key, label in (("dose_score", "dose score (Gy)"), ("dvh_score", "DVH score (Gy)")):
        below = 100 * (1 - ours[key] / baseline[key])
        gap = f"{below:.0f} % below" if below >= 0 else f"{-below:.0f} % above"
        yield f"  {label:<20}{ours[key]:8.2f}   {baseline[key]:.2f} ({gap} it)"
    for key, value in ours.items():
        if key.startswith("dice/"):
            yield f"  Dice {key.removeprefix('dice/'):<15}{value:8.2f}"
    yield f"  {'mean Dice':<20}{ours['mean_dice']:8.2f}"
    yield ""
    yield f"Every score: {demo.out / 'metrics.csv'}"
    yield "Open in 3D Slicer (File > Add Data), dose in Gy, overlapping structures kept:"
    for name in ("ct.nii.gz", "dose.nii.gz", "structures.seg.nrrd"):
        yield f"  {demo.predictions / cases[0] / name}"
    yield f"The truth beside it: {demo.study / 'cases' / cases[0]}"
    yield f"Which cases to look at: {demo.study / 'quality.html'}"
    if demo.data is None:
        yield f"The same of made-up pelvises from DICOM: {demo.out / 'dicom_study' / 'quality.html'}"


def _pictures(demo: Demo) -> list[Path]:
    """Draw every predicted case."""
    from mtl_med.manifest import Manifest
    from mtl_med.pictures import case_picture

    drawn = []
    for case in Manifest.read(demo.study):
        if (demo.predictions / case.id).is_dir():
            drawn.append(demo.out / f"{case.id}.png")
            case_picture(case, demo.predictions / case.id, drawn[-1])
    return drawn


def _headline(number: int, total: int, title: str) -> None:
    _say(f"\n[{number}/{total}] {title}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
