"""One inferer for maps and classes: windows for pixel-level tasks, the whole image or windows for image-level ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor

from mtl_med.errors import UsageError, nearest
from mtl_med.loading.resizing import resize_smoothly
from mtl_med.networks.attention_maps import task_masks
from mtl_med.networks.multitask import MultiTaskNet
from mtl_med.networks.stacked import split_stacked
from mtl_med.networks.windows import window_lengths
from mtl_med.tasks import Task, as_tasks

__all__ = ["IMAGE_MODES", "MixedInferer"]

IMAGE_MODES = ("full", "mean", "max", "attention")
"""What an image-level task is told from: the whole image, or the windows, joined in one of three ways."""

_WINDOWS_AT_ONCE = {2: 8, 3: 1}
_LEAST_WEIGHT = 1e-6  # of a window where nothing is seen, so that the weights of such windows alone are equal

Look = Callable[[Tensor], dict[str, Tensor]]


class MixedInferer(Inferer):
    """Run a network over images of any size; every task's output comes from one call.

    Pixel-level tasks are put together from windows with Gaussian weights, exactly as by MONAI's SlidingWindowInferer.
    Image-level tasks are told from the whole image (`full`), or from the class probabilities p_w of the windows w:

    - `mean`: their mean over the windows. Of probabilities and not of logits, so that one window that is very sure,
      such as one of air alone, has one vote and no more.
    - `max`: for each class its largest probability in any window; softmax makes them sum to 1 again.
    - `attention`: their mean, each window weighted by how much structure the network itself segments in it (mean over
      the window of the largest probability of a structure); without a segmentation task by how sure it is, 1 - entropy
      / log K. Where no window has any weight this is `mean`.

    Every way returns logits, whose softmax are the probabilities, so that a temperature and an operating point can be
    applied to each; fitted on one way, they are not those of another.
    An image no larger than a window is padded with zeros to it, and one pass gives both kinds of task: all four ways
    then agree exactly, unless `full_size` asks for another size. Padding is cut off again. Maps are summed in fp32 also
    under autocast.

    Args:
        tasks: the network's tasks; image-level or pixel-level ones alone will do.
        patch_size: of the training patch; as many numbers as the network has dimensions.
        overlap: part of a window that the next one covers again, per axis.
        image_mode: a row of `IMAGE_MODES`.
        full_size: `full` only: size to which the whole image is resized (linear, antialiased); None keeps its own.
        windows_at_once: windows in one forward pass; default 8 in 2D and 1 in 3D.
        maps_on: device on which maps are put together, such as "cpu" for volumes that a GPU cannot hold; default: that
            of the image.

    Raises:
        UsageError: a value that cannot be meant.
    """

    def __init__(
        self,
        tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
        patch_size: Sequence[int],
        overlap: float = 0.5,
        image_mode: str = "full",
        full_size: Sequence[int] | None = None,
        windows_at_once: int | None = None,
        maps_on: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = window_lengths(patch_size, overlap)
        if image_mode not in IMAGE_MODES:
            raise UsageError(f"unknown image_mode '{image_mode}'", fix=nearest(image_mode, IMAGE_MODES))
        if full_size is not None and (len(full_size) != len(patch_size) or min(full_size) < 1):
            raise UsageError(
                f"full_size {list(full_size)} does not fit patch_size {list(patch_size)}",
                fix="Give as many numbers, each of at least 1",
            )
        if full_size is not None and image_mode != "full":
            raise UsageError(
                f"image_mode '{image_mode}' looks at windows and has no use for full_size {list(full_size)}",
                fix="Leave full_size out, or set image_mode to full",
            )
        self.tasks = as_tasks(tasks)
        self.pixel_tasks = tuple(task for task in self.tasks if task.is_pixel_level)
        self.image_tasks = tuple(task for task in self.tasks if not task.is_pixel_level)
        self.full_size = None if full_size is None else tuple(int(side) for side in full_size)
        self.image_mode = image_mode
        at_once = int(windows_at_once or _WINDOWS_AT_ONCE[len(self.patch_size)])
        self.windows = SlidingWindowInferer(self.patch_size, at_once, overlap, mode="gaussian", device=maps_on)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Every task's output.

        Args:
            inputs: images `(B, C, *spatial)`.
            network: returns `{task: (B, channels, *spatial) or (B, classes)}`, or these stacked in one tensor.
            args, kwargs: handed on to the network.

        Returns:
            task -> `(B, channels, *spatial)` in fp32 on the device of the maps, or `(B, classes)` logits in fp32.

        Raises:
            UsageError: images of another number of dimensions, windows that the network refuses, or a network that does
                not return these tasks.
        """
        image = self._checked(inputs)

        def look(window: Tensor) -> dict[str, Tensor]:
            with self._named(window, image):
                made = network(window.to(inputs.dtype), *args, **kwargs)
            return self._outputs(made, window)

        if self._is_one_window(image) and not self._has_own_whole(image):
            outputs = self._one_pass(image, look)
        else:
            outputs = self._from_windows(image, look) if self.pixel_tasks or self.image_mode != "full" else {}
            if self.image_tasks and self.image_mode == "full":
                whole = look(self._whole(image))
                outputs |= {task.name: whole[task.name] for task in self.image_tasks}
        return {task.name: outputs[task.name] for task in self.tasks}

    def attention(self, inputs: Tensor, network: MultiTaskNet) -> dict[str, Tensor]:
        """What each task attends to, seen as its output is: `(B, 1, *spatial)`, see `task_masks`.

        A task that looks at the whole image gets the mask of that pass, resized to the image.
        """
        image = self._checked(inputs)

        def look(window: Tensor) -> dict[str, Tensor]:
            with self._named(window, image):
                return task_masks(network, window)

        if self._is_one_window(image) and not self._has_own_whole(image):
            return self._one_pass(image, look)
        masks: dict[str, Tensor] = {}
        if self.pixel_tasks or self.image_mode != "full":
            masks = self.windows(image, look)
        if self.image_tasks and self.image_mode == "full":
            whole = task_masks(network, self._whole(image))
            masks |= {task.name: resize_smoothly(whole[task.name], image.shape[2:]) for task in self.image_tasks}
        return {task.name: masks[task.name] for task in self.tasks}

    def _checked(self, inputs: Tensor) -> Tensor:
        """The images as a plain tensor that maps can be summed in."""
        if inputs.ndim != len(self.patch_size) + 2:
            raise UsageError(
                f"images have shape {tuple(inputs.shape)}, expected (batch, channel, {len(self.patch_size)} axes)",
                fix="Give patch_size as many numbers as an image has axes",
            )
        return torch.as_tensor(inputs).as_subclass(Tensor).to(torch.promote_types(inputs.dtype, torch.float32))

    @contextmanager
    def _named(self, window: Tensor, image: Tensor) -> Iterator[None]:
        """Let a network that refuses a window say that this, and not the image, is what it was shown."""
        try:
            yield
        except UsageError as error:
            if error.where or tuple(window.shape[2:]) != self.patch_size or window.shape[2:] == image.shape[2:]:
                raise
            sides = " x ".join(map(str, self.patch_size))
            fix = "The sides of the window are the option window_size"
            raise UsageError(error.what, where=f"window of {sides}", why=error.fix, fix=fix) from error

    def _is_one_window(self, image: Tensor) -> bool:
        return all(side <= window for side, window in zip(image.shape[2:], self.patch_size, strict=True))

    def _has_own_whole(self, image: Tensor) -> bool:
        """Whether image-level tasks look at something else than the only window."""
        same = tuple(image.shape[2:]) == self.patch_size == self.full_size
        return bool(self.image_tasks) and self.full_size is not None and not same

    def _whole(self, image: Tensor) -> Tensor:
        return image if self.full_size is None else resize_smoothly(image, self.full_size)

    def _one_pass(self, image: Tensor, look: Look) -> dict[str, Tensor]:
        """Both kinds of task from one window; nothing is weighted, so that this is the very output of the network."""
        space = image.shape[2:]
        amounts = [max(0, window - side) for side, window in zip(space, self.patch_size, strict=True)]
        padding = [part for amount in reversed(amounts) for part in (amount // 2, amount - amount // 2)]
        outputs = look(F.pad(image, padding) if any(padding) else image)
        inside = tuple(slice(a // 2, a // 2 + side) for a, side in zip(amounts, space, strict=True))
        device = self.windows.device
        return {
            name: value if value.ndim == 2 else value[(slice(None), slice(None), *inside)].to(device or value.device)
            for name, value in outputs.items()
        }

    def _from_windows(self, image: Tensor, look: Look) -> dict[str, Tensor]:
        """Maps blended from windows; classes joined from them unless they come from the whole image."""
        voting = self.image_tasks if self.image_mode != "full" else ()
        votes: dict[str, list[Tensor]] = {task.name: [] for task in voting}
        weights: dict[str, list[Tensor]] = {task.name: [] for task in voting}

        def look_and_note(window: Tensor) -> dict[str, Tensor]:
            outputs = look(window)
            for task in voting:
                log_p = outputs[task.name].log_softmax(1)
                votes[task.name].append(log_p)
                weights[task.name].append(self._weight(outputs, log_p))
            maps = {task.name: _own(outputs[task.name], window) for task in self.pixel_tasks}
            # MONAI puts at least one map together.
            return maps or {"": window.new_zeros(len(window), 1, *window.shape[2:])}

        found: dict[str, Tensor] = self.windows(image, look_and_note)
        for name in votes:  # windows come image by image
            log_p = torch.cat(votes[name]).unflatten(0, (len(image), -1))  # (B, windows, K)
            found[name] = self._join(log_p, torch.cat(weights[name]).view(len(image), -1))
        return found

    def _weight(self, outputs: Mapping[str, Tensor], log_p: Tensor) -> Tensor:
        """How much a window counts, `(B,)`."""
        if self.image_mode != "attention":
            return log_p.new_ones(len(log_p))
        structures = [outputs[task.name] for task in self.pixel_tasks if task.kind == "segmentation"]
        if structures:
            seen = torch.cat(structures, 1).amax(1).sigmoid().flatten(1).mean(1)
        else:
            entropy = -(log_p.exp() * log_p).sum(1)
            seen = 1 - entropy / max(math.log(log_p.shape[1]), _LEAST_WEIGHT)
        return seen.clamp(min=0) + _LEAST_WEIGHT

    def _join(self, log_p: Tensor, weights: Tensor) -> Tensor:
        if self.image_mode == "max":
            return log_p.amax(1)
        shares = weights / weights.sum(1, keepdim=True)
        return torch.logsumexp(log_p + shares.log()[..., None], 1)

    def _outputs(self, made: Any, window: Tensor) -> dict[str, Tensor]:
        """The tasks' outputs in fp32, each of the form that its kind says."""
        named = split_stacked(made, self.tasks) if isinstance(made, Tensor) else made
        outputs = {}
        for task in self.tasks:
            if task.name not in named:
                raise UsageError(f"the network predicts no task '{task.name}'", fix=nearest(task.name, named))
            value = torch.as_tensor(named[task.name]).as_subclass(Tensor)
            expected = (len(window), task.channels, *(window.shape[2:] if task.is_pixel_level else ()))
            if tuple(value.shape) != expected:
                raise UsageError(
                    f"the output of {task.kind} task '{task.name}' has shape {tuple(value.shape)}, expected {expected}",
                    fix="Give the tasks that the network was made with",
                )
            outputs[task.name] = value.to(torch.promote_types(value.dtype, torch.float32))
        return outputs


def _own(value: Tensor, window: Tensor) -> Tensor:
    """The map itself, or a copy where it is a part of the image: MONAI multiplies it in place."""
    same = value.untyped_storage().data_ptr() == window.untyped_storage().data_ptr()
    return value.clone() if same else value
