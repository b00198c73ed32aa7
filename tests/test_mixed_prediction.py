"""Photographs and volumes with maps and classes: masks come back as the picture lies, classes go into one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, UsageError, find_error
from mtl_med.geometry import Grid, picture_grid, same_grid
from mtl_med.inference import CaseDataset, Ledger, Predictor, SplitPredictiond, case_loader, postprocessing
from mtl_med.io.classification_table import read_classification
from mtl_med.io.nifti import write_nifti
from mtl_med.io.results import read_structures, write_picture_prediction
from mtl_med.loading import (
    inference_transforms,
    input_items,
    picture_inference_transforms,
    volume_inference_transforms,
)
from mtl_med.networks import MixedInferer, create_network
from mtl_med.postprocessing import OUTPUTS, WritePredictiond
from mtl_med.tasks import Task

LESION = Task("lesion", "segmentation", 1, ("Lesion",))
DIAGNOSIS = Task("diagnosis", "classification", 3, ("a", "b", "c"))
SEVERE = Task("severe", "classification", 2, ("no", "yes"))
MIX = (LESION, DIAGNOSIS, SEVERE)
SIZE = (96, 128)


class Bright(nn.Module):
    """Lesion where red is above one half; classes by how bright the picture is on average."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        red = image[:, :1] * 0.229 + 0.485  # from 0 to 1 again
        mean = red.flatten(1).mean(1, keepdim=True)
        return {
            "lesion": 20 * (red - 0.5),
            "diagnosis": torch.cat([mean, 2 * mean, -mean], 1),
            "severe": torch.cat([0 * mean, mean], 1),
        }


def predict(
    source: Path,
    out: Path,
    network: nn.Module | None = None,
    tasks: tuple[Task, ...] = MIX,
    inputs: str = "rgb",
    preprocessing: Any = None,
    patch: tuple[int, ...] = SIZE,
    calibration: dict[str, Any] | None = None,
    attention: Any = False,
    **options: Any,
) -> Predictor:
    preprocessing = preprocessing or picture_inference_transforms(patch)
    ledger = Ledger(out, "weights.pt", source, {"patch": patch}, tasks=tasks, **options)
    predictor = Predictor(
        device="cpu",
        val_data_loader=case_loader(CaseDataset(ledger.unfinished(input_items(source, inputs)), preprocessing)),
        network=network or Bright(),
        inferer=MixedInferer(tasks, patch),
        postprocessing=postprocessing(tasks, preprocessing, out, calibration, attention),
        ledger=ledger,
        attention=attention,
    )
    predictor.run()
    predictor.record()
    return predictor


def exit_code(predictor: Predictor) -> int:
    try:
        predictor.end()
    except SystemExit as request:
        return int(request.code)
    return EXIT_OK


