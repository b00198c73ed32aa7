"""Predictions return to the voxels they were made from, on the source's own grid, whatever that is."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, ModelError, OutputError, find_error
from mtl_med.geometry import Grid, same_grid
from mtl_med.inference import (
    CaseDataset,
    Ledger,
    Predictor,
    SplitPredictiond,
    WritePredictiond,
    case_loader,
    postprocessing,
    with_weights,
)
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.io.results import prediction_folders, read_dose, read_structures
from mtl_med.loading import inference_transforms, input_items
from mtl_med.networks import create_network
from mtl_med.prep.body import body_mask
from mtl_med.tasks import Task

TASKS = (Task("oar", "segmentation", 1, ("Bone",)), Task("dose", "regression", unit="Gy"))
BONE_HU = 500.5
WEIGHTS = "weights.pt"  # these networks have none


class CtAsDose(nn.Module):
    """Dose in "Gy" = the CT's HU; Bone where the CT is above 500.5 HU."""

    def forward(self, image: Tensor) -> Tensor:
        hu = image[:, :1] * 1000
        return torch.cat([(hu - BONE_HU) / 100, hu], 1)


def predict(
    source: Path, out: Path, network: nn.Module, inputs: str = "ct", spacing_mm=None, patch=(16, 16, 16)
) -> Predictor:
    preprocessing = inference_transforms(inputs, spacing_mm=spacing_mm, patch_size=patch)
    ledger = Ledger(out, WEIGHTS, source, {"patch": patch})
    predictor = Predictor(
        device=torch.device("cpu"),
        val_data_loader=case_loader(CaseDataset(ledger.unfinished(input_items(source, inputs)), preprocessing)),
        network=network,
        inferer=SlidingWindowInferer(patch, sw_batch_size=2, overlap=0.5, mode="gaussian"),
        postprocessing=postprocessing(TASKS, preprocessing, out),
        ledger=ledger,
    )
    predictor.run()
    return predictor


def exit_code(predictor: Predictor, score: Callable[[], int] | None = None) -> int:
    try:
        predictor.end(score)
    except SystemExit as request:
        return int(request.code)
    return EXIT_OK


def grid_of(
    codes: str, spacing_mm: tuple[float, ...], shape: tuple[int, int, int], origin=(-31.0, 12.0, 250.0)
) -> Grid:
    """A grid whose axes run towards `codes`."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    for axis, (code, mm) in enumerate(zip(codes, spacing_mm, strict=True)):
        affine[:3, axis] = np.multiply(directions[code], mm)
    affine[:3, 3] = origin
    grid = Grid(shape, affine)
    assert grid.axis_codes == codes
    return grid


def ct_with_body(grid: Grid) -> np.ndarray:
    """Different HU in every voxel of an egg off the centre, air around it."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in grid.shape], indexing="ij")
    body = sum((axis - at) ** 2 for axis, at in zip(axes, (0.1, -0.1, 0.2), strict=True)) < 0.7
    values = np.random.default_rng(0).integers(0, 2000, grid.shape)
    return np.where(body, values, -1000).astype(np.int16)


def ramp(grid: Grid, shift_voxels: float = 0.0) -> np.ndarray:
    """HU that grow linearly in space, which linear interpolation reproduces exactly: any shift shows."""
    indices = np.stack(np.meshgrid(*[np.arange(size) for size in grid.shape], indexing="ij"), -1)
    directions = grid.affine[:3, :3]
    field = np.array([7.0, -5.0, 3.0]) @ directions
    lowest = sum(min(0.0, slope * (size - 1)) for slope, size in zip(field, grid.shape, strict=True))
    return ((indices + shift_voxels) @ field - lowest + 10).astype(np.float32)


def assert_on_grid_of(source: Path, *written: Path) -> None:
    expected = nibabel.load(source)
    for path in written:
        image = nibabel.load(path)
        assert image.shape == expected.shape
        np.testing.assert_array_equal(image.affine, expected.affine)
        np.testing.assert_allclose(image.get_qform(), expected.affine, atol=1e-4)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


