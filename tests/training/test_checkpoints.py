"""Checkpoints are whole or absent, hold everything, and are refused in one sentence where they do not belong."""

from __future__ import annotations

import csv
import json
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

from mtl_med.bundle import trained
from mtl_med.errors import ModelError, OutputError, UsageError
from mtl_med.files import sha256_file
from mtl_med.training import checkpoints, start
from mtl_med.training.checkpoints import Checkpoint, load_into, read_checkpoint, save_weights, write_checkpoint
from mtl_med.training.handlers import Schedule
from mtl_med.training.runtime import restore_rng, rng_state
from mtl_med.training.schedule import Progress
from mtl_med.training.validation import BestModel, Validation


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


class TestLoadInto:
    def test_loads_what_fits(self) -> None:
        source, target = network(), network()
        load_into(target, source.state_dict(), "w.pt")
        assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("0.bias"), r"1 keys are missing \(first: 0\.bias\)"),
            (lambda state: state.update(extra=torch.zeros(1)), r"1 are unexpected \(first: extra\)"),
            (
                lambda state: state.update({"0.weight": torch.zeros(5, 2)}),
                r"1 have another shape \(first: 0\.weight, found \(5, 2\), expected \(3, 2\)\)",
            ),
        ],
        ids=["missing", "unexpected", "shape"],
    )
    def test_names_the_keys_that_differ(self, change: Callable[[dict], object], message: str) -> None:
        target = network()
        before = {key: value.clone() for key, value in target.state_dict().items()}
        state = network().state_dict()
        change(state)
        with pytest.raises(ModelError, match=rf"^w\.pt: weights belong to another network: {message}\. Give") as caught:
            load_into(target, state, "w.pt")
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, target.state_dict()[key]) for key, value in before.items()), "untouched"


