"""`mtl-med check`: each fault of a bundle is one line that names it, and the shipped bundles have none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_med.check import check_configs, check_files, check_keys
from mtl_med.check_network import check_arguments, check_outputs, check_study
from mtl_med.cli import main
from mtl_med.files import read_json, write_json
from mtl_med.manifest import Case, Manifest

BUNDLES = Path("bundles").resolve()
PIXEL, IMAGE = "prostate_dose_oar_segmentation", "stoic_covid_classification"
Change = Callable[[dict[str, Any]], object]


def small(name: str, folder: Path) -> Path:
    """A copy of a bundle whose declared input is small."""
    root = folder / name
    shutil.copytree(BUNDLES / name, root, ignore=shutil.ignore_patterns("models"))
    metadata = read_json(root / "configs" / "metadata.json")
    form = metadata["network_data_format"]
    for fields in (*form["inputs"].values(), *form["outputs"].values()):
        fields["spatial_shape"] = [32 if len(fields["spatial_shape"]) == 3 else 64 for _ in fields["spatial_shape"]]
    write_json(root / "configs" / "metadata.json", metadata)
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small(PIXEL, tmp_path)


def edited(root: Path, name: str, change: Change) -> None:
    content = read_json(root / "configs" / name)
    change(content)
    write_json(root / "configs" / name, content)


def configs_of(root: Path) -> dict[str, Any]:
    return {path.name: read_json(path) for path in (root / "configs").glob("*.json")}


def set_in(*path: str, to: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


@pytest.mark.parametrize("root", sorted(path for path in BUNDLES.iterdir() if (path / "configs").is_dir()), ids=str)
def test_shipped_bundles_have_no_fault_that_shows_without_running_them(root):
    configs = configs_of(root)
    assert [*check_configs(configs), *check_keys(configs), *check_arguments(configs)] == []
    assert not (root / "scripts").exists()


def test_a_sound_bundle_passes_and_is_told_how_to_get_weights(bundle, capsys):
    assert main(["check", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("hint: there is no models/model.pt; make it by training: python -m monai.bundle run")
    assert lines[1] == "output pred: (1, 7, 32, 32, 32), float32"
    assert lines[-1] == f"{PIXEL}: all good"


def test_two_image_tasks_are_one_output_of_logits(tmp_path):
    root = small(IMAGE, tmp_path)
    told, faults = check_outputs(root, read_json(root / "configs" / "metadata.json"))
    assert faults == [] and told[0] == "output pred: (1, 4), float32"


def test_outputs_of_a_dictionary_are_checked_by_name(tmp_path):
    root = small("ham10000_lesion_classification", tmp_path)
    metadata = read_json(root / "configs" / "metadata.json")
    told, faults = check_outputs(root, metadata)
    assert faults == [] and told[:2] == ["output lesion: (1, 1, 64, 64), float32", "output diagnosis: (1, 7), float32"]
    outputs = metadata["network_data_format"]["outputs"]
    outputs["outline"] = outputs.pop("lesion")
    outputs["diagnosis"] |= {"num_channels": 6, "channel_def": {str(i): "x" for i in range(6)}}
    _, faults = check_outputs(root, metadata)
    assert faults[0] == "metadata.json: the network has no output 'outline'."
    assert any("output 'lesion' is not declared" in fault for fault in faults)
    assert "output 'diagnosis' has 7 channels, metadata.json declares 6." in faults


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_in("outputs", "pred", "spatial_shape", to=[32, 32, 16]), "declares [32, 32, 16]"),
        (set_in("outputs", "pred", "dtype", to="float16"), "is float32, metadata.json declares float16"),
        (set_in("outputs", "pred", "value_range", to=[0, 1e-9]), "metadata.json declares 0 to 1e-09"),
        (set_in("outputs", "pred", "num_channels", to=8), "'pred' has 8 channels, and names for 7 of them"),
        (set_in("inputs", "image", "num_channels", to=2), "'image' has 2 channels, and names for 1 of them"),
        (
            set_in(
                "inputs", "image", to={"num_channels": 2, "spatial_shape": [32] * 3, "channel_def": {"0": "", "1": ""}}
            ),
            "input 'image' has 1 channels, metadata.json declares 2",
        ),
    ],
    ids=["shape", "dtype", "range", "output names", "input names", "input channels"],
)
def test_what_is_declared_otherwise_is_one_sentence(bundle, change, sentence):
    metadata = read_json(bundle / "configs" / "metadata.json")
    change(metadata["network_data_format"])
    _, faults = check_outputs(bundle, metadata)
    assert len(faults) == 1 and sentence in faults[0]


def test_a_network_that_cannot_be_built_is_one_line(bundle):
    edited(bundle, "inference.json", set_in("network_def", "method", to="ctann"))
    _, (fault,) = check_outputs(bundle, read_json(bundle / "configs" / "metadata.json"))
    assert "the network cannot be built" in fault and "ctann" in fault and "\n" not in fault and len(fault) < 400


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("train.json", set_in("train", "trainer", "max_epochs", to="@epoch"), "refers to '@epoch', which is not there"),
        (
            "evaluate.json",
            set_in("validate", to={"inferer": "@network#x"}),
            "'validate#inferer' refers to '@network#x'",
        ),
        ("inference.json", lambda config: config.pop("run"), "inference.json: there is no id 'run'"),
        ("train.json", set_in("run", to="$@train#trainer.run()"), "'run' is no list"),
        ("train.json", set_in("finalise", to=["$1"]), "nothing uses the id 'finalise'. Did you mean finalize?"),
        ("evaluate.json", set_in("overlapp", to=0.2), "nothing uses the id 'overlapp'"),
        ("multi_gpu_train.json", set_in("devise", to="cpu"), "nothing uses the id 'devise'. Did you mean device"),
        ("multi_gpu_train.json", set_in("nothing#here", to=1), "the config has no 'nothing#here' to override"),
    ],
    ids=["missing", "missing below", "no run", "no list", "step", "evaluate", "multi gpu", "overlay of nothing"],
)
def test_ids_that_do_not_fit_together(bundle, name, change, sentence):
    edited(bundle, name, change)
    faults = check_configs(configs_of(bundle))
    assert any(sentence in fault and name in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_a_wrong_argument_and_a_component_that_is_not_there(bundle):
    edited(bundle, "inference.json", set_in("inferer", "overlp", to=0.5))
    edited(bundle, "train.json", set_in("checkpoint", "_target_", to="mtl_med.training.Checkpont"))
    faults = check_arguments(configs_of(bundle))
    assert any("argument 'overlp' that it does not take. Did you mean overlap" in fault for fault in faults)
    assert any("'checkpoint' names mtl_med.training.Checkpont, which is not there" in fault for fault in faults)
    assert len(faults) == 2


def test_keys_of_which_one_begins_with_another():
    tasks = {"dose": {"kind": "regression"}, "dose_mask": {"kind": "segmentation"}}
    (fault,) = check_keys({"train.json": {"tasks": tasks}})
    assert "'dose_mask' (a task) begins with the key 'dose' (a task) and an underscore. Rename one" in fault
    assert check_keys({"train.json": {"tasks": {"dose": {"kind": "regression"}, "oar": {}}}}) == []
    assert check_keys({"train.json": {"tasks": {"mask": {}, "dose": {"kind": "regression"}}}}) != []


def test_missing_files_scripts_and_broken_json_are_named(bundle, capsys):
    (bundle / "docs" / "README.md").unlink()
    (bundle / "scripts").mkdir()
    (bundle / "configs" / "evaluate.json").write_text('{"split": 1, "split": 2}')
    assert main(["check", str(bundle)]) == 4
    lines = capsys.readouterr().out.splitlines()
    faults = [line for line in lines if line.startswith("fault: ")]
    assert len(faults) == 3 and lines[-1] == f"{PIXEL}: 3 faults"
    assert "docs/README.md is missing" in faults[0] and "scripts/" in faults[1]
    assert "the key 'split' stands twice" in faults[2]
    assert check_files(bundle)[1]
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"")
    assert check_files(bundle)[1] == []


def test_a_study_without_what_the_bundle_trains_on(tmp_path):
    train = read_json(BUNDLES / IMAGE / "configs" / "train.json")
    labels, splits = {"covid": 1, "sever": 0}, ("fit", "tune")
    cases = [Case(name, name, tmp_path / "cases" / name, labels=labels) for name in splits]
    for case in cases:
        case.write()
    classes = {"covid": ("no", "yes"), "sever": ("not_severe", "severe")}
    Manifest.build("made-up", tmp_path, cases, classes).write()
    faults = check_study(tmp_path, train)
    assert len(faults) == 3
    assert "no case is in split 'validation'" in faults[0]
    assert "the classes of task 'covid' are no, yes, those of the bundle negative, positive" in faults[1]
    assert "has no labels of task 'severe'. Did you mean sever?" in faults[2]


def test_no_such_bundle_is_a_usage_fault_and_the_help_needs_no_torch(capsys):
    assert main(["check", "prostate_dose_oar"]) == 2
    assert "Did you mean prostate_dose_oar_segmentation" in capsys.readouterr().err
    code = "import sys; sys.modules['torch'] = sys.modules['monai'] = None; "
    code += "from mtl_med.cli import main; main(['check', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--study" in done.stdout and not done.stderr
    assert done.returncode == 0
