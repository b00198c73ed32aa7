"""A study of tiny cases with predictions that are wrong by known amounts, and whatever names a test wants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Manifest, Structure

SHAPE = (14, 12, 10)
GRID = Grid(SHAPE, np.diag([3.0, 3.0, 3.0, 1.0]))
IDS = ("a1", "a2", "a3", "a4")
ERRORS_GY = {"a1": 1.0, "a2": 4.0, "a3": -2.0, "a4": 0.5}
"""Case -> what its first prediction is too high by everywhere in the body, so its dose score is the size of it."""

KINDS = {"SpinalCord": "oar", "Parotid_L": "oar", "PTV70": "target"}
CENTRES = {"SpinalCord": (4, 6, 5), "Parotid_L": (9, 8, 5), "PTV70": (8, 4, 5)}


def ball(centre: Sequence[int], radius: float = 2.2) -> np.ndarray:
    """A ball of voxels."""
    return sum((axis - at) ** 2 for axis, at in zip(np.indices(SHAPE), centre, strict=True)) <= radius**2


def body() -> np.ndarray:
    """All voxels but the outermost."""
    inside = np.zeros(SHAPE, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return inside


def planned(number: int) -> np.ndarray:
    """A dose that falls off from the target, Gy; 0 outside the body."""
    distance2 = sum((axis - at) ** 2 for axis, at in zip(np.indices(SHAPE), CENTRES["PTV70"], strict=True))
    return (np.exp(-distance2 / (60.0 + number)) * 66 * body() + 4 * body()).astype(np.float32)


def write_case(
    study: Path, number: int, case_id: str, names: Mapping[str, str], notes: tuple[str, ...] = (), dose: bool = True
) -> Case:
    """Case `number`; its left parotid is not contoured in the second and empty in the third.

    Args:
        study: the study folder.
        number: from 0.
        case_id: its id.
        names: what each structure of `KINDS` is called.
        notes: of the case.
        dose: it has a planned dose and a prescription.
    """
    folder = study / "cases" / f"case{number}"
    files, structures = {}, {}

    def add(key: str, path: str, array: np.ndarray) -> None:
        files[key] = {"path": path, "sha256": write_nifti(folder / path, array, GRID)}

    add("ct", "ct.nii.gz", np.where(body(), 20, -1000).astype(np.int16))
    if dose:
        add("dose", "dose.nii.gz", planned(number))
        add("mask_dose", "mask_dose.nii.gz", body().astype(np.uint8))
    for place, (own, kind) in enumerate(KINDS.items()):
        name = names.get(own, own)
        status = {(1, "Parotid_L"): "not_contoured", (2, "Parotid_L"): "empty"}.get((number, own), "contoured")
        mask = ball(CENTRES[own]) if status == "contoured" else np.zeros(SHAPE, dtype=bool)
        structures[name] = Structure(own, kind, status, None if status == "not_contoured" else mask.sum() * 0.027)
        if status != "not_contoured":
            add(f"structures/{name}", f"structures/s{place}.nii.gz", mask.astype(np.uint8))
    prescriptions = {names.get("PTV70", "PTV70"): 70.0} if dose else {}
    case = Case(
        id=case_id,
        split="validation",
        folder=folder,
        grid=GRID,
        files=files,
        tasks=("oar", "dose") if dose else ("oar",),
        structures=structures,
        prescriptions_gy=prescriptions,
        fractions=35 if dose else None,
        spacing_mm=(3.0, 3.0, 3.0),
        notes=notes,
    )
    case.write()
    return case


def write_cohort(
    folder: Path,
    ids: Sequence[str] = IDS,
    names: Mapping[str, str] | None = None,
    *,
    dataset: str = "made-up",
    notes: tuple[str, ...] = (),
    dose: bool = True,
) -> Path:
    """A study of all ids; gives its folder."""
    study = folder / "study"
    cases = [write_case(study, number, case, names or {}, notes, dose) for number, case in enumerate(ids)]
    Manifest.build(dataset, study, cases).write()
    return study


def write_predictions(
    folder: Path,
    ids: Sequence[str] = IDS,
    names: Mapping[str, str] | None = None,
    *,
    factor: float = 1.0,
    dose: bool = True,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Predictions of all ids, with a training beside them: doses too high by `factor` x `ERRORS_GY`, a cord missed.

    The cord of the first case is missed, that of the others lies one voxel aside.
    """
    names = names or {}
    errors = list(ERRORS_GY.values())
    for number, case in enumerate(ids):
        shifted = {name: np.roll(ball(CENTRES[own]), 1, axis=0) for own in ("SpinalCord", "Parotid_L")
                   for name in (names.get(own, own),)}  # fmt: skip
        if number == 0:
            shifted[names.get("SpinalCord", "SpinalCord")] = np.zeros(SHAPE, dtype=bool)
        predicted = (planned(number) + factor * errors[number] * body()).astype(np.float32)
        write_prediction(folder / "predictions", case, GRID, dose_gy=predicted if dose else None, structures=shifted)
    record = {"schema": "mtl_med/run/1", "stage": "predict", "command": ["predict", "it"], "versions": {"torch": "9.9"}}
    record["weights"] = {"path": str(folder / "model.pt"), "sha256": "f" * 64}
    (folder / "predictions" / "run.json").write_text(json.dumps(record))
    training = {"schema": "mtl_med/run/1", "stage": "train", "command": ["train"], "hashes": {"model.pt": "f" * 64}}
    training |= {"epochs": 3, "best": {"all": {"epoch": 2, "score": 0.5}}}
    (folder / "run.json").write_text(json.dumps(training))
    (folder / "model.json").write_text(
        json.dumps({"method": "ctan", "inputs": "ct+ptv", "seed": 7, **(settings or {})})
    )
    (folder / "training.csv").write_text(
        "epoch,step,loss/oar,loss/dose,weight/oar,weight/dose,learning_rate,score,score/oar,score/dose\n"
        "1,5,2.0,3.0,1.0,1.0,0.001,,,\n2,10,1.0,2.0,0.9,1.1,0.001,0.5,0.4,0.6\n3,15,0.5,1.5,1.0,1.0,0.0005,,,\n"
    )
    return folder / "predictions"


class PageParser(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text without scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        """Note text or script."""
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is shown, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def parse(path: Path) -> PageParser:
    """The page in a file."""
    return PageParser(path.read_text(encoding="utf-8"))
