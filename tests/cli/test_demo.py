"""The demo: its steps are valid commands, it refuses what cannot work, and its table says what the scores say."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mtl_med import cli, demo
from mtl_med.bundle import refuse_unknown_overrides
from mtl_med.errors import MtlMedError
from mtl_med.metrics.rows import Row, write_rows


@pytest.mark.parametrize("data", [None, Path("provided-data")], ids=["phantoms", "patients"])
def test_steps_are_commands_as_one_would_type_them(root: Path, monkeypatch: pytest.MonkeyPatch, data) -> None:
    monkeypatch.chdir(root)
    own = demo.Demo(Path("out"), data, minutes=2)
    steps = own.steps() + own.dicom_steps()
    for _, words in steps:
        if words[0] == "mtl-med":
            assert cli.build_parser(words[1]).parse_args(words[1:]).command == words[1]
        elif words[2] == "mtl_med.prep":
            args = cli.build_parser("prep").parse_args(["prep", *words[3:]])
            raw = data or Path("out/phantoms")
            assert args.source == (Path("out/exports") if args.dataset == "dicom_rt" else raw)
        else:
            assert words[:4] == ["python", "-m", "monai.bundle", "run"]
            refuse_unknown_overrides(["monai/bundle/__main__.py", *words[3:]])
            assert (root / words[words.index("--config_file") + 1]).is_file()
            assert str(root) not in shlex.join(words), "paths are relative, as one would type them"
    (training,) = [words for _, words in steps if "--minutes" in words]
    assert training[-2:] == ["--minutes", "2"]


@pytest.mark.parametrize(
    ("words", "there", "message"),
    [
        (["--minutes", "0"], [], "--minutes: the training cannot last 0 minutes"),
        (["--workers", "0"], [], "--workers: 0 processes cannot work"),
        (["--data", "nowhere"], [], "nowhere: is no folder. Give the folder provided-data of open-kbp"),
        (["--data", "real"], ["real", "demo/phantoms"], "demo: holds a demo of phantoms"),
        ([], ["demo/study"], "demo: holds a study that is not of phantoms"),
    ],
    ids=["minutes", "workers", "no-data", "phantoms-there", "patients-there"],
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


def test_the_table_shows_both_scores(tmp_path: Path) -> None:
    def rows(dose_gy: float, dvh_gy: float) -> list[Row]:
        values = {"dose_score": dose_gy, "mae_in_mask": dose_gy, "mae_whole_grid": dose_gy / 10}
        dose = [Row("a", "dose", "", metric, value, "Gy") for metric, value in values.items()]
        return [*dose, Row("a", "dose", "SpinalCord", "mean_abs_error", dvh_gy, "Gy", "linear")]

    dice = [Row("a", "oar", "SpinalCord", name, value, "1") for name, value in [("dice", 0.75), ("hd95", 2.0)]]
    dice.append(Row("a", "oar", "SpinalCord", "surface_dice_2mm", 0.5, "1"))
    write_rows(tmp_path / "metrics.csv", rows(3.0, 2.5) + dice)
    write_rows(tmp_path / "baseline.csv", rows(8.0, 2.0))
    text = "\n".join(demo._result(demo.Demo(tmp_path)))
    assert "Result on 1 phantom patients, which say nothing about real ones: CTAN after 3.5 minutes" in text
    assert "  dose score (Gy)         3.00   8.00 (62 % below it)\n" in text
    assert "  DVH score (Gy)          2.50   2.00 (25 % above it)\n" in text
    assert "  Dice SpinalCord         0.75\n" in text
    assert f"  {tmp_path}/predictions/a/structures.seg.nrrd\n" in text
