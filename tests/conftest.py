"""Fixtures that every test folder shares: real data, judges, seeds, subprocesses."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAIN_PATIENTS, VALIDATION_PATIENTS = 3, 1


def unavailable(reason: str) -> None:
    """Skip with a reason; fail instead where REQUIRE_JUDGES=1 says that everything must be present."""
    if os.environ.get("REQUIRE_JUDGES") == "1":
        pytest.fail(f"REQUIRE_JUDGES=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Same random numbers in every test, whatever ran before; torch only where something imported it already."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    yield


@pytest.fixture(scope="session")
def root() -> Path:
    """Folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with specifications and real data: MTL_MED_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("MTL_MED_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        unavailable(f"the shared data are not at {folder} (set MTL_MED_SHARED)")
    return folder


@pytest.fixture(scope="session")
def openkbp_source(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `provided-data` folder of real OpenKBP patients, raw CSV: 3 in train-pats, 1 in validation-pats."""
    source = tmp_path_factory.mktemp("openkbp") / "provided-data"
    for split, count in (("train-pats", TRAIN_PATIENTS), ("validation-pats", VALIDATION_PATIENTS)):
        archives = sorted(
            (shared_dir / "data" / "openkbp" / split).glob("pt_*.tar.xz"),
            key=lambda path: int(path.name.removeprefix("pt_").removesuffix(".tar.xz")),
        )
        if len(archives) < count:
            unavailable(f"the real OpenKBP patients are not in {shared_dir / 'data' / 'openkbp' / split}")
        for archive in archives[:count]:
            with tarfile.open(archive) as packed:
                packed.extractall(source / split, filter="data")
    return source


@pytest.fixture(scope="session")
def require_judge() -> Callable[[str], str]:
    """`require_judge("plastimatch")` gives the path of a program or the origin of a module, or skips the test."""

    def require(name: str) -> str:
        program = shutil.which(name)
        if program:
            return program
        module = importlib.util.find_spec(name) if name.isidentifier() else None
        if module is None:
            unavailable(f"the judge '{name}' is not installed")
        return str(module.origin) if module else ""

    return require


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python("-m", "mtl_med", "--help")` runs this interpreter in the checkout; returns the finished process."""

    def run(
        *arguments: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
