"""Which CT, RTSTRUCT, RTPLAN and RTDOSE of a folder belong together.

An RTSTRUCT belongs to the CT series that it refers to, an RTPLAN to its RTSTRUCT, an RTDOSE to its RTPLAN or RTSTRUCT.
Where what they refer to is not in the folder, the frame of reference decides if it leaves no choice, and the account
says so; one that contradicts the only CT there is needs the user's word. Where more than one answer remains, the case
has a fault that lists them: nothing is guessed.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.prep.dicom_scan import CtFiles, Scan
from mtl_med.prep.dicom_source import KINDS, DicomSource, Namer
from mtl_med.prep.folders import listing

if TYPE_CHECKING:
    from mtl_med.prep.dicom_headers import RtObject, SeriesKey

__all__ = ["link"]

_BY_FRAME = "its frame of reference, as nothing that it refers to is here"
_BY_ELIMINATION = "elimination: nothing that it refers to is here, and no other CT of the patient can be meant"


@dataclass
class _Group:
    """What belongs to one CT series."""

    series: CtFiles
    objects: dict[str, list[RtObject]] = field(default_factory=lambda: {kind: [] for kind in KINDS[1:]})
    how: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class _Links:
    """Groups by every name that something can refer to them by, and objects that found no CT."""

    def __init__(self, scan: Scan) -> None:
        self.groups = {key: _Group(series) for key, series in sorted(scan.series.items())}
        self.by_uid: dict[str, list[SeriesKey]] = {}  # of RTSTRUCT or RTPLAN, once they have a CT
        self.lost: dict[str, list[RtObject]] = {}  # by patient
        self.of_series: dict[str, list[SeriesKey]] = {}
        self.of_patient: dict[str, list[SeriesKey]] = {}
        for key in self.groups:
            self.of_series.setdefault(key[2], []).append(key)
            self.of_patient.setdefault(key[0], []).append(key)

    @cached_property
    def of_image(self) -> dict[str, list[SeriesKey]]:
        """Made only for structure sets that name no series which is here."""
        found: dict[str, list[SeriesKey]] = {}
        for key, group in self.groups.items():
            for uid in group.series.sop_uids:
                found.setdefault(uid, []).append(key)
        return found


def link(scan: Scan, namer: Namer) -> list[DicomSource]:
    """The cases of a folder, by id.

    There is one for every CT series that an RTSTRUCT or RTDOSE belongs to, and for every CT series of a patient who has
    neither. Other CT series are left out and counted. RTSTRUCTs and RTDOSEs that belong to no CT make a case with a
    fault where the patient has no other case, so that they are not passed over.

    Args:
        scan: what the folder holds.
        namer: what to call cases and files.
    """
    links = _Links(scan)
    for kind in KINDS[1:]:
        items = [item for item in scan.objects if item.kind == kind]
        _place_the_rest([item for item in items if not _place(item, links, namer)], links, namer)
    used = {key for key, group in links.groups.items() if _has_rt(group) or group.faults}
    patients = {key[0] for key in used}
    lost = {patient for patient, items in links.lost.items() if any(item.kind != "RTPLAN" for item in items)}
    kept = (key for key in links.groups if key in used or key[0] not in patients | lost)
    sources = [_source(links.groups[key], links, scan, namer) for key in kept]
    sources += [_without_ct(patient, links, namer) for patient in sorted(lost - patients)]
    return sorted(sources, key=lambda source: source.id)


def _has_rt(group: _Group) -> bool:
    return bool(group.objects["RTSTRUCT"] or group.objects["RTDOSE"])


def _place(item: RtObject, links: _Links, namer: Namer) -> bool:
    """Put an object to its CT, or note why that cannot be done; False where no CT is known to be its own."""
    keys, how = _candidates(item, links)
    if len(keys) == 1:
        _put(item, keys[0], how, links)
        if item.patient != keys[0][0]:
            told = f"{item.kind} {namer.object(item)} and its CT have different PatientIDs"
            links.groups[keys[0]].conflicts.append(told)
    elif keys and item.kind != "RTPLAN":
        told = " or ".join(namer.series(links.groups[key].series) for key in keys)
        fault = f"{item.kind} {namer.object(item)} can belong to {len(keys)} CT series: {told}"
        links.groups[keys[0]].faults.append(fault)
    return bool(keys)


def _put(item: RtObject, key: SeriesKey, how: str, links: _Links) -> None:
    links.by_uid.setdefault(item.sop_uid, []).append(key)
    links.groups[key].objects[item.kind].append(item)
    links.groups[key].how.append(f"{item.kind} by {how}")


def _place_the_rest(items: list[RtObject], links: _Links, namer: Namer) -> None:
    """Put structures and doses that no CT is known of to the only CT that can be meant, if it lacks such an object.

    Where its frame of reference or the images that it names are others, that is a conflict, which only the user's word
    overrules.
    """
    served = {key for key, group in links.groups.items() if items and group.objects[items[0].kind]}
    for item in items:
        key = _only_ct(item, links)
        if key is None or key in served or item.kind == "RTPLAN":
            links.lost.setdefault(item.patient, []).append(item)
            continue
        _put(item, key, _BY_ELIMINATION, links)
        group = links.groups[key]
        if item.frame_uids and group.series.frame_uids:
            told = f"{item.kind} {namer.object(item)} belongs to another frame of reference than the CT"
            group.conflicts.append(told)
        elif item.series_uids or item.image_uids:
            group.conflicts.append(f"{item.kind} {namer.object(item)} refers to images that are not here")


def _only_ct(item: RtObject, links: _Links) -> SeriesKey | None:
    """The only CT of the object's patient, or the only one that has structures."""
    mine = links.of_patient.get(item.patient, [])
    planned = [key for key in mine if links.groups[key].objects["RTSTRUCT"]]
    return next((keys[0] for keys in (mine, planned) if len(keys) == 1), None)


