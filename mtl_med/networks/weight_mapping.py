"""Weights of a file under an encoder's names: what is found, translated or left out, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from mtl_med.errors import ModelError
from mtl_med.networks.encoders import ENCODERS, Encoder
from mtl_med.networks.instance_norm import InstanceNorm

__all__ = ["Architecture", "Fitted", "architecture", "fit"]

State = dict[str, Tensor]

HEADS = (
    "fc",
    "classifier",
    "head",
    "conv_seg",
    "conv_head",
)  # what published networks call the layers behind their encoder
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PROJECTION = ".downsample."
RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (1, 1, 1, 1)): "resnet10",
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
    ("bottleneck", (3, 24, 36, 3)): "resnet200",
}


@dataclass(frozen=True)
class Architecture:
    """A published network, as far as keys and shapes tell: strides and dilations leave no trace in weights."""

    name: str
    spatial_dims: int
    block: str

    def __str__(self) -> str:
        return f"a {self.spatial_dims}D {self.name} ({self.block} blocks)"


@dataclass(frozen=True)
class Fitted:
    """What an encoder would load.

    Args:
        state: a tensor for every key of the encoder.
        tensors: how many of them come from the file.
        adapted_input: how the first convolution was brought to the encoder's input channels; empty where it fits.
        notes: what else was translated or left out.
    """

    state: State
    tensors: int
    adapted_input: str
    notes: tuple[str, ...]


def architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """The ResNet or EfficientNet-Lite0 that a state dict belongs to; None for anything else."""
    if "conv_stem.weight" in state:
        return lite_architecture(state)
    stem = state.get("conv1.weight")
    if stem is None or stem.ndim not in (4, 5):
        return None
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    depths = tuple(len({key.split(".")[1] for key in state if key.startswith(f"layer{j}.")}) for j in (1, 2, 3, 4))
    name = RESNETS.get((block, depths))
    return None if name is None else Architecture(name, stem.ndim - 2, block)


def lite_architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """EfficientNet-Lite0, with or without its last block; None for its relatives."""
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("blocks.") and key.split(".")[1].isdigit()}
    relative = len(blocks) not in (15, 16) or any("se_reduce" in key for key in state)
    return None if relative else Architecture("efficientnet_lite0", 2, "inverted residual")


def fit(weights: Mapping[str, Tensor], encoder: Encoder, where: str | Path, allow: Sequence[str] = ()) -> Fitted:
    """Bring weights under the names and shapes of an encoder, without changing the encoder.

    Args:
        weights: a state dict with the names of torchvision, MONAI, MedicalNet or efficientnet_lite_pytorch, or of one
            of our networks.
        encoder: what they are for.
        where: the file, for errors.
        allow: patterns of keys that may be in only one of the two: those of the file are left out, those of the
            encoder keep their values, save that a whole projection starts as a shortcut without parameters.

    Raises:
        ModelError: keys are missing, unexpected or of another shape, or values are not finite.
    """
    own = encoder.state_dict()
    found, note = encoder_part(plain_names(weights, own), own, where)
    notes = [note]
    for step in (drop_last_block, drop_heads, fold_biases, drop_statistics):
        found, note = step(found, own, encoder)
        notes.append(note)
    found, adapted_input = adapt_input(found, own)
    check(found, own, where, (allow,) if isinstance(allow, str) else allow)
    started, note = subsampling(found, own, encoder)
    taken = {key: value for key, value in found.items() if key in own}
    notes += [note, *differing(found, own, started)]
    return Fitted({**own, **started, **taken}, len(taken), adapted_input, tuple(each for each in notes if each))


def plain_names(weights: Mapping[str, Tensor], own: State) -> Mapping[str, Tensor]:
    """Take the underscores off with which efficientnet_lite_pytorch begins every name (`_blocks.3._bn0.weight`)."""
    if "conv_stem.weight" not in own:
        return weights
    return {".".join(part.lstrip("_") for part in key.split(".")): value for key, value in weights.items()}


def drop_last_block(found: State, own: State, encoder: Encoder) -> tuple[State, str]:
    """Leave out what an EfficientNet-Lite has behind its last stage: the block of 320 channels and its head's norm."""
    if architecture(own) != architecture(found) or "conv_stem.weight" not in own:
        return found, ""
    behind = {key for key in found if key not in own and key.startswith(("blocks.15.", "bn1."))}
    note = "last block and norm left out (blocks.15, bn1)" if behind else ""
    return {key: value for key, value in found.items() if key not in behind}, note