def ramp_picture(height: int, width: int) -> np.ndarray:
    """Red grows to the right and down, each at its own pace: a shift or a turn moves the edge of what is bright."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    red = (-60 + 200 * columns / width + 170 * rows / height).clip(0, 255)
    return np.stack([red, 0 * red, 0 * red + 9], -1).round().astype(np.uint8)


ROUNDING = 1.0
"""Levels of red: one half from the file, one half from the resized image."""


def worst(mask: np.ndarray, red: np.ndarray) -> float:
    """How far beside the edge, in levels of red, a wrong pixel lies; near the border colours are held."""
    wrong = mask != (red > 127.5)
    return float(np.abs(red - 127.5)[1:-1, 1:-1][wrong[1:-1, 1:-1]].max(initial=0))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (height, width) in {"wide": (32, 40), "large": (150, 200), "tall": (61, 23)}.items():
        Image.fromarray(ramp_picture(height, width)).save(folder / f"{name}.png")
    return folder


class TestPictures:
    @pytest.mark.parametrize("name", ["wide", "large", "tall"])
    def test_masks_lie_as_the_picture_does(self, pictures: Path, tmp_path: Path, name: str) -> None:
        assert exit_code(predict(pictures, tmp_path / "out")) == EXIT_OK
        picture = Image.open(pictures / f"{name}.png")
        red = np.asarray(picture)[..., 0].astype(float)
        folder = tmp_path / "out" / name
        mask = Image.open(folder / "mask.png")
        assert (mask.size, mask.mode) == (picture.size, "L")
        values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255}
        assert worst(values > 0, red) <= ROUNDING

        volume = nibabel.load(folder / "structures.nii.gz")
        assert volume.shape == (*picture.size, 1)
        np.testing.assert_array_equal(volume.affine, picture_grid(*picture.size).affine)
        # Voxel (column, row, 0) lies to the patient's left and back, where viewers show right and down.
        np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0].T > 0, values > 0)
        structures = read_structures(folder)
        assert same_grid(structures.grid, picture_grid(*picture.size))
        np.testing.assert_array_equal(structures.masks["Lesion"][:, :, 0].T, values > 0)

    def test_twin_half_a_pixel_would_show(self, pictures: Path) -> None:
        red = np.asarray(Image.open(pictures / "wide.png"))[..., 0].astype(float)
        for rows, columns in ((0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5)):
            assert worst(red + 170 * rows / 32 + 200 * columns / 40 > 127.5, red) > ROUNDING
        assert worst(red[::-1] > 127.5, red) > ROUNDING
        assert worst(red[:, ::-1] > 127.5, red) > ROUNDING

    def test_classes_go_into_one_table_and_nowhere_else(self, pictures: Path, tmp_path: Path) -> None:
        predict(pictures, tmp_path / "out")
        found = read_classification(tmp_path / "out" / "classification.csv")
        assert {task: (names, list(rows)) for task, (names, rows) in found.items()} == {
            "diagnosis": (("a", "b", "c"), ["large", "tall", "wide"]),
            "severe": (("no", "yes"), ["large", "tall", "wide"]),
        }
        mean = float(np.asarray(Image.open(pictures / "large.png"))[..., 0].mean() / 255)
        decision, probabilities = found["diagnosis"][1]["large"]
        assert decision == "b"
        expected = torch.tensor([mean, 2 * mean, -mean]).softmax(0)
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
        written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert written == {
            *("classification.csv", "run.json"),
            *("mask.png", "structures.seg.nrrd", "structures.nii.gz", "structures.ctbl"),
        }

    def test_calibration_changes_probability_and_decision(self, pictures: Path, tmp_path: Path) -> None:
        calibration = {
            "diagnosis": {"temperature": 2.0, "prior_exponent": 1.0, "priors": [0.2, 0.7, 0.1], "cases": 50},
            "severe": {"temperature": 1.0, "threshold": 0.9, "priors": [0.5, 0.5], "cases": 50},
        }
        predict(pictures, tmp_path / "out", calibration=calibration)
        found = read_classification(tmp_path / "out" / "classification.csv")
        mean = float(np.asarray(Image.open(pictures / "large.png"))[..., 0].mean() / 255)
        logits = torch.tensor([mean, 2 * mean, -mean])
        decision, probabilities = found["diagnosis"][1]["large"]
        np.testing.assert_allclose(probabilities, (logits / 2).softmax(0), atol=1e-3)
        assert decision == "abc"[int((probabilities / np.array([0.2, 0.7, 0.1])).argmax())] != "b"
        assert found["severe"][1]["large"][0] == "no"

    def test_calibration_of_other_tasks_is_refused(self, tmp_path: Path) -> None:
        fields = {"temperature": 1.0, "threshold": 0.5, "priors": [0.5, 0.5], "cases": 1}
        with pytest.raises(UsageError, match="calibration of 'covid', which is no image-level task"):
            WritePredictiond(MIX, tmp_path, calibration={"covid": fields})
        with pytest.raises(UsageError, match="'diagnosis' has 2 classes, the task 3"):
            WritePredictiond(MIX, tmp_path, calibration={"diagnosis": fields})

    def test_a_mask_that_is_no_number_is_not_written_as_an_empty_one(self, pictures: Path, tmp_path, caplog) -> None:
        class Breaks(Bright):
            def forward(self, image: Tensor) -> dict[str, Tensor]:
                made = super().forward(image)
                return made | {"lesion": made["lesion"] * torch.nan}

        predictor = predict(pictures, tmp_path / "out", Breaks())
        assert exit_code(predictor) == EXIT_ALL_FAILED
        assert "tall failed: tall: the outputs of task 'lesion' are not finite" in caplog.text
        assert not list((tmp_path / "out").glob("*/mask.png"))

    def test_a_case_whose_scores_are_no_numbers_fails_alone(self, pictures: Path, tmp_path: Path, caplog) -> None:
        class Breaks(Bright):
            def forward(self, image: Tensor) -> dict[str, Tensor]:
                made = super().forward(image)
                return made | {"severe": made["severe"] / (made["severe"][:, 1:] > 0.4)}

        Image.fromarray(ramp_picture(61, 23) // 2).save(pictures / "tall.png")
        predictor = predict(pictures, tmp_path / "out", Breaks())
        assert exit_code(predictor) == EXIT_SOME_FAILED
        assert "tall failed: tall: the outputs of task 'severe' are not finite" in caplog.text
        assert set(read_classification(tmp_path / "out" / "classification.csv")["severe"][1]) == {"large", "wide"}

    def test_damaged_pictures_do_not_stop_the_others(self, pictures: Path, tmp_path: Path, caplog) -> None:
        whole = (pictures / "large.png").read_bytes()
        (pictures / "broken.jpg").write_bytes(b"no picture")
        (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
        predictor = predict(pictures, tmp_path / "out")
        assert exit_code(predictor) == EXIT_SOME_FAILED
        assert sorted(predictor.failures) == ["broken", "cut"]
        assert set(read_classification(tmp_path / "out" / "classification.csv")["severe"][1]) == {
            "large",
            "tall",
            "wide",
        }
        for path in pictures.iterdir():
            path.write_bytes(b"no picture")
        assert exit_code(predict(pictures, tmp_path / "none")) == EXIT_ALL_FAILED


class TestResume:
    def test_rows_of_finished_cases_stay(self, pictures: Path, tmp_path: Path) -> None:
        out, network = tmp_path / "out", Bright()
        calls: list[int] = []

        class Stops(Bright):
            def forward(self, image: Tensor) -> dict[str, Tensor]:
                calls.append(1)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return super().forward(image)

        with pytest.raises(KeyboardInterrupt):
            predict(pictures, out, Stops())
        assert list(read_classification(out / "classification.csv")["severe"][1]) == ["large", "tall"]
        before = (out / "classification.csv").read_text().splitlines()
        again = predict(pictures, out, network)
        assert again.state.epoch_length == 1
        after = (out / "classification.csv").read_text().splitlines()
        assert after[: len(before)] == before
        assert len(after) == len(before) + 1
        whole = predict(pictures, tmp_path / "whole", network)
        assert whole.state.epoch_length == 3
        assert (tmp_path / "whole" / "classification.csv").read_bytes() == (out / "classification.csv").read_bytes()

    def test_overwrite_writes_it_anew(self, pictures: Path, tmp_path: Path) -> None:
        predict(pictures, tmp_path / "out")
        (pictures / "tall.png").unlink()
        (pictures / "wide.png").unlink()
        predict(pictures, tmp_path / "out")
        assert len(read_classification(tmp_path / "out" / "classification.csv")["severe"][1]) == 3
        predict(pictures, tmp_path / "out", overwrite="true")
        assert list(read_classification(tmp_path / "out" / "classification.csv")["severe"][1]) == ["large"]

    def test_a_lost_table_comes_back(self, pictures: Path, tmp_path: Path) -> None:
        predict(pictures, tmp_path / "out")
        table = tmp_path / "out" / "classification.csv"
        content = table.read_bytes()
        table.unlink()
        assert predict(pictures, tmp_path / "out").state.epoch_length == 0
        assert table.read_bytes() == content

    def test_a_case_without_its_decisions_is_predicted_again(self, pictures: Path, tmp_path: Path) -> None:
        predict(pictures, tmp_path / "out", tasks=(LESION,), network=Bright())
        assert not (tmp_path / "out" / "classification.csv").exists()
        assert predict(pictures, tmp_path / "out").state.epoch_length == 3


class TestVectorsAreNoImages:
    """A class vector can never be written as an image."""

    @pytest.mark.parametrize("kind", [kind for kind, (_, add) in OUTPUTS.items() if add.__name__ != "_add_decision"])
    def test_a_vector_for_a_map_is_refused(self, kind: str) -> None:
        task = Task("x", kind, 3, ("a", "b", "c") if kind == "segmentation" else ())
        with pytest.raises(UsageError, match=rf"task 'x' \({kind}\) has an output of shape \(3,\)"):
            SplitPredictiond((task,))({"id": "i", "x": torch.zeros(3)})

    def test_a_map_for_a_vector_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"\(classification\) has an output of shape \(3, 4, 4\)"):
            SplitPredictiond((DIAGNOSIS,))({"id": "i", "diagnosis": torch.zeros(3, 4, 4)})

    def test_only_pixel_level_tasks_are_inverted(self, tmp_path: Path) -> None:
        chain = postprocessing(MIX, inference_transforms("ct"), tmp_path)
        inverted = next(step for step in chain.transforms if hasattr(step, "orig_keys"))
        assert tuple(inverted.keys) == ("lesion",)
        chain = postprocessing((DIAGNOSIS, SEVERE), inference_transforms("ct"), tmp_path)
        assert not any(hasattr(step, "orig_keys") for step in chain.transforms)

    def test_what_it_adds_is_a_row(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"")
        item = {"id": "x", "source": str(tmp_path / "x.png"), "diagnosis": torch.tensor([0.0, 1.0, 0.0])}
        written = WritePredictiond((DIAGNOSIS,), tmp_path / "out")(item)
        assert written["decisions"]["diagnosis"][0] == "b"
        assert not (tmp_path / "out").exists()


def test_two_structures_have_a_file_each(tmp_path: Path) -> None:
    masks = {"Lesion": np.eye(3, 4) > 0, "Frame/rim": np.zeros((3, 4), bool)}
    names = [path.name for path in write_picture_prediction(tmp_path, "x", masks)]
    assert names[:2] == ["mask_Lesion.png", "mask_Frame_rim.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x" / "mask_Lesion.png")) > 0, masks["Lesion"])
    with pytest.raises(CaseError, match="mask has shape"):
        write_picture_prediction(tmp_path, "y", {"a": np.zeros((3, 4)), "b": np.zeros((4, 3))})
    with pytest.raises(UsageError, match="would share a file"):
        write_picture_prediction(tmp_path, "y", {"a b": np.zeros((3, 4)), "a/b": np.zeros((3, 4))})
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="is part of a study"):
        write_picture_prediction(tmp_path, "y", masks)


def write_volume(path: Path, codes: tuple[int, int, int] = (1, 1, 1)) -> tuple[np.ndarray, Grid]:
    values = np.random.default_rng(0).integers(0, 1000, (20, 22, 24)).astype(np.int16)
    values[:3] = -1000
    grid = Grid(values.shape, np.diag([2.0 * codes[0], 2.0 * codes[1], 3.0 * codes[2], 1.0]))
    write_nifti(path, values, grid)
    return values, grid


class Dense(nn.Module):
    """Structure where the CT is above 500 HU, and two classes."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean = image.flatten(1).mean(1, keepdim=True)
        return {"lesion": image - 0.5, "severe": torch.cat([0 * mean, mean], 1)}


