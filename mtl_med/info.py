"""`mtl-med info`: what methods, encoders and bundles there are, and what lies in a study folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mtl_med.errors import EXIT_OK, UsageError
from mtl_med.files import read_json, shipped
from mtl_med.manifest import SPLITS, Case, Manifest

__all__ = ["TOPICS", "add_arguments", "bundles", "data", "encoders", "methods", "run"]

# The tasks of the OpenKBP bundle, for which parameters and work are counted.
_TASKS: dict[str, dict[str, Any]] = {
    "oar": {"kind": "segmentation", "channels": 7},
    "dose": {"kind": "regression", "unit": "Gy"},
}
_PATCHES = {3: (112, 80, 96), 2: (224, 224)}
_MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med info`."""
    parser.add_argument("topic", nargs="?", choices=sorted(TOPICS), help="default: all but data")
    parser.add_argument("path", nargs="?", type=Path, help="the study folder, for: mtl-med info data STUDY")


def run(args: argparse.Namespace) -> int:
    """Print what is asked for."""
    if (args.topic == "data") != (args.path is not None):
        raise UsageError("a path belongs to 'data' and to nothing else", fix="Write: mtl-med info data STUDY")
    topics = [args.topic] if args.topic else ["methods", "encoders", "bundles"]
    texts = ["\n".join(TOPICS[topic](args.path)) for topic in topics]
    sys.stdout.write("\n\n".join(texts) + "\n")
    return EXIT_OK


def methods(_: Path | None = None) -> Iterable[str]:
    """One line per method: name, parameters and forward work in 3D and in 2D, summary, paper."""
    rows = [("", "3D", "", "2D", "", "", "")]
    for name, method in _method_table().items():
        rows.append((name, *_size(name, 3), *_size(name, 2), method.summary, method.paper))
    yield "methods (--method): parameters, and GFLOP of a forward pass, with 7 organs and dose"
    yield f"3D: plain encoder, patch {_numbers(_PATCHES[3])}; 2D: ResNet-50, image {_numbers(_PATCHES[2])}"
    yield from _columns(rows)


def _method_table() -> dict[str, Any]:
    from mtl_med.networks import METHODS

    return METHODS


def _size(method: str, spatial_dims: int) -> tuple[str, str]:
    """Parameters and work of a method's network, counted without memory or arithmetic."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from mtl_med.networks import create_network

    encoder = "plain" if spatial_dims == 3 else "resnet50"
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = create_network(method, _TASKS, spatial_dims, 2, encoder, stem_stride=2).eval()
        network(torch.empty(1, 2, *_PATCHES[spatial_dims]))
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count / 1e6:.2f} M", f"{counter.get_total_flops() / 1e9:.1f}"


def encoders(_: Path | None = None) -> Iterable[str]:
    """One line per encoder: name, channels and strides of its stages, what it is."""
    import torch

    from mtl_med.networks.encoders import ENCODERS

    rows = []
    for name, build in ENCODERS.items():
        with torch.device("meta"):
            encoder = build(2, 3)
        text = (build.__doc__ or "").strip().splitlines()[0]
        rows.append((name, f"channels {_numbers(encoder.channels)}", f"strides {_numbers(encoder.strides)}", text))
    yield "encoders"
    yield from _columns(rows)


def bundles(_: Path | None = None) -> Iterable[str]:
    """One line per bundle: name, version, whether its weights are there, where it lies."""
    rows = []
    for folder in sorted(path.parent.parent for path in shipped("bundles").glob("*/configs/metadata.json")):
        version = read_json(folder / "configs" / "metadata.json").get("version", "?")
        weights = folder / "models" / "model.pt"
        state = (
            f"weights of {weights.stat().st_size / _MIB:.0f} MiB" if weights.is_file() else "no weights: train first"
        )
        rows.append((folder.name, version, state, str(folder)))
    yield "bundles"
    yield from _columns(rows) if rows else ["  none"]


def data(path: Path | None) -> Iterable[str]:
    """A study folder: cases per split, grids, structures, prescriptions, oddities."""
    if path is None:
        raise UsageError("no study is named", fix="Write: mtl-med info data STUDY")
    study = Manifest.read(path)
    yield f"{study.dataset}: {len(study)} cases in {study.root}"
    yield f"fingerprint {study.fingerprint}"
    if not len(study):
        return
    yield ""
    yield "splits"
    counts = Counter(case.split for case in study)
    yield from _columns([(split, str(counts[split])) for split in SPLITS if counts[split]])
    yield ""
    yield "tasks (cases with labels)"
    yield from _columns([(name, str(n)) for name, n in Counter(task for case in study for task in case.tasks).items()])
    yield from _grids(study.cases)
    yield from _structures(study.cases)
    with_notes = sum(bool(case.notes) for case in study)
    yield ""
    yield f"{with_notes} cases with notes; see {study.root / 'quality.csv'}"


def _grids(cases: Sequence[Case]) -> Iterable[str]:
    shapes = Counter(case.grid.shape for case in cases if case.grid)
    if not shapes:
        return
    yield ""
    yield "grids (voxels)"
    yield from _columns([("x".join(map(str, shape)), f"{count} cases") for shape, count in shapes.most_common(5)])
    yield ""
    yield "spacing (mm)"
    rows = []
    for axis, values in zip("xyz", zip(*(case.spacing_mm for case in cases if case.grid), strict=True), strict=False):
        ordered = sorted(values)
        rows.append((axis, f"{ordered[0]:.2f} to {ordered[-1]:.2f}", f"median {ordered[len(ordered) // 2]:.2f}"))
    yield from _columns(rows)


def _structures(cases: Sequence[Case]) -> Iterable[str]:
    names = dict.fromkeys(name for case in cases for name in case.structures)
    if not names:
        return
    rows = [("", "kind", "contoured", "empty", "not contoured", "median cc", "prescribed")]
    for name in names:
        items = [case.structures[name] for case in cases if name in case.structures]
        status = Counter(item.status for item in items)
        volumes = sorted(item.volume_cc for item in items if item.status == "contoured" and item.volume_cc is not None)
        doses = sorted({case.prescriptions_gy[name] for case in cases if name in case.prescriptions_gy})
        rows.append(
            (
                name,
                items[0].kind,
                str(status["contoured"]),
                str(status["empty"]),
                str(len(cases) - status["contoured"] - status["empty"]),
                f"{volumes[len(volumes) // 2]:.1f}" if volumes else "-",
                " ".join(f"{dose:g} Gy" for dose in doses),
            )
        )
    yield ""
    yield "structures"
    yield from _columns(rows)


def _numbers(values: Iterable[int]) -> str:
    return " ".join(map(str, values))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text, two blanks in front and between."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


TOPICS: dict[str, Callable[[Path | None], Iterable[str]]] = {
    "methods": methods,
    "encoders": encoders,
    "bundles": bundles,
    "data": data,
}
