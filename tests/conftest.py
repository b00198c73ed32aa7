"""Fixtures that every test folder shares: real data, judges, seeds, subprocesses."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from mtl_med.manifest import Case

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
def dicom_rt_data(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `eclipse_prostate/` (a real RTSTRUCT and RTDOSE) and `one_defect_files/`. Read only."""
    folder = tmp_path_factory.mktemp("dicom_rt")
    for name in ("eclipse_prostate", "one_defect_files"):
        with tarfile.open(shared_dir / "data" / "dicom_rt" / f"{name}.tar.xz") as packed:
            packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def require_judge() -> Callable[[str], str]:
    """`require_judge("plastimatch")` gives the path of a program or the origin of a module, or skips the test."""

    def require(name: str) -> str:
        # What pip installs lies beside the interpreter, which need not be on PATH.
        program = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
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


ORGANS = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
TINY_SHAPE, TINY_SPACING_MM = (40, 36, 32), (3.0, 3.0, 2.5)
TINY_SPLITS = ("fit", "fit", "fit", "fit", "tune", "validation")


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study of six cases p0..p5 of 40x36x32 voxels in RAS; the same bytes each time. Read only.

    p0..p3 are in split fit, p4 in tune, p5 in validation. Organs are balls of 100, 200, ... HU, Parotid_L and Parotid_R
    mirror images of each other; Parotid_L of p1 is not contoured; p2 has no dose, and no mask of it.
    """
    from mtl_med.manifest import Manifest

    study = tmp_path_factory.mktemp("tiny") / "study"
    Manifest.build("tiny", study, [_tiny_case(study, number) for number in range(len(TINY_SPLITS))]).write()
    return study


def _tiny_case(study: Path, number: int) -> Case:
    from mtl_med.geometry import Grid
    from mtl_med.io.nifti import write_nifti
    from mtl_med.manifest import Case, Structure

    folder = study / "cases" / f"p{number}"
    grid = Grid(TINY_SHAPE, np.diag([*TINY_SPACING_MM, 1.0]))
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in TINY_SHAPE], indexing="ij")
    files: dict[str, dict[str, str]] = {}

    def distance2(*centre: float) -> np.ndarray:
        return sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))

    def add(key: str, array: np.ndarray) -> None:
        files[key] = {"path": f"{key}.nii.gz", "sha256": write_nifti(folder / f"{key}.nii.gz", array, grid)}

    rng = np.random.default_rng(number)
    body = distance2(0, 0, 0) < 0.8
    ct = np.where(body, 0, -1000) + rng.normal(0, 5, TINY_SHAPE)
    structures = {}
    for index, name in enumerate(ORGANS):
        turn = 2 if name == "Parotid_L" else index
        x, y = 0.5 * np.cos(turn), 0.5 * np.sin(turn) + 0.02 * number
        mask = distance2(abs(x) if name == "Parotid_R" else -abs(x) if name == "Parotid_L" else x, y, 0) < 0.06
        ct[mask] += 100 * (index + 1)
        contoured = (number, name) != (1, "Parotid_L")
        structures[name] = Structure(name, "oar", "contoured" if contoured else "not_contoured")
        if contoured:
            add(f"structures/{name}", mask.astype(np.uint8))
    add("structures/PTV70", (distance2(0.2, 0.2, 0.2) < 0.1).astype(np.uint8))
    structures["PTV70"] = Structure("PTV70", "target", "contoured")
    add("ct", ct.astype(np.int16))
    if number != 2:
        add("mask_dose", body.astype(np.uint8))
        add("dose", (70 * np.exp(-2 * distance2(0.2, 0.2, 0.2)) * body).astype(np.float32))
    case = Case(
        id=f"p{number}",
        split=TINY_SPLITS[number],
        folder=folder,
        grid=grid,
        files=files,
        tasks=("oar", "dose") if "dose" in files else ("oar",),
        structures=structures,
        prescriptions_gy={"PTV70": 70.0},
        spacing_mm=grid.spacing_mm,
    )
    case.write()
    return case


class ForkedPython:
    """`python ...` commands run by children of one process that has paid for importing MONAI (tests/fork_server.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "tests" / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.jobs = 0

    def ask(self, **request: Any) -> Any:
        """One request, one answer."""
        if self.server.stdin is None or self.server.stdout is None:
            raise RuntimeError("the fork server has no pipes")
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *arguments: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> ForkedJob:
        """Start `python *arguments`, in a process group of its own."""
        self.jobs += 1
        out, err = (self.folder / f"{self.jobs}.{stream}" for stream in ("out", "err"))
        words = [str(argument) for argument in arguments]
        pid = self.ask(run=words, cwd=str(cwd), env=env or {}, out=str(out), err=str(err))
        return ForkedJob(self, pid, words, out, err)

    def run(
        self, *arguments: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured text."""
        return self.start(*arguments, cwd=cwd, env=env).wait(timeout)

    def close(self) -> None:
        """End the server."""
        self.server.communicate(timeout=60)


@dataclass
class ForkedJob:
    """A command that is running."""

    parent: ForkedPython
    pid: int
    words: list[str]
    out: Path
    err: Path

    def kill(self) -> None:
        """SIGKILL to the command and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for its end; it is killed, and the test fails, when it takes longer than `timeout` seconds."""
        code = self.parent.ask(wait=self.pid, timeout=timeout)
        self.kill()
        if code is None:
            self.parent.ask(wait=self.pid, timeout=10)
            output = self.out.read_text() + self.err.read_text()
            pytest.fail(f"no end after {timeout} s: python {' '.join(self.words)}\n{output[-3000:]}", pytrace=False)
        return subprocess.CompletedProcess(self.words, code, self.out.read_text(), self.err.read_text())


@pytest.fixture(scope="session")
def forked_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedPython]:
    """`forked_python.run("-m", "monai.bundle", "run", ...)` is as good as a fresh interpreter, ten seconds sooner."""
    python = ForkedPython(tmp_path_factory.mktemp("forked"))
    yield python
    python.close()