def test_volumes_give_maps_on_their_own_grid_and_a_row(tmp_path: Path) -> None:
    values, grid = write_volume(tmp_path / "in" / "x.nii.gz", (-1, -1, 1))
    tasks, patch = (LESION, SEVERE), (16, 16, 16)
    preprocessing = inference_transforms("ct", patch_size=patch)
    predict(tmp_path / "in", tmp_path / "out", Dense(), tasks, "ct", preprocessing, patch)
    structures = read_structures(tmp_path / "out" / "x")
    assert same_grid(structures.grid, grid)
    np.testing.assert_array_equal(structures.masks["Lesion"], values > 500)
    assert read_classification(tmp_path / "out" / "classification.csv")["severe"][1]["x"][0] == "yes"


def test_image_level_tasks_alone_leave_no_folder(tmp_path: Path) -> None:
    write_volume(tmp_path / "in" / "x.nii.gz")
    preprocessing = volume_inference_transforms("ct", (16, 16, 16))
    run = predict(tmp_path / "in", tmp_path / "out", Dense(), (SEVERE,), "ct", preprocessing, (16, 16, 16))
    assert exit_code(run) == EXIT_OK
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classification.csv", "run.json"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["finished"]["x"]["decisions"]["severe"][0] == "yes"
    assert (
        predict(
            tmp_path / "in", tmp_path / "out", Dense(), (SEVERE,), "ct", preprocessing, (16, 16, 16)
        ).state.epoch_length
        == 0
    ), "it is finished"


