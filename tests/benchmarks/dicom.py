"""DICOM-RT to NIfTI against plastimatch: `python -m tests.benchmarks.dicom [--source STUDY ...] [--cohort N]`.

A made-up study of 140 x 512 x 512 voxels with 16 structures, and real ones that are given, are converted by turns by
`python -m mtl_med.prep dicom_rt` (start of Python, hashes, quality table and page and picture included) and by
`plastimatch convert`. Wall and CPU times are the best of some rounds, memory is the peak of the process, sizes are
those of CT, structures and dose.

A study folder holds the dose on the grid of the CT, as `plastimatch convert --resize-dose` writes it; that is what the
goals (0.7 of its time and memory, its size within a tenth) are about. Without that option plastimatch leaves the dose
on its own, far smaller grid; that is told too. plastimatch writes a CT as float32 by default, which takes it longer:
the size of the same int16 as ours, and the time with all volumes in int16, come from `--output-type short`.

Then a cohort of small phantoms: memory over the number of cases, and one worker against two,
the best of as many rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtl_med.geometry import reorient
from mtl_med.io.nifti import read_nifti
from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import write_dicom_study
from mtl_med.phantoms.dicom_cohort import write_dicom_cohort
from mtl_med.phantoms.dicom_style import DicomStyle
from tests.benchmarks.prep import session_mib

PLAIN, SAME_GRID, SAME_TYPE = "dose on its own grid", "dose on the CT's grid", "dose on the CT's grid, all int16"
OPTIONS = {
    PLAIN: [],
    SAME_GRID: ["--resize-dose"],
    SAME_TYPE: ["--resize-dose", "--output-type", "short"],
}


@dataclass
class Cost:
    """What a conversion took.

    Args:
        seconds: wall time, the best of the rounds.
        cpu: CPU seconds, the best of the rounds.
        mib: largest peak of memory.
        sizes: of its CT, dose and structures, MiB.
    """

    seconds: float = float("inf")
    cpu: float = float("inf")
    mib: float = 0.0
    sizes: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dicom", description=__doc__)
    parser.add_argument("--source", type=Path, nargs="*", default=[], help="real studies, one folder each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cohort", type=int, default=200, help="small phantom studies; 0 leaves them out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large"
        apart(write_large, large)
        for study in [large, *args.source]:
            against_plastimatch(study, Path(folder), args.rounds)
        if args.cohort:
            cohort(Path(folder), args.cohort, args.rounds)


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


def apart(function: Callable[..., None], *arguments: Path | int) -> None:
    """Call a function in a process of its own: what starts others must be small, as it counts in their peak memory."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def run(words: Sequence[str]) -> Cost:
    """What a command takes, without its sizes."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def against_plastimatch(study: Path, work: Path, rounds: int) -> None:
    """Print one table."""
    if shutil.which("plastimatch") is None:
        sys.exit("plastimatch is not installed: make judges")
    costs = {name: Cost() for name in ("", *OPTIONS)}
    for _ in range(rounds):
        for name, cost in costs.items():
            out = work / "out" / (name or "mtl_med")
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            found = run(command(name, study, out))
            cost.seconds, cost.cpu = min(cost.seconds, found.seconds), min(cost.cpu, found.cpu)
            cost.mib, cost.sizes = max(cost.mib, found.mib), sizes(out)
    ours = costs.pop("")
    apart(require_same_content, work / "out" / "mtl_med", work / "out" / SAME_GRID)
    print(f"\n{study.name}: CT, structures and dose to NIfTI, best of {rounds} rounds by turns")
    print(f"{'':<46}wall s   CPU s    MiB   files MiB")
    row("mtl_med", ours, sum(ours.sizes.values()))
    # What plastimatch does not write at once: the CT in int16, the dose in float32.
    same = costs[SAME_TYPE].sizes["ct"] + costs[SAME_GRID].sizes["dose"] + costs[SAME_GRID].sizes["structures"]
    for name, cost in costs.items():
        files = same if name == SAME_GRID else sum(cost.sizes.values())
        row(f"plastimatch, {name}", cost, files)
        told = f"{ours.seconds / cost.seconds:15.2f}{ours.cpu / cost.cpu:8.2f}{ours.mib / cost.mib:7.2f}"
        told += f"{sum(ours.sizes.values()) / files:12.2f}" if name == SAME_GRID else ""
        print(f"{'    mtl_med over it':<37}{told}", flush=True)


def row(name: str, cost: Cost, files_mib: float) -> None:
    """Its figures."""
    print(f"{name:<44}{cost.seconds:8.2f}{cost.cpu:8.2f}{cost.mib:7.0f}{files_mib:12.2f}")


def sizes(folder: Path) -> dict[str, float]:
    """MiB of the NIfTI files of CT, dose and structures; the mask of where dose is known counts as a structure."""
    found = dict.fromkeys(("ct", "dose", "structures"), 0.0)
    for path in folder.rglob("*.nii.gz"):
        stem = path.name.removesuffix(".nii.gz")
        found[stem if stem in found else "structures"] += path.stat().st_size / 2**20
    return found


def require_same_content(ours: Path, theirs: Path) -> None:
    """End unless both hold as many structures, and CT and dose on the same grid with the same values but for rounding.

    Their dose ends at other voxels than ours, so that a few may differ.
    """
    counts = [len(list(folder.rglob("structures/*.nii.gz"))) for folder in (ours, theirs)]
    if counts[0] != counts[1]:
        sys.exit(f"{counts[0]} structures against {counts[1]}")
    for name, tolerance in (("ct", 0.5), ("dose", 1e-3)):
        (path,) = ours.rglob(f"{name}.nii.gz")
        first, second = (reorient(*read_nifti(file, np.float32))[0] for file in (path, theirs / f"{name}.nii.gz"))
        apart = np.abs(first - second)
        if np.median(apart) > tolerance or np.mean(apart > tolerance) > 0.02:
            sys.exit(f"{name}: {np.mean(apart > tolerance):.1%} of the voxels differ")


def command(name: str, study: Path, out: Path) -> list[str]:
    """What one would type: plastimatch with the options of that name, or ours."""
    if not name:
        return [sys.executable, "-m", "mtl_med.prep", "dicom_rt", "--source", str(study), "--out", str(out / "study")]
    words = ["plastimatch", "convert", "--input", str(study), "--output-prefix", str(out / "structures")]
    words += ["--prefix-format", "nii.gz", "--output-img", str(out / "ct.nii.gz")]
    return [*words, "--output-dose-img", str(out / "dose.nii.gz"), "--prune-empty", *OPTIONS[name]]


def cohort(work: Path, patients: int, rounds: int) -> None:
    """Memory over the number of cases, and the gain of a second worker: one and two by turns."""
    raw, study = work / "cohort", work / "study"
    apart(write_cohort, raw, patients)
    print(f"\n{patients} small phantom studies")
    prepare_cohort(raw, study, patients // 4, workers=1)
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, seconds in walls.items():
            seconds.append(prepare_cohort(raw, study, patients, workers))
    ratios = ", ".join(f"{one / two:.2f}" for one, two in zip(walls[1], walls[2], strict=True))
    speed_up = min(walls[1]) / min(walls[2])
    print(f"speed-up of two workers (goal: 1.7)  {speed_up:8.2f}   best of {rounds} rounds; each: {ratios}")


def write_cohort(folder: Path, patients: int) -> None:
    """Studies of 48 x 40 x 32 voxels."""
    write_dicom_cohort(folder, patients=patients, shape=(48, 40, 32), workers=2)


def prepare_cohort(raw: Path, study: Path, count: int, workers: int) -> float:
    """Wall time of the preparation of some cases, seconds; prints it with CPU time and memory."""
    shutil.rmtree(study, ignore_errors=True)
    os.sync()  # what earlier commands have left to be written would be charged to this one
    words = ["dicom_rt", "--source", str(raw), "--out", str(study), "--workers", str(workers), "--limit", str(count)]
    start, before = time.perf_counter(), children_cpu()
    process = subprocess.Popen(
        [sys.executable, "-m", "mtl_med.prep", *words],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, session_mib(process.pid))
        time.sleep(0.5)  # to look takes time from what is looked at
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"preparation ended with {process.returncode}")
    told = f"{count} cases, {workers} worker{'s' * (workers > 1)}"
    cpu = children_cpu() - before
    print(f"{told:<36}{wall:9.1f} s{cpu:9.1f} CPU s{peak:9.0f} MiB", flush=True)
    return wall


def children_cpu() -> float:
    """CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
