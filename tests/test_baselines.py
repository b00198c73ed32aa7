"""Tables of medians as yardsticks: exact on made-up patients whose dose the table can know."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mtl_med import baselines, dose_tables
from mtl_med.baselines import write_baseline
from mtl_med.dose_tables import BIN_GY, DoseTable, fit, median_by_code, predict
from mtl_med.errors import UsageError
from mtl_med.evaluation import evaluate, overall
from mtl_med.geometry import Grid
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.manifest import Case, Manifest, Structure

SHAPE = (16, 14, 12)
SPACING = (3.0, 3.0, 4.0)
GRID = Grid(SHAPE, np.diag([*SPACING, 1.0]))
KINDS = {"Brainstem": "oar", "Parotid_L": "oar", "PTV56": "target", "PTV70": "target"}
WEIGHTS_GY = {"Brainstem": -9.0, "Parotid_L": -4.0, "PTV56": 40.0, "PTV70": 15.0}
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:-1, 1:-1, 1:-1] = True


def _box(*spans) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def _masks(number: int) -> dict[str, np.ndarray]:
    step = number % 3
    return {
        "Brainstem": _box((6, 10), (2 + step, 6 + step), (3, 8)),
        "Parotid_L": _box((2, 5), (5, 9), (2 + step, 7)),
        "PTV56": _box((3, 12), (4, 12), (3, 9)),
        "PTV70": _box((6, 10), (6, 10), (4, 7 + step)),
    }


def _case(study: Path, number: int, split: str, *, absent: tuple[str, ...] = (), dose=None) -> Case:
    """A patient whose dose is a sum over the structures that a voxel lies in: a combination table knows it exactly."""
    masks = {name: mask for name, mask in _masks(number).items() if name not in absent}
    if dose is None:
        dose = 10.0 + sum((WEIGHTS_GY[name] * mask for name, mask in masks.items()), np.zeros(SHAPE))
    folder = study / "cases" / f"pt_{number}"
    volumes = {"dose": (dose * MASK).astype(np.float32), "mask_dose": MASK.astype(np.uint8)}
    volumes |= {f"structures/{name}": mask.astype(np.uint8) for name, mask in masks.items()}
    files = {
        key: {"path": f"{key}.nii.gz", "sha256": write_nifti(folder / f"{key}.nii.gz", volume, GRID)}
        for key, volume in volumes.items()
    }
    structures = {n: Structure(n, k, "not_contoured" if n in absent else "contoured") for n, k in KINDS.items()}
    case = Case(f"pt_{number}", split, folder, GRID, files, ("dose",), structures, spacing_mm=SPACING)
    case.write()
    return case


@pytest.fixture
def study(tmp_path) -> Path:
    """Four fit and two validation patients."""
    root = tmp_path / "study"
    splits = ["fit"] * 4 + ["validation"] * 2
    Manifest.build("made-up", root, [_case(root, number, split) for number, split in enumerate(splits)]).write()
    return root


@pytest.mark.parametrize("seed", [0, 1])
def test_the_histogram_median_is_the_median_to_half_a_bin(seed):
    generator = np.random.default_rng(seed)
    groups = {3: generator.gamma(4, 5, 501), 8: generator.uniform(0, 70, 2), 900: np.array([33.33])}
    bins = {code: np.unique((doses // BIN_GY).astype(int), return_counts=True) for code, doses in groups.items()}
    codes = np.concatenate([np.full(len(found), code) for code, (found, _) in bins.items()])
    columns = [np.concatenate([pair[i] for pair in bins.values()]) for i in (0, 1)]
    unique, voxels, medians = median_by_code(codes, *columns)
    assert unique.tolist() == list(groups)
    assert voxels.tolist() == [len(doses) for doses in groups.values()]
    assert medians[0] == pytest.approx(np.median(groups[3]), abs=BIN_GY)
    assert groups[8].min() - BIN_GY <= medians[1] <= groups[8].max() + BIN_GY
    assert medians[2] == pytest.approx(33.33, abs=BIN_GY / 2)


def test_a_dose_that_only_depends_on_the_combination_is_predicted_exactly(study, tmp_path):
    written, failures = write_baseline(study, tmp_path / "out", "combination")
    assert (written, failures) == (["pt_4", "pt_5"], {})
    scores = overall(evaluate(study, tmp_path / "out", "validation").rows)
    assert scores["dose_score"] <= BIN_GY / 2 + 1e-5
    assert scores["dvh_score"] <= BIN_GY / 2 + 1e-5
    assert "mean_dice" not in scores


def test_a_dose_that_only_depends_on_the_distance_is_predicted_by_the_distance_table(tmp_path):
    from scipy.ndimage import distance_transform_edt

    root = tmp_path / "study"
    cases = []
    for number, split in enumerate(["fit"] * 4 + ["validation"] * 2):
        away = distance_transform_edt(~_masks(number)["PTV70"], sampling=SPACING)
        cases.append(_case(root, number, split, dose=70.0 * np.exp(-away / 15.0)))
    Manifest.build("made-up", root, cases).write()
    scores = {}
    for kind in ("combination", "distance"):
        write_baseline(root, tmp_path / kind, kind)
        scores[kind] = overall(evaluate(root, tmp_path / kind).rows)["dose_score"]
    assert scores["distance"] < 1.0
    assert scores["combination"] > 4 * scores["distance"]


def test_the_signed_distance_is_in_mm_and_negative_inside():
    target = _box((5, 9), (5, 9), (4, 8))
    distance = np.zeros(SHAPE)
    distance[MASK] = dose_tables._signed_distance_mm(target, MASK, SPACING)
    assert distance[9, 6, 5] == pytest.approx(3.0)
    assert distance[11, 6, 5] == pytest.approx(9.0)
    assert distance[6, 6, 8] == pytest.approx(4.0)
    assert distance[10, 10, 5] == pytest.approx(math.hypot(6.0, 6.0))
    assert distance[5, 6, 5] == pytest.approx(-3.0)
    assert distance[6, 6, 5] == pytest.approx(-6.0)
    assert (distance[target] < 0).all() and (distance[MASK & ~target] > 0).all()


def test_a_target_that_reaches_out_of_the_mask_is_measured_whole():
    target = _box((0, 5), (0, 14), (0, 12))
    inside = dose_tables._signed_distance_mm(target, MASK, SPACING)
    assert inside.min() == pytest.approx(-4 * 3.0)


@pytest.mark.parametrize("kind", ["combination", "distance"])
def test_nothing_is_predicted_outside_the_mask_or_taken_from_the_validation_dose(study, tmp_path, kind):
    table, _ = fit(Manifest.read(study).split("fit"), kind)
    (case, _) = Manifest.read(study).split("validation")
    first = predict(table, case)
    assert (first[~MASK] == 0).all() and first.max() > 50
    write_nifti(case.path("dose"), np.full(SHAPE, 33.0, dtype=np.float32), GRID)
    np.testing.assert_array_equal(predict(table, case), first)


def test_an_unseen_combination_drops_the_fewest_organs(tmp_path):
    root = tmp_path / "study"
    fitted = [_case(root, 0, "fit", absent=("Parotid_L",)), _case(root, 3, "fit", absent=("Parotid_L",))]
    other = _case(root, 1, "validation")
    table, _ = fit(fitted, "combination")
    found = predict(table, other)
    masks = _masks(1)
    both = masks["PTV56"] & masks["Parotid_L"] & ~masks["Brainstem"] & ~masks["PTV70"]
    assert both.any()
    # The parotid is new to the table, so that its bit is dropped and what remains is PTV56 alone.
    np.testing.assert_allclose(found[both], 50.0, atol=BIN_GY)


def test_an_unseen_target_combination_gets_the_overall_median(tmp_path):
    root = tmp_path / "study"
    table, _ = fit([_case(root, 0, "fit")], "combination")
    alone = _case(root, 1, "validation", absent=("PTV56",))
    outside_56 = _masks(1)["PTV70"] & ~_masks(1)["Brainstem"]
    expected = np.median(read_nifti(root / "cases/pt_0/dose.nii.gz")[0][MASK])
    np.testing.assert_allclose(predict(table, alone)[outside_56], expected, atol=BIN_GY)


def test_a_target_that_is_not_contoured_is_nearest_to_others_of_its_kind(tmp_path):
    root = tmp_path / "study"
    with_both = _case(root, 0, "fit", dose=np.full(SHAPE, 60.0))
    without = _case(root, 1, "fit", absent=("PTV56",), dose=np.full(SHAPE, 20.0))
    table, _ = fit([with_both, without], "distance")
    asked = _case(root, 2, "validation", absent=("PTV56",))
    np.testing.assert_allclose(predict(table, asked)[MASK], 20.0, atol=BIN_GY)


def _table(kind: str, names: tuple[str, ...], targets: int, medians_gy: dict[int, float], voxels=None) -> DoseTable:
    codes = np.array(sorted(medians_gy))
    counts = np.array(voxels or [10] * len(codes))
    return DoseTable(
        kind, names, targets, codes, counts, np.array([medians_gy[code] for code in sorted(medians_gy)]), 5.0
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0b111, 20.0), (0b101, 10.0), (0b110, 5.0)],
    ids=["one organ dropped, not two", "all organs dropped", "targets never seen: overall"],
)
def test_an_unseen_combination_keeps_its_targets_and_as_many_organs_as_it_can(code, expected):
    # Bit 0 is the target; the target alone has far more voxels than the target with the first organ.
    table = _table("combination", ("PTV70", "Brainstem", "Larynx"), 1, {0b001: 10.0, 0b011: 20.0}, [900, 3])
    assert dose_tables._nearest_combination(table, code) == expected


def test_a_distance_far_away_is_not_taken_for_not_contoured():
    base = len(dose_tables.DISTANCE_EDGES_MM) + 2
    absent, farthest = base - 1, base - 2
    table = _table("distance", ("PTV56", "PTV70"), 2, {farthest + 5 * base: 10.0, absent + 8 * base: 20.0})
    assert dose_tables._nearest_distance(table, absent + 5 * base) == 20.0
    assert dose_tables._nearest_distance(table, farthest + 6 * base) == 10.0


def test_a_mask_deep_inside_a_target_is_measured_to_the_targets_edge():
    target, mask = _box((4, 8), (4, 8), (4, 8)), _box((5, 7), (5, 7), (5, 7))
    np.testing.assert_allclose(dose_tables._signed_distance_mm(target, mask, SPACING), -6.0)


def test_a_broken_fit_case_is_named_and_the_others_still_serve(study, tmp_path):
    (study / "cases" / "pt_0" / "dose.nii.gz").write_bytes(b"broken")
    written, failures = write_baseline(study, tmp_path / "out", "combination")
    assert written == ["pt_4", "pt_5"]
    assert list(failures) == ["pt_0"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["fit_cases"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "distances"}, "Did you mean distance"),
        ({"kind": "distance", "split": "test"}, "no case is in split 'test'"),
        ({"kind": "distance", "split": "fit"}, "same split"),
    ],
    ids=["kind", "split", "same split"],
)
def test_what_cannot_be_meant_is_refused(study, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        write_baseline(study, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def _run(*words) -> int:
    parser = argparse.ArgumentParser()
    baselines.add_arguments(parser)
    return baselines.run(parser.parse_args([str(word) for word in words]))


def test_the_command_gives_the_same_bytes_with_any_number_of_workers(study, tmp_path, capsys):
    for workers in (1, 2):
        words = ("--kind", "distance", "--out", tmp_path / str(workers), "--workers", workers)
        assert _run("--study", study, *words) == 0
    assert "2 predictions" in capsys.readouterr().out
    for name in ("pt_4/dose.nii.gz", "pt_5/dose.nii.gz", "run.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_the_command_says_by_its_exit_code_how_many_cases_failed(study, tmp_path):
    words = ("--study", study, "--kind", "combination", "--out", tmp_path / "out")
    (study / "cases" / "pt_4" / "mask_dose.nii.gz").unlink()
    assert _run(*words) == 4
    (study / "cases" / "pt_5" / "mask_dose.nii.gz").unlink()
    assert _run(*words) == 5


def test_neither_baselines_nor_evaluation_import_torch_or_monai(run_python):
    code = (
        "import sys, mtl_med.baselines, mtl_med.evaluation; print([m for m in ('torch', 'monai') if m in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
