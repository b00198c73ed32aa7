"""Drawing made-up dermatoscopic photographs: skin, a lesion that looks as its diagnosis says, and what is in the way.

Nothing here was measured on patients. The looks are caricatures of what textbooks tell: a network can learn to tell
them apart, and nobody should take them for skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIAGNOSES", "Look", "Outline", "View", "draw_outline", "draw_photograph", "lesion_mask"]

Rgb = tuple[float, float, float]
Image = NDArray[np.float32]

_HALF_HEIGHT = 1.0  # the picture's upper border lies at y = -1, the lower one at 1; x follows its proportions


@dataclass(frozen=True)
class Look:
    """How lesions of a diagnosis look.

    Args:
        colour: of most of the lesion, 0 to 255.
        second: of its patches.
        patches: part of the lesion that they cover.
        grain: size of the patches, in half heights of the picture.
        irregular: how far the outline leaves an ellipse, relative to its radius.
        sharp: width over which the lesion fades into the skin, in half heights.
        radius: smallest and largest mean radius.
    """

    colour: Rgb
    second: Rgb
    patches: float
    grain: float
    irregular: float
    sharp: float
    radius: tuple[float, float]


DIAGNOSES = {
    "akiec": Look((196, 112, 104), (232, 214, 200), 0.35, 0.10, 0.13, 0.10, (0.35, 0.60)),
    "bcc": Look((214, 138, 140), (92, 92, 118), 0.22, 0.16, 0.14, 0.08, (0.30, 0.55)),
    "bkl": Look((150, 116, 92), (206, 178, 140), 0.40, 0.07, 0.10, 0.02, (0.40, 0.75)),
    "df": Look((158, 104, 88), (226, 196, 186), 0.00, 0.12, 0.05, 0.12, (0.22, 0.38)),
    "mel": Look((72, 44, 44), (44, 46, 72), 0.45, 0.22, 0.18, 0.05, (0.40, 0.75)),
    "nv": Look((122, 76, 58), (100, 58, 42), 0.45, 0.05, 0.05, 0.05, (0.25, 0.60)),
    "vasc": Look((172, 26, 62), (96, 10, 44), 0.45, 0.12, 0.08, 0.02, (0.15, 0.40)),
}
"""Diagnosis -> look, for the seven of HAM10000."""


@dataclass(frozen=True, eq=False)
class Outline:
    """Where a lesion ends: its radius in every direction, before the photograph is taken.

    Args:
        radius: mean radius, in half heights of the picture.
        aspect: how much longer than wide.
        waves: (K, 2) cosine and sine of 2, 3, ... waves round the border, relative to the radius.
    """

    radius: float
    aspect: float
    waves: NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One photograph of a lesion.

    Args:
        centre: x and y of the lesion's middle, in half heights from the picture's.
        turn: in radians.
        scale: enlargement.
        skin: colour of the skin, 0 to 255.
        hairs: number of hairs.
        corner: how dark the field of view becomes at its edge; 0 for none.
        ruler: marks along the lower border.
        light: brightness, 1 as it is.
    """

    centre: tuple[float, float]
    turn: float
    scale: float
    skin: Rgb
    hairs: int
    corner: float
    ruler: bool
    light: float


def draw_outline(rng: np.random.Generator, look: Look) -> Outline:
    """An outline for a lesion of this look."""
    waves = rng.normal(0, 1, (6, 2)) / np.arange(2, 8)[:, None] ** 0.8
    radius = float(rng.uniform(*look.radius))
    return Outline(radius, float(rng.uniform(1.0, 1.35)), look.irregular * waves)


