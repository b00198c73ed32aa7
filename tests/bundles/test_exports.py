"""What MONAI's own tools and ours demand of every bundle: verify_metadata, verify_net_in_out, ckpt_export, onnx_export,
mtl-med check."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from mtl_med import cli

BUNDLES = sorted(path for path in (Path(__file__).resolve().parents[2] / "bundles").iterdir() if path.is_dir())
SIDE = 48  # voxels, enough for networks that divide by up to 16


def config(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / name).read_text())


def outputs_of(bundle: Path) -> dict[str, Any]:
    return config(bundle, "metadata.json")["network_data_format"]["outputs"]


# A map and a class vector do not fit into one tensor, which verify_net_in_out wants.
STACKED = [bundle for bundle in BUNDLES if list(outputs_of(bundle)) == ["pred"]]
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
every_stacked_bundle = pytest.mark.parametrize("bundle", STACKED, ids=lambda path: path.name)
SIZES = ("patch_size", "image_size", "volume_size")


def named(made: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"pred": made} if isinstance(made, Tensor) else dict(made)


@pytest.fixture(scope="module")
def monai_bundle(forked_python):
    """`monai_bundle("verify_metadata", meta_file=...)`: the command, which must succeed; its output."""

    def run(command: str, **options: Any) -> str:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = forked_python.run("-m", "monai.bundle", command, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda path: path.name)
def weighted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, nn.Module]:
    """A bundle, a file of random weights for it that leave no output at zero, and the network with them."""
    weights = tmp_path_factory.mktemp("weights") / "model.pt"
    parser = ConfigParser()
    parser.read_config(request.param / "configs" / "inference.json")
    parser["weights"] = str(weights)
    network = parser.get_parsed_content("network_def")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".out." in name or parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    torch.save(network.state_dict(), weights)
    return request.param, weights, network.eval()


def image_like(bundle: Path, side: int = SIDE) -> torch.Tensor:
    declared = config(bundle, "metadata.json")["network_data_format"]["inputs"]["image"]
    return torch.randn(1, declared["num_channels"], *[side] * len(declared["spatial_shape"]))


@every_bundle
def test_metadata_keeps_the_schema(bundle: Path, monai_bundle, shared_dir: Path) -> None:
    schema = shared_dir / "data" / "meta_schema_20240725.json"
    assert config(bundle, "metadata.json")["schema"].endswith(schema.name)
    text = monai_bundle("verify_metadata", meta_file=bundle / "configs" / "metadata.json", filepath=schema)
    assert "metadata is verified with no error" in text


@every_bundle
def test_twin_metadata_without_a_version_is_refused(bundle: Path, forked_python, shared_dir: Path, tmp_path) -> None:
    metadata = config(bundle, "metadata.json")
    del metadata["version"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    done = forked_python.run(
        *("-m", "monai.bundle", "verify_metadata", "--meta_file", tmp_path / "metadata.json"),
        *("--filepath", shared_dir / "data" / "meta_schema_20240725.json"),
    )
    assert done.returncode == 1
    assert "'version' is a required property" in done.stderr


@every_stacked_bundle
def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path, monai_bundle) -> None:
    text = monai_bundle(
        "verify_net_in_out",
        net_id="network_def",
        meta_file=bundle / "configs" / "metadata.json",
        config_file=bundle / "configs" / "inference.json",
    )
    assert "data shape of network is verified with no error" in text


@every_bundle
def test_check_finds_nothing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every declared output, at the declared size."""
    assert cli.main(["check", bundle.name]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{bundle.name}: all good"
    assert [line.split(":")[0] for line in lines if line.startswith("output ")] == [
        f"output {name}" for name in outputs_of(bundle)
    ]


@pytest.mark.parametrize("name", ["ham10000_lesion_classification", "stoic_covid_classification"])
def test_check_tells_each_fault_in_a_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / name
    shutil.copytree(BUNDLES[0].parent / name, bundle, ignore=shutil.ignore_patterns("models"))
    metadata, train = config(bundle, "metadata.json"), config(bundle, "train.json")
    output = list(metadata["network_data_format"]["outputs"].values())[-1]
    output["num_channels"] += 1
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    assert cli.main(["check", str(bundle)]) == 4
    (fault,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert f"has {output['num_channels']} channels, and names for {output['num_channels'] - 1} of them" in fault

    (task, *_) = train["tasks"]
    train["tasks"][f"{task}_again"] = train["tasks"][task]
    (bundle / "configs" / "train.json").write_text(json.dumps(train))
    (bundle / "configs" / "logging.conf").unlink()
    assert cli.main(["check", str(bundle)]) == 4
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2
    assert "configs/logging.conf is missing" in faults[0]
    assert f"'{task}_again' (a task) begins with the key '{task}' (a task) and an underscore" in faults[1]


@every_bundle
def test_metadata_tells_the_same_as_the_configs(bundle: Path) -> None:
    """Size, channels and their names."""
    data, train = config(bundle, "metadata.json")["network_data_format"], config(bundle, "train.json")
    (size,) = [train[name] for name in SIZES if name in train]
    assert data["inputs"]["image"]["spatial_shape"] == size
    stacked = list(data["outputs"]) == ["pred"]
    told = {"pred": train["tasks"]} if stacked else {name: {name: task} for name, task in train["tasks"].items()}
    assert list(data["outputs"]) == list(told)
    for output, tasks in told.items():
        fields = data["outputs"][output]
        has_map = any(task["kind"] != "classification" for task in tasks.values())
        assert fields["spatial_shape"] == (size if has_map else [])
        names = [(task, name) for task, own in tasks.items() for name in own.get("class_names") or [f"({own['unit']})"]]
        assert fields["num_channels"] == len(fields["channel_def"]) == len(names)
        for (task, name), channel in zip(names, fields["channel_def"].values(), strict=True):
            # Alone, behind its task, or in brackets behind what it stands for.
            shown = {name, name.replace("_", " "), f"{task} {name}"}
            assert channel in shown or channel.endswith(f"({name})")


@every_bundle
def test_all_configs_build_the_same_network(bundle: Path) -> None:
    """Tasks and options of the network; training adds priors for the first weights, inference may stack the outputs."""
    train, inference, evaluate = (config(bundle, f"{name}.json") for name in ("train", "inference", "evaluate"))
    ours, theirs = dict(train["network_def"]), dict(inference["network_def"])
    stacked = theirs.pop("stacked", False)
    assert stacked is evaluate.get("network_def#stacked", False) is (bundle in STACKED)
    ours.pop("priors", None)
    assert ours == theirs
    # What weights remember of their training goes before the config; without weights both configs mean the same.
    assert train["tasks"] == inference["default_tasks"]
    assert train["network_options"] == inference["default_network_options"]
    remembered = {name for name, value in inference.items() if "mtl_med.bundle.trained(@weights" in str(value)}
    (size,) = remembered & set(SIZES)
    assert remembered >= {"tasks", "method", "encoder", "inputs", "network_options"}
    for name in remembered - {"calibration"}:
        assert inference[name].startswith(f"$mtl_med.bundle.trained(@weights, '{name}'")
        assert evaluate[name] == f"$mtl_med.bundle.trained(@weights, '{name}')"
        assert name in train["settings"]
    assert evaluate.get("calibration") == inference.get("calibration")
    for name in ("method", "encoder", "inputs", size):
        assert repr(train[name]) in inference[name]


def test_torchscript_equals_eager(weighted, monai_bundle, tmp_path: Path) -> None:
    bundle, weights, network = weighted
    monai_bundle(
        "ckpt_export",
        net_id="network_def",
        filepath=tmp_path / "model.ts",
        ckpt_file=weights,
        meta_file=bundle / "configs" / "metadata.json",
        config_file=bundle / "configs" / "inference.json",
        weights=weights,
    )
    scripted = torch.jit.load(str(tmp_path / "model.ts")).eval()
    with torch.no_grad():
        for side in (SIDE, SIDE + 16):
            image = image_like(bundle, side)
            expected, found = named(network(image)), named(scripted(image))
            assert list(found) == list(expected) == list(outputs_of(bundle))
            for name, value in expected.items():
                each = value.flatten(2) if value.ndim > 2 else value
                assert bool((each.std(-1) > 0).all()), "an output that is constant would prove nothing"
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def test_onnx_equals_eager(weighted, monai_bundle, tmp_path: Path) -> None:
    """Outputs come in the order of the tasks, whose names the file does not know."""
    import onnxruntime

    bundle, weights, network = weighted
    image = image_like(bundle)
    monai_bundle(
        "onnx_export",
        net_id="network_def",
        filepath=tmp_path / "model.onnx",
        ckpt_file=weights,
        meta_file=bundle / "configs" / "metadata.json",
        config_file=bundle / "configs" / "inference.json",
        weights=weights,
        input_shape=list(image.shape),
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = named(network(image))
    for name, value in zip(expected, found, strict=True):
        wanted = expected[name].numpy()
        np.testing.assert_allclose(
            value, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()), err_msg=f"output {name}"
        )


def targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@every_bundle
def test_every_target_exists_and_takes_its_arguments(bundle: Path) -> None:
    found = {target for path in (bundle / "configs").glob("*.json") for target in targets(json.loads(path.read_text()))}
    assert found
    for target in found:
        module, _, name = target.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), target
