"""`make bench`: the figures that must not get worse, all measured in this one run, on phantoms.

Other load on a machine doubles times, so that ratios and peak memory are what to compare between machines and days.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = ("hps", "ctan", "mtan", "stl")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--steps", type=int, default=7, help="training steps per method, behind two to warm up")
    parser.add_argument("--patients", type=int, default=6, help="phantom patients")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="methods to time; hps is the yardstick")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """All measurements, printed as they come."""
    for program in ("mtl_med", "mtl_med.prep"):
        line(f"python -m {program} --help", help_seconds(program), "s (best of 3)")
    raw, study = folder / "raw", folder / "study"
    line("phantom patient", phantom_seconds(raw, args.patients), "s each, one process")
    for workers in (1, 2):
        seconds = prep_seconds(raw, study, workers) / args.patients
        line(f"prepared patient, {workers} worker{'s' * (workers > 1)}", seconds, "s each, start-up included")
    for workers in (0, 1):
        line(f"loader, {workers} workers", samples_per_second(study, workers), "samples/s, cached")
    report_steps([step(study, method, args.steps) for method in args.methods])


def line(label: str, value: float, unit: str) -> None:
    """One figure."""
    print(f"{label:<34}{value:10.3f} {unit}", flush=True)


def run(*arguments: str | Path) -> str:
    """Output of this interpreter run with arguments; its messages are shown when it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def help_seconds(program: str) -> float:
    """Seconds until the help is there."""
    return min(timed(lambda: run("-m", program, "--help")) for _ in range(3))


def timed(call: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def phantom_seconds(raw: Path, patients: int) -> float:
    """Seconds to make one phantom patient and write it."""
    from mtl_med.phantoms import write_openkbp_cohort

    return timed(lambda: write_openkbp_cohort(raw, train=patients - 1, validation=1, workers=1)) / patients


def prep_seconds(raw: Path, study: Path, workers: int) -> float:
    """Seconds of a whole preparation from scratch."""
    words = ("openkbp", "--source", raw, "--out", study, "--workers", str(workers), "--overwrite")
    return timed(lambda: run("-m", "mtl_med.prep", *words))


def samples_per_second(study: Path, workers: int, samples: int = 40) -> float:
    """Augmented training patches per second from the cache."""
    script = (
        "import sys, time; from tests.benchmarks.step import bundle_parser\n"
        "parser = bundle_parser(sys.argv[1], 'hps'); parser['workers'] = int(sys.argv[2]); parser.parse()\n"
        "loader, wanted, seen = parser.get_parsed_content('train#dataloader'), int(sys.argv[3]), 0\n"
        "for _ in loader: pass\n"  # fills the cache and starts the workers
        "start = time.perf_counter()\n"
        "while seen < wanted:\n"
        "    for batch in loader: seen += len(batch['image'])\n"
        "print(seen / (time.perf_counter() - start))"
    )
    return float(run("-c", script, study, str(workers), str(samples)).split()[-1])


def step(study: Path, method: str, steps: int) -> dict[str, Any]:
    """One method's figures from a process of its own."""
    return json.loads(run("-m", "tests.benchmarks.step", study, method, str(steps)).splitlines()[-1])


def report_steps(results: list[dict[str, Any]]) -> None:
    """Step times and memory, and their ratios to hps."""
    base = next((result for result in results if result["method"] == "hps"), results[0])
    patch = "x".join(map(str, base["patch"]))
    print(f"\ntraining step, batch 1, {patch}, {base['precision']} on {base['device']}; ratios to {base['method']}")
    print("method    M par.   step s  convs s  step/convs  peak MiB  time ratio  memory ratio")
    for result in results:
        time_ratio, memory_ratio = result["step_s"] / base["step_s"], result["peak_mib"] / base["peak_mib"]
        print(
            f"{result['method']:<8}{result['parameters'] / 1e6:8.2f}{result['step_s']:9.3f}"
            f"{result['convolutions_s']:9.3f}{result['step_s'] / result['convolutions_s']:12.2f}"
            f"{result['peak_mib']:10.0f}{time_ratio:12.2f}{memory_ratio:14.2f}"
        )


if __name__ == "__main__":
    main()
