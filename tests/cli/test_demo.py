"""The demo: its steps are valid commands, it refuses what cannot work, and its table says what the scores say."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mtl_med import cli, demo
from mtl_med.bundle import refuse_wrong_overrides
from mtl_med.demo_doses import DoseDemo
from mtl_med.demo_images import LesionDemo
from mtl_med.errors import MtlMedError
from mtl_med.metrics.image_rows import image_rows
from mtl_med.metrics.rows import Row, write_rows

# Without these a training of minutes learns nothing.
SHORT = {
    "openkbp_dose_oar_segmentation": {"--inputs": "ct+ptv", "--patch_size": "[64, 64, 64]", "--repeats": "10"},
    "ham10000_lesion_classification": {"--encoder": "plain", "--image_size": "[48, 64]", "--repeats": "4"},
    "stoic_covid_classification": {"--volume_size": "[48, 40, 40]", "--network_options#image_width": "64"},
}


def of(bundle: str, *words: str) -> demo.Demo:
    return demo.create_demo(cli.build_parser("demo").parse_args(["demo", "--bundle", bundle, *words]))


def test_every_bundle_has_a_folder_and_a_length_of_its_own() -> None:
    found = {bundle: of(bundle) for bundle in demo.DEMOS}
    assert [each.bundle for each in found.values()] == list(found)
    assert [str(each.out) for each in found.values()] == ["demo", "demo-ham10000", "demo-stoic"]
    assert [each.minutes for each in found.values()] == [3.5, 1, 1]
    assert cli.build_parser("demo").parse_args(["demo"]).bundle == next(iter(found))
    given = of("stoic_covid_classification", "--out", "here", "--minutes", "0.5")
    assert (str(given.out), given.minutes) == ("here", 0.5)


@pytest.mark.parametrize("data", [None, "raw-data"], ids=["phantoms", "patients"])
@pytest.mark.parametrize("bundle", demo.DEMOS)
def test_steps_are_commands_as_one_would_type_them(root: Path, monkeypatch, bundle: str, data: str | None) -> None:
    monkeypatch.chdir(root)
    given = ("--data", data) if data else ()
    steps = of(bundle, "--out", "out", "--minutes", "2", *given).steps()
    for _, words in steps:
        if words[0] == "mtl-med":
            assert cli.build_parser(words[1]).parse_args(words[1:]).command == words[1]
        elif words[2] == "mtl_med.prep":
            args = cli.build_parser("prep").parse_args(["prep", *words[3:]])
            raw = data or "out/phantoms"
            assert str(args.source) == ("out/exports" if args.dataset == "dicom_rt" else raw)
        else:
            assert words[:4] == ["python", "-m", "monai.bundle", "run"]
            refuse_wrong_overrides(["monai/bundle/__main__.py", *words[3:]])
            assert (root / words[words.index("--config_file") + 1]).is_file()
            assert str(root) not in shlex.join(words), "paths are relative, as one would type them"
    (training,) = [words for _, words in steps if "--minutes" in words]
    assert training[-2:] == ["--minutes", "2"]
    known = dict(zip(training[4::2], training[5::2], strict=True))
    assert known.items() >= SHORT[bundle].items()
    assert any("dicom_rt" in words for _, words in steps) == (data is None and bundle.startswith("openkbp"))


@pytest.mark.parametrize(
    ("words", "there", "message"),
    [
        (["--minutes", "0"], [], "--minutes: the training cannot last 0 minutes"),
        (["--workers", "0"], [], "--workers: 0 processes cannot work"),
        (["--data", "nowhere"], [], "nowhere: is no folder. Give the folder provided-data of open-kbp"),
        (["--data", "real"], ["real", "demo/phantoms"], "demo: holds a demo of phantoms"),
        (
            ["--bundle", "ham10000_lesion_classification", "--data", "nowhere"],
            [],
            "nowhere: is no folder. Give the folder of HAM10000, unpacked",
        ),
        ([], ["demo/study"], "demo: holds a study that is not of phantoms"),
    ],
    ids=["minutes", "workers", "no-data", "phantoms-there", "no-photographs", "patients-there"],
)
def test_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, words, there, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["demo", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failing_step_ends_the_demo_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MtlMedError, match="ended with exit code 4") as caught:
        demo._run_step(["python", "-c", "print('the step speaks'); raise SystemExit(4)"])
    assert caught.value.exit_code == 4
    assert (
        capfd.readouterr().out
        == "$ python -c 'print('\"'\"'the step speaks'\"'\"'); raise SystemExit(4)'\n\nthe step speaks\n"
    )


def test_the_table_shows_both_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(dose_gy: float, dvh_gy: float) -> list[Row]:
        values = {"dose_score": dose_gy, "mae_in_mask": dose_gy, "mae_whole_grid": dose_gy / 10}
        dose = [Row("a", "dose", "", metric, value, "Gy") for metric, value in values.items()]
        return [*dose, Row("a", "dose", "SpinalCord", "mean_abs_error", dvh_gy, "Gy", "linear")]

    dice = [Row("a", "oar", "SpinalCord", name, value, "1") for name, value in [("dice", 0.75), ("hd95", 2.0)]]
    dice.append(Row("a", "oar", "SpinalCord", "surface_dice_2mm", 0.5, "1"))
    write_rows(tmp_path / "metrics.csv", rows(3.0, 2.5) + dice)
    (tmp_path / "baseline").mkdir()
    write_rows(tmp_path / "baseline" / "metrics.csv", rows(8.0, 2.0))
    monkeypatch.setattr(DoseDemo, "_pictures", lambda self: [])
    text = "\n".join(DoseDemo(tmp_path).result())
    assert "Result on 1 phantom patients, which say nothing about real ones: CTAN after 3.5 minutes" in text
    assert "  dose score (Gy)         3.00   8.00 (62 % below it)\n" in text
    assert "  DVH score (Gy)          2.50   2.00 (25 % above it)\n" in text
    assert "  Dice SpinalCord         0.75\n" in text
    assert f"  {tmp_path}/predictions/a/structures.seg.nrrd\n" in text


def test_the_table_of_classes_shows_what_guessing_gives(tmp_path: Path) -> None:
    truth, decided = [0, 0, 0, 1], [0, 0, 1, 1]
    rows = [
        row
        for number, (true, own) in enumerate(zip(truth, decided, strict=True))
        for row in image_rows(f"p{number}", "diagnosis", true, own, [1.0 - own, float(own)], ("mel", "nv"))
    ]
    rows.append(Row("p0", "lesion", "Lesion", "dice", 0.875, "1"))
    rows += [Row("p0", "lesion", "Lesion", name, 1.0, "px") for name in ("hd95", "surface_dice_2px")]
    write_rows(tmp_path / "metrics.csv", rows)
    text = "\n".join(LesionDemo(tmp_path).result())
    assert "Result on 4 phantom images, which say nothing about real ones: CTAN after 1 minutes of training\n" in text
    assert "  Dice of the mask                  0.88\n" in text
    assert "  diagnosis: accuracy               0.75   0.75\n" in text
    assert "  diagnosis: balanced accuracy      0.83   0.50\n" in text
    assert "  diagnosis: AUC                    0.83   0.50\n" in text
    assert f"{tmp_path}/predictions/p0/mask.png, {tmp_path}/study/cases/p0/mask.png" in text
    assert "Where each task looks" in text
    assert "Where each task looks" not in "\n".join(LesionDemo(tmp_path, method="hps").result())


def test_a_demo_of_classes_runs_from_beginning_to_end(tmp_path: Path, monkeypatch, forked_python, capsys) -> None:
    """With few photographs, seconds of training, and every step in a fork instead of a process of its own."""
    from mtl_med.phantoms.lesions import write_ham10000_cohort

    def make_phantoms(self: LesionDemo) -> None:
        write_ham10000_cohort(self.source, lesions=40, size=(40, 32))

    def run_step(words: list[str]) -> None:
        done = forked_python.run(*(words[1:] if words[0] == "python" else ["-m", "mtl_med", *words[1:]]))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    monkeypatch.setattr(LesionDemo, "make_phantoms", make_phantoms)
    monkeypatch.setattr(demo, "_run_step", run_step)
    words = ["demo", "--bundle", "ham10000_lesion_classification", "--out", str(tmp_path / "demo"), "--workers", "1"]
    assert cli.main([*words, "--minutes", "0.02"]) == 0
    said = capsys.readouterr().out
    assert "[6/6] make pages to look at" in said and "diagnosis: balanced accuracy" in said
    shown = [line for line in said.splitlines() if str(tmp_path) in line]
    assert len(shown) == 7
    for line in shown:
        for path in line.rpartition(": ")[2].split(", "):
            assert Path(path).exists(), line
