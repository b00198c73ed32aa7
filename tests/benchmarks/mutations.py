"""Damaged DICOM files in bulk: `python -m tests.benchmarks.mutations [--seeds 2000]`.

Each seed takes a study of a phantom in the manner of one vendor, changes bytes of one of its files (CT, RTSTRUCT,
RTPLAN or RTDOSE; see `tests.mutations`), lays an unchanged study of another patient beside it, and prepares both as the
command does. The other patient has to be converted as ever, and the damaged one has to end in a case or in a sentence,
within memory and time; nothing may appear outside the output folder. Prints what became of them.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from mtl_med.errors import MtlMedError
from mtl_med.phantoms import make_pelvis
from mtl_med.phantoms.dicom import write_dicom_study
from mtl_med.phantoms.dicom_style import VENDORS, DicomStyle
from mtl_med.prep.engine import prepare
from mtl_med.prep.recipe import load_recipe
from tests.mutations import mutated

KINDS = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")
GROWTH_MIB = 512  # of a process by a damaged file; one of the undamaged studies takes a tenth of it
CPU_S, WALL_S = 10, 60  # for both studies; 0.5 s is usual
STRUCTURES = 7  # of the other patient


def main() -> None:
    """Prepare, and print what became of the seeds; ends with 1 where one did what it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.mutations", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first seed")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(Path(folder), range(args.first, args.first + args.seeds), args.workers))


def measure(work: Path, seeds: range, workers: int) -> int:
    """Number of seeds that went wrong."""
    for number, vendor in enumerate(VENDORS):
        write_study(work / "whole" / vendor, number, vendor)
    write_study(work / "whole" / "other", len(VENDORS), next(iter(VENDORS)))
    found: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    slowest = largest = 0.0
    with ProcessPoolExecutor(workers, initializer=bounded) as pool:
        try:
            for seed, (kind, outcome, seconds, mib) in zip(seeds, pool.map(partial(one, work), seeds), strict=True):
                slowest, largest = max(slowest, seconds), max(largest, mib)
                found[kind, outcome.partition(":")[0]] += 1
                if outcome.startswith("WRONG"):
                    wrong.append(f"seed {seed}, {kind}: {outcome}")
        except BrokenProcessPool:
            wrong.append("a process crashed, or was killed")
    print(f"{len(seeds)} damaged files, each prepared beside a whole study of another patient")
    for (kind, outcome), count in sorted(found.items()):
        print(f"  {kind:<10}{outcome:<50}{count:6}")
    print(f"most CPU for both: {slowest:.2f} s (bound: {CPU_S} s); most memory of a process: {largest:.0f} MiB")
    print("\n".join(wrong[:20]) or "none crashed, hung, wrote elsewhere, or hindered the other patient")
    return min(len(wrong), 1)


def write_study(folder: Path, number: int, vendor: str) -> None:
    """A small study, with one name per kind of file."""
    style = DicomStyle.like(vendor)
    write_dicom_study(make_pelvis(number, shape=(32, 32, 16)), folder, options=style, patient_id=folder.name.upper())


def bounded() -> None:
    """In a worker: memory is bounded, what hangs is ended, and nothing is logged."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _too_long)
    import mtl_med.io.dicom_series
    import mtl_med.io.rtdose_choice
    import mtl_med.io.rtstruct  # noqa: F401 (before the memory is measured, of which imports need the most)

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (GROWTH_MIB << 20),) * 2)


def _too_long(*_: object) -> None:
    raise TimeoutError


def one(work: Path, seed: int) -> tuple[str, str, float, float]:
    """Kind of the damaged file, what became of it, CPU seconds, and peak memory of the process so far beyond 0, MiB."""
    rng = random.Random(seed)
    vendor, kind = rng.choice(list(VENDORS)), rng.choice(KINDS)
    folder = work / f"seed {seed}"
    source = folder / "source"
    for name, study in (("damaged", vendor), ("other", "other")):
        shutil.copytree(work / "whole" / study, source / name, copy_function=os.link)
    victim = rng.choice(of_kind(source / "damaged", kind))
    data = mutated(victim.read_bytes(), rng)
    victim.unlink()
    victim.write_bytes(data)
    before, started = listing(folder), time.process_time()
    signal.alarm(WALL_S)
    try:
        outcome = prepared(source, folder / "study")
    except TimeoutError:
        outcome = f"WRONG: goes on after {WALL_S} s"
    finally:
        signal.alarm(0)
    seconds = time.process_time() - started
    if seconds > CPU_S:
        outcome = f"WRONG: took {seconds:.1f} s"
    if strange := [path for path in listing(folder) ^ before if path.parts[0] != "study"]:
        outcome = f"WRONG: wrote or removed {strange[0]}"
    shutil.rmtree(folder)
    return kind, outcome, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_kind(folder: Path, kind: str) -> list[Path]:
    """Files of a study, by their Modality."""
    from mtl_med.io.dicom import read_header
    from mtl_med.io.dicom_items import term

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if term(read_header(path), "Modality") == kind]


def listing(folder: Path) -> set[Path]:
    """All that lies below a folder."""
    return {path.relative_to(folder) for path in folder.rglob("*")}


def prepared(source: Path, out: Path) -> str:
    """What became of the damaged patient, in a few words."""
    try:
        report = prepare(load_recipe("dicom_rt"), source, out)
    except MtlMedError as error:
        return f"WRONG: nothing was converted: {error}"
    except MemoryError:
        return "WRONG: ran out of memory"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    other = [case for case in report.manifest if case.id.startswith("OTHER") and case.has("dose")]
    if unexpected := [reason for reason in report.failed.values() if "unexpected" in reason]:
        return f"WRONG: {unexpected[0]}"
    if not other or len(other[0].structures) < STRUCTURES:
        return f"WRONG: the other patient is not there: {report.failed}"
    if report.failed:
        return "failed with a sentence"
    return "converted" if len(report.manifest) == 2 else "no case"


if __name__ == "__main__":
    main()
