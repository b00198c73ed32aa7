"""DICOM-RT to NIfTI against plastimatch: `python -m tests.benchmarks.dicom [--source STUDY ...] [--cohort N]`.

A made-up study of 140 x 512 x 512 voxels with 16 structures, and real ones that are given, are converted by turns by
`python -m mtl_med.prep dicom_rt` (one worker, picture and quality page included) and by `plastimatch convert`; times
are the best of some rounds, memory is the peak of the process, sizes are those of all files of CT, structures and dose.
plastimatch leaves the dose on its own grid, and is also timed with the dose brought to the CT's grid (`--fixed`), which
is what a study folder holds. Then a cohort of small phantoms: memory over the number of cases, one worker against two.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import write_dicom_study
from mtl_med.phantoms.dicom_cohort import write_dicom_cohort
from mtl_med.phantoms.dicom_style import DicomStyle
from tests.benchmarks.prep import session_mib


@dataclass
class Cost:
    """What a conversion took.

    Args:
        seconds: wall time, the best of the rounds.
        mib: largest peak of memory.
        size: of its files, MiB.
    """

    seconds: float = float("inf")
    mib: float = 0.0
    size: float = 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dicom", description=__doc__)
    parser.add_argument("--source", type=Path, nargs="*", default=[], help="real studies, one folder each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cohort", type=int, default=200, help="small phantom studies; 0 leaves them out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large"
        write_large(large)
        for study in [large, *args.source]:
            against_plastimatch(study, Path(folder), args.rounds)
        if args.cohort:
            cohort(Path(folder), args.cohort)


def write_large(folder: Path) -> None:
    """140 slices of 512 x 512, 16 structures: those of a pelvis and balls beside them."""
    phantom = make_pelvis(0, shape=(160, 128, 96))
    own = len(phantom.structures)
    style = DicomStyle(
        size=(512, 512, 140),
        pixel_spacing_mm=(0.98, 0.98),
        slice_spacing_mm=3.0,
        noise_hu=12.0,
        extra_rois=tuple(f"ball {number}" for number in range(16 - own)),
    )
    write_dicom_study(phantom, folder, options=style)


def run(words: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak memory in MiB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - start, used.ru_maxrss / 1024


def size_mib(folder: Path) -> float:
    """Of all NIfTI files."""
    return sum(path.stat().st_size for path in folder.rglob("*.nii.gz")) / 2**20


def against_plastimatch(study: Path, work: Path, rounds: int) -> None:
    """Print one table."""
    if shutil.which("plastimatch") is None:
        sys.exit("plastimatch is not installed: make judges")
    costs = {name: Cost() for name in ("mtl_med", "plastimatch", "plastimatch, dose on the CT's grid")}
    for _ in range(rounds):
        for name, cost in costs.items():
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            seconds, mib = run(command(name, study, out))
            cost.seconds, cost.mib, cost.size = min(cost.seconds, seconds), max(cost.mib, mib), size_mib(out)
    print(f"\n{study.name}: CT, structures and dose to NIfTI, best of {rounds} rounds by turns")
    print(f"{'':<38}seconds   peak MiB   files MiB")
    for name, cost in costs.items():
        print(f"{name:<36}{cost.seconds:9.2f}{cost.mib:11.0f}{cost.size:12.1f}")
    ours = costs["mtl_med"]
    for name in list(costs)[1:]:
        other = costs[name]
        print(
            f"over {name:<31}{ours.seconds / other.seconds:9.2f}{ours.mib / other.mib:11.2f}"
            f"{ours.size / other.size:12.2f}",
            flush=True,
        )


def command(name: str, study: Path, out: Path) -> list[str]:
    """What one would type."""
    if name == "mtl_med":
        words = ["dicom_rt", "--source", str(study), "--out", str(out / "study"), "--workers", "1"]
        return [sys.executable, "-m", "mtl_med.prep", *words]
    words = ["plastimatch", "convert", "--input", str(study), "--output-prefix", str(out / "structures")]
    words += ["--prefix-format", "nii.gz", "--output-img", str(out / "ct.nii.gz")]
    words += ["--output-dose-img", str(out / "dose.nii.gz"), "--prune-empty"]
    if name != "plastimatch":
        fixed = out.parent / f"{study.name}.nii.gz"
        if not fixed.is_file():
            run(["plastimatch", "convert", "--input", str(study), "--output-img", str(fixed)])
        words += ["--fixed", str(fixed)]
    return words


def cohort(work: Path, patients: int) -> None:
    """Memory over the number of cases, and the gain of a second worker."""
    raw = work / "cohort"
    write_dicom_cohort(raw, patients=patients, shape=(48, 40, 32), workers=2)
    walls = {}
    print(f"\n{patients} small phantom studies")
    for count, workers in ((patients // 4, 1), (patients, 1), (patients, 2)):
        study = work / "study"
        shutil.rmtree(study, ignore_errors=True)
        words = ["dicom_rt", "--source", str(raw), "--out", str(study), "--workers", str(workers)]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "mtl_med.prep", *words, "--limit", str(count)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, session_mib(process.pid))
            time.sleep(0.1)
        walls[count, workers] = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"preparation ended with {process.returncode}")
        told = f"{count} cases, {workers} worker{'s' * (workers > 1)}"
        print(f"{told:<36}{walls[count, workers]:9.1f} s{peak:9.0f} MiB", flush=True)
    print(f"speed-up of two workers (goal: 1.7)  {walls[patients, 1] / walls[patients, 2]:8.2f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
