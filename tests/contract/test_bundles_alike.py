"""Bundles have the layout that MONAI's clients expect, and differ from each other only where they may."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mtl_med import __version__, cli
from mtl_med.bundle import refuse_wrong_overrides
from mtl_med.errors import UsageError
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


FAMILIES = {
    "dose": ["openkbp_dose_oar_segmentation", "prostate_dose_oar_segmentation"],
    "image": ["ham10000_lesion_classification", "stoic_covid_classification"],
}
"""Bundles with the same machine: patches of volumes with maps, and whole images with classes beside or without maps."""

DIFFERENCES = {
    "dose": {
        "train.json": "tasks patch_size spacing_mm loss_options network_options network_def#priors",
        "evaluate.json": "",
        "inference.json": "default_tasks patch_size default_network_options",
    },
    # Photographs with a lesion to outline, or volumes that are told as a whole: how they are read, and at what size.
    "image": {
        "train.json": "tasks encoder inputs batch_size augmentation loss_options network_options network_def#priors "
        "network_def#spatial_dims image_size scaling volume_size window_hu settings#image_size settings#scaling "
        "settings#volume_size settings#window_hu settings#class_counts train#preprocessing train#dataloader#weights "
        "validate#preprocessing validate#inferer#patch_size",
        "evaluate.json": "image_size scaling volume_size window_hu window_size network_def#stacked network_def#priors "
        "validate#preprocessing ledger#settings#image_size ledger#settings#volume_size ledger#settings#scaling "
        "ledger#settings#window_hu",
        "inference.json": "default_tasks default_network_options encoder inputs image_size scaling volume_size "
        "window_hu window_size network_def#spatial_dims network_def#stacked preprocessing "
        "ledger#settings#image_size ledger#settings#volume_size ledger#settings#scaling ledger#settings#window_hu",
    },
    # Classes: imbalance, absent labels, calibration, attention, an inferer for mixes. Doses: prescription and spacing.
    "between": {
        "train.json": "epochs learning_rate class_weights sampling hidden_labels labelled_only items finalize "
        "settings#class_weights settings#sampling settings#hidden_labels settings#labelled_only settings#augmentation "
        "settings#patch_size settings#study train#dataset#data validate#inferer",
        "evaluate.json": "patch_size study spacing_mm prescription_gy calibration image_mode attention finalize "
        "validate#inferer validate#postprocessing validate#evaluator#attention validate#dataset#data ledger#tasks "
        "ledger#settings#patch_size ledger#settings#spacing_mm ledger#settings#prescription_gy "
        "ledger#settings#window_size ledger#settings#image_mode ledger#settings#attention ledger#settings#calibration",
        "inference.json": "study spacing_mm prescription_gy calibration image_mode attention inferer postprocessing "
        "evaluator#attention dataset#data ledger#tasks ledger#settings#patch_size ledger#settings#spacing_mm "
        "ledger#settings#prescription_gy ledger#settings#window_size ledger#settings#image_mode "
        "ledger#settings#attention ledger#settings#calibration",
    },
}
"""The ids in which configs differ, within a family and between the two; everything else is the same, word for word."""

CONFIGS = ["train.json", "evaluate.json", "inference.json"]


def flat(node: object, name: str = "") -> dict[str, object]:
    """Every leaf of a config by its id; lists are leaves, and so is what is empty."""
    if not isinstance(node, dict) or not node:
        return {name: node}
    return {key: leaf for part, value in node.items() for key, leaf in flat(value, f"{name}#{part}").items()}


def differing(name: str, bundles: list[Path]) -> set[str]:
    """Ids in which a config is not the same in all bundles."""
    first, *others = (
        {k[1:]: v for k, v in flat(json.loads((b / "configs" / name).read_text())).items()} for b in bundles
    )
    absent = object()  # null is a value
    return {key for other in others for key in {*first, *other} if first.get(key, absent) != other.get(key, absent)}


def named(ids: set[str], rows: str) -> tuple[set[str], set[str]]:
    """The ids that no row names, and the rows that name none."""
    of_row = {row: {key for key in ids if key == row or key.startswith(f"{row}#")} for row in rows.split()}
    return ids.difference(*of_row.values()), {row for row, found in of_row.items() if not found}


def test_every_bundle_is_of_one_family() -> None:
    assert sorted(name for family in FAMILIES.values() for name in family) == [bundle.name for bundle in BUNDLES]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bundles_of_a_family_differ_where_the_table_says(family: str, name: str) -> None:
    bundles = [ROOT / "bundles" / bundle for bundle in FAMILIES[family]]
    assert named(differing(name, bundles), DIFFERENCES[family][name]) == (set(), set())


@pytest.mark.parametrize("name", CONFIGS)
def test_families_differ_where_the_table_says(name: str) -> None:
    left, _ = named(differing(name, BUNDLES), " ".join(DIFFERENCES[family][name] for family in FAMILIES))
    assert named(left, DIFFERENCES["between"][name]) == (set(), set())


def commands(bundle: Path) -> list[str]:
    """The commands of a bundle's README, which are the indented lines."""
    lines = (bundle / "docs" / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_commands_of_its_readme_are_valid(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert len(commands(bundle)) >= 4
    for line in commands(bundle):
        words = shlex.split(line)
        if words[0] == "mtl-med":
            cli.build_parser(words[1]).parse_args(words[1:])
            continue
        start = words.index("-m")
        if words[start + 1] == "mtl_med.prep":
            cli.build_parser("prep").parse_args(["prep", *words[start + 2 :]])
            continue
        assert words[start + 1] == "monai.bundle", line
        refuse_wrong_overrides(["monai/bundle/__main__.py", *words[start + 2 :]])
        for name in re.findall(r"configs/[\w.]+", line):
            assert (bundle / name).is_file(), line


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("bundles/*/configs/*.json")), ids=lambda path: f"{path.parts[-3]}-{path.stem}"
)
def test_a_word_is_refused_where_a_config_has_a_number(file: Path) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    for name, value in config.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            words = ["--config_file", str(file), f"--{name}"]
            refuse_wrong_overrides(["monai/bundle/__main__.py", "run", *words, str(value)])
            with pytest.raises(UsageError, match=f"--{name}: is 'many', expected"):
                refuse_wrong_overrides(["monai/bundle/__main__.py", "run", *words, "many"])


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_overrides_of_its_readme_are_in_its_configs(bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `--")]
    names = {name for cell in cells for name in re.findall(r"`--([\w#]+)", cell)}
    keys = [key[1:] for name in CONFIGS for key in flat(json.loads((bundle / "configs" / name).read_text()))]
    assert names <= {*keys, *(key.split("#")[0] for key in keys)}


def test_a_difference_is_seen(tmp_path: Path) -> None:
    for name, text in [("a", "1"), ("b", "1"), ("c", "2")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE").write_text(text)
    assert different("LICENSE", sorted(tmp_path.iterdir())) == ["c"]
    nested = {"a": [{"_target_": "scripts.x", "b": {"_target_": "torch.nn.ReLU"}}]}
    assert targets(nested) == ["scripts.x", "torch.nn.ReLU"]
    assert named({"a#b", "a#c", "ab"}, "a x") == ({"ab"}, {"x"})
    for name, text in [("a", '{"x": null, "y": {"z": 1}}'), ("b", '{"y": {"z": 1}}')]:
        (tmp_path / name / "configs").mkdir()
        (tmp_path / name / "configs" / "train.json").write_text(text)
    assert differing("train.json", [tmp_path / "a", tmp_path / "b"]) == {"x"}, "null is not the same as nothing"


# What the ledger knows by itself, and what says where things lie or how they are done but not what is predicted.
NOT_IN_SETTINGS = {"tasks", "inputs", "output_dir", "predictions_dir", "dataset_dir", "dataset", "weights", "network"}


@pytest.mark.parametrize("name", ["evaluate.json", "inference.json"])
@pytest.mark.parametrize("root", sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/train.json")), ids=str)
def test_what_decides_a_prediction_is_known_to_the_ledger(root: Path, name: str) -> None:
    """Else predictions of other settings would be taken for finished ones."""
    config = {k[1:]: v for k, v in flat(json.loads((root / "configs" / name).read_text())).items()}
    used = {
        value[1:]
        for key, value in config.items()
        if isinstance(value, str) and value.startswith("@") and "#" not in value
        if any(part in ("preprocessing", "inferer", "postprocessing") for part in key.split("#"))
    }
    noted = {value[1:] for key, value in config.items() if key.startswith("ledger#settings#")}
    assert used - NOT_IN_SETTINGS - {"preprocessing", "inferer", "postprocessing"} <= noted
    assert used & noted
