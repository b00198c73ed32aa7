"""The versions that a bundle's metadata names are those that the tests ran with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtl_med import __version__

ROOT = Path(__file__).resolve().parents[2]
METADATA = sorted((ROOT / "bundles").glob("*/configs/metadata.json"))
PACKAGES = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


def pinned() -> dict[str, str]:
    """Versions of constraints.txt, and our own."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {"mtl_med": __version__} | dict(line.split("==") for line in lines if "==" in line)


def differing(metadata: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Package -> version in the metadata and pinned one, where they differ."""
    named = {package: metadata[key] for key, package in PACKAGES.items()} | metadata["required_packages_version"]
    return {name: (version, pinned().get(name)) for name, version in named.items() if version != pinned().get(name)}


@pytest.mark.parametrize("path", METADATA, ids=lambda path: path.parent.parent.name)
def test_metadata_names_the_pinned_versions(path: Path) -> None:
    assert differing(json.loads(path.read_text(encoding="utf-8"))) == {}


def test_other_and_unpinned_versions_are_seen() -> None:
    (path, *_) = METADATA
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["numpy_version"] = "1.0"
    metadata["required_packages_version"] |= {"fire": "0.0", "no-such-thing": "1"}
    assert set(differing(metadata)) == {"numpy", "fire", "no-such-thing"}