def _candidates(item: RtObject, links: _Links) -> tuple[list[SeriesKey], str]:
    """CT series that an object can belong to, and by what."""
    groups = links.groups
    for uids, how in ((item.plans, "the RTPLAN it refers to"), (item.structure_sets, "the RTSTRUCT it refers to")):
        keys = dict.fromkeys(key for uid in sorted(uids) for key in links.by_uid.get(uid, ()))
        if keys:
            return _own(list(keys), item), how
    named = _own([key for uid in sorted(item.series_uids) for key in links.of_series.get(uid, ())], item)
    if len(named) == 1:
        return named, "the series it refers to"
    drawn = {key for uid in item.image_uids for key in links.of_image.get(uid, ())} if item.image_uids else set()
    if drawn or named:
        return _own(sorted(drawn.intersection(named) or drawn or named), item), "the images it refers to"
    mine = links.of_patient.get(item.patient, ())
    near = [key for key in mine if groups[key].series.frame_uids & item.frame_uids]
    planned = [key for key in near if groups[key].objects["RTSTRUCT"]]
    return (planned if len(planned) == 1 else near), _BY_FRAME


def _own(keys: list[SeriesKey], item: RtObject) -> list[SeriesKey]:
    """Those of the same patient, if there are any: copies of a study under another PatientID keep their UIDs."""
    return [key for key in keys if key[0] == item.patient] or keys


def _source(group: _Group, links: _Links, scan: Scan, namer: Namer) -> DicomSource:
    key, series = group.series.key, group.series
    objects = {kind: list(_distinct(items, group, namer)) for kind, items in group.objects.items()}
    structures = _structure_set(objects, group, namer)
    plan = _plan(objects, group)
    if structures and (absent := structures.image_uids - series.sop_uids):
        count = len(structures.image_uids)
        group.remarks.append(f"{len(absent)} of {count} images that the RTSTRUCT refers to are not in the CT series")
    chosen = [item for item in (structures, plan, *objects["RTDOSE"]) if item]
    files = (*series.files, *(item.path for item in chosen))
    group.remarks += _lost(key[0], links)
    beside = _beside({path.parent for path in files}, scan, group)
    left = [*group.remarks, *_other_series(key, links), *beside]
    found = [f"CT series of {len(series.files)} images", *(f"{len(v)} {kind}" for kind, v in objects.items() if v)]
    return DicomSource(
        id=namer.case_id(key),
        group="all",
        folder=series.files[0].parent,
        files=files,
        fault="; ".join(group.faults),
        patient=namer.patient(key[0]),
        account={"found": tuple(found), "linked": tuple(dict.fromkeys(group.how)), "skipped": tuple(left)},
        ct_files=tuple(series.files),
        rtstruct=structures.path if structures else None,
        rtplan=plan.path if plan else None,
        doses=tuple(item.path for item in objects["RTDOSE"]),
        conflict="; ".join(group.conflicts),
        remarks=(
            *(how for how in dict.fromkeys(group.how) if how.endswith((_BY_FRAME, _BY_ELIMINATION))),
            *group.remarks,
        ),
        root=scan.root,
        identity=tuple(dict.fromkeys([*series.identity, *(text for item in chosen for text in item.identity)])),
    )


