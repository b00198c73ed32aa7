"""A small study of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_med.files import sha256_bytes
from mtl_med.io.picture import encode_png
from mtl_med.manifest import Case, Manifest, Structure

SIZE = (30, 40)  # rows, columns
DIAGNOSES = ("nv", "nv", "nv", "nv", "nv", "mel", "mel", "df", None)
SITES = ("back", "face", "back", None, "back", "face", None, "back", "back")


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Skin with one dark ellipse whose place, size and colour depend on the number; and its mask."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = ((rows - 10 - number) / 6) ** 2 + ((columns - 12 - number) / 9) ** 2 < 1
    image = np.full((*SIZE, 3), (220, 170, 150), dtype=np.uint8)
    image[mask] = (90 + 5 * number, 50, 40)
    image[:3, :6] = (10, 200, 10)  # which way is up
    return image, mask


@pytest.fixture(scope="session")
def picture_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs i0..i8 in split fit, of 30 x 40 pixels; i8 has no mask. Read only."""
    study = tmp_path_factory.mktemp("pictures") / "study"
    cases = []
    for number, (diagnosis, site) in enumerate(zip(DIAGNOSES, SITES, strict=True)):
        folder = study / "cases" / f"i{number}"
        folder.mkdir(parents=True)
        image, mask = picture(number)
        files = {}
        for key, name, pixels in (("image", "image.png", image), ("structures/Lesion", "mask.png", mask)):
            if (number, key) == (8, "structures/Lesion"):
                continue
            data = encode_png(pixels)
            (folder / name).write_bytes(data)
            files[key] = {"path": name, "sha256": sha256_bytes(data)}
        labels = {} if diagnosis is None else {"diagnosis": ("df", "mel", "nv").index(diagnosis)}
        labels |= {} if site is None else {"site": ("back", "face").index(site)}
        cases.append(
            Case(
                id=f"i{number}",
                split="fit",
                folder=folder,
                files=files,
                structures={"Lesion": Structure("mask", "target", "contoured")},
                labels=labels,
                group=f"lesion{number // 2}",
            )
        )
        cases[-1].write()
    Manifest.build("made-up", study, cases, {"diagnosis": ["df", "mel", "nv"], "site": ["back", "face"]}).write()
    return study
