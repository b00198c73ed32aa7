"""A raw patient in the OpenKBP layout, written by plain loops of this file's own, and studies made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mtl_med.prep.recipe import Recipe, load_recipe

SHAPE = (128, 128, 128)
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass
class Patient:
    """Boxes on the raw grid: axis 0 runs to posterior, 1 to left, 2 to inferior. Nothing about it is odd."""

    voxel_mm: tuple[float, float, float] = (4.0, 4.0, 2.5)
    ct: Box = ((46, 78), (44, 84), (48, 82))
    mask: Box = ((48, 76), (46, 82), (50, 80))
    dose_box: Box | None = None
    dose_gy: float = 71.5
    stored_ct: float = 1060.0
    boxes: dict[str, Box] = field(
        default_factory=lambda: {
            "Brainstem": ((60, 68), (60, 68), (40, 50)),
            "SpinalCord": ((64, 70), (62, 66), (60, 85)),
            "RightParotid": ((56, 64), (44, 52), (55, 65)),
            "LeftParotid": ((56, 64), (76, 84), (55, 65)),
            "Esophagus": ((62, 66), (62, 66), (90, 110)),
            "Larynx": ((50, 58), (60, 68), (75, 85)),
            "Mandible": ((40, 50), (54, 74), (60, 67)),
            "PTV56": ((50, 62), (52, 76), (56, 78)),
            "PTV63": ((50, 62), (54, 74), (60, 78)),
            "PTV70": ((50, 62), (56, 72), (62, 78)),
        }
    )
    extra_values: dict[str, dict[int, float]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the CSV files into `folder`."""
        folder.mkdir(parents=True)
        ct = dict.fromkeys(voxels(self.ct), self.stored_ct) | self.extra_values.get("ct", {})
        dose = dict.fromkeys(voxels(self.dose_box or self.mask), self.dose_gy) | self.extra_values.get("dose", {})
        write_rows(folder / "ct.csv", [f"{index},{value}" for index, value in sorted(ct.items())])
        write_rows(folder / "dose.csv", [f"{index},{value}" for index, value in sorted(dose.items())])
        for name, box in {**self.boxes, "possible_dose_mask": self.mask}.items():
            write_rows(folder / f"{name}.csv", [f"{index}," for index in voxels(box)])
        (folder / "voxel_dimensions.csv").write_text("".join(f"{mm:.18e}\n" for mm in self.voxel_mm))
        return folder


def voxels(box: Box) -> list[int]:
    """Flat indices of a box, C order."""
    (a, b), (c, d), (e, f) = box
    return [(i * 128 + j) * 128 + k for i in range(a, b) for j in range(c, d) for k in range(e, f)]


def write_rows(path: Path, rows: list[str]) -> None:
    path.write_text(",data\n" + "".join(f"{row}\n" for row in rows))


@pytest.fixture(scope="session")
def new_patient() -> type[Patient]:
    """The class of made patients: `new_patient(dose_gy=60).write(folder)`."""
    return Patient


@pytest.fixture(scope="session")
def patient_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an ordinary patient with few structures, to copy."""
    patient = Patient()
    patient.boxes = {name: patient.boxes[name] for name in ("SpinalCord", "Larynx", "PTV70")}
    return patient.write(tmp_path_factory.mktemp("template") / "pt_0")


@pytest.fixture(scope="session")
def write_cohort(patient_template: Path) -> Callable[..., Path]:
    """`write_cohort(folder, train=3, validation=1)` fills a `provided-data` folder with copies of one patient."""

    def make(source: Path, train: int = 1, validation: int = 0, test: int = 0) -> Path:
        groups = {"train-pats": (1, train), "validation-pats": (201, validation), "test-pats": (241, test)}
        for group, (first, count) in groups.items():
            for number in range(first, first + count):
                shutil.copytree(patient_template, source / group / f"pt_{number}")
        return source

    return make


@pytest.fixture
def cohort(tmp_path: Path, write_cohort: Callable[..., Path]) -> Callable[..., Path]:
    """`cohort(train=3, validation=1)` is such a folder below the test's own."""
    return partial(write_cohort, tmp_path / "provided-data")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The recipe under test."""
    return load_recipe("openkbp")


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """`tree(study)` gives path -> bytes of all its files but run.json."""

    def collect(folder: Path) -> dict[str, bytes]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    return collect


@pytest.fixture
def dense() -> Callable[..., np.ndarray]:
    """`dense(path, valued)` gives a raw volume as pandas reads it."""

    def load(path: Path, *, valued: bool) -> np.ndarray:
        import pandas as pd

        table = pd.read_csv(path)
        volume = np.zeros(128**3, dtype=np.float64)
        volume[table.iloc[:, 0].to_numpy()] = table["data"].to_numpy() if valued else 1
        return volume.reshape(SHAPE)

    return load
