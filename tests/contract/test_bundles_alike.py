"""Bundles have the layout that MONAI's clients expect, and differ from each other only where they may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtl_med import __version__
from mtl_med.files import shipped

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir())
LAYOUT = [
    "LICENSE",
    *(f"configs/{name}" for name in ("metadata.json", "train.json", "evaluate.json", "inference.json")),
    *("configs/multi_gpu_train.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt"),
]
SAME_BYTES = ["LICENSE", "configs/multi_gpu_train.json", "configs/logging.conf"]


def different(name: str, bundles: list[Path]) -> list[str]:
    """Bundles whose file `name` is not that of the first."""
    contents = {bundle.name: (bundle / name).read_bytes() for bundle in bundles}
    first = next(iter(contents.values()))
    return [bundle for bundle, content in contents.items() if content != first]


def test_there_are_bundles() -> None:
    assert BUNDLES
    assert shipped("bundles") == ROOT / "bundles"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("name", LAYOUT)
def test_layout(bundle: Path, name: str) -> None:
    assert (bundle / name).is_file()


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_no_scripts_and_full_paths(bundle: Path) -> None:
    """A scripts folder is on sys.path only inside `run`, so that export and verify would fail."""
    assert not (bundle / "scripts").exists()
    for config in (bundle / "configs").glob("*.json"):
        for target in targets(json.loads(config.read_text())):
            assert target.split(".")[0] in {"mtl_med", "monai", "torch", "ignite"}, f"{config.name}: {target}"
            assert target.count(".") >= 2, f"{config.name}: {target} is no full path"


def targets(node: object) -> list[str]:
    """Every `_target_` of a config."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets(value)]
    if isinstance(node, list):
        return [name for value in node for name in targets(value)]
    return []


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_metadata(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["mtl_med"] == __version__


@pytest.mark.parametrize("name", SAME_BYTES)
def test_same_bytes(name: str) -> None:
    assert different(name, BUNDLES) == []


# What one bundle's config may say otherwise than another's; everything else is the same machine.
MAY_DIFFER = {
    "train.json": {
        *("tasks", "patch_size", "spacing_mm", "loss_options", "network_options", "network_def#priors"),
    },
    "evaluate.json": set(),
    "inference.json": {"default_tasks", "patch_size", "default_network_options"},
}


def flat(node: object, name: str = "") -> dict[str, object]:
    """Every leaf of a config by its id; lists are leaves."""
    if not isinstance(node, dict):
        return {name: node}
    return {key: leaf for part, value in node.items() for key, leaf in flat(value, f"{name}#{part}").items()}


def differing(name: str, bundles: list[Path]) -> set[str]:
    """Ids, up to the one that may differ, in which a config is not that of the first bundle."""
    first, *others = (
        {k[1:]: v for k, v in flat(json.loads((b / "configs" / name).read_text())).items()} for b in bundles
    )
    keys = {key for other in others for key in {*first, *other} if first.get(key) != other.get(key)}
    return {
        next((known for known in MAY_DIFFER[name] if key == known or key.startswith(f"{known}#")), key) for key in keys
    }


@pytest.mark.parametrize("name", MAY_DIFFER)
def test_configs_differ_only_where_they_may(name: str) -> None:
    assert differing(name, BUNDLES) <= MAY_DIFFER[name]


def test_a_difference_is_seen(tmp_path: Path) -> None:
    for name, text in [("a", "1"), ("b", "1"), ("c", "2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE").write_text(text)
    assert different("LICENSE", sorted(tmp_path.iterdir())) == ["c"]
    nested = {"a": [{"_target_": "scripts.x", "b": {"_target_": "torch.nn.ReLU"}}]}
    assert targets(nested) == ["scripts.x", "torch.nn.ReLU"]
