"""The record of a run tells how it was started, in words that can be typed anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITE = "import sys; from mtl_med.provenance import write_record; write_record(sys.argv[1], 'prep', {})"


def test_a_module_is_told_as_it_is_started(tmp_path: Path) -> None:
    package = tmp_path / "tool"
    package.mkdir()
    for name in ("__init__.py", "__main__.py"):
        (package / name).write_text(WRITE if name == "__main__.py" else "")
    subprocess.run([sys.executable, "-m", "tool", "run.json", "--option"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "run.json").read_text())["command"] == [
        "python",
        "-m",
        "tool",
        "run.json",
        "--option",
    ]


def test_a_program_is_told_by_its_name(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text(WRITE)
    subprocess.run([sys.executable, program, "run.json"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "run.json").read_text())["command"] == ["tool", "run.json"]
