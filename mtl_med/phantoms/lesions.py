"""Made-up dermatoscopic photographs in the raw layout of HAM10000, so that whatever reads that reads them too."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import MtlMedError, OutputError, UsageError
from mtl_med.files import write_text
from mtl_med.io.picture import encode_png
from mtl_med.parallel import map_cases
from mtl_med.phantoms.dermatoscopy import DIAGNOSES, Outline, View, draw_outline, draw_photograph, lesion_mask
from mtl_med.phantoms.openkbp import NOTE_NAME

__all__ = ["LesionPhantom", "make_lesions", "write_ham10000_cohort"]

MOST_LESIONS = 9999
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
MASK_FOLDER = "HAM10000_segmentations_lesion_tschandl"
TABLE = "HAM10000_metadata.csv"
_SHARES = {"nv": 0.34, "mel": 0.16, "bkl": 0.16, "bcc": 0.11, "akiec": 0.09, "vasc": 0.07, "df": 0.07}
_PLACES = ("back", "lower extremity", "trunk", "abdomen", "face", "scalp", "chest", "hand", "unknown")
_AGES = {"nv": 45, "df": 50, "vasc": 50, "mel": 60, "bkl": 65, "bcc": 68, "akiec": 68}
_SKINS = ((236, 192, 180), (222, 170, 150), (208, 158, 156), (196, 148, 124), (228, 180, 196))
_PALETTE_EVERY = 25  # a mask of so many has a palette that runs from white to black, as some published ones have
_NOTE = """PHANTOM DATA. These are not patients.

Every photograph in this folder was made up by mtl_med.phantoms from a seed (seed of the cohort: {seed}): drawn skin and
drawn lesions, no clinical information. Ages, sexes and places in the table are made up too. The files follow the layout
of the public HAM10000 data set. Never mix them with real photographs, and never report results on them as results on
patients.
"""


@dataclass(frozen=True, eq=False)
class LesionPhantom:
    """One made-up photograph.

    Args:
        image_id: its name.
        lesion_id: the lesion that it shows.
        diagnosis: what the lesion is.
        image: (H, W, 3) uint8.
        mask: the lesion, (H, W) or three times as many of each.
        row: its row of the table.
    """

    image_id: str
    lesion_id: str
    diagnosis: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    row: tuple[str, ...]


def write_ham10000_cohort(
    folder: str | Path,
    *,
    lesions: int = 70,
    seed: int = 0,
    size: tuple[int, int] = (200, 150),
    mask_factor: int = 3,
    workers: int = 1,
) -> list[str]:
    """Write photographs, masks, the table and a note that they are phantoms.

    A lesion has one to three photographs. Every diagnosis has lesions where there are seven or more.

    Args:
        folder: where the cohort goes; made if it is not there. Phantoms that lie there are replaced.
        lesions: number of lesions, at most 9,999.
        seed: seed of the cohort; it, the number of lesions and the options determine every byte.
        size: width and height of a photograph, pixels.
        mask_factor: how many times larger the masks are.
        workers: processes to use.

    Returns:
        Names of the photographs, in order.

    Raises:
        UsageError: a number out of range, or a folder that holds photographs that are not phantoms.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    if not 1 <= lesions <= MOST_LESIONS:
        raise UsageError(f"lesions must be 1 to {MOST_LESIONS:,}, found {lesions}")
    if min(size) < 16 or not 1 <= mask_factor <= 8:
        raise UsageError(f"no photographs of {size[0]} x {size[1]} pixels with masks {mask_factor} times larger")
    _claim(folder, seed)
    jobs = list(enumerate(_diagnoses(lesions, seed), 1))
    rows: list[tuple[str, ...]] = []
    write = partial(_write_one, folder, seed, lesions, size, mask_factor)
    for outcome in map_cases(write, jobs, workers=workers, label="phantoms"):
        if outcome.value is None:
            raise MtlMedError(f"a phantom could not be made: {outcome.failure}", where=folder)
        rows += outcome.value
    header = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(folder / TABLE, text.getvalue())
    return [row[1] for row in rows]


