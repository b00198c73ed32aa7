"""What DICOM lies in a folder: every file's header is read once, and only what links the objects of a study is kept.

Nothing is held but identifiers and paths, so that a folder of 100,000 files fits; links between folders are followed,
each folder once. Only CT, RTSTRUCT, RTPLAN and RTDOSE matter; everything else is counted by folder, with the reason.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import CaseError, NothingFoundError
from mtl_med.parallel import in_processes
from mtl_med.prep.folders import Counts, count_in, listing, walk

if TYPE_CHECKING:
    from mtl_med.prep.dicom_headers import RtObject, SeriesKey

__all__ = ["CtFiles", "Scan", "scan_folder"]

_BATCH = 500  # files that one process reads at a time
_BEHIND_STRUCTURES = "ROIContourSequence"  # contours are most of an RTSTRUCT, and no image has anything behind it
_DICOM_SUFFIX = re.compile(r"|\.(dcm|dicom|dic|ima|img|\d+)", re.IGNORECASE)  # PACS name files by UID, without suffix
_USUAL = (".csv", ".txt", ".md", ".log", ".json", ".xml", ".html", ".pdf", ".png", ".jpg", ".zip", ".gz", ".nii")


@dataclass
class CtFiles:
    """The files of one CT series.

    Args:
        key: patient, study and series.
        frame_uids: frames of reference of its images; one, where the series is whole.
        files: in the order they were found.
        sop_uids: of its images.
        identity: texts of its first header that tell who the patient is.
    """

    key: SeriesKey
    frame_uids: set[str] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)
    sop_uids: set[str] = field(default_factory=set)
    identity: tuple[str, ...] = ()


@dataclass
class Scan:
    """What a folder holds.

    Args:
        root: the folder.
        files: number of files seen.
        series: CT series.
        objects: RTSTRUCT, RTPLAN and RTDOSE, in the order they were found.
        ignored: what was left out: other modalities, localizers, files that are no DICOM.
        unusable: why files that may have been meant as one of these could not be used.
    """

    root: Path
    files: int = 0
    series: dict[SeriesKey, CtFiles] = field(default_factory=dict)
    objects: list[RtObject] = field(default_factory=list)
    ignored: Counts = field(default_factory=dict)
    unusable: Counts = field(default_factory=dict)

    def join(self, other: Scan) -> None:
        """Take in what was found in further files."""
        self.files += other.files
        for key, found in other.series.items():
            series = self.series.setdefault(key, CtFiles(key, identity=found.identity))
            series.files += found.files
            series.sop_uids |= found.sop_uids
            series.frame_uids |= found.frame_uids
        self.objects += other.objects
        for own, more in ((self.ignored, other.ignored), (self.unusable, other.unusable)):
            for folder, counts in more.items():
                own.setdefault(folder, Counter()).update(counts)

    def totals(self) -> Counter[str]:
        """How often each thing was left out or could not be used, over all folders."""
        return sum([*self.ignored.values(), *self.unusable.values()], Counter())


def scan_folder(root: Path) -> Scan:
    """Read the headers of all files below a folder.

    Args:
        root: the folder.

    Raises:
        NothingFoundError: it is no folder, or holds no CT, RTSTRUCT or RTDOSE.
    """
    from tqdm import tqdm

    if not root.is_dir():
        raise NothingFoundError("there is no such folder", where=root, fix="Check --source")
    scan = Scan(root)
    paths = list(walk(root, scan.ignored))
    batches = [paths[i : i + _BATCH] for i in range(0, len(paths), _BATCH)]
    with tqdm(total=len(paths), desc="scan", unit=" files", disable=not sys.stderr.isatty(), leave=False) as bar:
        for found in in_processes(partial(_scan_files, root), batches):
            scan.join(found)
            bar.update(found.files)
    if not scan.series and all(item.kind == "RTPLAN" for item in scan.objects):
        raise NothingFoundError(
            f"holds no CT, RTSTRUCT or RTDOSE among {scan.files} files",
            where=root,
            why=f"Left out: {listing(scan.totals())}" if scan.totals() else "",
            fix="Give the folder of the exported DICOM files",
        )
    return scan


def _other_file(path: Path) -> str:
    """`.csv file`; an unknown ending is not told, as it may be part of a name."""
    return f"{path.suffix.lower()} file" if path.suffix.lower() in _USUAL else "file that is no DICOM"


def _scan_files(root: Path, paths: Sequence[Path]) -> Scan:
    """What some files below a folder are."""
    scan = Scan(root, files=len(paths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks may quote the patient
        for path in paths:
            _add(scan, path)
    return scan


def _add(scan: Scan, path: Path) -> None:
    """Put one file where it belongs."""
    from mtl_med.io.dicom import read_header
    from mtl_med.prep.dicom_headers import identity, image_header, kind_of, names_images, rt_object

    try:
        header = read_header(path, stop_before=_BEHIND_STRUCTURES)
        kind, other, missed = kind_of(header)
        if kind in ("RTPLAN", "RTDOSE") or (kind == "RTSTRUCT" and not names_images(header)):
            header = read_header(path)  # what it refers to stands further back
    except CaseError as error:
        if _DICOM_SUFFIX.fullmatch(path.suffix):
            count_in(scan.unusable, path.parent, error.what)
        else:
            count_in(scan.ignored, path.parent, _other_file(path))
        return
    if other:
        count_in(scan.unusable if missed else scan.ignored, path.parent, other)
    elif kind == "CT":
        image = image_header(header)
        series = scan.series.get(image.key)
        if series is None:
            series = scan.series[image.key] = CtFiles(image.key, identity=identity(header))
        series.files.append(path)
        series.sop_uids.add(image.sop_uid)
        series.frame_uids |= {image.frame_uid} - {""}
    else:
        scan.objects.append(rt_object(kind, header, path))
