"""The help of the command is quick, and imports nothing that computes."""

from __future__ import annotations

import time

from mtl_med.io.rtdose_choice import ALLOWANCES
from mtl_med.prep.command import DOSES

LATE = ("torch", "monai", "numpy", "pandas", "nibabel", "SimpleITK", "scipy")


def test_help_imports_nothing_that_computes(run_python) -> None:
    script = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('IMPORTED', [name for name in {LATE} if name in sys.modules]))\n"
        "sys.argv = ['prep', '--help']\n"
        "runpy.run_module('mtl_med.prep', run_name='__main__')"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_help_is_quick_and_has_an_example(run_python) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        done = run_python("-m", "mtl_med.prep", "--help")
        assert "python -m mtl_med.prep openkbp --source open-kbp/provided-data" in done.stdout
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0


def test_both_ways_share_one_parser(run_python) -> None:
    alone = run_python("-m", "mtl_med.prep", "--help").stdout
    under = run_python("-m", "mtl_med", "prep", "--help").stdout
    assert alone.replace("python -m mtl_med.prep", "mtl-med prep").split() == under.split()


def test_the_help_knows_every_kind_of_dose() -> None:
    assert DOSES == ALLOWANCES
