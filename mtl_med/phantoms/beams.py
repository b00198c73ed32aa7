"""Dose of coplanar photon beams in outline: parallel beamlets, build-up, attenuation with depth, penumbra, scatter.

The dose of a beam at a point is its blurred fluence where the ray through the point crosses the beam's plane, times
build-up and exponential attenuation along that ray. Source of the form: any textbook's pencil beam for 6 MV photons,
without divergence, inverse square and heterogeneity correction of the scatter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from mtl_med.phantoms.space import Floats

__all__ = ["ATTENUATION_PER_MM", "Beams"]

ATTENUATION_PER_MM = 0.0045  # 6 MV photons in water, at depth
BUILD_UP_MM = 3.0
SKIN_DOSE = 0.7  # part of the maximum dose that is there at the surface
BIXEL_MM = 5.0
PENUMBRA_MM = 3.5  # standard deviation of the narrow part of a beamlet
SCATTER_MM, SCATTER_PART = 16.0, 0.10  # and of its wide part


class Beams:
    """Equispaced coplanar parallel beams over a patient.

    Args:
        hu: CT (X, Y, Z), HU, in RAS order, -1024 outside the body.
        axes: voxel centres along the three axes, mm.
        centre_mm: isocentre (x, y), mm.
        half_width_mm: how far beamlets reach from the isocentre across the beam.
        z_range_mm: lowest and highest beamlet along z.
        count: number of beams.
    """

    def __init__(
        self,
        hu: Floats,
        axes: Sequence[NDArray],
        centre_mm: tuple[float, float],
        half_width_mm: float,
        z_range_mm: tuple[float, float],
        count: int = 9,
    ) -> None:
        self.angles = 2 * np.pi * np.arange(count) / count
        self.centre = centre_mm
        self.half_width = half_width_mm
        self.z_low = z_range_mm[0]
        self.shape = (
            count,
            int(np.ceil(2 * half_width_mm / BIXEL_MM)) + 1,
            int(np.ceil((z_range_mm[1] - z_range_mm[0]) / BIXEL_MM)) + 1,
        )
        self._axes = axes
        self._density = np.clip(1 + hu / 1000, 0, 1.8).astype(np.float32)

    def blur(self, fluence: NDArray) -> NDArray:
        """Fluence (beam, u, z) spread by penumbra and scatter. Self-adjoint."""
        parts = ((PENUMBRA_MM, 1 - SCATTER_PART), (SCATTER_MM, SCATTER_PART))
        return sum(
            part * ndimage.gaussian_filter(fluence, (0, mm / BIXEL_MM, mm / BIXEL_MM), mode="constant", truncate=3)
            for mm, part in parts
        )

    def place(self, beam: int, points_mm: NDArray) -> tuple[NDArray, NDArray]:
        """Fractional bixel (u, z) of points (N, 3) in one beam."""
        angle = self.angles[beam]
        across = (points_mm[:, 0] - self.centre[0]) * np.cos(angle) + (points_mm[:, 1] - self.centre[1]) * np.sin(angle)
        return (across + self.half_width) / BIXEL_MM, (points_mm[:, 2] - self.z_low) / BIXEL_MM

    def transmission(self, beam: int, points_mm: NDArray) -> Floats:
        """Build-up times attenuation at points (N, 3), from the water-equivalent depth along the beam."""
        along = self.depth_mm(beam, points_mm)
        build_up = 1 - (1 - SKIN_DOSE) * np.exp(-along / BUILD_UP_MM)
        return (build_up * np.exp(-ATTENUATION_PER_MM * along)).astype(np.float32)

    def depth_mm(self, beam: int, points_mm: NDArray) -> Floats:
        """Water-equivalent depth of points (N, 3) below the surface where the beam enters, mm.

        The density is turned so that the beam runs along its second axis t = (-sin, cos), and summed along it; the
        first axis is u = (cos, sin).
        """
        x, y, z = self._axes
        cos, sin = np.cos(self.angles[beam]), np.sin(self.angles[beam])
        step, scale = x[1] - x[0], np.array([x[1] - x[0], y[1] - y[0]])
        middle = np.array([x[0] + x[-1], y[0] + y[-1]]) / 2
        reach = float(np.hypot(x[-1] - x[0], y[-1] - y[0])) / 2
        count = int(2 * reach / step) + 1
        turn = np.array([[cos, -sin], [sin, cos]])
        matrix, start = np.eye(3), np.zeros(3)
        matrix[:2, :2] = turn * step / scale[:, None]
        start[:2] = (middle - [x[0], y[0]] - turn @ [reach, reach]) / scale
        turned = ndimage.affine_transform(
            self._density, matrix, offset=start, output_shape=(count, count, len(z)), order=1
        )
        depth = (np.cumsum(turned, axis=1) - turned / 2) * step
        u_t = (points_mm[:, :2] - middle) @ turn + reach
        where = np.stack([u_t[:, 0] / step, u_t[:, 1] / step, (points_mm[:, 2] - z[0]) / (z[1] - z[0])])
        return ndimage.map_coordinates(depth, where, order=1, mode="nearest")

    def matrix(self, points_mm: NDArray) -> sparse.csr_array:
        """Dose at points (N, 3) per unit of blurred fluence: (N, beams * u * z), four bixels per beam and point."""
        _, across, along = self.shape
        columns, values = [], []
        for beam in range(self.shape[0]):
            u, v = self.place(beam, points_mm)
            u, v = np.clip(u, 0, across - 1.001), np.clip(v, 0, along - 1.001)
            i, j = u.astype(np.int64), v.astype(np.int64)
            transmission = self.transmission(beam, points_mm)
            for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (u - i if di else 1 - (u - i)) * (v - j if dj else 1 - (v - j))
                columns.append((beam * across + i + di) * along + j + dj)
                values.append((weight * transmission).astype(np.float32))
        rows = np.arange(len(points_mm) + 1) * len(columns)
        flat = np.stack(values, axis=1).ravel(), np.stack(columns, axis=1).ravel(), rows
        return sparse.csr_array(flat, shape=(len(points_mm), int(np.prod(self.shape))))

    def dose(self, fluence: NDArray, points_mm: NDArray) -> Floats:
        """Dose at points (N, 3), Gy, for a fluence (beam, u, z)."""
        blurred = self.blur(fluence)
        dose = np.zeros(len(points_mm), dtype=np.float32)
        for beam in range(self.shape[0]):
            u, v = self.place(beam, points_mm)
            _, across, along = self.shape
            where = np.stack([np.clip(u, 0, across - 1.001), np.clip(v, 0, along - 1.001)])
            dose += ndimage.map_coordinates(blurred[beam], where, order=1) * self.transmission(beam, points_mm)
        return dose
