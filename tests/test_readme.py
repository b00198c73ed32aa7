"""What the README shows runs: commands are valid, links lead somewhere, and the way from raw data to scores works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_med import cli
from mtl_med.bundle import refuse_wrong_overrides

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = {"python": [sys.executable], "mtl-med": [sys.executable, "-m", "mtl_med"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.S | re.M)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]
FIVE = [line for line in blocks("bash")[1].splitlines() if line]


def kind(line: str) -> str:
    words = shlex.split(line)
    return words[0] if words[0] != "python" else words[2]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    monkeypatch.chdir(ROOT)
    match kind(line):
        case "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        case "mtl-med":
            assert cli.build_parser(words[1]).parse_args(words[1:]).command == words[1]
        case "mtl_med.prep":
            assert cli.build_parser("prep").parse_args(["prep", *words[3:]]).command == "prep"
        case "monai.bundle":
            refuse_wrong_overrides(["monai/bundle/__main__.py", *words[3:]])
        case other:
            assert other == "source"


def test_there_are_five_commands_for_real_data() -> None:
    assert [kind(line) for line in FIVE] == ["source", "mtl_med.prep", "monai.bundle", "monai.bundle", "mtl-med"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", TEXT))
def test_links_lead_somewhere(link: str) -> None:
    if link.startswith("#"):
        headings = [line.lstrip("# ").lower().replace(" ", "-") for line in TEXT.splitlines() if line.startswith("#")]
        assert link[1:] in headings
    elif not link.startswith("https://"):
        assert (ROOT / link).is_file()


def test_every_method_is_listed() -> None:
    from mtl_med.networks import METHODS

    table = TEXT.split("## Methods")[1].split("\n\n")[1]
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", table))


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "{'oar': (1, 3, 32, 32, 32), 'dose': (1, 1, 32, 32, 32)}\n"


@pytest.mark.slow
def test_from_raw_data_to_scores(tmp_path: Path) -> None:
    """The README's commands as they stand, but on four phantoms and with seconds of training instead of an hour."""
    from mtl_med.metrics.rows import read_rows
    from mtl_med.phantoms import write_openkbp_cohort

    write_openkbp_cohort(tmp_path / "open-kbp" / "provided-data", train=4, validation=1, workers=1)
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    for line in FIVE[1:]:
        words = shlex.split(line.replace("--minutes 60", "--minutes 0.05 --epochs 1 --patch_size '[48, 48, 48]'"))
        command = [*PROGRAMS[words[0]], *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    metrics = {row.metric for row in read_rows(tmp_path / "runs" / "ctan" / "metrics.csv")}
    assert {"dose_score", "dice", "hd95"} <= metrics
