"""Preparation on real patients: `python -m tests.benchmarks.prep --source provided-data [--patients 40]`.

Prints the CPU time of reading the CSV files over pandas' on the same files, seconds per patient with one and with two
workers, and the peak memory of all processes together. Other load on the machine spoils the speed-up, not the ratio of
CPU times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mtl_med.io.sparse_csv import read_sparse_csv
from mtl_med.prep.readers.openkbp import VOXELS, scan
from mtl_med.prep.recipe import load_recipe

VALUED = {"ct.csv", "dose.csv"}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.prep", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw data, as published")
    parser.add_argument("--patients", type=int, help="only so many patients")
    parser.add_argument("--repeats", type=int, default=3, help="how often each patient's files are read")
    args = parser.parse_args()
    ours, theirs = csv_cpu_seconds(args.source, args.patients, args.repeats)
    line("reading CSV, pandas.read_csv", theirs, "CPU s")
    line("reading CSV, mtl_med", ours, "CPU s")
    line("ratio (goal: at most 0.4)", ours / theirs, "")
    walls = {workers: preparation(args.source, args.patients, workers) for workers in (1, 2)}
    line("speed-up of two workers (goal: 1.7)", walls[1] / walls[2], "")


def line(label: str, value: float, unit: str) -> None:
    """One figure."""
    print(f"{label:<40}{value:10.3f} {unit}", flush=True)


def csv_cpu_seconds(source: Path, patients: int | None, repeats: int) -> tuple[float, float]:
    """CPU seconds of reading all sparse CSV files: ours and pandas', file by file in turn, the best of the repeats."""
    import pandas as pd

    totals = [0.0, 0.0]
    for case in scan(source, load_recipe("openkbp"))[:patients]:
        files = [path for path in case.files if path.name != "voxel_dimensions.csv"]
        best = [float("inf")] * 2
        for _ in range(repeats):
            for index, read in enumerate((read_ours, pd.read_csv)):
                start = time.process_time()
                for path in files:
                    read(path)
                best[index] = min(best[index], time.process_time() - start)
        totals = [total + seconds for total, seconds in zip(totals, best, strict=True)]
    return totals[0], totals[1]


def read_ours(path: Path) -> None:
    """Read one file with all its checks."""
    read_sparse_csv(path, voxels=VOXELS, valued=path.name in VALUED)


def preparation(source: Path, patients: int | None, workers: int) -> float:
    """Wall seconds of a preparation from scratch; prints them with the CPU time and the peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["openkbp", "--source", str(source), "--out", f"{folder}/study", "--workers", str(workers)]
        words += ["--limit", str(patients)] if patients else []
        before, start = os.times(), time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "mtl_med.prep", *words], start_new_session=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, session_mib(process.pid))
            time.sleep(0.5)  # to look takes time from what is looked at
        wall, after = time.perf_counter() - start, os.times()
        if process.returncode:
            sys.exit(f"preparation ended with {process.returncode}")
        count = len(list(Path(folder, "study", "cases").iterdir()))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    line(f"{count} patients, {workers} worker{'s' * (workers > 1)}", wall, "s")
    line("    each", wall / count, "s")
    line("    each, CPU", cpu / count, "s")
    line("    peak memory of all processes", peak, "MiB")
    return wall


def session_mib(session: int) -> float:
    """Memory of all processes of a session, pages that they share counted once, MiB."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                total += int((path / "smaps_rollup").read_text().partition("Pss:")[2].split()[0])
        except (OSError, IndexError, ValueError):
            continue  # it has ended
    return total / 1024


if __name__ == "__main__":
    main()
