"""Made-up chests: repeatable, lungs where lungs are, and labels that follow from what was drawn."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import OutputError, UsageError
from mtl_med.io.metaimage import open_metaimage
from mtl_med.phantoms import NOTE_NAME, ChestPhantom, make_chest, write_stoic_cohort
from mtl_med.phantoms.chest import SEVERE_FROM

TINY = (40, 40, 28)


def digest(phantom: ChestPhantom) -> str:
    parts = (phantom.ct_hu, phantom.lungs, phantom.opacities, phantom.grid.affine)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def points(phantom: ChestPhantom, mask: np.ndarray) -> np.ndarray:
    return phantom.grid.points_ras(np.argwhere(mask))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chests") / "stoic"
    write_stoic_cohort(folder, patients=10, seed=3, shape=TINY)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metadata" / "reference.csv").read_text().splitlines()))


def test_same_seed_same_bytes_also_in_another_process(run_python):
    program = (
        "import hashlib; from mtl_med.phantoms import make_chest; p = make_chest((3, 1), shape=(40, 40, 28));"
        "parts = (p.ct_hu, p.lungs, p.opacities, p.grid.affine);"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in parts)).hexdigest())"
    )
    done = run_python("-c", program, env={"OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == digest(make_chest((3, 1), shape=TINY)), done.stderr


def test_seeds_give_different_patients_and_directions():
    chests = [make_chest((1, seed), shape=TINY) for seed in range(14)]
    assert len({digest(item) for item in chests}) == len(chests)
    assert len({item.grid.axis_codes for item in chests}) >= 3
    assert any(np.abs(item.grid.affine[:3, :3]).max(axis=0).min() < max(item.grid.spacing_mm) - 1e-3 for item in chests)
    assert {item.covid for item in chests} == {True, False}


@pytest.mark.parametrize("axis_codes", ["LPS", "RAS", "PSL"])
def test_lungs_lie_on_their_sides_whatever_the_storage(axis_codes):
    phantom = make_chest(5, shape=(64, 64, 48), covid=False, finding="none", axis_codes=axis_codes)
    assert phantom.grid.axis_codes == axis_codes
    x = points(phantom, phantom.lungs)[:, 0]
    assert np.median(x[x > 0]) == pytest.approx(75, abs=15) and np.median(x[x < 0]) == pytest.approx(-75, abs=15)
    assert 3500 < phantom.lungs.sum() * phantom.grid.voxel_volume_mm3 / 1000 < 7000
    spine = points(phantom, (phantom.ct_hu > 100) & (phantom.ct_hu < 300))
    assert np.median(spine[:, 1]) < points(phantom, phantom.lungs)[:, 1].mean(), "the spine is at the back"
    assert np.median(phantom.ct_hu[phantom.lungs]) == pytest.approx(-860, abs=40)


@pytest.mark.parametrize("severe", [False, True])
def test_extent_decides_severity(severe):
    for seed in range(4):
        phantom = make_chest((6, seed), shape=TINY, covid=True, severe=severe)
        assert phantom.severe == severe == (phantom.extent >= SEVERE_FROM)
        assert not (phantom.opacities & ~phantom.lungs).any()
        assert phantom.ct_hu[phantom.opacities].mean() > phantom.ct_hu[phantom.lungs & ~phantom.opacities].mean() + 100


def test_covid_is_at_the_back_and_on_both_sides_and_oedema_in_the_middle():
    shape = (64, 64, 48)
    covid = make_chest((7, 1), shape=shape, covid=True, severe=True)
    here, lungs = points(covid, covid.opacities), points(covid, covid.lungs)
    assert here[:, 1].mean() < lungs[:, 1].mean() - 8
    assert 0.3 < (here[:, 0] > 0).mean() < 0.7
    oedema = make_chest((7, 1), shape=shape, covid=False, finding="oedema")
    away = np.abs(points(oedema, oedema.opacities)[:, 0])
    assert away.mean() < np.abs(points(oedema, oedema.lungs)[:, 0]).mean() - 10


def test_others_than_covid_can_be_as_opaque():
    lobe = make_chest((8, 2), shape=TINY, covid=False, finding="lobe")
    assert lobe.extent > 0.05 and not lobe.covid and not lobe.severe
    nodules = make_chest((8, 2), shape=(64, 64, 48), covid=False, finding="nodules")
    assert 0 < nodules.extent < 0.02
    gone = make_chest((8, 2), shape=TINY, covid=False, finding="none", collapsed="left")
    x = points(gone, gone.opacities)[:, 0]
    assert x.max() < 0 and 0.35 < gone.extent < 0.6


def test_the_layout_is_the_published_one(cohort):
    assert sorted(path.name for path in cohort.iterdir()) == [NOTE_NAME, "data", "metadata"]
    assert "not patients" in (cohort / NOTE_NAME).read_text(encoding="utf-8")
    assert (cohort / "metadata" / "reference.csv").read_text().splitlines()[0] == "PatientID,probCOVID,probSevere"
    rows = table(cohort)
    assert [row["PatientID"] for row in rows] == sorted(path.stem for path in (cohort / "data" / "mha").iterdir())
    image = sitk.ReadImage(str(cohort / "data" / "mha" / f"{rows[0]['PatientID']}.mha"))
    assert image.GetPixelID() == sitk.sitkInt16 and {"PatientAge", "PatientSex"} <= set(image.GetMetaDataKeys())


def test_of_every_five_two_are_negative_and_one_is_severe(cohort):
    rows = [(row["probCOVID"], row["probSevere"]) for row in table(cohort)]
    for five in (rows[:5], rows[5:]):
        assert sorted(five) == [("0", "0"), ("0", "0"), ("1", "0"), ("1", "0"), ("1", "1")]


def test_workers_and_numbers_of_patients_change_no_patient(cohort, tmp_path):
    paths = write_stoic_cohort(tmp_path, patients=3, seed=3, shape=TINY, workers=2)
    assert len(paths) == 3
    for path in paths:
        assert path.read_bytes() == (cohort / "data" / "mha" / path.name).read_bytes(), path.name
    assert open_metaimage(paths[0]).grid.shape in {(40, 40, 28), (40, 28, 40)}


def test_a_second_run_replaces_phantoms(tmp_path):
    write_stoic_cohort(tmp_path, patients=2, seed=1, shape=TINY)
    write_stoic_cohort(tmp_path, patients=1, seed=2, shape=TINY)
    assert [path.name for path in (tmp_path / "data" / "mha").iterdir()] == ["phantom0001.mha"]
    assert "cohort: 2" in (tmp_path / NOTE_NAME).read_text(encoding="utf-8")


def test_patients_that_are_no_phantoms_are_never_touched(tmp_path):
    (tmp_path / "data" / "mha").mkdir(parents=True)
    (tmp_path / "data" / "mha" / "phantom0001.mha").write_text("real")
    with pytest.raises(UsageError, match="not phantoms"):
        write_stoic_cohort(tmp_path, patients=1, shape=TINY)
    assert (tmp_path / "data" / "mha" / "phantom0001.mha").read_text() == "real"


@pytest.mark.parametrize(
    "options",
    [{"patients": 0}, {"patients": 10_000}, {"workers": 0}, {"seed": -1}, {"shape": (40, 40, 8)}],
    ids=lambda options: next(iter(options)) + str(next(iter(options.values()))),
)
def test_impossible_cohorts_are_refused(tmp_path, options):
    with pytest.raises(UsageError):
        write_stoic_cohort(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options", [{"finding": "cold"}, {"collapsed": "both"}, {"extent": 1.5}, {"shape": (40, 40)}], ids=lambda o: str(o)
)
def test_impossible_patients_are_refused(options):
    with pytest.raises(UsageError):
        make_chest(1, **{"shape": TINY} | options)


def test_a_path_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_stoic_cohort(tmp_path / "file" / "cohort", patients=1, shape=TINY)
