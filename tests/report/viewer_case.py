"""A case whose axes run in no usual order, with a prediction and names that try to get out of a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Structure
from mtl_med.report.case_page import CaseInputs, CasePrediction

SHAPE = (30, 26, 36)  # array axes run to head, right and back
AFFINE = np.array([[0, 3.0, 0, -60], [0, 0, -2.0, 40], [2.5, 0, 0, -30], [0, 0, 0, 1]])
HOSTILE = (
    "<script>hacked=1</script>",
    '"><img src=x onerror="hacked=1">',
    "</script><script>hacked=1</script>",
    "right \N{RIGHT-TO-LEFT OVERRIDE}tfel",
    "a" * 300,
)
HOSTILE_PREDICTION = "<b>bold</b> '\"&amp;"


def ball(centre: tuple[int, int, int], radius: float) -> NDArray[np.bool_]:
    """A ball of voxels."""
    return sum((axis - at) ** 2 for axis, at in zip(np.indices(SHAPE), centre, strict=True)) <= radius**2


def write_case(folder: Path, names: tuple[str, ...] = HOSTILE) -> CaseInputs:
    """Write the case's files and its prediction's; the same bytes each time."""
    rng = np.random.default_rng(5)
    grid = Grid(SHAPE, AFFINE)
    body = ball((15, 13, 18), 12)
    ct = np.where(body, rng.integers(-200, 1500, SHAPE), -1000).astype(np.int16)
    planned = np.where(body, 70 * np.exp(-((np.indices(SHAPE)[2] - 18.0) ** 2) / 90), 0)
    planned = (planned * rng.uniform(0.97, 1.0, SHAPE)).astype(np.float32)
    predicted = (planned * rng.uniform(0.9, 1.1, SHAPE)).astype(np.float32)
    masks = {"PTV70": ball((15, 13, 18), 5), "SpinalCord": ball((15, 13, 24), 2.5)}
    masks |= {name: ball((10 + 2 * number, 9, 14), 2) for number, name in enumerate(names)}
    files = {"ct": "ct.nii.gz", "dose": "dose.nii.gz"}
    case_folder = folder / "study" / "cases" / "p1"
    for key, array in (("ct", ct), ("dose", planned)):
        write_nifti(case_folder / files[key], array, grid)
    for number, (name, mask) in enumerate(masks.items()):
        files[f"structures/{name}"] = f"structures/{number}.nii.gz"
        write_nifti(case_folder / files[f"structures/{name}"], mask, grid)
    case = Case(
        id="p1",
        split="validation",
        folder=case_folder,
        grid=grid,
        files={key: {"path": path, "sha256": ""} for key, path in files.items()},
        structures={name: Structure(name, "target" if name == "PTV70" else "oar", "contoured", 1.0) for name in masks},
        prescriptions_gy={"PTV70": 70.0},
    )
    seen = {"SpinalCord": ball((15, 13, 23), 2.5), "Heart": ball((20, 13, 18), 2)}
    write_prediction(folder / "predictions", "p1", grid, dose_gy=predicted, structures=seen)
    return CaseInputs(case, (CasePrediction(HOSTILE_PREDICTION, folder / "predictions" / "p1", ()),))
