"""The patient's body, where nobody drew it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BODY_HU", "body_mask"]

BODY_HU = -300.0


def body_mask(ct_hu: NDArray) -> NDArray[np.uint8]:
    """The largest connected component above -300 HU; all of the image where nothing is above.

    Args:
        ct_hu: (X, Y, Z) HU.

    Returns:
        (X, Y, Z) uint8.
    """
    from scipy.ndimage import label

    components, count = label(ct_hu > BODY_HU)
    if not count:
        return np.ones(ct_hu.shape, dtype=np.uint8)
    sizes = np.bincount(components.reshape(-1))
    sizes[0] = 0
    return (components == sizes.argmax()).view(np.uint8)
