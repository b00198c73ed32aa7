"""`mtl-med explain`: where a trained network looks in one image, and where its tasks disagree."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_med.errors import EXIT_OK, UsageError, nearest
from mtl_med.files import read_json, sha256_file
from mtl_med.manifest import Case, Manifest
from mtl_med.provenance import write_record

if TYPE_CHECKING:
    from mtl_med.explain.model import Trained

__all__ = ["add_arguments", "explain", "run"]

_OWN = ("attention*.png", "attention_*.nii.gz", "effect_*", "gradient_conflict.*", "exchange_effect.csv")
_STAGE = "explain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med explain`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="name of a shipped bundle, or its folder")
    parser.add_argument("case", metavar="CASE", help="id of a case of --study, or an image file")
    about = "weights, with their model.json beside them (default: models/model.pt of the bundle)"
    parser.add_argument("--weights", type=Path, metavar="FILE", help=about)
    about = "study folder that CASE belongs to; its labels show where the tasks' gradients are in conflict"
    parser.add_argument("--study", type=Path, metavar="DIR", help=about)
    about = "folder to write; the report shows PREDICTIONS/CASE/explain"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=about)


def run(args: argparse.Namespace) -> int:
    """`mtl-med explain`: 0 where the maps or the gradients are written."""
    for line in explain(args.bundle, args.case, args.out, weights=args.weights, study=args.study):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"For research only: not a medical device.\nwritten: {args.out}\n")
    return EXIT_OK


def explain(
    bundle: str, case: str, out: str | Path, *, weights: str | Path | None = None, study: str | Path | None = None
) -> list[str]:
    """Write what a trained network attends to in one image, and how its tasks go together.

    `attention_<task>_stage<j>` is the mask that a task makes in encoder stage j, mean over its channels;
    `attention_<task>_exchange` how strongly each position is re-read through the other tasks; `effect_<task>` how much
    the prediction changes where the exchange tells of the other tasks no places. Each as NIfTI on the image's own
    voxels (float32; zero where the network saw nothing) and as PNG. `attention.png` shows all of them,
    `exchange_effect.csv` the effect in numbers, `gradient_conflict.csv` and `.png` the cosine between the tasks'
    gradients in each part of the network, `run.json` what made them.

    Args:
        bundle: name of a shipped bundle, or its folder.
        case: id of a case of the study, or an image file.
        out: folder to write; what an earlier run left there is replaced.
        weights: default: `models/model.pt` of the bundle.
        study: study folder.

    Returns:
        Sentences: what was found, and what there is not and why.

    Raises:
        UsageError: no such bundle or case, weights of another network, or a folder that is part of a study.
        CaseError: the image cannot be read.
        OutputError: the folder cannot be written.
    """
    from mtl_med.comparison.settings import bundle_folder

    out = Path(out)
    _refuse_study(out)
    root = bundle_folder(bundle)
    folder = Path(study) if study is not None else Path(case).parent
    # What a wrong name costs should not be the time of building a network.
    known = Manifest.read(folder) if study is not None else None
    if known is not None:
        _find(known, case)
    elif not Path(case).is_file():
        raise UsageError("there is no such file", where=case, fix="Give an image file, or a case's id with --study DIR")

    from mtl_med.explain.files import write_conflict, write_maps
    from mtl_med.explain.model import load_bundle

    trained = load_bundle(root, Path(weights) if weights is not None else None, folder)
    item = _item(trained, case, known)
    data = trained.preprocessing(item)
    _clear(out)
    maps, told = write_maps(out, trained, data)
    told += write_conflict(out, trained, known, _find(known, case) if known is not None else None)
    record = {
        "weights": {"path": str(trained.weights), "sha256": sha256_file(trained.weights)},
        "hashes": {"fingerprint": known.fingerprint} if known is not None else {},
        "bundle": root.name,
        "case": item["id"],
        "source": item["source"],
        "settings": {name: trained.settings.get(name) for name in ("method", "encoder", "inputs")},
        "maps": maps,
        "told": told,
    }
    write_record(out / "run.json", _STAGE, record, ("torch", "monai", "numpy"))
    return told


def _refuse_study(out: Path) -> None:
    for place in (out.resolve(), *out.resolve().parents):
        if any((place / name).is_file() for name in ("manifest.json", "case.json")):
            raise UsageError("lies in a study, which is only read", where=out, fix="Choose another --out")


def _clear(out: Path) -> None:
    """Remove what an earlier run of this command left; nothing where the folder is another's."""
    record = out / "run.json"
    if not record.is_file():
        return
    if read_json(record).get("stage") != _STAGE:
        raise UsageError("holds something else than explanations", where=out, fix="Choose another --out")
    for path in [path for pattern in _OWN for path in out.glob(pattern)]:
        path.unlink()


def _find(manifest: Manifest, name: str) -> Case:
    found = next((case for case in manifest if case.id == name), None)
    if found is None:
        known = nearest(name, (case.id for case in manifest))
        raise UsageError(f"there is no case '{name}'", where=manifest.root, fix=known if len(known) < 300 else "")
    return found


def _item(trained: Trained, name: str, manifest: Manifest | None) -> dict[str, Any]:
    """What the preprocessing reads, and `source`, the image's file."""
    from mtl_med.loading.datalist import case_item, folder_items

    if manifest is not None:
        item = case_item(_find(manifest, name), (), trained.inputs)
    else:
        path = Path(name)
        items = folder_items(path.parent, trained.inputs)
        item = next((item for item in items if Path(item["image"]) == path), {})
        if not item:
            raise UsageError(f"is no image that inputs '{trained.inputs}' are made of", where=path)
    return {**item, "source": item["image"]}
