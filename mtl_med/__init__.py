"""mtl_med: multi-task learning on medical images with MONAI."""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = ("bundle", "evaluation", "inference", "loading", "metrics", "networks", "training")


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first asked for, so that bundle configs need no more than `import mtl_med`."""
    if name in _ROOMS:
        return import_module(f"mtl_med.{name}")
    raise AttributeError(f"module 'mtl_med' has no attribute '{name}'")