class TestFiles:
    def test_weights_are_plain_and_contiguous(self, tmp_path: Path) -> None:
        tensor = torch.randn(2, 3, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
        save_weights(tmp_path / "w.pt", {"a": nn.Parameter(tensor)})
        loaded = torch.load(tmp_path / "w.pt", weights_only=True)["a"]
        assert torch.equal(loaded, tensor)
        assert loaded.is_contiguous()
        assert not loaded.requires_grad

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: path.unlink(), "there is no checkpoint to resume"),
            (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "checkpoint cannot be read"),
            (lambda path: path.write_bytes(b""), "checkpoint cannot be read"),
            (lambda path: torch.save({"schema": "other"}, path), "is no checkpoint of this version"),
            (lambda path: torch.save([1], path), "is no checkpoint of this version"),
            (
                lambda path: torch.save({"schema": checkpoints.CHECKPOINT_SCHEMA, "x": Path("a")}, path),
                "cannot be read",
            ),
        ],
        ids=["missing", "truncated", "empty", "other", "list", "code"],
    )
    def test_a_file_that_cannot_be_used_is_refused(self, tmp_path: Path, damage: Callable, message: str) -> None:
        path = tmp_path / "checkpoint.pt"
        write_checkpoint(path, {"weights": torch.randn(1000)})
        assert read_checkpoint(path)["weights"].shape == (1000,)
        damage(path)
        with pytest.raises(ModelError, match=message) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, monkeypatch) -> None:
        path = tmp_path / "checkpoint.pt"
        write_checkpoint(path, {"epoch": 1})
        real = torch.save

        def half(value: Any, stream: BinaryIO) -> None:
            real(value, stream)
            stream.truncate(100)
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(path, {"epoch": 2})
        assert read_checkpoint(path)["epoch"] == 1
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("kind", ["checkpoint", "weights"])
    def test_a_full_disk_is_one_sentence(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "file.pt"
        torch.save({"epoch": 1}, path)
        value = {"weights": torch.zeros(200_000)}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OutputError, match=r"file\.pt: cannot write: File too large"):
                (write_checkpoint if kind == "checkpoint" else save_weights)(path, value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == [path]
        assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_random_state_goes_through_a_file(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(1))]

    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draw()
    draw()
    restore_rng(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == first


SETTINGS = {"method": "ctan", "inputs": "ct", "patch_size": (48, 48, 48), "study": {"fingerprint": "f0"}}


class Run:
    """A run of two epochs of four steps without a trainer: what a checkpoint needs, with numbers of its own."""

    def __init__(self, folder: Path, seed: int = 0, settings: dict | None = None, **limits: Any) -> None:
        torch.manual_seed(seed)
        self.network, self.loss = network(), nn.Linear(1, 1)
        self.optimizer = torch.optim.AdamW([*self.network.parameters(), *self.loss.parameters()], lr=0.1)
        self.schedule = Schedule(self.optimizer, 0.1, Progress(limits.get("epochs", 2), limits.get("minutes")))
        self.validation = Validation(
            SimpleNamespace(), BestModel(self.network), self.schedule, patience=limits.get("patience", 0)
        )
        self.checkpoint = Checkpoint(
            folder, self.network, self.optimizer, self.loss, self.schedule, self.validation, settings or SETTINGS
        )
        state = SimpleNamespace(epoch=0, iteration=0, epoch_length=4, max_epochs=limits.get("epochs", 2), metrics={})
        self.trainer: Any = SimpleNamespace(state=state, grad_scaler=None, terminate=lambda: None)

    def epoch(self) -> None:
        """One step, a validation, a checkpoint."""
        self.optimizer.zero_grad()
        (self.network(torch.randn(4, 2)).square().sum() + self.loss.weight.sum()).backward()
        self.optimizer.step()
        state = self.trainer.state
        state.epoch, state.iteration = state.epoch + 1, state.iteration + 4
        state.metrics = {"loss/oar": 1.0 / state.epoch, "score": 0.5}
        self.validation.best.update(state.metrics, state.epoch)
        self.validation.waited = state.epoch - 1
        self.checkpoint.save(self.trainer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Run(tmp_path).epoch()
    return tmp_path


class TestCheckpoint:
    def test_writes_weights_settings_and_history(self, folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == [
            *("checkpoint.pt", "model.json", "model.pt", "model_last.json", "model_last.pt", "training.csv"),
        ]
        for name in ("model.pt", "model_last.pt"):
            assert trained(folder / name, "method", "hps") == "ctan"
            assert trained(folder / name, "patch_size", None) == [48, 48, 48]
        (row,) = csv.DictReader((folder / "training.csv").read_text().splitlines())
        assert row == {"epoch": "1", "step": "4", "loss/oar": "1.0", "score": "0.5"}
        load_into(network(), torch.load(folder / "model.pt", weights_only=True), "model.pt")

    def test_the_last_epoch_leaves_a_record(self, folder: Path) -> None:
        assert not (folder / "run.json").exists()
        run = Run(folder)
        start(run.trainer, run.checkpoint, True)
        run.epoch()
        record = json.loads((folder / "run.json").read_text())
        assert (record["stage"], record["epochs"], record["steps"]) == ("train", 2, 8)
        assert record["best"] == {"all": {"epoch": 1, "score": 0.5}}
        assert record["hashes"]["model.pt"] == sha256_file(folder / "model.pt")

    def test_goes_on_as_if_nothing_had_happened(self, folder: Path) -> None:
        straight = Run(folder / "straight")
        straight.epoch()
        straight.epoch()
        resumed = Run(folder, seed=1)
        start(resumed.trainer, resumed.checkpoint, "true")
        assert (resumed.trainer.state.epoch, resumed.trainer.state.iteration) == (1, 4)
        resumed.epoch()
        one, two = (read_checkpoint(path / "checkpoint.pt") for path in (folder / "straight", folder))
        for part in ("network", "loss", "best"):
            assert str(one[part]) == str(two[part])
        assert str(one["optimizer"]) == str(two["optimizer"])
        assert torch.equal(one["rng"]["torch"], two["rng"]["torch"])
        assert one["history"] == two["history"]
        assert one["waited"] == two["waited"] == 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"method": "hps"}, "method was ctan, now hps"),
            ({"study": {"fingerprint": "f1"}}, "study was {'fingerprint': 'f0'}, now {'fingerprint': 'f1'}"),
            ({"seed": 3}, "seed was None, now 3"),
        ],
        ids=["method", "data", "new"],
    )
    def test_other_settings_are_refused_in_one_sentence(self, folder: Path, changes: dict, message: str) -> None:
        run = Run(folder, settings=SETTINGS | changes)
        with pytest.raises(ModelError) as caught:
            start(run.trainer, run.checkpoint, True)
        assert str(caught.value) == (
            f"{folder / 'checkpoint.pt'}: checkpoint belongs to another run: {message}. Resume with the same settings, "
            "or choose another --output_dir."
        )
        assert run.trainer.state.epoch == 0

    def test_another_network_is_refused(self, folder: Path) -> None:
        run = Run(folder)
        run.checkpoint.network = network(4)
        with pytest.raises(ModelError, match="weights belong to another network: 6 have another shape"):
            start(run.trainer, run.checkpoint, True)

    @pytest.mark.parametrize("word", ["maybe", "2", ""])
    def test_resume_is_true_or_false(self, tmp_path: Path, word: str) -> None:
        run = Run(tmp_path)
        with pytest.raises(UsageError, match=f"--resume: '{word}' is neither true nor false"):
            start(run.trainer, run.checkpoint, word)

    def test_resume_without_a_checkpoint_starts_from_the_beginning(self, tmp_path: Path, caplog) -> None:
        """So that one command can be given again and again until the run is done."""
        run = Run(tmp_path)
        start(run.trainer, run.checkpoint, "true")
        assert run.trainer.state.epoch == 0
        assert "no checkpoint to resume; the run starts from the beginning" in caplog.text

    def test_an_epoch_of_another_length_is_refused(self, folder: Path) -> None:
        run = Run(folder)
        run.trainer.state.epoch_length = 5
        with pytest.raises(ModelError, match="epoch_length was 4, now 5"):
            start(run.trainer, run.checkpoint, True)

    def test_an_epoch_that_the_clock_cut_short_counts_as_whole(self, tmp_path: Path) -> None:
        run = Run(tmp_path, epochs=9, minutes=60)
        run.trainer.state.iteration = -2  # two of four steps
        run.epoch()
        again = Run(tmp_path, epochs=9, minutes=60)
        start(again.trainer, again.checkpoint, True)
        assert (again.trainer.state.epoch, again.trainer.state.iteration) == (1, 4)

    def test_a_new_run_over_an_old_one_is_warned_of(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        before = {path: path.read_bytes() for path in folder.iterdir()}
        run = Run(folder, settings=SETTINGS | {"method": "hps"})
        start(run.trainer, run.checkpoint, "false")
        assert "holds an earlier run" in caplog.text
        assert {path: path.read_bytes() for path in folder.iterdir()} == before, (
            "nothing is written before an epoch is done"
        )

    @pytest.mark.parametrize(
        ("limits", "over"),
        [
            ({"epochs": 2}, False),
            ({"epochs": 1}, True),
            ({"epochs": 9, "minutes": 60}, False),
            ({"epochs": 9, "minutes": 1e-9}, True),
            ({"epochs": 9, "patience": 1}, False),
        ],
        ids=["epochs-left", "epochs-done", "minutes-left", "minutes-used-up", "patience-left"],
    )
    def test_a_run_that_is_over_stays_over(self, folder: Path, limits: dict, over: bool) -> None:
        run = Run(folder, **limits)
        start(run.trainer, run.checkpoint, True)
        assert (run.trainer.state.max_epochs == run.trainer.state.epoch) == over

    def test_an_exhausted_patience_ends_it_and_more_patience_goes_on(self, folder: Path) -> None:
        run = Run(folder, epochs=9, patience=1)
        start(run.trainer, run.checkpoint, True)
        run.epoch()
        for patience, over in ((1, True), (2, False), (0, False)):
            again = Run(folder, epochs=9, patience=patience)
            start(again.trainer, again.checkpoint, True)
            assert (again.trainer.state.max_epochs == 2) == over

    def test_a_history_with_new_columns_stays_a_table(self, folder: Path) -> None:
        run = Run(folder)
        start(run.trainer, run.checkpoint, True)
        run.trainer.state.epoch, run.trainer.state.iteration = 2, 8
        run.trainer.state.metrics = {"score": 0.5, "score/oar": 0.25}
        run.checkpoint.save(run.trainer)
        rows = list(csv.DictReader((folder / "training.csv").read_text().splitlines()))
        assert [row["score/oar"] for row in rows] == ["", "0.25"]
        assert json.loads((folder / "model.json").read_text())["method"] == "ctan"
