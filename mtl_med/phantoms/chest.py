"""Made-up chest CTs with and without COVID-19, also in the raw layout of the public STOIC data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.errors import MtlMedError, OutputError, UsageError
from mtl_med.files import atomic_path
from mtl_med.geometry import Grid
from mtl_med.io.metaimage import encode_metaimage
from mtl_med.parallel import map_cases
from mtl_med.phantoms.chest_anatomy import AIR_HU, Scene, build_chest
from mtl_med.phantoms.chest_findings import FINDINGS, draw_findings
from mtl_med.phantoms.openkbp import NOTE_NAME
from mtl_med.phantoms.solids import Ellipsoid
from mtl_med.phantoms.space import Mask

__all__ = ["SEVERE_FROM", "ChestPhantom", "make_chest", "write_stoic_cohort"]

SEVERE_FROM = 0.22  # share of the lungs that is opaque, from which a COVID-19 is severe here
SMALLEST = (32, 32, 24)
PARTIAL_VOLUME_MM = 1.2
BEYOND_HU = -2048  # what some scanners store outside the circle that they reconstruct
_AXES = ("LPS", "LPS", "LPI", "RAS", "LAI", "PSL")  # directions in which volumes are stored
_CLASSES = ("negative", "negative", "mild", "mild", "severe")  # of every five patients, in an order that is drawn
_NOTE = """PHANTOM DATA. These are not patients.