def draw_photograph(
    rng: np.random.Generator, look: Look, outline: Outline, view: View, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of a lesion.

    Args:
        rng: of the texture, hairs and noise.
        look: of its diagnosis.
        outline: its border.
        view: how the photograph was taken.
        size: width and height, pixels.
    """
    x, y = _places(size, 1)
    picture = np.asarray(view.skin, dtype=np.float32) + 7 * _clouds(rng, size, 0.9)[..., None]
    picture += 4 * _clouds(rng, size, 0.06)[..., None]
    depth = _depth(x, y, outline, view)
    inside = np.clip(0.5 + depth / look.sharp, 0, 1)[..., None].astype(np.float32)
    picture += inside * (_lesion(rng, look, depth, outline.radius * view.scale, size) - picture)
    for _ in range(view.hairs):
        _hair(rng, picture, x, y)
    if view.ruler:
        _ruler(picture, x, y)
    dark = np.clip((np.hypot(x, y) - 1.2) / 0.15, 0, 1) if view.corner else np.zeros_like(x)
    picture *= (view.light * (1 - view.corner * dark))[..., None].astype(np.float32)
    picture += rng.normal(0, 2.0, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def lesion_mask(outline: Outline, view: View, size: tuple[int, int], finer: int = 1) -> NDArray[np.bool_]:
    """Where the lesion is, (H, W) times `finer`."""
    x, y = _places(size, finer)
    return _depth(x, y, outline, view) > 0


def _places(size: tuple[int, int], finer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the middles of all pixels: x and y, in half heights from the picture's middle."""
    width, height = size
    across = (np.arange(width * finer, dtype=np.float32) + 0.5) / finer - width / 2
    down = (np.arange(height * finer, dtype=np.float32) + 0.5) / finer - height / 2
    x, y = np.meshgrid(across * (2 * _HALF_HEIGHT / height), down * (2 * _HALF_HEIGHT / height))
    return x.astype(np.float32), y.astype(np.float32)


def _depth(x: NDArray, y: NDArray, outline: Outline, view: View) -> NDArray[np.float32]:
    """How far inside the border, in half heights; negative outside."""
    right, down = x - view.centre[0], y - view.centre[1]
    along = (np.cos(view.turn) * right + np.sin(view.turn) * down) / view.scale
    across = (np.cos(view.turn) * down - np.sin(view.turn) * right) / view.scale * outline.aspect
    angles = np.linspace(-np.pi, np.pi, 721)
    border = np.ones_like(angles)
    for number, (cosine, sine) in enumerate(outline.waves, 2):
        border += cosine * np.cos(number * angles) + sine * np.sin(number * angles)
    radius = outline.radius * np.interp(np.arctan2(across, along), angles, np.maximum(border, 0.3))
    return ((radius - np.hypot(along, across)) * view.scale).astype(np.float32)


def _lesion(rng: np.random.Generator, look: Look, depth: NDArray, radius: float, size: tuple[int, int]) -> Image:
    """The colours of a lesion, all over the picture."""
    shade = 9 * _clouds(rng, size, 0.25)[..., None]
    colours = np.asarray(look.colour, dtype=np.float32) + shade
    second = np.asarray(look.second, dtype=np.float32)
    if look.patches:
        grain = _clouds(rng, size, look.grain)
        covered = np.clip(2.5 * (grain - np.quantile(grain, 1 - look.patches)) + 0.5, 0, 1)[..., None]
    else:  # a pale middle
        covered = np.clip((depth - 0.45 * radius) / (0.25 * radius), 0, 1)[..., None]
    return colours + covered.astype(np.float32) * (second - colours)


def _clouds(rng: np.random.Generator, size: tuple[int, int], grain: float) -> NDArray[np.float32]:
    """Smooth noise of unit deviation, whose blobs are about `grain` half heights wide."""
    from PIL import Image as Pillow

    width, height = size
    knots = max(2, round(2 / grain)) + 3
    across = max(2, round(2 / grain * width / height)) + 3
    coarse = rng.normal(0, 1, (knots, across)).astype(np.float32)
    fine = np.asarray(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BICUBIC))
    return (fine - fine.mean()) / max(float(fine.std()), 1e-6)


def _hair(rng: np.random.Generator, picture: Image, x: NDArray, y: NDArray) -> None:
    """A thin dark arc across the picture."""
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    start = rng.uniform(-1.2, 1.2, 2)
    along = np.cos(turn) * (x - start[0]) + np.sin(turn) * (y - start[1])
    away = np.cos(turn) * (y - start[1]) - np.sin(turn) * (x - start[0]) - bend * along**2
    width = rng.uniform(0.008, 0.016) + 1.0 / picture.shape[0]
    seen = np.clip(1 - np.abs(away) / width, 0, 1) * (np.abs(along) < rng.uniform(0.5, 1.4))
    picture -= (0.85 * seen)[..., None].astype(np.float32) * (picture - np.array((38, 26, 22), dtype=np.float32))


def _ruler(picture: Image, x: NDArray, y: NDArray) -> None:
    """Black marks along the lower border, every fifth longer."""
    step = 0.14
    number = np.rint(x / step)
    length = np.where(number % 5 == 0, 0.14, 0.07)
    mark = (np.abs(x - number * step) < 0.012) & (y > 0.93 - length) & (y < 0.93)
    picture[mark] = (30, 28, 28)