def worst_inside(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, four voxels from the borders, where resampling has to invent values."""
    return float(np.abs(found - expected)[4:-4, 4:-4, 4:-4].max())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "PLI", "SAR"])
def test_every_voxel_returns_to_its_place(tmp_path: Path, codes: str, suffix: str) -> None:
    grid = grid_of(codes, (3.0, 2.0, 2.5), (22, 26, 30))
    ct = ct_with_body(grid)
    source = tmp_path / "in" / f"x{suffix}"
    write_nifti(source, ct, grid)
    assert exit_code(predict(tmp_path / "in", tmp_path / "out", CtAsDose())) == EXIT_OK
    folder = tmp_path / "out" / "x"
    assert_on_grid_of(source, folder / "dose.nii.gz", folder / "structures.nii.gz", folder / "ct.nii.gz")
    dose, _ = read_dose(folder)
    np.testing.assert_allclose(dose, np.clip(ct, 0, 2000), atol=0.01)
    structures = read_structures(folder)
    assert same_grid(structures.grid, grid)
    np.testing.assert_array_equal(structures.masks["Bone"], ct > BONE_HU)
    np.testing.assert_array_equal(read_nifti(folder / "ct.nii.gz")[0], ct)


@pytest.mark.parametrize("spacing_mm", [(2.0, 3.0, 3.5), (4.0, 4.0, 5.0)], ids=["mixed", "coarser"])
@pytest.mark.parametrize("codes", ["RAS", "PLI"])
def test_resampled_maps_return_without_a_shift(tmp_path: Path, codes: str, spacing_mm) -> None:
    grid = grid_of(codes, (3.0, 2.0, 2.5), (24, 26, 30))
    hu = ramp(grid)
    source = tmp_path / "in" / "x.nii.gz"
    write_nifti(source, hu, grid)
    predict(tmp_path / "in", tmp_path / "out", CtAsDose(), spacing_mm=spacing_mm)
    folder = tmp_path / "out" / "x"
    assert_on_grid_of(source, folder / "dose.nii.gz", folder / "structures.nii.gz")
    assert worst_inside(read_dose(folder)[0], hu) < 0.1
    inner = (slice(4, -4),) * 3
    wrong = read_structures(folder).masks["Bone"] != (hu > BONE_HU)
    assert np.abs(hu - BONE_HU)[inner][wrong[inner]].max(initial=0) < 1, "HU beside the border of the structure"


def test_twin_a_shift_of_half_a_voxel_would_show() -> None:
    grid = grid_of("PLI", (3.0, 2.0, 2.5), (24, 26, 30))
    assert worst_inside(ramp(grid, 0.5), ramp(grid)) > 0.1
    assert worst_inside(ramp(grid, 0.05), ramp(grid)) > 0.1


def test_targets_travel_with_the_image(tiny_study: Path, tmp_path: Path) -> None:
    """With inputs ct+ptv, cropped and padded, on the study's grid: the second channel comes back as it went in."""

    class PtvAsDose(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([image[:, :1], 70 * image[:, 1:]], 1)

    assert exit_code(predict(tiny_study, tmp_path, PtvAsDose(), "ct+ptv", patch=(24, 24, 40))) == EXIT_OK
    for number in range(6):
        case = tiny_study / "cases" / f"p{number}"
        dose, _ = read_dose(tmp_path / f"p{number}")
        mask = case / "mask_dose.nii.gz"
        inside = read_nifti(mask)[0] > 0 if mask.is_file() else body_mask(read_nifti(case / "ct.nii.gz")[0]) > 0
        target = read_nifti(case / "structures" / "PTV70.nii.gz")[0]
        np.testing.assert_allclose(dose, 70.0 * target * inside, atol=1e-4)
        assert_on_grid_of(case / "ct.nii.gz", tmp_path / f"p{number}" / "dose.nii.gz")


class TestDose:
    def test_is_clipped_at_zero_and_zero_outside_the_possible_dose_mask(self, tiny_study: Path, tmp_path: Path) -> None:
        class Constant(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return torch.cat([image[:, :1], torch.where(image[:, :1] > 0, 5.0, -5.0)], 1)

        predict(tiny_study, tmp_path, Constant())
        ct, inside = (read_nifti(tiny_study / "cases" / "p0" / f"{key}.nii.gz")[0] for key in ("ct", "mask_dose"))
        dose, _ = read_dose(tmp_path / "p0")
        np.testing.assert_allclose(dose, 5.0 * (ct > 0) * inside, atol=1e-5)

    def test_is_zero_outside_the_body_where_there_is_no_mask(self, tmp_path: Path) -> None:
        class Constant(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return torch.full((image.shape[0], 2, *image.shape[2:]), 3.0)

        grid = grid_of("RAS", (2.0, 2.0, 2.0), (20, 20, 20))
        ct = ct_with_body(grid)
        write_nifti(tmp_path / "in" / "x.nii.gz", ct, grid)
        predict(tmp_path / "in", tmp_path / "out", Constant())
        np.testing.assert_allclose(read_dose(tmp_path / "out" / "x")[0], 3.0 * (ct > -1000), atol=1e-5)


class TestPercent:
    """A network that predicts percent of the prescription."""

    TASKS = (Task("oar", "segmentation", 1, ("Bone",)), Task("dose", "regression", unit="percent"))

    def write(self, tmp_path: Path, prescription_gy: float) -> Path:
        grid = grid_of("RAS", (2.0, 2.0, 2.0), (20, 20, 20))
        write_nifti(tmp_path / "x.nii.gz", ct_with_body(grid), grid)
        item = {"id": "x", "source": str(tmp_path / "x.nii.gz"), "prescription_gy": prescription_gy}
        maps = {"oar": torch.zeros(1, 20, 20, 20), "dose": torch.full((1, 20, 20, 20), 50.0)}
        WritePredictiond(self.TASKS, tmp_path / "out")(item | maps)
        return tmp_path / "out" / "x"

    def test_becomes_gy_where_the_prescription_is_known(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, 60.0)
        assert read_dose(folder)[0].max() == pytest.approx(30.0)
        assert not (folder / "dose_percent.nii.gz").exists()

    def test_else_the_file_has_another_name_and_is_no_dose_in_gy(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, 0.0)
        assert not (folder / "dose.nii.gz").exists()
        assert prediction_folders(folder.parent) == {"x": folder}
        assert read_dose(folder, 78.0)[0].max() == pytest.approx(39.0)
        with pytest.raises(CaseError, match="percent of a prescription that is not known"):
            read_dose(folder)


def test_split_gives_probabilities_and_doses() -> None:
    item = SplitPredictiond(TASKS)({"pred": torch.tensor([0.0, -2.0]).reshape(2, 1, 1, 1), "id": "x"})
    assert item["oar"].item() == 0.5
    assert item["dose"].item() == 0.0
    assert item["id"] == "x"
    assert "pred" not in item


class TestFailures:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        grid = grid_of("RAS", (2.0, 2.0, 2.0), (20, 20, 20))
        for name in ("a", "b", "c"):
            write_nifti(tmp_path / "in" / f"{name}.nii.gz", ct_with_body(grid), grid)
        return tmp_path / "in"

    def check(self, predictor: Predictor, out: Path, caplog: pytest.LogCaptureFixture, message: str) -> None:
        """Case b failed and nothing else did; the exit code and the record say so."""
        assert list(predictor.failures) == ["b"]
        assert message in caplog.text
        assert (out / "a" / "dose.nii.gz").is_file()
        assert (out / "c" / "dose.nii.gz").is_file()
        assert not (out / "b" / "dose.nii.gz").exists()
        scored = []
        assert exit_code(predictor, lambda: scored.append(1) or EXIT_OK) == EXIT_SOME_FAILED
        assert scored, "what went through is scored"
        predictor.record()
        record = json.loads((out / "run.json").read_text())
        assert (record["cases"], record["failed"]) == (3, predictor.failures)
        assert sorted(record["finished"]) == ["a", "c"]

    def test_a_truncated_image_does_not_stop_the_others(self, folder: Path, tmp_path: Path, caplog) -> None:
        damaged = folder / "b.nii.gz"
        damaged.write_bytes(damaged.read_bytes()[:2000])
        self.check(
            predict(folder, tmp_path / "out", CtAsDose()), tmp_path / "out", caplog, "b.nii.gz: cannot be read as NIfTI"
        )

    def test_a_dose_that_is_not_finite_does_not_stop_the_others(self, folder: Path, tmp_path: Path, caplog) -> None:
        grid = grid_of("RAS", (2.0, 2.0, 2.0), (20, 20, 20))
        write_nifti(folder / "b.nii.gz", np.full(grid.shape, 2000, np.int16), grid)

        class BreaksOnMetal(CtAsDose):
            def forward(self, image: Tensor) -> Tensor:
                return super().forward(image) / (image.amin() < 2)

        predictor = predict(folder, tmp_path / "out", BreaksOnMetal())
        self.check(predictor, tmp_path / "out", caplog, "b failed: ")
        assert "is not finite in" in predictor.failures["b"]

    def test_a_mask_on_another_grid_does_not_stop_the_others(self, tiny_study: Path, tmp_path: Path, caplog) -> None:
        items = input_items(tiny_study, "ct")[:3]
        grid = Grid((40, 36, 32), np.diag([3.0, 3.0, 2.4, 1.0]))
        write_nifti(tmp_path / "mask.nii.gz", np.ones(grid.shape, np.uint8), grid)
        items[1]["possible_dose_mask"] = str(tmp_path / "mask.nii.gz")
        items = [item | {"id": name} for item, name in zip(items, "abc", strict=True)]
        preprocessing = inference_transforms("ct", patch_size=(16, 16, 16))
        predictor = Predictor(
            device=torch.device("cpu"),
            val_data_loader=case_loader(CaseDataset(items, preprocessing)),
            network=CtAsDose(),
            inferer=SlidingWindowInferer((16, 16, 16)),
            postprocessing=postprocessing(TASKS, preprocessing, tmp_path / "out"),
            ledger=Ledger(tmp_path / "out", WEIGHTS, tmp_path, {}),
        )
        predictor.run()
        self.check(predictor, tmp_path / "out", caplog, "grids differ")

    def test_all_failed(self, folder: Path, tmp_path: Path) -> None:
        for path in folder.iterdir():
            path.write_bytes(b"no image")
        scored = []
        predictor = predict(folder, tmp_path / "out", CtAsDose())
        assert exit_code(predictor, lambda: scored.append(1) or EXIT_OK) == EXIT_ALL_FAILED
        assert not scored, "there is nothing to score"

    def test_a_case_without_targets_does_not_stop_the_others(self, tiny_study: Path, tmp_path: Path, caplog) -> None:
        study = Path(shutil.copytree(tiny_study, tmp_path / "study"))
        path = study / "cases" / "p3" / "case.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prescriptions_gy": {}}))
        predictor = predict(study, tmp_path / "out", CtAsDose(), "ct+ptv")
        assert exit_code(predictor) == EXIT_SOME_FAILED
        assert "p3 failed: p3: has no target with a prescription" in caplog.text
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["p0", "p1", "p2", "p4", "p5", "run.json"]

    @pytest.mark.parametrize("code", [EXIT_OK, EXIT_SOME_FAILED])
    def test_the_code_of_the_scores_counts_when_all_went_through(self, folder: Path, tmp_path: Path, code: int) -> None:
        assert exit_code(predict(folder, tmp_path / "out", CtAsDose()), lambda: code) == code

    def test_a_fault_of_ours_is_not_hidden(self, folder: Path) -> None:
        def broken(item: dict) -> dict:
            raise ZeroDivisionError(item["id"])

        with pytest.raises(RuntimeError):
            CaseDataset(input_items(folder, "ct"), broken)[0]

    def test_a_folder_that_cannot_be_written_ends_the_run(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("in the way")
        with pytest.raises(RuntimeError) as caught:
            predict(folder, tmp_path / "out", CtAsDose())
        assert isinstance(find_error(caught.value), OutputError)


OPTIONS: dict = {"channels": (4, 8), "bottleneck": 8}


class TestWeights:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        torch.save(create_network("hps", TASKS, **OPTIONS).state_dict(), tmp_path / "model.pt")
        return tmp_path / "model.pt"

    def test_load(self, weights: Path) -> None:
        network = with_weights(create_network("hps", TASKS, stacked=True, **OPTIONS), weights, torch.device("cpu"))
        assert not network.training
        state = torch.load(weights, weights_only=True)
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

    @pytest.mark.parametrize(
        ("method", "changes", "message"),
        [
            ("ctan", {}, r"weights belong to another network: \d+ keys are missing"),
            ("hps", {"in_channels": 2}, r"1 have another shape \(first: encoder\..*found \(4, 1, 3, 3, 3\), expected"),
        ],
        ids=["method", "inputs"],
    )
    def test_of_another_network_are_refused(self, weights: Path, method: str, changes: dict, message: str) -> None:
        network = create_network(method, TASKS, **OPTIONS, **changes)
        with pytest.raises(ModelError, match=message):
            with_weights(network, weights, torch.device("cpu"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda path: path.unlink(), "there are no weights"),
            (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read as weights"),
            (lambda path: torch.save({"a": 1}, path), "holds no state dict"),
        ],
        ids=["missing", "truncated", "no-weights"],
    )
    def test_unusable_files(self, weights: Path, change: Callable[[Path], object], message: str) -> None:
        change(weights)
        with pytest.raises(ModelError, match=message):
            with_weights(create_network("hps", TASKS, **OPTIONS), weights, torch.device("cpu"))


def test_progress_is_told(tiny_study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        predict(tiny_study, tmp_path, CtAsDose())
    assert [record.message[:7] for record in caplog.records if record.name == "mtl_med.inference"] == [
        f"{number}/6  p{number - 1}" for number in range(1, 7)
    ]
