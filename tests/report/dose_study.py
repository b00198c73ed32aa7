"""A made-up patient whose doses can be worked out by hand, for the tests of the dose pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Structure
from mtl_med.report.case_page import Block, CaseInputs, CasePrediction, Figure, Options, Table, Text

GRID = Grid((24, 20, 16), np.array([[3.0, 0, 0, -36], [0, 3.0, 0, -30], [0, 0, 2.5, -20], [0, 0, 0, 1]]))
VOXEL_CC = 0.0225


@dataclass(frozen=True)
class Boxes:
    """Where the structures lie: (x, y, z) slices."""

    body = np.s_[2:22, 2:18, :]
    ptv = np.s_[12:18, 6:14, 4:12]  # 384 voxels, left of the middle
    cord = np.s_[8:10, 3:5, :]  # 64 voxels


def box(place: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(GRID.shape, np.uint8)
    mask[place] = 1
    return mask


def doses() -> tuple[np.ndarray, np.ndarray]:
    """Planned: 70 Gy in the PTV, 44 in the cord, 20 elsewhere. Predicted: 68, 46, 20, and one voxel 33 Gy too high."""
    planned = 20.0 * box(Boxes.body).astype(np.float32)
    planned[Boxes.ptv], planned[Boxes.cord] = 70.0, 44.0
    predicted = planned.copy()
    predicted[Boxes.ptv], predicted[Boxes.cord] = 68.0, 46.0
    predicted[4, 15, 13] = 53.0
    return planned, predicted


def make_case(folder: Path, **changes: object) -> Case:
    """The case in `folder`; keyword arguments replace its fields, `structures` adds to its own."""
    planned, _ = doses()
    masks = {"PTV70": box(Boxes.ptv), "SpinalCord": box(Boxes.cord), "Larynx": box(np.s_[0:0, :, :])}
    kinds = {"PTV70": "target", "SpinalCord": "oar", "Larynx": "oar", "Esophagus": "oar"}
    ct = np.where(box(Boxes.body) > 0, 0, -1000).astype(np.int16)
    arrays = {"ct": ct, "dose": planned, "mask_dose": box(Boxes.body)}
    arrays |= {f"structures/{name}": mask for name, mask in masks.items()}
    arrays |= changes.pop("arrays", {})  # type: ignore[arg-type]
    files = {
        key: {"path": f"{key}.nii.gz", "sha256": write_nifti(folder / f"{key}.nii.gz", array, GRID)}
        for key, array in arrays.items()
    }
    status = {"Larynx": "empty", "Esophagus": "not_contoured"}
    structures = {
        name: Structure(name, kind, status.get(name, "contoured")) for name, kind in kinds.items()
    } | changes.pop("structures", {})  # type: ignore[operator]
    fields = {
        "id": "p1",
        "split": "validation",
        "folder": folder,
        "grid": GRID,
        "files": files,
        "tasks": ("oar", "dose"),
        "structures": structures,
        "prescriptions_gy": {"PTV70": 70.0},
        "fractions": 35,
        "spacing_mm": GRID.spacing_mm,
    }
    case = Case(**(fields | changes))  # type: ignore[arg-type]
    case.write()
    return case


def predict(folder: Path, dose: np.ndarray, grid: Grid = GRID, masks: Mapping[str, np.ndarray] | None = None) -> Path:
    """The folder of the case's prediction."""
    write_prediction(folder, "p1", grid, dose_gy=dose, structures=masks)
    return folder / "p1"


def inputs(case: Case, *folders: Path, settings: Mapping[str, object] | None = None, gamma: bool = False) -> CaseInputs:
    """What the page is made from."""
    names = ("ctan", "hps", "stl")
    settings = {"inputs": "ct+ptv"} if settings is None else settings
    predictions = tuple(
        CasePrediction(name, folder, (), settings) for name, folder in zip(names, folders, strict=False)
    )
    return CaseInputs(case, predictions, Options(gamma=gamma))


def texts(blocks: tuple[Block, ...] | list[Block]) -> str:
    """All paragraphs, captions and alternative texts."""
    told = [b.text if isinstance(b, Text) else f"{b.caption} {getattr(b, 'alt', '')}" for b in blocks if _speaks(b)]
    return "\n".join(told)


def _speaks(block: Block) -> bool:
    return isinstance(block, Text | Figure | Table)


def row_of(table: Table, *start: str) -> list[str]:
    """The texts of the row that begins so."""
    for row in table.rows:
        cells = [cell if isinstance(cell, str) else cell.text for cell in row]
        if tuple(cells[: len(start)]) == start:
            return cells
    raise KeyError(start)
