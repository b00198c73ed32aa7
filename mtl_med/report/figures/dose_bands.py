"""How much too high and too low a predicted dose is, by band of planned dose."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_med.report.figures.drawing import HATCHES, PALETTE, new_figure, png, styled

__all__ = ["band_plot"]


@styled()
def band_plot(bands: Sequence[tuple[str, float, float, float]]) -> bytes:
    """Draw bars of over- and underdose around zero, and the signed error as a mark.

    Args:
        bands: label, overdose, underdose (both positive) and signed error of each, Gy; NaN where there is no voxel.

    Returns:
        PNG.
    """
    figure = new_figure(8.5, 2.9)
    axis = figure.subplots()
    places = range(len(bands))
    over, low, signed = [band[1] for band in bands], [-band[2] for band in bands], [band[3] for band in bands]
    axis.bar(places, over, 0.62, color=PALETTE[1], hatch=HATCHES[1], edgecolor="white", label="too high (mean)")
    axis.bar(places, low, 0.62, color=PALETTE[0], hatch=HATCHES[2], edgecolor="white", label="too low (mean)")
    axis.plot(places, signed, "D", color="black", markersize=5, label="signed error")
    axis.axhline(0, color="#667080", linewidth=0.8)
    axis.set_xticks(list(places), [band[0] for band in bands])
    axis.set_ylabel("predicted - planned, Gy")
    axis.grid(axis="y")
    axis.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    return png(figure, 100)
