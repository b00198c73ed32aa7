"""`mtl-med explain`: maps lie where the network looked, numbers are its own, and what there is not is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from mtl_med.cli import main
from mtl_med.errors import EXIT_USAGE, UsageError
from mtl_med.explain import files as explained_files
from mtl_med.explain.command import explain
from mtl_med.geometry import Grid, picture_grid, reorient
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.io.picture import encode_png
from mtl_med.manifest import Case, Manifest, Structure
from mtl_med.networks import create_network
from mtl_med.networks.attention_maps import stage_masks
from mtl_med.networks.knock_out import exchanges, without_partners
from mtl_med.training.checkpoints import save_weights
from mtl_med.training.gradients import gradient_cosines
from mtl_med.training.part_conflict import ALL_SHARED, conflict_by_part, network_parts

PICTURE_TASKS = {
    "lesion": {"kind": "segmentation", "class_names": ["Lesion"]},
    "diagnosis": {"kind": "classification", "class_names": ["mel", "nv"]},
}
VOLUME_TASKS = {
    "oar": {"kind": "segmentation", "class_names": ["Brainstem", "SpinalCord"]},
    "dose": {"kind": "regression", "unit": "Gy"},
}
HEIGHT, WIDTH = 50, 70  # of the photographs
SIZE = (32, 48)  # that the network sees
OPTIONS = {"stem_stride": 1}


def picture_network(method: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return create_network(
        method, PICTURE_TASKS, spatial_dims=2, in_channels=3, encoder="plain", network_options=OPTIONS
    )


def write_model(folder: Path, network: torch.nn.Module, settings: dict) -> Path:
    folder.mkdir(exist_ok=True)
    save_weights(folder / "model.pt", network.state_dict())
    (folder / "model.json").write_text(json.dumps({"network_options": OPTIONS, "encoder": "plain", **settings}))
    return folder / "model.pt"


def picture_model(folder: Path, method: str) -> Path:
    told = {"inputs": "rgb", "tasks": PICTURE_TASKS, "image_size": SIZE, "scaling": "imagenet"}
    losses = {"loss_options": {"diagnosis": {"class_weights": None}}, "weighting": "equal", "weighting_options": {}}
    return write_model(folder, picture_network(method), {"method": method, **told, **losses})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs: a0 with mask and diagnosis, a1 without a diagnosis."""
    root = tmp_path_factory.mktemp("photographs") / "study"
    cases = []
    for number in range(2):
        folder = root / "cases" / f"a{number}"
        folder.mkdir(parents=True)
        pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
        pixels[5:20, 40:60] = (60, 30, 20)
        (folder / "image.png").write_bytes(encode_png(pixels))
        (folder / "mask.png").write_bytes(encode_png(pixels[..., 0] < 100))
        files = {key: {"path": name, "sha256": ""} for key, name in
                 {"image": "image.png", "structures/Lesion": "mask.png"}.items()}  # fmt: skip
        labels = {} if number else {"diagnosis": 1}
        structures = {"Lesion": Structure("segmentation", "target", "contoured")}
        case = Case(
            folder.name, "fit", folder, files=files, tasks=("lesion", *labels), structures=structures, labels=labels
        )
        case.write()
        cases.append(case)
    Manifest.build("made-up", root, cases, {"diagnosis": ("mel", "nv")}).write()
    return root


