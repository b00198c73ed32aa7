"""What MONAI's own tools demand of every bundle: verify_metadata, verify_net_in_out, ckpt_export, onnx_export."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

BUNDLES = sorted(path for path in (Path(__file__).resolve().parents[2] / "bundles").iterdir() if path.is_dir())
SIDE = 48  # voxels, enough for networks that divide by up to 16
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def config(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / name).read_text())


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


@every_bundle
def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path, monai_bundle) -> None:
    text = monai_bundle(
        "verify_net_in_out",
        net_id="network_def",
        meta_file=bundle / "configs" / "metadata.json",
        config_file=bundle / "configs" / "inference.json",
    )
    assert "data shape of network is verified with no error" in text


@every_bundle
def test_metadata_tells_the_same_as_the_configs(bundle: Path) -> None:
    """Patch, channels and their names."""
    data, train = config(bundle, "metadata.json")["network_data_format"], config(bundle, "train.json")
    assert data["inputs"]["image"]["spatial_shape"] == data["outputs"]["pred"]["spatial_shape"] == train["patch_size"]
    names = [
        name
        for task, fields in train["tasks"].items()
        for name in fields.get("class_names") or [f"{task} ({fields['unit']})"]
    ]
    assert list(data["outputs"]["pred"]["channel_def"].values()) == names
    assert data["outputs"]["pred"]["num_channels"] == len(names)


@every_bundle
def test_all_configs_build_the_same_network(bundle: Path) -> None:
    """Tasks and options of the network; training adds priors for the first weights, inference stacks the outputs."""
    train, inference, evaluate = (config(bundle, f"{name}.json") for name in ("train", "inference", "evaluate"))
    ours, theirs = dict(train["network_def"]), dict(inference["network_def"])
    assert theirs.pop("stacked") is evaluate["network_def#stacked"] is True
    ours.pop("priors", None)
    assert ours == theirs
    # What weights remember of their training goes before the config; without weights both configs mean the same.
    assert train["tasks"] == inference["default_tasks"]
    assert train["network_options"] == inference["default_network_options"]
    for name in ("tasks", "method", "encoder", "inputs", "patch_size", "study", "network_options"):
        assert inference[name].startswith(f"$mtl_med.bundle.trained(@weights, '{name}'")
        assert evaluate[name] == f"$mtl_med.bundle.trained(@weights, '{name}')"
        assert name in train["settings"]
    assert str(train["patch_size"]) in inference["patch_size"]


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
            expected = network(image)
            assert bool((expected.flatten(2).std(2) > 0).all()), "an output that is constant would prove nothing"
            torch.testing.assert_close(scripted(image), expected, rtol=1e-4, atol=1e-4)


def test_onnx_equals_eager(weighted, monai_bundle, tmp_path: Path) -> None:
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
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = network(image).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max()))


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
