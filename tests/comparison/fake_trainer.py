"""Stands in for `python -m monai.bundle run`: quick, repeatable, and dies, fails or waits where a test asks for it.

    python fake_trainer.py ARGS_FILE

Files in the data set's folder are the test's wishes: `fail_<method>_<seed>` fails the training, `unscored_...` the
evaluation; `die_...` kills the training after its first epoch, `late_...` ends it with an error after its record is
written, where a calibration is fitted, and `wait_...` lets it wait after its first epoch (all once); `meet_...` lets it
wait for another run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ORGANS, PATIENTS = ("A", "B"), ("v0", "v1", "v2")
ARGS_FILE = Path(sys.argv[1])
ARGS = json.loads(ARGS_FILE.read_text())
OUT, STUDY = Path(ARGS["output_dir"]), Path(ARGS["dataset_dir"])
METHOD, SEED = ARGS.get("method", "ctan"), ARGS["seed"]


def wished(what: str, *, once: bool = False) -> bool:
    flag = STUDY / f"{what}_{METHOD}_{SEED}"
    found = flag.is_file()
    if found and once:
        flag.unlink()
    return found


def meet() -> None:
    """Wait until another run is here too."""
    (STUDY / f"met_{METHOD}_{SEED}").touch()
    for _ in range(1000):
        if len(list(STUDY.glob("met_*"))) > 1:
            return
        time.sleep(0.02)
    sys.exit("error: nobody came")


def train() -> None:
    if wished("meet"):
        meet()
    if wished("fail"):
        sys.exit(f"warming up\nerror: no memory for {METHOD}.")
    checkpoint = OUT / "checkpoint.pt"
    done = int(checkpoint.read_text()) if ARGS["resume"] else 0
    for epoch in range(done + 1, ARGS["epochs"] + 1):
        with (OUT / "epochs.txt").open("a") as stream:
            stream.write(f"{epoch}\n")
        checkpoint.write_text(str(epoch))
        if wished("die", once=True):
            os.kill(os.getpid(), signal.SIGKILL)
        if wished("wait", once=True):
            (STUDY / f"waiting_{METHOD}_{SEED}").write_text(str(os.getpid()))
            time.sleep(60)
    (OUT / "model.pt").write_text(json.dumps([METHOD, SEED, ARGS["epochs"], ARGS.get("weighting")]))
    record = {
        "steps": 10 * ARGS["epochs"],
        "epochs": ARGS["epochs"],
        "parameters": 1_230_000,
        "seconds_per_step": 0.25,
        "peak_memory_mib": 300.5,
        "minutes": 2.0,
        "settings": {"autocast": "torch.bfloat16"},
        "best": {"all": {"epoch": 2, "score": 0.5}},
    }
    told = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    (OUT / "environment.json").write_text(json.dumps(told))
    (OUT / "run.json").write_text(json.dumps(record))
    if wished("late", once=True):
        sys.exit("error: no memory to calibrate.")
    (OUT / "calibrated.txt").touch()


def evaluate() -> None:
    if wished("unscored"):
        sys.exit(4)
    (OUT / "predictions").mkdir(exist_ok=True)
    (OUT / "predictions" / "v0").write_text("large")
    better = len(METHOD) / 100 + SEED / 1000
    lines = ["case,task,structure,metric,value,unit,convention"]
    for number, patient in enumerate(PATIENTS):
        lines += [f"{patient},oar,{organ},dice,{0.5 + better + number / 50},1,voxel_volume" for organ in ORGANS]
        lines += [f"{patient},oar,{organ},hd95,4.0,mm,x" for organ in ORGANS]
        lines.append(f"{patient},dose,,dose_score,{3.0 - better - number / 10},Gy,openkbp")
    (OUT / "metrics.csv").write_text("\n".join(lines) + "\n")


evaluate() if ARGS_FILE.stem == "evaluation" else train()
