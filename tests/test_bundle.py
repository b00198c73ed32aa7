"""What configs call: overrides that are known, words that are booleans, settings that travel with weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mtl_med.bundle import boolean, output_folder, plain_values, refuse_wrong_overrides, trained, write_settings
from mtl_med.errors import ModelError, OutputError, UsageError

CONFIG = {
    "imports": ["$import mtl_med"],
    "epochs": 1,
    "tasks": {"oar": {"kind": "segmentation"}},
    "network_def": {"_target_": "x", "channels": [4]},
    "train": {"dataset": {"_target_": "y"}, "handlers": [{"_target_": "z"}]},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    (tmp_path / "overlay.json").write_text(json.dumps({"weights": "w", "network_def#stacked": True}))
    return tmp_path / "train.json"


def refuse(*words: object, program: str = "/any/monai/bundle/__main__.py", command: str = "run") -> None:
    refuse_wrong_overrides([program, command, *map(str, words)])


class TestOverrides:
    @pytest.mark.parametrize(
        "words",
        [
            ("--epochs", 3),
            ("--epochs=3",),
            ("--network_def#channels", "[4]"),
            ("--network_def#norm", "batch"),  # a component may take arguments that the config does not give
            ("--network_def::norm", "batch"),
            ("--tasks#dose", "{'kind': 'regression'}"),
            ("--train#dataset#seed", 3),
            ("--train#handlers#0#every", 3),
            ("--meta_file", "m.json", "--logging-file", "l.conf", "--tracking", "mlflow"),
            ("--_meta_#version", 3),
        ],
        ids=lambda words: " ".join(map(str, words)),
    )
    def test_known_ones_pass(self, config: Path, words: tuple) -> None:
        refuse("--config_file", config, *words)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--epoch", 5), "--epoch: the config has no 'epoch' to override. Did you mean epochs?"),
            (("--epoch=5",), "--epoch: the config has no 'epoch' to override. Did you mean epochs?"),
            (
                ("--network-df#channels", 5),
                "--network_df#channels: the config has no 'network_df' to override. Did you",
            ),
            (
                ("--train#datast", 5),
                "--train#datast: the config has no 'train#datast' to override. Did you mean dataset",
            ),
            (("--train#datast#seed", 5), "the config has no 'train#datast' to override"),
            (("--weights", "w"), "--weights: the config has no 'weights' to override. Known: epochs, imports,"),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
    )
    def test_unknown_ones_are_refused_with_the_nearest(self, config: Path, words: tuple, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            refuse("--config_file", config, *words)
        assert message in str(caught.value)

    @pytest.mark.parametrize("form", ["['{}', '{}']", "[{},{}]", "({}, {})"])
    def test_several_configs_count_together(self, config: Path, form: str) -> None:
        files = form.format(config, config.with_name("overlay.json"))
        refuse("--config_file", files, "--weights", "w", "--epochs", 3)
        with pytest.raises(UsageError, match="'weight' to override"):
            refuse("--config_file", files, "--weight", "w")

    def test_overrides_from_a_file_count_too(self, config: Path, tmp_path: Path) -> None:
        arguments = tmp_path / "args.json"
        arguments.write_text(json.dumps({"config_file": str(config), "epochs": 3}))
        refuse("--args_file", arguments)
        arguments.write_text(json.dumps({"config_file": str(config), "epoch": 3}))
        with pytest.raises(UsageError, match="'epoch' to override"):
            refuse("--args_file", arguments)

    @pytest.mark.parametrize(
        ("word", "value", "expected"),
        [
            ("epochs", "x", "is 'x', expected a whole number of 1 or more, or None"),
            ("epochs", "2.5", "is 2.5, expected a whole number of 1 or more, or None"),
            ("epochs", "0", "is 0, expected a whole number of 1 or more, or None"),
            ("epochs", "null", "is 'null', expected a whole number of 1 or more, or None. Write --epochs '$None'"),
            ("seed", "None", "is None, expected a whole number of 0 or more"),
            ("seed", "$None", "is None, expected a whole number of 0 or more"),
            ("seed", "True", "is True, expected a whole number of 0 or more"),
            ("learning_rate", "-1", "is -1, expected a number of 0 or more"),
            ("learning_rate", "1e999", "is inf, expected a number of 0 or more"),
            ("learning_rate", "", "is '', expected a number of 0 or more"),
        ],
    )
    def test_numbers_that_are_none_are_refused(self, config: Path, word: str, value: str, expected: str) -> None:
        config.write_text(json.dumps(CONFIG | {"seed": 0, "learning_rate": 0.1}))
        with pytest.raises(UsageError, match=f"^{re.escape(f'--{word}: {expected}')}[.]$"):
            refuse("--config_file", config, f"--{word}={value}")

    @pytest.mark.parametrize(
        "word", ["epochs=3", "epochs=$None", "epochs=$1 + 1", "learning_rate=1", "learning_rate=@x"]
    )
    def test_numbers_and_expressions_pass(self, config: Path, word: str) -> None:
        config.write_text(json.dumps(CONFIG | {"learning_rate": 0.1}))
        refuse("--config_file", config, f"--{word}")

    @pytest.mark.parametrize("name", ["epochs", "learning_rate", "word"])
    def test_a_none_that_monai_would_drop_is_refused(self, config: Path, name: str) -> None:
        """An option of None counts there as one that was not given."""
        config.write_text(json.dumps(CONFIG | {"epochs": 30, "learning_rate": 0.1, "word": "x", "minutes": None}))
        with pytest.raises(UsageError, match=f"Write --{name} '\\$None'|is None, expected a number"):
            refuse("--config_file", config, f"--{name}", "None")
        refuse("--config_file", config, "--minutes", "None")
        arguments = config.with_name("args.json")
        arguments.write_text(json.dumps({"config_file": str(config), "epochs": None}))
        refuse("--args_file", arguments)

    def test_other_programs_are_left_alone(self, config: Path) -> None:
        refuse("--config_file", config, "--epoch", 3, program="/usr/bin/pytest")
        refuse("--config_file", config, "--epoch", 3, command="verify_net_in_out")


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *((True, True), ("true", True), (" True", True), ("yes", True), (1, True), ("1", True)),
        *((False, False), ("false", False), ("No", False), (0, False), (None, False)),
    ],
    ids=repr,
)
def test_booleans_as_people_write_them(value: object, meaning: bool) -> None:
    assert boolean(value) is meaning


def test_words_in_options_become_values() -> None:
    given = {
        "residual": "false",
        "scale": "mean",
        "oar": {"batch_dice": "True", "ce": None, "scale": 5.0},
        "top": "null",
        "share": "no",
    }
    meant = {"residual": False, "scale": "mean", "oar": {"batch_dice": True, "ce": None, "scale": 5.0}, "top": None}
    meant["share"] = False
    assert plain_values(given) == meant


@pytest.mark.parametrize("value", ["maybe", "", "2", "truee"])
def test_other_words_are_no_booleans(value: str) -> None:
    with pytest.raises(
        UsageError, match=f"--resume: '{value}' is neither true nor false. Write --resume true or false"
    ):
        boolean(value, "resume")


def test_settings_lie_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model_last.pt"
    assert trained(weights, "method", "ctan") == "ctan"
    write_settings(weights, {"method": "hps", "patch_size": (1, 2)})
    assert (tmp_path / "model_last.json").is_file()
    assert trained(weights, "method", "ctan") == "hps"
    assert trained(weights, "patch_size", None) == [1, 2]
    assert trained(weights, "new", 3) == 3


def test_a_setting_that_must_be_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "model.pt"
    with pytest.raises(ModelError, match=r"model\.json: there is no 'method' to know the weights by. Train first"):
        trained(weights, "method")
    weights.touch()
    assert trained(weights, "method", "ctan") == "ctan"
    assert "model.json does not tell 'method' of these weights; taken as in the config" in caplog.text


def test_output_folder(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a", "b") == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        output_folder(tmp_path / "file", "b")
