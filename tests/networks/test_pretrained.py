"""Published weights give the published features; what does not fit is refused by name, and nothing is half loaded."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.networks.nets import resnet as monai_resnet
from torch import Tensor, nn

from mtl_med.errors import ModelError, UsageError
from mtl_med.files import sha256_file
from mtl_med.networks import create_network
from mtl_med.networks.encoders import ENCODERS, Encoder, PlainEncoder
from mtl_med.networks.hub import SCHEME, fetch
from mtl_med.networks.pretrained import PUBLISHED, load_pretrained, pretrained
from mtl_med.networks.weight_mapping import architecture

State = dict[str, Tensor]
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
PIXEL = {"oar": {"kind": "segmentation", "channels": 2}, "dose": {"kind": "regression"}}


def torchvision_shapes(name: str, dims: int = 2, channels: int = 3, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNets, written from its naming rule (and of their like in 3D)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(key: str, out: int, into: int, kernel: int) -> None:
        shapes[f"{key}.weight"] = (out, into, *[kernel] * dims)

    def norm(key: str, width: int) -> None:
        shapes.update({f"{key}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{key}.num_batches_tracked"] = ()

    bottleneck = name == "resnet50"
    convolution("conv1", 64, channels, 7)
    norm("bn1", 64)
    into = 64
    for layer, (width, depth) in enumerate(zip((64, 128, 256, 512), DEPTHS[name], strict=True), 1):
        out = 4 * width if bottleneck else width
        for number in range(depth):
            block = f"layer{layer}.{number}"
            steps = [(into, width, 1), (width, width, 3), (width, out, 1)]
            for i, (a, b, kernel) in enumerate(steps if bottleneck else [(into, width, 3), (width, width, 3)], 1):
                convolution(f"{block}.conv{i}", b, a, kernel)
                norm(f"{block}.bn{i}", b)
            if number == 0 and (into != out or layer > 1):
                convolution(f"{block}.downsample.0", out, into, 1)
                norm(f"{block}.downsample.1", out)
            into = out
    shapes.update({"fc.weight": (classes, into), "fc.bias": (classes,)})
    return shapes


def constants(shapes: dict[str, tuple[int, ...]]) -> State:
    """A state dict that takes no room: tensor number i is i / 1000 everywhere."""
    return {key: torch.tensor(i / 1000).expand(shape) for i, (key, shape) in enumerate(shapes.items(), 1)}


def made_up(network: nn.Module) -> nn.Module:
    """Random weights that keep activations near 1, and norms with statistics of their own, in eval mode."""
    network.to_empty(device="cpu")
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("num_batches_tracked"):
                value.fill_(7)
            elif key.endswith("running_var"):
                value.uniform_(0.8, 1.2)
            elif value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.normal_(mean=0.7 if key.endswith("weight") else 0.0, std=0.1)
    return network.eval()


def judge(name: str, dims: int, channels: int, **options: Any) -> nn.Module:
    """MONAI's ResNet with made-up weights."""
    with torch.device("meta"):  # its own initialisation takes seconds
        network = getattr(monai_resnet, name)(spatial_dims=dims, n_input_channels=channels, **options)
    return made_up(network)


