"""`mtl-med doctor` names what is missing and the command that brings it."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import pytest

from mtl_med import cli, doctor


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("1.26", (1, 26)), ("3.0.0rc1", (3, 0, 0)), ("", ()), ("unknown", ())],
)
def test_version_tuple(version: str, numbers: tuple[int, ...]) -> None:
    assert doctor.version_tuple(version) == numbers


@pytest.mark.parametrize(
    ("line", "name", "minimum", "extra"),
    [
        ("torch>=2.8", "torch", "2.8", ""),
        ("pydicom>=3.0.2,<4", "pydicom", "3.0.2", ""),
        ('pytest>=8; extra == "test"', "pytest", "8", "test"),
        ("ruff ; extra == 'test'", "ruff", "", "test"),
        ('scikit-image>=0.22; python_version >= "3.11"', "scikit-image", "0.22", ""),
    ],
)
def test_requirements_are_read(line: str, name: str, minimum: str, extra: str) -> None:
    (item,) = doctor.requirements([line])
    assert (item.name, item.minimum, item.extra) == (name, minimum, extra)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("2.13.0+cpu", "ok"),
        ("2.8", "ok"),
        ("2.8.0", "ok"),
        ("2.7.1", "too old"),
        ("1.13", "too old"),
        (None, "missing"),
    ],
)
def test_verdicts(found: str | None, verdict: str) -> None:
    item = doctor.Requirement("torch", "2.8", "", found)
    assert item.verdict == verdict
    assert item.fulfilled == (verdict == "ok")


def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The environment that runs the tests has all it needs."""
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("Everything that is required is here.\n")
    for word in ("torch", "monai", "Python", "memory", "disk", "bf16", "GPU"):
        assert word in text


def test_what_is_missing_comes_with_its_command(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1.26", "no-such-thing>=1.2", "nibabel>=99", "other; extra == 'report'"]
    monkeypatch.setattr(doctor, "_declared", lambda: lines)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    pip = f"{sys.executable} -m pip install"
    assert text.endswith(f"missing or too old: {pip} 'no-such-thing>=1.2' 'nibabel>=99'\n")
    assert f"to get it: {pip} 'mtl_med[report]'" in text


def test_a_checkout_is_asked_for_what_its_setup_says(root: Path) -> None:
    """The metadata of an editable install are those of the day when it was installed."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    names = [line.partition(">=")[0] for line in setup["options"]["install_requires"].split()]
    found = doctor.requirements()
    assert [item.name for item in found if not item.extra] == names
    assert {"scipy", "matplotlib", "tensorboard", "pytorch-ignite"} <= set(names)
    assert {item.extra for item in found if item.extra} == set(setup["options.extras_require"])


def test_elsewhere_the_installed_metadata_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "CHECKOUT_SETUP", tmp_path / "setup.cfg")
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=1.26"])
    assert [(item.name, item.minimum) for item in doctor.requirements()] == [("numpy", "1.26")]


@pytest.mark.parametrize(("fast", "words"), [(True, "in the"), (False, "not in the")])
def test_doctor_and_training_ask_one_probe_for_bf16(monkeypatch: pytest.MonkeyPatch, fast: bool, words: str) -> None:
    from mtl_med.training import runtime

    monkeypatch.setattr(runtime, "cpu_has_fast_bf16", lambda: fast)
    assert doctor._bf16_on_cpu() == f"{words} processor's hardware"
    assert (runtime.pick_precision("auto", "cpu") is not None) == fast


def test_without_monai_bf16_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtl_med.training.runtime", None)
    assert doctor._bf16_on_cpu().startswith("cannot be told: ")


def test_not_installed(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "mtl_med_that_is_not_there")
    assert cli.main(["doctor"]) == 1
    assert "mtl_med is not installed" in capsys.readouterr().out
