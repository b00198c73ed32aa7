"""Exchanges at the bottleneck: `forward({task: features}) -> {task: features}`, `.out_channels(in_channels)`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mtl_med.networks.exchange.ctab import CTAB
from mtl_med.networks.exchange.ctal import CTAL
from mtl_med.networks.exchange.kem import KEM, SKEM
from mtl_med.networks.exchange.none import NoExchange

__all__ = ["CTAB", "CTAL", "EXCHANGES", "KEM", "SKEM", "NoExchange"]

EXCHANGES: dict[str, Callable[..., nn.Module]] = {
    "none": NoExchange,
    "ctab": CTAB,
    "ctal": CTAL,
    "kem": KEM,
    "skem": SKEM,
}