Every volume in this folder was made up by mtl_med.phantoms from a seed (seed of the cohort: {seed}): drawn anatomy and
drawn opacities, no clinical information. Ages and sexes in the headers are made up too. The files follow the layout of
the public STOIC data set. Never mix them with real patients, and never report results on them as results on patients.
"""


@dataclass(frozen=True, eq=False)
class ChestPhantom:
    """A made-up chest CT.

    Args:
        seed: what it was made from.
        grid: where its voxels lie; axes run in any direction, and may be tilted.
        ct_hu: (X, Y, Z) int16.
        lungs: (X, Y, Z) bool, both lungs with all that is wrong in them.
        opacities: (X, Y, Z) bool, what of them is opaque.
        covid: whether it is COVID-19.
        severe: whether that is severe; False without COVID-19.
        finding: "covid", or what a patient without it has: see `FINDINGS`.
    """

    seed: tuple[int, ...]
    grid: Grid
    ct_hu: NDArray[np.int16]
    lungs: Mask
    opacities: Mask
    covid: bool
    severe: bool
    finding: str

    @property
    def extent(self) -> float:
        """Share of the lungs that is opaque."""
        return float(self.opacities.sum() / self.lungs.sum())


def make_chest(
    seed: int | Sequence[int],
    *,
    shape: tuple[int, int, int] = (96, 96, 64),
    covid: bool | None = None,
    severe: bool = False,
    finding: str | None = None,
    extent: float | None = None,
    arms_down: bool | None = None,
    collapsed: str = "",
    noise_hu: float | None = None,
    axis_codes: str | None = None,
) -> ChestPhantom:
    """Make one patient; the same arguments give the same bytes.

    COVID-19 is opaque at the back and the border of both lungs, and severe where `SEVERE_FROM` of them is. Patients
    without it have nothing, nodules, the consolidation of one lobe, oedema about both hila, or emphysema.

    Args:
        seed: integers from 0 up.
        shape: number of voxels along x, y and z of the patient. The field of view stays, so that fewer are larger.
        covid: whether it is COVID-19; drawn by default.
        severe: whether the COVID-19 is severe.
        finding: what a patient without COVID-19 has, of `FINDINGS`; drawn by default.
        extent: share of the lungs that COVID-19 makes opaque; drawn by default, so that it fits `severe`.
        arms_down: arms lie beside the chest; drawn by default.
        collapsed: "right" or "left": that lung holds no air.
        noise_hu: standard deviation of the noise; drawn by default.
        axis_codes: direction towards which each array axis runs; drawn by default.

    Raises:
        UsageError: a negative seed, too few voxels, or an option that cannot be meant.
    """
    words = (int(seed),) if isinstance(seed, int | np.integer) else tuple(int(word) for word in seed)
    _refuse(words, shape, finding, collapsed, extent)
    # One stream per purpose, so that a change in one does not reshuffle the others.
    streams = np.random.SeedSequence((*words, 0xC4E57)).spawn(5)
    body_rng, grid_rng, disease_rng, noise_rng, choice_rng = map(np.random.default_rng, streams)
    drawn = choice_rng.random(4)
    arms_down = bool(drawn[0] < 0.15) if arms_down is None else arms_down
    covid = bool(drawn[1] < 0.6) if covid is None else covid
    noise_hu = 12 + 22 * float(drawn[2]) if noise_hu is None else noise_hu
    grid = _draw_grid(grid_rng, shape, axis_codes)
    scene = Scene(grid, body_rng.uniform(-8, 8, 3), body_rng.uniform(0.93, 1.07, 3))
    lungs = build_chest(scene, body_rng, arms_down=arms_down)
    kind = "covid" if covid else finding or str(choice_rng.choice(FINDINGS))
    if covid and extent is None:
        extent = disease_rng.uniform(0.28, 0.5) if severe else disease_rng.uniform(0.03, 0.15)
    opacities = draw_findings(scene, lungs, kind, extent or 0.0, disease_rng)
    if collapsed:
        scene.hu[lungs[collapsed]] = 20
        opacities |= lungs[collapsed]
    both = lungs["right"] | lungs["left"]
    hu = _scan(scene, noise_hu, noise_rng, circle=bool(drawn[3] < 0.25))
    share = float(opacities.sum() / both.sum())
    return ChestPhantom(words, grid, hu, both, opacities, covid, covid and share >= SEVERE_FROM, kind)


def _refuse(
    words: tuple[int, ...], shape: tuple[int, int, int], finding: str | None, collapsed: str, extent: float | None
) -> None:
    if not words or min(words) < 0:
        raise UsageError(f"a phantom's seed is made of integers from 0 up, found {words}", fix="Choose another seed")
    if len(shape) != 3 or any(size < least for size, least in zip(shape, SMALLEST, strict=True)):
        raise UsageError(f"a chest needs at least {SMALLEST} voxels, found {tuple(shape)}", fix="Ask for more")
    if finding is not None and finding not in FINDINGS:
        raise UsageError(f"there is no finding '{finding}'", fix=f"Choose of {', '.join(FINDINGS)}")
    if collapsed not in ("", "right", "left"):
        raise UsageError(f"there is no lung '{collapsed}'", fix="Choose right or left")
    if extent is not None and not 0 <= extent <= 0.9:
        raise UsageError(f"opacities cannot fill {extent:g} of the lungs", fix="Choose 0 to 0.9")


def _draw_grid(rng: np.random.Generator, shape: tuple[int, int, int], axis_codes: str | None) -> Grid:
    """A field of view about the lungs, stored in one of several directions, now and then tilted a little."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    view_mm = np.array([rng.uniform(370, 420)] * 2 + [rng.uniform(285, 325)])
    codes = str(rng.choice(_AXES)) if axis_codes is None else axis_codes
    angle = np.deg2rad(rng.choice([0, 0, 0, rng.uniform(-7, 7)]))
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    spacing = np.round(view_mm / np.array(shape), 4)
    affine = np.eye(4)
    affine[:3, :3] = tilt * spacing
    middle = np.array([0, 2, 2]) + rng.uniform(-5, 5, 3)
    affine[:3, 3] = np.round(middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2), 3)
    turn = ornt_transform(axcodes2ornt(("R", "A", "S")), axcodes2ornt(tuple(codes)))
    turned = [0, 0, 0]
    for axis, (place, _) in enumerate(turn):
        turned[int(place)] = shape[axis]
    return Grid((turned[0], turned[1], turned[2]), affine @ inv_ornt_aff(turn, shape))