def make_lesions(
    seed: int, number: int, diagnosis: str, *, size: tuple[int, int] = (200, 150), mask_factor: int = 1
) -> list[LesionPhantom]:
    """All photographs of one lesion; equal arguments give equal pixels.

    Args:
        seed: of the cohort, from 0 up.
        number: of the lesion, from 1.
        diagnosis: one of `DIAGNOSES`.
        size: width and height, pixels.
        mask_factor: how many times larger the masks are.
    """
    look = DIAGNOSES[diagnosis]
    rng = np.random.default_rng(np.random.SeedSequence((seed, number, 0x5C1B)))
    outline = draw_outline(rng, look)
    place = str(rng.choice(_PLACES))
    skin = np.array(_SKINS[int(rng.integers(len(_SKINS)))]) + rng.uniform(-8, 8)
    age = int(np.clip(5 * round(rng.normal(_AGES[diagnosis], 14) / 5), 5, 85))
    sex = str(rng.choice(("male", "female")))
    told = (diagnosis, "histo" if diagnosis != "nv" else "follow_up", f"{age}.0" if rng.random() > 0.03 else "", sex)
    found = []
    for part in range(1, 1 + int(rng.choice((1, 2, 3), p=(0.7, 0.2, 0.1)))):
        view = _view(rng, skin, hairy=place in ("scalp", "chest"), outline=outline, size=size)
        image_id, lesion_id = f"ISIC_phantom{number:04d}{'abc'[part - 1]}", f"HAM_phantom{number:04d}"
        image = draw_photograph(rng, look, outline, view, size)
        mask = lesion_mask(outline, view, size, mask_factor)
        row = (lesion_id, image_id, *told, place)
        found.append(LesionPhantom(image_id, lesion_id, diagnosis, image, mask, row))
    return found


def _view(rng: np.random.Generator, skin: NDArray, *, hairy: bool, outline: Outline, size: tuple[int, int]) -> View:
    room = 0.25 * max(0.0, 1 - outline.radius)
    drawn = rng.random(3)
    red, green, blue = (float(part) for part in skin + rng.uniform(-4, 4, 3))
    return View(
        centre=(float(rng.uniform(-room, room) * size[0] / size[1]), float(rng.uniform(-room, room))),
        turn=float(rng.uniform(0, 2 * np.pi)),
        scale=float(rng.uniform(0.85, 1.15)),
        skin=(red, green, blue),
        hairs=int(rng.integers(6, 14) if hairy else rng.integers(0, 4)),
        corner=float(rng.uniform(0.7, 1.0)) if drawn[0] < 0.2 else 0.0,
        ruler=bool(drawn[1] < 0.12),
        light=float(0.93 + 0.12 * drawn[2]),
    )


def _diagnoses(lesions: int, seed: int) -> list[str]:
    """The diagnosis of each lesion: shares as near as whole lesions allow, one of each at least, in a drawn order."""
    ends = np.cumsum(list(_SHARES.values()))
    names = [name for name in _SHARES if lesions >= len(_SHARES)]
    while len(names) < lesions:
        place = (len(names) + 0.5) / lesions
        names.append(list(_SHARES)[int(np.searchsorted(ends, place).clip(0, len(_SHARES) - 1))])
    order = np.random.default_rng(np.random.SeedSequence((seed, 0xD1A6))).permutation(lesions)
    return [names[int(index)] for index in order]


def _write_one(
    folder: Path, seed: int, lesions: int, size: tuple[int, int], mask_factor: int, job: tuple[int, str]
) -> list[tuple[str, ...]]:
    from PIL import Image

    number, diagnosis = job
    part = IMAGE_FOLDERS[0 if 2 * number <= lesions + 1 else 1]
    rows = []
    for phantom in make_lesions(seed, number, diagnosis, size=size, mask_factor=mask_factor):
        stream = io.BytesIO()
        Image.fromarray(phantom.image).save(stream, format="JPEG", quality=92)
        _write(folder / part / f"{phantom.image_id}.jpg", stream.getvalue())
        data = encode_png(phantom.mask) if number % _PALETTE_EVERY else _reversed_palette(phantom.mask)
        _write(folder / MASK_FOLDER / f"{phantom.image_id}_segmentation.png", data)
        rows.append(phantom.row)
    return rows


def _reversed_palette(mask: NDArray[np.bool_]) -> bytes:
    """A PNG in which number 0 is white and 255 black."""
    from PIL import Image

    picture = Image.frombytes("P", mask.shape[::-1], np.where(mask, 0, 255).astype(np.uint8).tobytes())
    picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _claim(folder: Path, seed: int) -> None:
    """Put the note into the folder, or refuse one that holds photographs without it; older phantoms are removed."""
    held = [name for name in (*IMAGE_FOLDERS, MASK_FOLDER) if (folder / name).exists()]
    if held and not (folder / NOTE_NAME).is_file():
        raise UsageError(
            f"already holds {held[0]}, which are not phantoms (no {NOTE_NAME})", where=folder, fix="Choose another"
        )
    write_text(folder / NOTE_NAME, _NOTE.format(seed=seed))
    try:
        for name in held:
            shutil.rmtree(folder / name)
        for name in (*IMAGE_FOLDERS, MASK_FOLDER):
            (folder / name).mkdir()
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> OutputError:
    fix = "Check free space and the folder's permissions"
    return OutputError(f"cannot write: {error.strerror or error}", where=path, fix=fix)