def encoder_part(weights: Mapping[str, Tensor], own: State, where: str | Path) -> tuple[State, str]:
    """The tensors below the prefix (`module.`, `encoder.`, `backbone.`, ...) where most of the encoder's keys are.

    Raises:
        ModelError: several encoders fit equally well.
    """
    stem = next(iter(own))
    prefixes = {"", *(key.removesuffix(stem) for key in weights if key.endswith(f".{stem}"))}
    counts = {prefix: sum(prefix + key in weights for key in own) for prefix in prefixes}
    best = sorted(prefix for prefix in prefixes if counts[prefix] == max(counts.values()))
    if len(best) > 1 and 2 * counts[best[0]] >= len(own):
        raise ModelError(
            f"holds {len(best)} encoders ({', '.join(prefix or 'one without prefix' for prefix in best)})",
            where=where,
            fix="Save the state dict of one of them",
        )
    prefix = best[0] if len(best) == 1 else ""
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    outside = len(weights) - len(found)
    return found, f"{outside} tensors outside {prefix.rstrip('.')} left out" if outside else ""


def drop_heads(found: State, own: State, encoder: Encoder) -> tuple[State, str]:
    """Leave the classifier or decoder of the published network out."""
    heads = {key for key in found if key not in own and key.split(".")[0] in HEADS}
    note = f"head left out ({', '.join(sorted(heads))})" if heads else ""
    return {key: value for key, value in found.items() if key not in heads}, note


def fold_biases(found: State, own: State, encoder: Encoder) -> tuple[State, str]:
    """Move the biases that MONAI's projections have, and ours have not, into the norm behind them.

    A batch norm of running mean m takes W x + b - m: without the bias its mean is m - b. Instance norm takes any
    constant away.
    """
    modules = dict(encoder.named_modules())
    translated = dict(found)
    count = 0
    for key, bias in found.items():
        if not key.endswith(f"{PROJECTION}0.bias") or key in own:
            continue
        norm = key.removesuffix("0.bias") + "1"
        mean = f"{norm}.running_mean"
        if mean in own and mean in found and found[mean].shape == bias.shape:
            translated[mean] = found[mean] - bias
        elif not isinstance(modules.get(norm), InstanceNorm):
            continue
        del translated[key]
        count += 1
    return translated, f"biases of {count} projections absorbed by their norms" if count else ""


def drop_statistics(found: State, own: State, encoder: Encoder) -> tuple[State, str]:
    """Leave batch-norm statistics out where the encoder's norm has weight and bias, but takes each sample's own."""
    dropped = set()
    for key in found:
        norm, _, name = key.rpartition(".")
        if key not in own and name in STATISTICS and f"{norm}.weight" in own:
            dropped.add(key)
    norms = len({key.rpartition(".")[0] for key in dropped})
    note = f"statistics of {norms} batch norms left out, since the encoder's norms use the sample's own"
    return {key: value for key, value in found.items() if key not in dropped}, note if norms else ""


def adapt_input(found: State, own: State) -> tuple[State, str]:
    """Bring the first convolution to the encoder's input channels.

    With n channels instead of the file's c, each of the n gets the sum of the c filters over n. An image whose channels
    are all equal then gives the response that it gives in the file's network; for n = 1 this is the sum over RGB.
    """
    stem = next(iter(own))
    theirs, ours = found.get(stem), own[stem]
    if theirs is None or theirs.ndim != ours.ndim or theirs.shape == ours.shape:
        return found, ""
    c, n = theirs.shape[1], ours.shape[1]
    if theirs.shape[:1] + theirs.shape[2:] != ours.shape[:1] + ours.shape[2:]:
        return found, ""
    adapted = theirs.to(ours.dtype).sum(1, keepdim=True).expand(ours.shape) / n
    how = "their sum" if n == 1 else f"their sum over {n} in each"
    return {**found, stem: adapted}, f"{c} input channels -> {n}: {how}"


