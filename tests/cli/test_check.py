"""`mtl-med check`: each fault of a bundle is one line that names it, and the shipped bundles have none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_med.check import check_configs, check_files, check_keys, check_tasks
from mtl_med.check_network import check_arguments, check_form, check_outputs, check_study
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
    assert [*check_configs(configs), *check_tasks(configs), *check_form(configs["metadata.json"])] == []
    assert [*check_keys(configs), *check_arguments(configs)] == []
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


def exchange(part: str, key: str, first: str, second: str) -> Change:
    def change(form: dict[str, Any]) -> None:
        names = form[part][key]["channel_def"]
        names[first], names[second] = names[second], names[first]

    return change


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "ham10000_lesion_classification",
            exchange("outputs", "diagnosis", "4", "5"),
            "output 'diagnosis': channel 4 is 'mel', metadata.json calls it 'melanocytic naevus (nv)'.",
        ),
        (
            "ham10000_lesion_classification",
            exchange("post_processed_outputs", "diagnosis", "4", "5"),
            "post-processed output 'diagnosis': channel 4 is 'mel'",
        ),
        (PIXEL, exchange("outputs", "pred", "2", "3"), "output 'pred': channel 2 is 'Femur_Head_L', metadata.json"),
        (IMAGE, exchange("outputs", "pred", "2", "3"), "output 'pred': channel 2 is 'not_severe', metadata.json calls"),
        (
            PIXEL,
            set_in("post_processed_outputs", "oar", "value_range", to=[0, 255]),
            "post-processed output 'oar' lies in 0 to 1, metadata.json declares 0 to 255.",
        ),
        (
            IMAGE,
            set_in("post_processed_outputs", "severe", to={"num_channels": 1, "channel_def": {"0": "severe"}}),
            "post-processed output 'severe' has 2 channels, metadata.json declares 1.",
        ),
        (
            IMAGE,
            set_in("post_processed_outputs", "severity", to={"num_channels": 1, "channel_def": {"0": "x"}}),
            "post-processed output 'severity' belongs to no task. Did you mean severe?",
        ),
        (
            IMAGE,
            lambda form: form["post_processed_outputs"].pop("covid"),
            "task 'covid' is not declared under post_processed_outputs.",
        ),
    ],
    ids=range(8),
)
def test_names_of_classes_and_what_becomes_of_outputs_are_checked(tmp_path, name, change, sentence):
    root = small(name, tmp_path)
    metadata = read_json(root / "configs" / "metadata.json")
    change(metadata["network_data_format"])
    _, faults = check_outputs(root, metadata)
    assert any(sentence in fault for fault in faults), faults


@pytest.mark.parametrize("tasks", [None, ["seg", "cls"], "@spacing_mm"], ids=str)
def test_a_bundle_of_other_tasks_than_ours_is_held_against_its_network_alone(bundle, tasks):
    def change(content: dict[str, Any]) -> None:
        content["network_def"]["tasks"] = content["default_tasks"]
        content["tasks"] = tasks
        if tasks is None:
            del content["tasks"]

    edited(bundle, "inference.json", change)
    _, faults = check_outputs(bundle, read_json(bundle / "configs" / "metadata.json"))
    assert faults == []


def test_a_label_map_may_be_declared_for_structures(bundle):
    metadata = read_json(bundle / "configs" / "metadata.json")
    label_map = {"num_channels": 1, "value_range": [0, 6], "channel_def": {"0": "label"}}
    metadata["network_data_format"]["post_processed_outputs"]["oar"] = label_map
    assert check_outputs(bundle, metadata)[1] == []


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


FORM, INPUT, OUTPUT = "network_data_format", ("inputs", "image"), ("outputs", "pred")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_in(FORM, to=None), "network_data_format is no object."),
        (set_in(FORM, "outputs", to=["pred"]), "'outputs' is no object."),
        (set_in(FORM, *INPUT, to=None), "'inputs#image' is no object."),
        (set_in(FORM, *OUTPUT, "channel_def", to=None), "'outputs#pred' has a channel_def that is no object."),
        (lambda content: content[FORM]["inputs"]["image"].pop("num_channels"), "'inputs#image' has no num_channels."),
        (lambda content: content[FORM]["inputs"]["image"].pop("spatial_shape"), "'inputs#image' has no spatial_shape."),
        (lambda content: content[FORM]["inputs"]["image"].pop("channel_def"), "'inputs#image' has no channel_def."),
        (
            set_in(FORM, *INPUT, "num_channels", to="1"),
            "'inputs#image' has the num_channels 1, expected a whole number.",
        ),
        (set_in(FORM, *INPUT, "dtype", to="floa32"), "has the unknown dtype floa32. Did you mean float32 or"),
        (set_in(FORM, *INPUT, "value_range", to=["a", "b"]), "has the value_range ['a', 'b'], expected two numbers"),
        (set_in(FORM, *OUTPUT, "value_range", to=1), "'outputs#pred' has the value_range 1, expected two numbers"),
        (set_in(FORM, *INPUT, "spatial_shape", to=["*", 8, 8]), "has the spatial_shape ['*', 8, 8], expected whole"),
        (
            set_in(FORM, *OUTPUT, "spatial_shape", to=None),
            "'outputs#pred' has the spatial_shape None, expected a list.",
        ),
    ],
)
def test_metadata_of_another_form_is_one_sentence(change, sentence):
    metadata = read_json(BUNDLES / PIXEL / "configs" / "metadata.json")
    change(metadata)
    (fault,) = check_form(metadata)
    assert fault.startswith("metadata.json: ") and sentence in fault


def test_outputs_are_not_held_against_metadata_of_another_form(bundle, capsys):
    edited(bundle, "metadata.json", set_in(FORM, to=None))
    edited(bundle, "inference.json", set_in("inferer", "overlp", to=0.5))
    assert main(["check", str(bundle)]) == 4
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2 and faults[0] == "fault: metadata.json: network_data_format is no object."
    assert "argument 'overlp'" in faults[1]


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


def test_an_overlay_is_not_blamed_for_its_base(bundle):
    edited(bundle, "train.json", set_in("device", to="@evaluat"))  # whose nearest ids are others in evaluate.json
    edited(bundle, "train.json", lambda config: config.pop("run"))
    edited(bundle, "multi_gpu_train.json", set_in("run", to="$1"))
    faults = check_configs(configs_of(bundle))
    assert sum("'device' refers to '@evaluat'" in fault for fault in faults) == 1
    assert [fault.split(":")[0] for fault in faults if "no id 'run'" in fault] == ["train.json"]
    assert [fault.split(":")[0] for fault in faults if "'run' is no list" in fault] == ["multi_gpu_train.json"]


def test_an_argument_that_the_inferer_of_mixed_tasks_does_not_take():
    inferer = {"_target_": "mtl_med.networks.MixedInferer", "overlapp": 0.1, "windows_at_once": 2, "maps_on": "cpu"}
    (fault,) = check_arguments({"inference.json": {"inferer": inferer}})
    assert "argument 'overlapp' that it does not take. Did you mean overlap?" in fault


def test_a_wrong_argument_and_a_component_that_is_not_there(bundle):
    edited(bundle, "inference.json", set_in("inferer", "overlp", to=0.5))
    edited(bundle, "train.json", set_in("checkpoint", "_target_", to="mtl_med.training.Checkpont"))
    faults = check_arguments(configs_of(bundle))
    assert any("argument 'overlp' that it does not take. Did you mean overlap" in fault for fault in faults)
    assert any("'checkpoint' names mtl_med.training.Checkpont, which is not there" in fault for fault in faults)
    assert len(faults) == 2


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        (["lesion"], "tasks are ['lesion']. Give an object"),
        ({"lesion": None}, "task 'lesion' is None. Give an object"),
        (
            {"lesion": {"kind": "segmentation", "channels": "two"}},
            "task 'lesion' has 'two' channels. Give a whole number",
        ),
        ({"lesion": {"kind": "segmentatoin"}}, "unknown kind 'segmentatoin' of task 'lesion'. Did you mean"),
        ({}, "no task is given. Name at least one task."),
    ],
    ids=["list", "no fields", "channels", "kind", "none"],
)
def test_tasks_that_cannot_be_meant(tasks, sentence):
    (fault,) = check_tasks({"train.json": {"tasks": tasks}})
    assert fault.startswith(f"train.json: tasks: {sentence}")


def test_tasks_that_only_monai_can_resolve_are_left_to_it(tmp_path):
    for train in (
        {},
        {"tasks": "@others"},
        {"tasks": {"lesion": {"kind": "segmentation", "class_names": "$list('a')"}}},
    ):
        assert check_tasks({"train.json": train}) == []
    (fault,) = check_study(tmp_path, {"tasks": "@others"})
    assert "'tasks' is no object, so that the study cannot be compared" in fault


def test_wrong_tasks_are_told_once_also_with_a_study(bundle, tmp_path, capsys):
    edited(bundle, "train.json", set_in("tasks", to=["lesion"]))
    assert main(["check", str(bundle), "--study", str(tmp_path)]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert sum("train.json: tasks: tasks are ['lesion']" in line for line in lines) == 1
    assert lines[-1] == f"{PIXEL}: 1 fault"


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


def test_a_patient_in_two_splits_is_a_fault(tmp_path):
    cases = [
        Case(name, name, tmp_path / "cases" / name, labels={"covid": 1, "severe": 0}, group=group)
        for name, group in (("fit", "A"), ("tune", "B"), ("validation", "A"))
    ]
    for case in cases:
        case.write()
    train = read_json(BUNDLES / IMAGE / "configs" / "train.json")
    classes = {task: tuple(fields["class_names"]) for task, fields in train["tasks"].items()}
    Manifest.build("made-up", tmp_path, cases, classes).write()
    (fault,) = check_study(tmp_path, train)
    assert "cases of one lesion or patient lie in several splits (A in fit and validation)" in fault


def test_no_such_bundle_is_a_usage_fault_and_the_help_needs_no_torch(capsys):
    assert main(["check", "prostate_dose_oar"]) == 2
    assert "Did you mean prostate_dose_oar_segmentation" in capsys.readouterr().err
    code = "import sys; sys.modules['torch'] = sys.modules['monai'] = None; "
    code += "from mtl_med.cli import main; main(['check', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--study" in done.stdout and not done.stderr
    assert done.returncode == 0