def judged_features(network: nn.Module, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """U (all but the last block of a layer) and P (the whole layer) of each stage of MONAI's ResNet."""
    x = network.maxpool(network.act(network.bn1(network.conv1(image))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        shared = layer[:-1](x)
        x = layer[-1](shared)
        yield shared, x


def assert_same_features(encoder: Encoder, network: nn.Module, image: Tensor) -> None:
    encoder.eval()
    with torch.no_grad():
        for stage, expected in zip(encoder(image), judged_features(network, image), strict=True):
            for ours, theirs in zip(stage, expected, strict=True):
                assert theirs.std() > 0.01, "features that are all alike would prove nothing"
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.fixture(scope="module")
def small() -> Encoder:
    """A 2D ResNet-18 of one channel that refusals must leave alone."""
    return ENCODERS["resnet18"](2, 1)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def write(value: Any, name: str = "weights.pth") -> Path:
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return write


# What is loaded computes what the published network computes.


@pytest.mark.parametrize(
    ("name", "dims", "stem_stride", "bias"),
    [
        ("resnet18", 2, 2, True),
        ("resnet50", 2, 2, False),
        ("resnet18", 3, 1, False),
        ("resnet18", 3, 2, True),
        ("resnet50", 3, 1, True),
    ],
)
def test_features_are_monais(save, name: str, dims: int, stem_stride: int, bias: bool) -> None:
    network = judge(name, dims, 3, conv1_t_stride=stem_stride, bias_downsample=bias, num_classes=5)
    encoder = ENCODERS[name](dims, 3, stem_stride=stem_stride, norm="batch")
    path = save(network.state_dict())
    report = load_pretrained(encoder, path)
    assert_same_features(encoder, network, torch.randn(1, 3, *(20, 36, 24)[-dims:]))
    assert (report.source, report.path, report.sha256) == (str(path), path, sha256_file(path))
    assert report.tensors == len(encoder.state_dict()) and report.adapted_input == ""
    projections = 4 if name == "resnet50" else 3
    moved = (f"biases of {projections} projections absorbed by their norms",) if bias else ()
    assert report.notes == ("head left out (fc.bias, fc.weight)", *moved)


def test_medicalnets_shortcuts_without_parameters(save) -> None:
    """MedicalNet's ResNet-18: `module.` names, one channel, shortcuts of type A."""
    network = judge("resnet18", 3, 1, conv1_t_stride=2, shortcut_type="A", feed_forward=False)
    path = save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}})
    encoder = ENCODERS["resnet18"](3, 1, stem_stride=2, norm="batch")
    before = copied(encoder)
    with pytest.raises(ModelError, match=r"15 keys are missing \(layer2.0.downsample.0.weight, .*type A.*Pass allow"):
        load_pretrained(encoder, path)
    assert_unchanged(encoder, before)
    report = load_pretrained(encoder, path, allow=["*.downsample.*"])
    assert_same_features(encoder, network, torch.randn(1, 1, 24, 20, 28))
    assert report.notes == ("3 projections start as shortcuts without parameters",)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_are_torchvisions(name: str) -> None:
    shapes = torchvision_shapes(name)
    # torchvision's own figures: entries of the state dict, and parameters.
    assert len(shapes) == {"resnet18": 122, "resnet50": 320}[name]
    learned = sum(torch.Size(s).numel() for k, s in shapes.items() if k.endswith((".weight", ".bias")))
    assert learned == {"resnet18": 11_689_512, "resnet50": 25_557_032}[name]
    own = {key: tuple(value.shape) for key, value in ENCODERS[name](2, 3).state_dict().items()}
    assert own == {key: shape for key, shape in shapes.items() if not key.startswith("fc.")}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grey_image_gives_the_published_response(save, channels: int) -> None:
    """Equal channels, however many, give what three equal channels give in the file's network."""
    weights = {
        **constants(torchvision_shapes("resnet18")),
        "conv1.weight": torch.randn(64, 3, 7, 7, dtype=torch.float64),
    }
    encoder = ENCODERS["resnet18"](2, channels).double()
    report = load_pretrained(encoder, save(weights))
    grey = torch.randn(2, 1, 21, 30, dtype=torch.float64)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weights["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(encoder.conv1(grey.expand(-1, channels, -1, -1)), expected)
    assert (
        report.adapted_input
        == {
            1: "3 input channels -> 1: their sum",
            2: "3 input channels -> 2: their sum over 2 in each",
            3: "",
            4: "3 input channels -> 4: their sum over 4 in each",
        }[channels]
    )
    if channels == 3:
        assert torch.equal(encoder.conv1.weight, weights["conv1.weight"])


def test_one_channel_to_two_in_3d(save) -> None:
    weights = constants(torchvision_shapes("resnet18", dims=3, channels=1))
    encoder = ENCODERS["resnet18"](3, 2, norm="batch")
    assert load_pretrained(encoder, save(weights)).adapted_input == "1 input channels -> 2: their sum over 2 in each"
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"].expand(64, 2, 7, 7, 7) / 2)


def test_instance_norm_takes_no_statistics(save) -> None:
    """The 3D default normalises by the sample: weights and biases are taken over, statistics have no place."""
    weights = constants(torchvision_shapes("resnet18", dims=3, channels=1))
    weights["layer2.0.downsample.0.bias"] = torch.ones(128)  # MONAI's; instance norm takes any constant away
    encoder = ENCODERS["resnet18"](3, 1)
    report = load_pretrained(encoder, save(weights))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert report.tensors == len(encoder.state_dict()) == 60
    assert report.notes[1] == "biases of 1 projections absorbed by their norms"
    assert report.notes[2].startswith("statistics of 20 batch norms left out")


@pytest.mark.parametrize("container", [None, "state_dict", "model"], ids=str)
@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.", "backbone.", "resnet.", "anything.at.all."])
def test_containers_and_prefixes(save, small: Encoder, container: str | None, prefix: str) -> None:
    shapes = torchvision_shapes("resnet18", channels=1)
    weights = constants(shapes)
    others = {"decoder.conv1.weight": torch.ones(3), "neck.bias": torch.ones(2)} if prefix else {}
    stored = {**others, **{prefix + key: value for key, value in weights.items()}}
    report = load_pretrained(small, save({container: stored} if container else stored))
    assert all(torch.equal(value, weights[key].to(value.dtype)) for key, value in small.state_dict().items())
    left_out = (f"2 tensors outside {prefix[:-1]} left out",) if prefix else ()
    assert report.notes == (*left_out, "head left out (fc.bias, fc.weight)")


def test_batch_counts_may_be_missing(save, small: Encoder) -> None:
    """MedicalNet's files are older than the count."""
    weights = constants(torchvision_shapes("resnet18", channels=1))
    assert (
        load_pretrained(
            small, save({key: value for key, value in weights.items() if not key.endswith("tracked")})
        ).tensors
        == len(small.state_dict()) - 20
    )


def test_safetensors(require_judge, tmp_path: Path) -> None:
    require_judge("safetensors")
    from safetensors.torch import save_file

    source, encoder = made_up(PlainEncoder(2, 2, (4, 6), 8)), PlainEncoder(2, 2, (4, 6), 8)
    save_file({f"encoder.{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    load_pretrained(encoder, tmp_path / "w.safetensors")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in encoder.state_dict().items())
    (tmp_path / "bad.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:200])
    with pytest.raises(ModelError, match=r"bad.safetensors: cannot be read as weights"):
        load_pretrained(encoder, tmp_path / "bad.safetensors")


def test_safetensors_without_its_package(monkeypatch, tmp_path: Path, small: Encoder) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="safetensors is not installed. pip install safetensors"):
        load_pretrained(small, tmp_path / "w.safetensors")


# What does not fit is refused, and nothing is loaded.


def copied(encoder: Encoder) -> State:
    return {key: value.clone() for key, value in encoder.state_dict().items()}


def assert_unchanged(encoder: Encoder, before: State) -> None:
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def without(state: State, *parts: str) -> State:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


R18, R34, R50 = (constants(torchvision_shapes(name, channels=1)) for name in ("resnet18", "resnet34", "resnet50"))
REFUSED: dict[str, tuple[State, str]] = {
    "50 into 18": (
        {f"module.{key}": value for key, value in R50.items()},
        r"looks like a 2D resnet50 \(bottleneck blocks\), and the encoder is a 2D resnet18 \(basic blocks\)\. "
        r"Give weights of a 2D resnet18 .*encoder='resnet50' and spatial_dims=2",
    ),
    "34 into 18": (
        R34,
        r"\d+ are unexpected \(layer1.2.conv1.weight, layer1.2.bn1.weight, .*\.\.\.\)\. It looks like a 2D resnet34 "
        r"\(basic blocks\).*Give weights of a 2D resnet18 \(basic blocks\)\.$",
    ),
    "3D into 2D": (
        constants(torchvision_shapes("resnet18", dims=3, channels=1)),
        r"20 have another shape \(first: conv1.weight, found \(64, 1, 7, 7, 7\), expected \(64, 1, 7, 7\)\)\. "
        r"It looks like a 3D resnet18.*spatial_dims=3",
    ),
    "another width": ({**R18, "bn1.weight": torch.ones(3)}, r"1 have another shape \(first: bn1.weight, found \(3,\)"),
    "a key too few": (without(R18, "layer4.1.bn2.bias"), r"1 keys are missing \(layer4.1.bn2.bias\)\. Give weights"),
    "half a projection": (without(R18, "3.0.downsample.0"), r"1 keys are missing \(layer3.0.downsample.0.weight\)\. G"),
    "a key too many": ({**R18, "layer4.1.se.weight": torch.ones(3)}, r"1 are unexpected \(layer4.1.se.weight\)"),
    "no statistics": (without(R18, "running"), r"40 keys are missing \(bn1.running_mean, bn1.running_var, "),
    "no ResNet": (
        {"patch_embed.weight": torch.ones(3)},
        r"100 keys are missing \(conv1.weight.*looks like none that is known",
    ),
    "nothing": ({}, r"100 keys are missing \(conv1.weight"),
    "NaN": ({**R18, "bn1.bias": torch.full((64,), torch.nan)}, r"1 tensors hold values that are not finite \(bn1.bias"),
    "two encoders": (
        {f"{part}.{key}": value for part in ("query", "key") for key, value in R18.items()},
        r"holds 2 encoders \(key\., query\.\)\. Save the state dict of one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(save, small: Encoder, case: str) -> None:
    weights, message = REFUSED[case]
    before = copied(small)
    with pytest.raises(ModelError, match=message) as raised:
        load_pretrained(small, save(weights))
    assert str(raised.value).startswith(f"{save(weights)}: ") and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
    assert_unchanged(small, before)


def test_18_into_50(save) -> None:
    """The message of the other direction: a file that has half of the encoder's keys, below a prefix."""
    weights = {f"module.{key}": value for key, value in R18.items()}
    with pytest.raises(ModelError, match=r"are missing .*looks like a 2D resnet18.*the encoder is a 2D resnet50"):
        load_pretrained(ENCODERS["resnet50"](2, 1), save(weights))


def test_resnet_into_a_plain_encoder(save) -> None:
    with pytest.raises(
        ModelError, match=r"looks like a 2D resnet18 \(basic blocks\), and the encoder is no published network"
    ):
        load_pretrained(PlainEncoder(2, 1, (4, 6), 8), save(R18))


def test_a_norm_without_weights_cannot_stand_for_a_batch_norm(save) -> None:
    encoder = ENCODERS["resnet18"](2, 1, norm="instance")
    with pytest.raises(ModelError, match=r"100 are unexpected \(bn1.weight, bn1.bias, bn1.running_mean, "):
        load_pretrained(encoder, save(R18))


def test_allow_names_what_may_differ(save, small: Encoder) -> None:
    """Nothing else differs silently, and the report names what did."""
    nn.init.constant_(small.bn1.bias, 9.0)
    weights = {**without(R18, "bn1.bias"), "layer4.1.se.weight": torch.ones(3), "x": torch.ones(1)}
    with pytest.raises(ModelError, match=r"8 keys are missing \(layer1.0.bn1.bias, .*; 1 are unexpected \(x\)"):
        load_pretrained(small, save(weights), allow=["*.se.*", "bn1.*"])
    report = load_pretrained(small, save(weights), allow=["*.se.*", "x", "*bn1.bias"])
    assert report.notes[-2].startswith("9 keys keep their values (bn1.bias, layer1.0.bn1.bias, ")
    assert report.notes[-1] == "2 keys left out (layer4.1.se.weight, x)"
    assert (small.bn1.bias == 9.0).all() and torch.equal(small.bn1.weight, R18["bn1.weight"])
    load_pretrained(small, save(R18), allow="a single pattern")


class Malice:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('ran code')",)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read as weights"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as weights"),
    "pickle with code": (pickle.dumps({"conv1.weight": Malice()}), "cannot be read as weights"),
    "zip that is none": (b"PK\x03\x04" + bytes(100), "cannot be read as weights"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_weights(tmp_path: Path, small: Encoder, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelError, match=rf"w\.pth: {message}"):
        load_pretrained(small, tmp_path / "w.pth")


def test_damaged_and_malicious_torch_files(save, small: Encoder) -> None:
    path = save({"conv1.weight": torch.ones(4), "evil": Malice()})
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_pretrained(small, path)
    path = save(R18)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_pretrained(small, path)
    with pytest.raises(ModelError, match="holds no state dict"):
        load_pretrained(small, save([1, 2]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.pth", "missing.pth: is no file. Give a file, imagenet, medicalnet or hf://"),
        ("imagnet", "imagnet: is no file. Did you mean imagenet"),
        ("https://example.org/w.pth", "is no file. Give a file"),
        (".", "is no file"),
        ("hf://owner/only", "hf://owner/only: is no address of a file. Write hf://owner/repository/file"),
        ("medicalnet", "there are no medicalnet weights for a 2D resnet18 encoder. They exist for 3D resnet18 and 3D"),
    ],
)
def test_sources_that_are_none(small: Encoder, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_pretrained(small, source)


def test_nothing_is_published_for_a_plain_encoder() -> None:
    with pytest.raises(UsageError, match="no imagenet weights for a PlainEncoder encoder. They exist for 2D resnet18"):
        load_pretrained(PlainEncoder(2, 1, (4, 6), 8), "imagenet")


# The hub: one sentence where there is none.


def test_hub_without_its_package(monkeypatch, small: Encoder) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"huggingface_hub is not installed. pip install .* or .* give its path"):
        load_pretrained(small, "imagenet")


class Hub(SimpleNamespace):
    """huggingface_hub as far as we call it: a cache, and a network that may be down."""

    def __init__(self, cached: Path | None = None, remote: Path | None = None) -> None:
        super().__init__(cached=cached, remote=remote, asked=[], downloads=[])

    def hf_hub_download(self, *, repo_id: str, filename: str, revision: str | None, local_files_only: bool = False):
        if local_files_only:
            self.asked.append((repo_id, filename, revision))
            if self.cached is None:
                raise FileNotFoundError("not in the cache")
            return str(self.cached)
        self.downloads.append((repo_id, filename, revision))
        return str(self.remote)

    def hf_hub_url(self, repo_id: str, filename: str, *, revision: str | None) -> str:
        return f"https://hub/{repo_id}/{revision or 'main'}/{filename}"

    def get_hf_file_metadata(self, url: str, *, timeout: float) -> None:
        assert url.startswith("https://hub/") and 0 < timeout <= 10
        if self.remote is None:
            raise ConnectionError("no network\nand many lines more")


def test_hub_offline(monkeypatch, small: Encoder) -> None:
    hub, before = Hub(), copied(small)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ModelError) as raised:
        load_pretrained(small, "imagenet")
    assert str(raised.value) == (
        "hf://timm/resnet18.tv_in1k/model.safetensors: cannot be fetched (ConnectionError). Check the address and the "
        "network, or download the file on another machine and give its path."
    )
    assert hub.downloads == [], "a download would try again for minutes"
    assert_unchanged(small, before)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "fetched"])
def test_hub(monkeypatch, save, small: Encoder, cached: bool) -> None:
    path = save(R18)
    hub = Hub(cached=path) if cached else Hub(remote=path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    report = load_pretrained(small, "hf://owner/name@abc/folder/w.pth")
    assert (report.source, report.path) == ("hf://owner/name@abc/folder/w.pth", path)
    assert hub.asked == [("owner/name", "folder/w.pth", "abc")]
    assert hub.downloads == ([] if cached else hub.asked)
    assert str(report).startswith(f"120 tensors of {path} (sha256 {sha256_file(path)[:12]}); head left out")


def test_published_addresses(monkeypatch) -> None:
    hub = Hub(cached=Path("x"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for addresses in PUBLISHED.values():
        on_the_hub = [address for address in addresses.values() if address.startswith(SCHEME)]
        assert [fetch(address) for address in on_the_hub] == [Path("x")] * 2
    assert hub.asked == [
        ("timm/resnet18.tv_in1k", "model.safetensors", None),
        ("timm/resnet50.tv_in1k", "model.safetensors", None),
        ("TencentMedicalNet/MedicalNet-Resnet18", "resnet_18_23dataset.pth", None),
        ("TencentMedicalNet/MedicalNet-Resnet50", "resnet_50_23dataset.pth", None),
    ]


def test_published_names_find_their_encoder() -> None:
    for kinds in PUBLISHED.values():
        for name, dims in kinds:
            with torch.device("meta"):
                found = architecture(ENCODERS[name](dims, 1).state_dict())
            assert found is not None and (found.name, found.spatial_dims) == (name, dims)


# Whole networks.


@pytest.mark.parametrize("method", ["stl", "hps", "ctan"])
def test_every_encoder_of_a_network_is_loaded(save, small_network, caplog, method: str) -> None:
    source = made_up(PlainEncoder(3, 1, (6, 8, 10), 12))
    network = small_network(method, PIXEL, 3, 2)
    decoders = {key: value.clone() for key, value in network.state_dict().items() if "encoder." not in key}
    with caplog.at_level(logging.INFO):
        assert pretrained(network, save(source.state_dict())) is network
    encoders = [net.encoder for net in network.nets.values()] if method == "stl" else [network.encoder]
    assert len(encoders) == (2 if method == "stl" else 1) == caplog.text.count("1 input channels -> 2")
    for encoder in encoders:
        torch.testing.assert_close(encoder.shared[0].conv.weight.sum(1), source.shared[0].conv.weight.sum(1))
        assert torch.equal(encoder.deep[2][1].conv.weight, source.deep[2][1].conv.weight)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in decoders.items())


def test_the_encoder_of_our_own_weights(save, small_network) -> None:
    """What was trained as HPS can start CTAN; STL holds several encoders, and does not say which."""
    hps, ctan = small_network("hps", PIXEL), small_network("ctan", PIXEL)
    with torch.no_grad():
        for parameter in hps.parameters():
            parameter.add_(1.0)
    pretrained(ctan, save(hps.state_dict()))
    for key, value in hps.encoder.state_dict().items():
        assert torch.equal(ctan.encoder.state_dict()[key], value)
    with pytest.raises(ModelError, match=r"holds 2 encoders \(nets.dose.encoder., nets.oar.encoder.\)"):
        pretrained(ctan, save(small_network("stl", PIXEL).state_dict()))


def test_none_loads_nothing(small_network) -> None:
    network = small_network("hps", PIXEL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert pretrained(network, None) is network and pretrained(network, "none") is network
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_network_without_an_encoder() -> None:
    with pytest.raises(UsageError, match="w.pth: Linear has no encoder to load weights into"):
        pretrained(nn.Linear(1, 1), "w.pth")


def test_a_resnet_network_still_runs(save) -> None:
    network = create_network("ctan", PIXEL, 2, 2, encoder="resnet18")
    network = pretrained(network, save(judge("resnet18", 2, 3).state_dict())).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 2, 64, 64))
    assert set(outputs) == {"oar", "dose"} and all(torch.isfinite(value).all() for value in outputs.values())