def test_maps_of_resized_volumes_are_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "in" / "x.nii.gz")
    preprocessing = volume_inference_transforms("ct", (16, 16, 16))
    with pytest.raises(RuntimeError) as caught:
        predict(tmp_path / "in", tmp_path / "out", Dense(), (LESION, SEVERE), "ct", preprocessing, (16, 16, 16))
    assert "cannot be put onto its grid" in str(find_error(caught.value))


OPTIONS: dict = {"channels": (4, 6), "bottleneck": 8, "image_width": 8, "norm": "instance"}


class TestAttention:
    def test_a_picture_gets_one_overlay_per_task(self, pictures: Path, tmp_path: Path) -> None:
        network = create_network("ctan", MIX, 2, 3, network_options=OPTIONS).eval()
        predict(pictures, tmp_path / "out", network, attention="true")
        for name in ("wide", "large", "tall"):
            for task in MIX:
                with Image.open(tmp_path / "out" / name / f"attention_{task.name}.png") as drawn:
                    assert min(drawn.size) > 200
                    assert len(drawn.convert("RGB").getcolors(1 << 20)) > 100

    @pytest.mark.parametrize("whole", [False, True], ids=["windows", "resized"])
    def test_a_volume_gets_three_planes(self, tmp_path: Path, whole: bool) -> None:
        write_volume(tmp_path / "in" / "x.nii.gz", (-1, 1, -1))
        tasks = (SEVERE, DIAGNOSIS) if whole else (LESION, SEVERE)
        patch = (16, 16, 16)
        chain = volume_inference_transforms("ct", patch) if whole else inference_transforms("ct", patch_size=patch)
        network = create_network("mtan", tasks, 3, 1, network_options=OPTIONS).eval()
        predict(tmp_path / "in", tmp_path / "out", network, tasks, "ct", chain, patch, attention=True)
        for task in tasks:
            with Image.open(tmp_path / "out" / "x" / f"attention_{task.name}.png") as drawn:
                assert drawn.size[0] > drawn.size[1] > 200

    def test_a_network_without_attention_is_refused(self, pictures: Path, tmp_path: Path) -> None:
        network = create_network("hps", MIX, 2, 3, network_options=OPTIONS)
        with pytest.raises(UsageError, match="this network has no attention to show"):
            predict(pictures, tmp_path / "out", network, attention=True)