def _scan(scene: Scene, noise_hu: float, rng: np.random.Generator, *, circle: bool) -> NDArray[np.int16]:
    """What the scanner makes of it: the table, partial volume, grainy noise, whole numbers."""
    _draw_table(scene)
    blurred = ndimage.gaussian_filter(scene.hu, [PARTIAL_VOLUME_MM / mm for mm in scene.grid.spacing_mm])
    coarse = ndimage.gaussian_filter(rng.standard_normal(blurred.shape, dtype=np.float32), 1.0)
    fine = rng.standard_normal(blurred.shape, dtype=np.float32)
    noisy = blurred + noise_hu * (0.7 * coarse / coarse.std() + 0.5 * fine)
    hu = np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)
    if circle:
        hu[scene.x**2 + (scene.y - 2) ** 2 > 203**2] = BEYOND_HU
    return hu


def _draw_table(scene: Scene) -> None:
    """A hollow plate that the patient lies on."""
    air = scene.hu == AIR_HU
    for half, hu in ((20.0, -350), (14.0, -930)):
        scene.draw(Ellipsoid((0, -129, 0), (172 + half, half, 2000), power=8), hu, air)


def write_stoic_cohort(
    folder: str | Path,
    *,
    patients: int = 20,
    seed: int = 0,
    shape: tuple[int, int, int] = (96, 96, 64),
    workers: int = 1,
) -> list[Path]:
    """Write `data/mha/<PatientID>.mha`, `metadata/reference.csv` and a note that they hold phantoms.

    Of every five patients two have no COVID-19, and one of the other three has a severe one.

    Args:
        folder: where the cohort goes; made if it is not there. Phantoms that lie there are replaced.
        patients: number of patients, 1 to 9999.
        seed: seed of the cohort; it and a patient's number determine every byte of that patient.
        shape: number of voxels, see `make_chest`.
        workers: processes to use.

    Returns:
        The volumes, in order.

    Raises:
        UsageError: a number out of range, or a folder that holds volumes that are not phantoms.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    if not 1 <= patients <= 9999:
        raise UsageError(f"a cohort has 1 to 9999 patients, found {patients}")
    if workers < 1:
        raise UsageError(f"workers must be at least 1, found {workers}")
    _refuse((seed,), shape, None, "", None)
    _claim(folder, seed)
    rows, paths = ["PatientID,probCOVID,probSevere\n"], []
    work = partial(_write_one, folder, seed, shape)
    for outcome in map_cases(work, range(1, patients + 1), workers=workers, label="phantoms"):
        if outcome.value is None:
            raise MtlMedError(outcome.failure)
        path, row = outcome.value
        paths.append(path)
        rows.append(row)
    with atomic_path(folder / "metadata" / "reference.csv") as temporary:
        temporary.write_bytes("".join(rows).encode("ascii"))
    return paths


def _write_one(folder: Path, seed: int, shape: tuple[int, int, int], number: int) -> tuple[Path, str]:
    rng = np.random.default_rng((seed, 0x5701C, (number - 1) // 5))
    kind = _CLASSES[rng.permutation(5)[(number - 1) % 5]]
    phantom = make_chest((seed, number), shape=shape, covid=kind != "negative", severe=kind == "severe")
    told = np.random.default_rng((seed, 0xA6E, number))
    age, sex = f"0{told.choice([35, 45, 55, 65, 75, 85])}Y", "FM"[int(told.integers(2))]
    path = folder / "data" / "mha" / f"phantom{number:04d}.mha"
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_metaimage(phantom.ct_hu, phantom.grid, {"PatientAge": age, "PatientSex": sex}))
    return path, f"{path.stem},{int(phantom.covid)},{int(phantom.severe)}\n"


def _claim(folder: Path, seed: int) -> None:
    """Put the note into the folder and take older phantoms away, or refuse volumes that are none."""
    volumes = folder / "data" / "mha"
    if volumes.exists() and not (folder / NOTE_NAME).is_file():
        fix = "Choose an empty folder"
        raise UsageError(f"already holds volumes, which are not phantoms (no {NOTE_NAME})", where=folder, fix=fix)
    try:
        volumes.mkdir(parents=True, exist_ok=True)
        for old in volumes.glob("phantom*.mha"):
            os.unlink(old)
        (folder / NOTE_NAME).write_bytes(_NOTE.format(seed=seed).encode("ascii"))
    except OSError as error:
        fix = "Check free space and the folder's permissions"
        raise OutputError(f"cannot write: {error.strerror or error}", where=folder, fix=fix) from error