def _distinct(items: Iterable[RtObject], group: _Group, namer: Namer) -> Iterator[RtObject]:
    """Objects without copies; two files that differ but claim to be the same object are a fault."""
    first: dict[str, RtObject] = {}
    for item in items:
        known = first.setdefault(item.sop_uid, item)
        if known is item:
            yield item
        elif _equal(known.path, item.path):
            group.remarks.append(f"{item.kind} {namer.object(item)} is a copy and was left out")
        else:
            told = f"{namer.object(known)} and {namer.object(item)}"
            group.faults.append(f"{told} have the same SOPInstanceUID, but differ: keep the one that is meant")


def _equal(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _structure_set(objects: dict[str, list[RtObject]], group: _Group, namer: Namer) -> RtObject | None:
    """The RTSTRUCT of a CT: the only one, or the only one that its doses and their plans refer to."""
    known = objects["RTSTRUCT"]
    if len(known) < 2:
        return next(iter(known), None)
    doses, plans = objects["RTDOSE"], objects["RTPLAN"]
    planned = [plan for plan in plans if any(plan.sop_uid in dose.plans for dose in doses)] or plans
    wanted = {uid for item in (*doses, *planned) for uid in item.structure_sets}
    named = [item for item in known if item.sop_uid in wanted]
    if len(named) != 1:
        told = ", ".join(namer.object(item) for item in known)
        group.faults.append(f"{len(known)} RTSTRUCTs belong to this CT: {told}; keep the one that is meant")
        return None
    group.remarks.append(f"{len(known) - 1} other RTSTRUCTs of this CT were left out: the dose or plan refers to none")
    return named[0]


def _plan(objects: dict[str, list[RtObject]], group: _Group) -> RtObject | None:
    """The RTPLAN of the doses; None where it is not clear, so that nothing is taken from a plan of something else."""
    plans, referred = objects["RTPLAN"], {uid for dose in objects["RTDOSE"] for uid in dose.plans}
    used = [plan for plan in plans if plan.sop_uid in referred] if referred else plans
    if len(used) == 1:
        return used[0]
    if plans:
        why = f"{len(used)} can be meant" if used else "the dose refers to another one"
        group.remarks.append(f"no RTPLAN of {len(plans)} was used: {why}")
    return None


def _lost(patient: str, links: _Links) -> list[str]:
    """Objects of the patient that belong to no CT."""
    kinds = [item.kind for item in links.lost.get(patient, ())]
    return [f"{kinds.count(kind)} {kind} of the patient that belongs to no CT here" for kind in sorted(set(kinds))]


def _other_series(key: SeriesKey, links: _Links) -> list[str]:
    """CT series of the patient that make no case."""
    others = [other for other in links.of_patient[key[0]] if other != key and not _has_rt(links.groups[other])]
    return [f"{len(others)} other CT series of the patient without RTSTRUCT or RTDOSE"] if others else []


def _beside(folders: set[Path], scan: Scan, group: _Group) -> list[str]:
    """What lies in the case's folders and was left out; what could not be used is remarked, as it may be missed."""
    told = [f"left out: {listing(scan.ignored[folder])}" for folder in sorted(folders) if folder in scan.ignored]
    unusable = [listing(scan.unusable[folder]) for folder in sorted(folders) if folder in scan.unusable]
    group.remarks += [f"files beside it could not be used: {listed}" for listed in unusable]
    return told


def _without_ct(patient: str, links: _Links, namer: Namer) -> DicomSource:
    lost = [item for item in links.lost[patient] if item.kind != "RTPLAN"]
    kinds = sorted({item.kind for item in lost})
    told = ", ".join(namer.object(item) for item in lost[:5])
    return DicomSource(
        id=namer.case_id((patient, "", "")),
        group="all",
        folder=lost[0].path.parent,
        files=tuple(item.path for item in lost),
        fault=f"the CT of {' and '.join(kinds)} is not here: {told}",
        patient=namer.patient(patient),
        root=namer.root,
        identity=tuple(dict.fromkeys(text for item in lost for text in item.identity)),
    )
