"""Windows over whole volumes: 3D patches blended, 2D networks slice by slice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.networks import window_inferer


class Slopes(nn.Module):
    """Tells which window it saw: the window's own mean, everywhere in it."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"dose": x.mean(tuple(range(1, x.ndim)), keepdim=True).expand(len(x), 1, *x.shape[2:]).clone()}


def test_a_2d_network_gets_axial_slices_alone() -> None:
    volume = torch.randn(1, 2, 12, 10, 19)
    (dose,) = window_inferer((12, 10), 0.5)(volume, Slopes()).values()
    assert dose.shape == (1, 1, 12, 10, 19)
    expected = volume.mean((1, 2, 3), keepdim=True).expand_as(dose)  # one value per slice, of that slice alone
    torch.testing.assert_close(dose, expected)


def test_larger_slices_are_blended_from_windows() -> None:
    volume = torch.randn(1, 1, 20, 12, 3)
    (dose,) = window_inferer((12, 12), 0.5)(volume, Slopes()).values()
    first, last = volume[:, :, :12].mean((1, 2, 3)), volume[:, :, -12:].mean((1, 2, 3))
    torch.testing.assert_close(dose[:, 0, 0, 0], first)
    torch.testing.assert_close(dose[:, 0, -1, 0], last)


def test_a_3d_network_gets_patches() -> None:
    volume = torch.randn(1, 1, 8, 8, 16)
    (dose,) = window_inferer((8, 8, 8), 0.0)(volume, Slopes()).values()
    torch.testing.assert_close(dose[..., :8], volume[..., :8].mean().expand(1, 1, 8, 8, 8))
    torch.testing.assert_close(dose[..., 8:], volume[..., 8:].mean().expand(1, 1, 8, 8, 8))


@pytest.mark.parametrize(
    ("patch", "overlap", "message"),
    [((8,), 0.5, "neither 2D nor 3D"), ((8, 8, 8, 8), 0.5, "neither 2D nor 3D"), ((8, 8), 1.0, "overlap is 1.0")],
)
def test_what_cannot_be_meant_is_refused(patch: tuple, overlap: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        window_inferer(patch, overlap)