def check(found: State, own: State, where: str | Path, allow: Sequence[str]) -> None:
    """Refuse what does not fit.

    Raises:
        ModelError: with the first keys, what the file looks like, and how to mend it.
    """

    def strict(keys: Sequence[str]) -> list[str]:
        return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in allow)]

    missing, unexpected = (strict(keys) for keys in absent(found, own))
    shapes = [key for key in own if key in found and found[key].shape != own[key].shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} keys are missing ({first(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} are unexpected ({first(unexpected)})")
    if shapes:
        key = shapes[0]
        found_shape, expected = tuple(found[key].shape), tuple(own[key].shape)
        parts.append(f"{len(shapes)} have another shape (first: {key}, found {found_shape}, expected {expected})")
    if parts:
        only_projections = not unexpected and not shapes and all(PROJECTION in key for key in missing)
        why, fix = explain(found, own, only_projections)
        raise ModelError(f"weights do not fit the encoder: {'; '.join(parts)}", where=where, why=why, fix=fix)
    bad = [key for key in own if key in found and not torch.isfinite(found[key]).all()]
    if bad:
        raise ModelError(
            f"{len(bad)} tensors hold values that are not finite ({first(bad)})",
            where=where,
            fix="Download or write the file again",
        )


def absent(found: State, own: State) -> tuple[list[str], list[str]]:
    """Keys that only the encoder has, and keys that only the file has.

    A file of old batch norms does not count batches, and nothing here needs the count.
    """
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    return missing, [key for key in found if key not in own]


def differing(found: State, own: State, started: State) -> list[str]:
    """What `allow` let pass, for the report."""
    missing, unexpected = absent(found, own)
    kept = [key for key in missing if key not in started]
    return [
        f"{len(kept)} keys keep their values ({first(kept)})" if kept else "",
        f"{len(unexpected)} keys left out ({first(unexpected)})" if unexpected else "",
    ]


def first(keys: Sequence[str], count: int = 3) -> str:
    """The first keys of a list."""
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")


def explain(found: State, own: State, only_projections: bool) -> tuple[str, str]:
    """Why weights do not fit, and what to do about it."""
    theirs, ours = architecture(found), architecture(own)
    target = "no published network" if ours is None else str(ours)
    if only_projections and not any(PROJECTION in key for key in found):
        return (
            "Its shortcuts have no parameters (type A, as in MedicalNet's ResNet-18)",
            f"Pass allow=['*{PROJECTION}*'] to start these projections as such shortcuts",
        )
    if theirs is not None and theirs != ours:
        fix = f"Give weights of {'another encoder' if ours is None else target}"
        if theirs.name in ENCODERS:
            fix += f", or build the network with encoder='{theirs.name}' and spatial_dims={theirs.spatial_dims}"
        return f"It looks like {theirs}, and the encoder is {target}", fix
    why = f"It looks like none that is known, and the encoder is {target}" if theirs is None and ours else ""
    return why, "Give weights of this very architecture, or list keys that may be missing or left out in `allow`"


def subsampling(found: State, own: State, encoder: Encoder) -> tuple[State, str]:
    """Values for projections that the file has nothing of: they start as shortcuts without parameters (type A).

    Such a shortcut takes every second position and fills up with zero channels: a 1x1 convolution whose matrix is 1 on
    its diagonal. Batch norm behind it is the identity in eval mode with these values; in train mode it normalises, as
    instance norm always does.
    """
    names = {key.partition(PROJECTION)[0] for key in own if PROJECTION in key}
    started: State = {}
    bare = [name for name in sorted(names) if not any(key.startswith(name + PROJECTION) for key in found)]
    for name in bare:
        convolution, norm = f"{name}{PROJECTION}0.weight", f"{name}{PROJECTION}1"
        matrix = torch.eye(*own[convolution].shape[:2], dtype=own[convolution].dtype)
        started[convolution] = matrix.reshape(own[convolution].shape)
        eps = getattr(encoder.get_submodule(norm), "eps", 0.0)
        for key, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0 - eps)):
            if f"{norm}.{key}" in own:
                started[f"{norm}.{key}"] = torch.full_like(own[f"{norm}.{key}"], value)
    return started, f"{len(bare)} projections start as shortcuts without parameters" if bare else ""
