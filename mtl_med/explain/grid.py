"""Maps as a network sees an image, brought back onto the image's own voxels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from mtl_med.errors import UsageError
from mtl_med.explain.model import Trained
from mtl_med.geometry import Grid, picture_grid, reorient
from mtl_med.loading import resize_smoothly
from mtl_med.postprocessing import InvertVolumesd

__all__ = ["on_source"]


def on_source(
    trained: Trained, data: Mapping[str, Any], maps: Mapping[str, Tensor], grid: Grid | None
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_], Grid]:
    """Maps as the network sees the image, brought onto the image's own voxels.

    Args:
        trained: the bundle.
        data: the preprocessed case.
        maps: name -> `(1, *spatial)`.
        grid: of the source; None for a photograph.

    Returns:
        name -> (X, Y, Z), zero where the network saw nothing; where it saw something; the grid of both, for a
        photograph its `picture_grid`.
    """
    whole = {**maps, "": torch.ones_like(next(iter(maps.values())))}  # "" is no name of a map
    if "size" in data:
        size = [int(side) for side in data["size"]]
        target = size if grid is None else list(_ras(grid).shape)
        found = {name: resize_smoothly(value[None], target)[0, 0].numpy() for name, value in whole.items()}
        if grid is None:
            # (H, W), rows from the top: axis 0 of the volume runs to the right, axis 1 down.
            found = {name: value.T[:, :, None] for name, value in found.items()}
            grid = picture_grid(size[1], size[0])
        else:
            found = {name: reorient(value, _ras(grid), "".join(grid.axis_codes))[0] for name, value in found.items()}
    elif grid is None:
        raise UsageError("the preprocessing keeps no 'size' of a photograph, so that nothing leads back to it")
    else:
        meta = getattr(data["image"], "meta", None)
        item = {**data, **{f"map {name}": MetaTensor(value, meta=meta) for name, value in whole.items()}}
        keys = [f"map {name}" for name in whole]
        inverse = InvertVolumesd(keys, trained.preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
        back = inverse(item)
        found = {name: np.asarray(torch.as_tensor(back[f"map {name}"])[0]) for name in whole}
    seen = found.pop("") > 0.5
    values = {name: np.where(seen, value, 0).astype(np.float32) for name, value in found.items()}
    return values, seen, grid


def _ras(grid: Grid) -> Grid:
    return reorient(np.broadcast_to(np.uint8(0), grid.shape), grid)[1]
