"""Training: losses, weighting, the engine and what happens around its steps."""

from mtl_med.processes import finish_processes, join_processes, rank, require_processes, world_size
from mtl_med.training.aggregation import create_aggregator
from mtl_med.training.calibration import calibrate
from mtl_med.training.checkpoints import Checkpoint, load_into, start
from mtl_med.training.handlers import Schedule, TaskStatistics
from mtl_med.training.losses import MultiTaskLoss
from mtl_med.training.runtime import (
    distribute,
    parameter_groups,
    pick_device,
    pick_precision,
    seed_everything,
)
from mtl_med.training.schedule import Progress
from mtl_med.training.trainer import MultiTaskEvaluator, MultiTaskTrainer
from mtl_med.training.validation import BestModel, Validation

__all__ = [
    "BestModel",
    "Checkpoint",
    "MultiTaskEvaluator",
    "MultiTaskLoss",
    "MultiTaskTrainer",
    "Progress",
    "Schedule",
    "TaskStatistics",
    "Validation",
    "calibrate",
    "create_aggregator",
    "distribute",
    "finish_processes",
    "join_processes",
    "load_into",
    "parameter_groups",
    "pick_device",
    "pick_precision",
    "rank",
    "require_processes",
    "seed_everything",
    "start",
    "world_size",
]
