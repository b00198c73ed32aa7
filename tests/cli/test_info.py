"""`mtl-med info` tells what there is, in numbers that can be checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mtl_med import cli, files
from mtl_med.geometry import Grid
from mtl_med.manifest import Case, Manifest, Structure


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["info", *words]) == 0
    return capsys.readouterr().out


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three cases: two in fit, one in tune; the larynx contoured in one, empty in one, not contoured in one."""
    cases = []
    for number, (split, status, volume) in enumerate(
        [("fit", "contoured", 12.0), ("fit", "empty", 0.0), ("tune", "not_contoured", None)]
    ):
        spacing = (3.0 + number, 3.0, 2.5)
        case = Case(
            id=f"c{number}",
            split=split,
            folder=tmp_path / "cases" / f"c{number}",
            grid=Grid((8, 9, 10), np.diag([*spacing, 1.0])),
            tasks=("oar", "dose") if number else ("dose",),
            structures={
                "Larynx": Structure("Larynx", "oar", status, volume),
                "PTV70": Structure("PTV70", "target", "contoured", 100.0 + number),
            },
            prescriptions_gy={"PTV70": 70.0},
            spacing_mm=spacing,
            notes=("odd",) if number == 2 else (),
        )
        case.write()
        cases.append(case)
    Manifest.build("openkbp", tmp_path, cases).write()
    return tmp_path


def test_study_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "data", str(study))
    lines = rows(text)
    assert text.startswith(f"openkbp: 3 cases in {study.resolve()}\nfingerprint {Manifest.read(study).fingerprint}\n")
    for expected in (
        ["fit", "2"],
        ["tune", "1"],
        ["dose", "3"],
        ["oar", "2"],
        ["8x9x10", "3", "cases"],
        ["x", "3.00", "to", "5.00", "median", "4.00"],
        ["z", "2.50", "to", "2.50", "median", "2.50"],
        ["Larynx", "oar", "1", "1", "1", "12.0"],
        ["PTV70", "target", "3", "0", "0", "101.0", "70", "Gy"],
    ):
        assert expected in lines
    assert lines[-1][:4] == ["1", "cases", "with", "notes;"]


@pytest.mark.parametrize("words", [["data"], ["methods", "somewhere"]])
def test_path_belongs_to_data(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(["info", *words]) == 2
    assert capsys.readouterr().err == (
        "error: a path belongs to 'data' and to nothing else. Write: mtl-med info data STUDY.\n"
    )


def test_a_folder_that_is_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "data", str(tmp_path)]) == 2
    assert "is no study folder" in capsys.readouterr().err


def test_methods_count_their_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    from mtl_med.networks import METHODS, create_network

    listed = {line[0]: line[1:7] for line in rows(printed(capsys, "methods"))[3:]}
    assert listed.keys() == METHODS.keys()
    tasks = {"oar": {"kind": "segmentation", "channels": 7}, "dose": {"kind": "regression"}}
    network = create_network("hps", tasks, spatial_dims=3, in_channels=2, stem_stride=2)
    assert float(listed["hps"][0]) == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6, abs=0.005)
    work = {name: (float(line[2]), float(line[5])) for name, line in listed.items()}
    # Decoders alone repeat with two networks; in 2D the reference ratios of the methods hold.
    assert work["hps"][0] < work["stl"][0] < 2 * work["hps"][0]
    assert work["mtan"][1] / work["hps"][1] == pytest.approx(1.415, abs=0.01)
    assert work["ctan"][1] / work["hps"][1] == pytest.approx(1.280, abs=0.01)


def test_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows(printed(capsys, "encoders"))
    (plain,) = [line for line in lines if line[0] == "plain"]
    assert plain[1:9] == ["channels", "32", "64", "128", "strides", "1", "2", "4"]


@pytest.mark.parametrize("weights", [b"", None])
def test_bundles(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, weights: bytes | None) -> None:
    (tmp_path / "one" / "configs").mkdir(parents=True)
    (tmp_path / "one" / "configs" / "metadata.json").write_text(json.dumps({"version": "0.3.1"}))
    if weights is not None:
        (tmp_path / "one" / "models").mkdir()
        (tmp_path / "one" / "models" / "model.pt").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr("mtl_med.info.shipped", lambda kind: tmp_path)
    state = "no weights: train first" if weights is None else "weights of 3 MiB"
    assert rows(printed(capsys, "bundles"))[1] == f"one 0.3.1 {state} {tmp_path / 'one'}".split()


def test_shipped_bundles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.parent.parent.name for path in files.shipped("bundles").glob("*/configs/metadata.json")}
    assert names and names == {line[0] for line in rows(printed(capsys, "bundles"))[1:]}
