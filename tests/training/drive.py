"""Runs a bundle's training as `python -m monai.bundle run` does, and dies or looks inside where a test asks for it.

    python tests/training/drive.py '{"configs": [paths], "overrides": {...}, ...}'

Further keys of the request: "die": ["checkpoint" | "validation" | "step", n] ends the process by SIGKILL in the middle
of the n-th write of checkpoint.pt, in the n-th validation, or in the n-th step; "forget": true loses the optimizer's
state on resume (a mistake that tests must notice); "dump": path gets every rank's weights at the end, as `path.RANK`;
"double": true computes in fp64; "steps": n stops after n steps; "unlabelled": name of a task that has no labels.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents

import mtl_med.training.checkpoints as checkpoints
from mtl_med.processes import rank
from mtl_med.training.runtime import unwrap
from mtl_med.training.trainer import MultiTaskEvaluator


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_checkpoint(count: int) -> None:
    """Write half of the n-th checkpoint, then die."""
    real, seen = checkpoints.torch.save, [0]

    def save(value: Any, stream: BinaryIO) -> None:
        real(value, stream)
        if stream.name.endswith("checkpoint.pt"):
            seen[0] += 1
            if seen[0] == count:
                stream.flush()
                os.truncate(stream.name, os.path.getsize(stream.name) // 2)
                die()

    checkpoints.torch.save = save


def die_in_validation(count: int) -> None:
    real, seen = MultiTaskEvaluator._iteration, [0]

    def iteration(self: MultiTaskEvaluator, engine: MultiTaskEvaluator, batch: Any) -> Any:
        seen[0] += 1
        output = real(self, engine, batch)
        if seen[0] == count:
            die()
        return output

    MultiTaskEvaluator._iteration = iteration


def without_labels(engine: Any, task: str) -> None:
    engine.state.batch[f"labelled_{task}"] = torch.zeros_like(engine.state.batch[f"labelled_{task}"])


def main() -> None:
    request = json.loads(sys.argv[1])
    moment, count = request.get("die", ["never", 0])
    if moment == "checkpoint":
        die_in_checkpoint(count)
    if moment == "validation":
        die_in_validation(count)
    if request.get("forget"):
        torch.optim.Optimizer.load_state_dict = lambda self, state: None
    if request.get("double"):
        request["overrides"]["network"] = "$mtl_med.training.distribute((@network_def).double(), @device)"
    workflow = ConfigWorkflow(config_file=request["configs"], workflow_type="train", **request["overrides"])
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    if request.get("double"):
        unwrap(trainer.network).register_forward_pre_hook(lambda _, images: tuple(image.double() for image in images))
    if moment == "step":
        trainer.add_event_handler(
            IterationEvents.BACKWARD_COMPLETED, lambda e: die() if e.state.iteration == count else None
        )
    if request.get("steps"):
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=request["steps"]), lambda e: e.terminate())
    if request.get("unlabelled"):
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, without_labels, request["unlabelled"])
    workflow.run()
    if request.get("dump"):
        state = {key: value.contiguous() for key, value in unwrap(trainer.network).state_dict().items()}
        torch.save(state, f"{request['dump']}.{rank()}")
    workflow.finalize()


if __name__ == "__main__":
    main()
