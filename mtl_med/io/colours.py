"""Colours of structures, the same in every file that is written."""

from __future__ import annotations

import colorsys
from hashlib import sha256

__all__ = ["COLOURS", "colour"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "Bladder": (222, 200, 60),
    "Body": (177, 122, 101),
    "Bone_Mandible": (222, 198, 101),
    "Brainstem": (88, 106, 215),
    "CTV": (214, 120, 190),
    "Esophagus": (211, 171, 143),
    "External": (177, 122, 101),
    "Femur_Head_L": (128, 174, 128),
    "Femur_Head_R": (90, 150, 120),
    "Larynx": (150, 208, 243),
    "PTV": (230, 60, 60),
    "PTV56": (255, 190, 60),
    "PTV63": (250, 120, 50),
    "PTV70": (220, 40, 40),
    "Parotid_L": (60, 180, 75),
    "Parotid_R": (0, 130, 110),
    "Rectum": (145, 90, 60),
    "SpinalCord": (240, 230, 90),
}
"""TG-263 name -> red, green, blue, 0..255: neighbours differ, targets run from yellow to red with the dose."""


def colour(name: str) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of a structure; of an unknown name always the same saturated colour."""
    if name in COLOURS:
        return COLOURS[name]
    digest = sha256(name.encode("utf-8")).digest()
    red, green, blue = colorsys.hsv_to_rgb(digest[0] / 256, 0.55 + digest[1] / 640, 0.75 + digest[2] / 1280)
    return round(red * 255), round(green * 255), round(blue * 255)
