"""Numbers about a photograph and the masks drawn on it, for the rules of the quality table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_med.prep.raw import RawCase

__all__ = ["measure_picture"]

_LUMA = (0.299 / 2.55, 0.587 / 2.55, 0.114 / 2.55)  # red, green, blue of ITU-R BT.601, in percent of white
_DARK_PERCENT = 20.0  # of white: what a dermatoscope's own edge is at most


def measure_picture(case: RawCase) -> dict[str, float | int | None]:
    """Numbers about a case without grid, each named `<what>.<measure>_<unit>`.

    Brightness is BT.601 luma in percent of white; contrast of the image its standard deviation, of a structure how much
    darker it is than the rest of the image outside the dark frame. The dark frame is what is darker than 20 % and hangs
    together with a corner. A structure's edge is the part of the image's border that it covers.
    """
    image = case.pictures["image"]
    red, green, blue = (image[..., channel] * np.float32(part) for channel, part in enumerate(_LUMA))
    luma = red + green + blue
    frame = _dark_frame(luma)
    measures: dict[str, float | int | None] = {
        "image.width_pixels": image.shape[1],
        "image.height_pixels": image.shape[0],
        "image.brightness_percent": float(luma.mean(dtype=np.float64)),
        "image.contrast_percent": float(luma.std(dtype=np.float64)),
        "image.dark_frame_percent": _percent(frame),
    }
    measures |= case.measures
    for name in case.facts:
        mask = case.pictures.get(f"structures/{name}")
        found = _structure(mask > 0, luma, frame) if mask is not None else dict.fromkeys(_KEYS)
        measures[f"{name}.contoured"] = int(mask is not None)
        measures |= {f"{name}.{key}": value for key, value in found.items()}
    return measures


_KEYS = ("pixels", "area_percent", "parts", "largest_part_percent", "edge_percent", "contrast_percent")


def _structure(inside: NDArray[np.bool_], luma: NDArray, frame: NDArray[np.bool_]) -> dict[str, float | int | None]:
    pixels = int(np.count_nonzero(inside))
    sizes = _sizes(inside)
    rim = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    around = ~(inside | frame)
    contrast = None
    if pixels and around.any():
        contrast = float(luma[around].mean(dtype=np.float64) - luma[inside].mean(dtype=np.float64))
    values = (
        pixels,
        _percent(inside),
        len(sizes),
        float(100 * sizes.max() / pixels) if pixels else None,
        _percent(rim),
        contrast,
    )
    return dict(zip(_KEYS, values, strict=True))


def _percent(mask: NDArray[np.bool_]) -> float:
    return 100.0 * np.count_nonzero(mask) / mask.size


def _sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of each part that hangs together, also over corners."""
    from scipy.ndimage import label

    parts, _ = label(mask, np.ones((3, 3)))
    return np.bincount(parts.reshape(-1))[1:]


def _dark_frame(luma: NDArray) -> NDArray[np.bool_]:
    dark = luma < _DARK_PERCENT
    if not any(dark[row, column] for row in (0, -1) for column in (0, -1)):
        return np.zeros_like(dark)
    from scipy.ndimage import label

    parts, _ = label(dark)
    corners = {int(parts[row, column]) for row in (0, -1) for column in (0, -1)} - {0}
    return np.isin(parts, list(corners))