@pytest.fixture(scope="module")
def explained(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What CTAN says of a0."""
    folder = tmp_path_factory.mktemp("explained")
    weights = picture_model(folder / "ctan", "ctan")
    told = explain("ham10000_lesion_classification", "a0", folder / "out", weights=weights, study=study)
    return folder / "out", told


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


class TestPictures:
    def test_every_mask_the_exchange_and_its_effect_are_there(self, explained) -> None:
        out, _ = explained
        names = [item["name"] for item in record(out)["maps"]]
        parts = ["stage0", "stage1", "stage2", "exchange"]
        masks = {task: [f"attention_{task}_{part}" for part in parts] for task in PICTURE_TASKS}
        assert names == [*masks["lesion"], "effect_lesion", *masks["diagnosis"]]
        for name in names:
            assert {path.name for path in out.glob(f"{name}.*")} == {f"{name}.nii.gz", f"{name}.png"}
        with Image.open(out / "attention.png") as sheet:
            assert sheet.width > 500

    def test_maps_are_the_network_s_own_on_the_picture_s_pixels(self, explained, study) -> None:
        """Resized with pixels as areas: an independent form of it, by torch, agrees to 1e-5."""
        out, _ = explained
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        pixels = np.asarray(Image.open(study / "cases" / "a0" / "image.png"), np.float32)
        image = torch.from_numpy(pixels.transpose(2, 0, 1))[None]
        small = torch.nn.functional.interpolate(image, SIZE, mode="bilinear", antialias=True).round()
        scaled = (small[0] / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(deviation).view(-1, 1, 1)
        network = picture_network("ctan").eval()
        for name, mask in stage_masks(network, scaled[None].float()).items():
            grown = torch.nn.functional.interpolate(mask, (HEIGHT, WIDTH), mode="bilinear", antialias=True)[0, 0]
            volume = nibabel.load(out / f"attention_{name.replace('/', '_')}.nii.gz")
            assert volume.get_data_dtype() == np.float32
            np.testing.assert_array_equal(volume.affine, picture_grid(WIDTH, HEIGHT).affine)
            np.testing.assert_allclose(volume.get_fdata()[:, :, 0].T, grown.numpy(), atol=1e-5)

    def test_the_effect_in_numbers_is_two_forward_passes(self, explained) -> None:
        out, told = explained
        rows = table(out / "exchange_effect.csv")
        assert [(row["task"], row["output"]) for row in rows] == [
            ("lesion", "Lesion"),
            ("diagnosis", "mel"),
            ("diagnosis", "nv"),
        ]
        for column in ("trained", "alone"):
            assert sum(float(row[column]) for row in rows[1:]) == pytest.approx(1)
        assert any(line.startswith("With what the exchange tells") for line in told)

    def test_the_conflict_is_a_row_per_part(self, explained) -> None:
        out, told = explained
        rows = table(out / "gradient_conflict.csv")
        assert [row["part"] for row in rows] == [
            *(f"encoder stage {j}" for j in range(3)),
            "streams",
            "exchange",
            ALL_SHARED,
        ]
        assert all(-1 <= float(row["cosine"]) <= 1 and int(row["parameters"]) > 0 for row in rows)
        assert (out / "gradient_conflict.png").is_file()
        assert any(f"{float(rows[-1]['cosine']):+.3f}" in line for line in told)

    def test_the_record_names_weights_and_study(self, explained, study) -> None:
        fields = record(explained[0])
        assert (fields["stage"], fields["case"], fields["settings"]["method"]) == ("explain", "a0", "ctan")
        assert fields["hashes"]["fingerprint"] == Manifest.read(study).fingerprint
        assert len(fields["weights"]["sha256"]) == 64

    def test_methods_without_masks_say_so_and_give_the_gradients(self, study, tmp_path) -> None:
        shared = {}
        for method in ("hps", "stl"):
            weights = picture_model(tmp_path / method, method)
            told = explain("ham10000_lesion_classification", "a0", tmp_path / "out", weights=weights, study=study)
            assert (
                told[0] == f"{method} has neither masks nor an exchange that compares positions: no attention to show."
            )
            # The second run replaces what the first left, and the maps of another method would be gone too.
            assert {path.name for path in (tmp_path / "out").iterdir()} == {
                "gradient_conflict.csv", "gradient_conflict.png", "run.json"
            }  # fmt: skip
            rows = table(tmp_path / "out" / "gradient_conflict.csv")
            shared[method] = int(rows[-1]["parameters"])
        assert shared["hps"] > 0 and shared["stl"] == 0
        assert told[1] == "No gradient conflict: the tasks share no parameter."

    def test_without_labels_there_is_a_sentence(self, study, tmp_path) -> None:
        weights = picture_model(tmp_path / "hps", "hps")
        told = explain("ham10000_lesion_classification", "a1", tmp_path / "a1", weights=weights, study=study)
        assert told[-1] == "No gradients: a1: has labels only of lesion, and a conflict needs two."
        assert [path.name for path in (tmp_path / "a1").iterdir()] == ["run.json"]

    def test_an_image_file_gives_the_maps_of_the_case(self, study, explained, tmp_path, capsys) -> None:
        weights, image = explained[0].parent / "ctan" / "model.pt", study / "cases" / "a0" / "image.png"
        words = ["explain", "ham10000_lesion_classification", str(image), "--weights", str(weights)]
        assert main([*words, "--out", str(tmp_path)]) == 0
        assert "they need labels, which only a case of a --study has" in capsys.readouterr().out
        for path in tmp_path.glob("*.nii.gz"):
            assert path.read_bytes() == (explained[0] / path.name).read_bytes()


class TestVolumes:
    def test_maps_lie_on_the_case_s_own_grid_whatever_its_orientation(self, tmp_path: Path) -> None:
        """A network that answers to bright voxels: where its first mask is extreme there the bright ball lies."""
        grid = Grid((40, 36, 32), np.array([[2.0, 0, 0, 5], [0, 2.5, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]]))
        x, y, z = np.indices(grid.shape)
        ct = np.where((x - 20) ** 2 + (y - 18) ** 2 + (z - 16) ** 2 < 200, 0, -1000).astype(np.int16)
        ct[24:30, 14:18, 18:24] = 1500
        turned, own = reorient(ct, grid, "LPI")
        write_nifti(tmp_path / "head.nii.gz", turned, own)
        torch.manual_seed(0)
        options = {"stem_stride": 1, "channels": [4, 4], "bottleneck": 8}
        network = create_network("mtan", VOLUME_TASKS, spatial_dims=3, in_channels=1, network_options=options)
        told = {
            "method": "mtan",
            "inputs": "ct",
            "tasks": VOLUME_TASKS,
            "patch_size": [32, 32, 32],
            "network_options": options,
        }
        weights = write_model(tmp_path / "mtan", network, {**told, "study": {}})
        out = tmp_path / "out"
        lines = explain("openkbp_dose_oar_segmentation", str(tmp_path / "head.nii.gz"), out, weights=weights)
        assert lines == ["No gradients: they need labels, which only a case of a --study has."]
        assert not (out / "exchange_effect.csv").exists(), "MTAN has masks and no exchange"
        values, found = read_nifti(out / "attention_dose_stage0.nii.gz")
        np.testing.assert_allclose(found.affine, own.affine)
        assert values.shape == own.shape
        back, _ = reorient(values, found)
        bone, soft = back[25:29, 15:17, 19:23], back[14:20, 20:24, 10:15]
        inside = back[back > 0]
        assert abs(bone.mean() - soft.mean()) > 3 * soft.std(), "the bright ball is where the mask differs"
        assert inside.min() > 0
        assert inside.max() < 1
        assert (back[:2] == 0).all(), "beyond what the network saw there is nothing"

    def test_a_volume_that_is_resized_as_a_whole_comes_back_in_its_size(self, tmp_path: Path) -> None:
        grid = Grid((20, 24, 18), np.array([[-2.0, 0, 0, 5], [0, -2.5, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]]))
        ct = np.full(grid.shape, -1000, np.int16)
        ct[3:17, 3:21, 2:16] = 0
        write_nifti(tmp_path / "chest.nii.gz", ct, grid)
        tasks = {name: {"kind": "classification", "class_names": ["no", "yes"]} for name in ("covid", "severe")}
        options = {"stem_stride": 1, "channels": [4, 4], "bottleneck": 8}
        network = create_network("ctan", tasks, spatial_dims=3, in_channels=1, network_options=options)
        told = {
            "method": "ctan",
            "inputs": "ct",
            "tasks": tasks,
            "volume_size": [12, 12, 12],
            "network_options": options,
        }
        weights = write_model(tmp_path / "ctan", network, told)
        explain("stoic_covid_classification", str(tmp_path / "chest.nii.gz"), tmp_path / "out", weights=weights)
        assert not list((tmp_path / "out").glob("effect_*")), "image-level tasks have no map to change"
        assert len(table(tmp_path / "out" / "exchange_effect.csv")) == 4
        for path in (tmp_path / "out").glob("*.nii.gz"):
            values, found = read_nifti(path)
            np.testing.assert_allclose(found.affine, grid.affine)
            assert values.shape == grid.shape
            assert np.isfinite(values).all()

    @pytest.mark.parametrize("patch", [[16, 16, 16], [16, 16]], ids=["3D", "slices"])
    def test_a_labelled_volume_has_conflict(self, tiny_study: Path, tmp_path: Path, patch: list[int]) -> None:
        options = {"stem_stride": 1, "channels": [4, 4], "bottleneck": 8}
        parts = {"network_options": options, "stacked": True}
        network = create_network("ctal", VOLUME_TASKS, spatial_dims=len(patch), in_channels=1, **parts)
        told = {
            "method": "ctal",
            "inputs": "ct",
            "tasks": VOLUME_TASKS,
            "patch_size": patch,
            "network_options": options,
        }
        weights = write_model(tmp_path / "ctal", network, {**told, "study": {}, "weighting": "equal"})
        explain("openkbp_dose_oar_segmentation", "p0", tmp_path / "out", weights=weights, study=tiny_study)
        rows = table(tmp_path / "out" / "gradient_conflict.csv")
        assert all(np.isfinite(float(row["cosine"])) for row in rows)
        image, grid = read_nifti(tiny_study / "cases" / "p0" / "ct.nii.gz")
        names = ["attention_oar_exchange", "effect_oar", "attention_dose_exchange", "effect_dose"]
        assert [item["name"] for item in record(tmp_path / "out")["maps"]] == names
        for name in names:
            values, found = read_nifti(tmp_path / "out" / f"{name}.nii.gz")
            assert values.shape == image.shape
            np.testing.assert_allclose(found.affine, grid.affine)


class TestParts:
    def test_all_that_is_shared_agrees_with_the_gradients_of_training(self) -> None:
        network, image = picture_network("ctan").eval(), torch.rand(2, 3, *SIZE)

        def losses(out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"lesion": out["lesion"].square().mean(), "diagnosis": out["diagnosis"].logsumexp(1).mean()}

        expected = gradient_cosines(losses(network.predict(image)), network.parameters())
        rows = conflict_by_part(network, losses(network.predict(image)))
        assert rows[-1].part == ALL_SHARED
        assert rows[-1].cosine == pytest.approx(expected["lesion", "diagnosis"], abs=1e-9)
        assert rows[-1].parameters == sum(row.parameters for row in rows[:-1])

    @pytest.mark.parametrize("encoder", ["plain", "resnet18", "efficientnet_lite0"])
    def test_every_parameter_of_an_encoder_is_in_one_stage(self, encoder: str) -> None:
        network = create_network("hps", PICTURE_TASKS, spatial_dims=2, in_channels=3, encoder=encoder).eval()
        parts = {name: own for name, own in network_parts(network).items() if name.startswith("encoder")}
        listed = [id(parameter) for own in parts.values() for parameter in own]
        assert len(set(listed)) == len(listed)
        assert set(listed) == {id(parameter) for parameter in network.encoder.parameters()}
        assert len(parts) == len(network.encoder.channels) and all(parts.values())

    def test_partners_lose_their_places_and_nothing_else(self) -> None:
        """An exchange that adds the other task's features shows what it was given."""

        class Sum(torch.nn.Module):
            def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
                first, second = features
                return {first: features[first] + 10 * features[second], second: features[second] + 10 * features[first]}

        network = torch.nn.Module()
        network.exchange = Sum()
        first, second = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
        before = network.exchange({"a": first, "b": second})
        with without_partners(network):
            found = network.exchange({"a": first, "b": second})
        torch.testing.assert_close(found["a"], first + 10 * second.mean((2, 3), keepdim=True))
        torch.testing.assert_close(found["b"], second + 10 * first.mean((2, 3), keepdim=True))
        torch.testing.assert_close(network.exchange({"a": first, "b": second})["a"], before["a"])

    def test_only_networks_with_an_exchange_can_lose_it(self) -> None:
        found = {method: exchanges(picture_network(method)) for method in ("ctan", "kem", "mtan", "hps", "stl")}
        assert found == {"ctan": True, "kem": True, "mtan": False, "hps": False, "stl": False}


class TestBadInput:
    def test_help_needs_no_torch(self, run_python) -> None:
        told = "[name for name in ('torch', 'monai', 'matplotlib') if name in sys.modules]"
        ending = f"import atexit, sys; atexit.register(lambda: print({told}))"
        done = run_python("-c", f"{ending}; from mtl_med.cli import main; main(['explain', '--help'])")
        assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
        assert "--weights" in done.stdout

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["ham10000_lesion", "x.png"], "there is no bundle 'ham10000_lesion'. Did you mean ham10000_lesion_class"),
            (["ham10000_lesion_classification", "x.png"], "x.png: there is no such file"),
            (["ham10000_lesion_classification", "a9", "--study", "STUDY"], "there is no case 'a9'. Did you mean a"),
            (
                ["ham10000_lesion_classification", "a0", "--study", "STUDY", "--weights", "no.pt"],
                "there are no weights",
            ),
        ],
        ids=["bundle", "file", "case", "weights"],
    )
    def test_what_is_not_there_is_named(self, study, tmp_path, capsys, words, sentence) -> None:
        words = [str(study) if word == "STUDY" else word for word in words]
        assert main(["explain", *words, "--out", str(tmp_path / "out")]) == EXIT_USAGE
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_neither_a_study_nor_another_s_folder_is_written_into(self, study, explained, tmp_path) -> None:
        weights = explained[0].parent / "ctan" / "model.pt"
        with pytest.raises(UsageError, match="lies in a study, which is only read"):
            explain(
                "ham10000_lesion_classification", "a0", study / "cases" / "a0" / "explain", weights=weights, study=study
            )
        (tmp_path / "run.json").write_text('{"stage": "predict"}')
        with pytest.raises(UsageError, match="holds something else than explanations"):
            explain("ham10000_lesion_classification", "a0", tmp_path, weights=weights, study=study)
        assert {path.name for path in tmp_path.iterdir()} == {"run.json"}


def test_tissues_can_be_told_apart_on_the_sheet(tmp_path, monkeypatch):
    """Air around the patient sets no greys: muscle and bone are neither both white nor both black."""
    seen = []
    monkeypatch.setattr(explained_files, "attention_sheet", lambda background, *_, **__: seen.append(background))
    monkeypatch.setattr(explained_files, "png", lambda *_, **__: b"")
    ct = np.full((24, 24, 3), -1000, np.float32)
    ct[8:16, 8:16], ct[10:12, 10:12] = 40, 900
    inside = ct > -500
    maps = {"dose/stage0": np.where(inside, ct, 0).astype(np.float32)}
    record = {"task": "dose", "title": "dose, stage 0", "low": 0.0, "high": 1.0, "unit": ""}
    explained_files._write_sheet(tmp_path / "a.png", "a", ct, maps, inside, Grid(ct.shape, np.eye(4)), [record])
    (background,) = seen
    assert np.count_nonzero(background > 0.9) == 4 and np.count_nonzero(background < 0.1) == 24 * 24 - 4
