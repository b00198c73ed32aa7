"""HAM10000: dermatoscopic photographs, a mask of the lesion in each, and a table with its diagnosis.

Files are told by their names, wherever they lie below the folder: `<image_id>.jpg`, `<image_id>_segmentation.png` and
`HAM10000_metadata` with or without suffix. That is the published layout, and that of a reduced copy too.

Source: P. Tschandl et al., The HAM10000 dataset, Scientific Data 5, 180161 (2018); doi 10.7910/DVN/DBW86T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtl_med.errors import CaseError, NothingFoundError, nearest
from mtl_med.files import safe_name
from mtl_med.io.picture import fit_mask, orientation, read_picture, read_picture_mask
from mtl_med.prep.folders import walk
from mtl_med.prep.lesion_table import LesionTable, Row
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.twins import identical_files, joined

__all__ = ["LesionSource", "read", "scan"]

DIAGNOSIS, LOCALIZATION, LESION = "diagnosis", "localization", "Lesion"
_MASK_ENDING = "_segmentation"
_IMAGES = (".jpg", ".jpeg", ".png")
_NO_LABEL = ("", "unknown")
_UPRIGHT, _LAST_THAT_KEEPS_SIDES = 1, 4  # of the EXIF orientations


@dataclass(frozen=True)
class LesionSource(Source):
    """One photograph.

    Args:
        image: its file.
        mask: the mask's file.
        row: what the table says of it.
        remarks: sentences about what the folder holds besides.
    """

    image: Path = Path()
    mask: Path = Path()
    row: Row = field(default_factory=Row)
    remarks: tuple[str, ...] = ()


@dataclass
class _Files:
    """Files of a folder by what they are; several of one id are a fault, unless they are equal."""

    images: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)


def scan(folder: Path, recipe: Recipe) -> list[LesionSource]:
    """Photographs below a folder, sorted by id.

    Raises:
        NothingFoundError: the folder is missing, or holds no photographs or no table.
        UsageError: the table cannot be read, or two tables differ.
    """
    if not folder.is_dir():
        raise NothingFoundError("there is no such folder", where=folder, fix="Check --source")
    files = _files(folder)
    if not (files.images and files.tables):
        lacking = "HAM10000_metadata.csv" if files.images else "photographs (<image_id>.jpg)"
        packed = sorted(path.name for path in walk(folder) if path.suffix in (".tar", ".zip"))
        raise NothingFoundError(
            f"is no HAM10000 data: it holds no {lacking}",
            where=folder,
            fix=f"Unpack {', '.join(packed)} first" if packed else "See data_prep/ham10000/README.md for the layout",
        )
    table = LesionTable.read(files.tables)
    twins = identical_files([paths[0] for _, paths in sorted(files.images.items())])
    lesions = {case_id: row.lesion_id for case_id, row in table.rows.items()}
    owners = joined(lesions.values(), ([lesions.get(path.stem, "") for path in paths] for paths in twins))
    equal = {path.stem: [other for other in paths if other != path] for paths in twins for path in paths}
    ids = sorted({*files.images, *files.masks, *table.rows})
    return [_source(case_id, folder, files, table, owners, equal.get(case_id, []), recipe) for case_id in ids]


def _files(folder: Path) -> _Files:
    found = _Files()
    for path in walk(folder):
        if path.name.startswith("."):  # such as the twin of each file that macOS puts into archives
            continue
        if path.stem.lower() == "ham10000_metadata" and path.suffix.lower() in ("", ".csv", ".tab", ".txt"):
            found.tables.append(path)
        elif path.suffix.lower() in _IMAGES and path.stem.endswith(_MASK_ENDING):
            found.masks.setdefault(path.stem.removesuffix(_MASK_ENDING), []).append(path)
        elif path.suffix.lower() in _IMAGES:
            found.images.setdefault(path.stem, []).append(path)
    return found


def _source(
    case_id: str,
    root: Path,
    files: _Files,
    table: LesionTable,
    owners: Mapping[str, str],
    equal: list[Path],
    recipe: Recipe,
) -> LesionSource:
    images, masks = files.images.get(case_id, []), files.masks.get(case_id, [])
    row = table.rows.get(case_id)
    fault = _missing(images, masks, row) or table.faults.get(case_id, "") or _several(images) or _several(masks)
    if safe_name(case_id) != case_id:
        fault = "has characters in its name that a case id cannot have"
    if fault or row is None:
        return LesionSource(case_id, "all", root, (*images, *masks), fault, root=root)
    owner = owners[row.lesion_id]
    if row.diagnosis not in recipe.classes[DIAGNOSIS]:
        fault = f"diagnosis '{row.diagnosis}' is not known. {nearest(row.diagnosis, recipe.classes[DIAGNOSIS])}"
    told = [f"image equals that of {path.stem} byte by byte ({_whose(path.stem, row, table)})" for path in equal]
    told += [f"image lies there {len(images)} times"] if len(images) > 1 else []
    return LesionSource(
        id=case_id,
        group="all",
        folder=images[0].parent,
        files=(images[0], masks[0], *files.tables[:1], *equal),
        fault=fault,
        patient=owner,
        stratum=table.diagnoses.get(owner, ""),
        account={"metadata": row.told},
        root=root,
        image=images[0],
        mask=masks[0],
        row=row,
        remarks=(*told, *table.remarks.get(case_id, ())),
        others=(owner,) if owner != row.lesion_id else (),
    )


def _missing(images: list[Path], masks: list[Path], row: Row | None) -> str:
    parts = {"image": images, "mask": masks, "row in the table": row}
    lacking = [name for name, part in parts.items() if not part]
    there = " and ".join(f"a {name}" if name != "image" else "an image" for name, part in parts.items() if part)
    return f"has {there}, but no {' and no '.join(lacking)}" if lacking else ""


def _several(paths: list[Path]) -> str:
    if len(paths) < 2 or len(identical_files(paths)) == 1:
        return ""
    names = " and ".join(f"{path.parent.name}/{path.name}" for path in paths)
    return f"has {len(paths)} files that differ ({names}): keep the one that is meant"


def _whose(other: str, row: Row, table: LesionTable) -> str:
    found = table.rows.get(other)
    if found is None:
        return "of which the table knows nothing"
    if found.lesion_id == row.lesion_id:
        return "the same lesion"
    return f"lesion {found.lesion_id}, diagnosis {found.diagnosis}; both lesions go to one split"


def read(source: Source, recipe: Recipe) -> RawCase:
    """Read one photograph, and its mask in the photograph's size.

    Raises:
        CaseError: a file is damaged, or the mask does not fit, or nothing tells which way up it is.
    """
    if not isinstance(source, LesionSource):
        raise CaseError("is no photograph of a lesion", where=source.id)
    remarks: list[str] = []
    image = read_picture(source.image, remarks)
    stored = read_picture_mask(source.mask)
    if remarks:
        _require_same_way_up(source, stored.shape)
    mask = fit_mask(stored, (image.shape[0], image.shape[1]), where=source.mask)
    factor = len(stored) // len(mask)
    row = source.row
    labels = {DIAGNOSIS: recipe.classes[DIAGNOSIS].index(row.diagnosis)}
    places = recipe.classes.get(LOCALIZATION, ())
    if row.localization in places:
        labels[LOCALIZATION] = places.index(row.localization)
    elif places and row.localization not in _NO_LABEL:
        remarks.append(f"localization '{row.localization}' is none of the recipe's, and counts as unknown")
    case = RawCase(
        id=source.id,
        grid=None,
        volumes={},
        masks={},
        facts={fact.name: fact for fact in recipe.structures},
        measures=row.measures,
        remarks=[*source.remarks, *remarks],
        pictures={"image": image, f"structures/{LESION}": np.where(mask, np.uint8(255), np.uint8(0))},
        labels=labels,
        group=source.patient,
    )
    if factor > 1:
        case.account["converted"] = [f"mask reduced {factor} times in both directions, by the area covered"]
    return case


def _require_same_way_up(source: LesionSource, mask_shape: tuple[int, ...]) -> None:
    """Refuse a mask that fits its photograph before and after the turn that EXIF asks for.

    One whose sides are exchanged by the turn fits only if it is upright, and a mask that is to be turned like its
    photograph was drawn on it as it is stored.
    """
    turned = orientation(source.image)
    sides_exchanged = turned > _LAST_THAT_KEEPS_SIDES and mask_shape[0] != mask_shape[1]
    if turned == _UPRIGHT or sides_exchanged or orientation(source.mask) == turned:
        return
    raise CaseError(
        f"is turned or mirrored by EXIF orientation {turned}, and its mask fits before and after that",
        where=source.image,
        fix="Save image and mask upright, without EXIF orientation",
    )
