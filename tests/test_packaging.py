"""The wheel holds the library, the recipes and the bundles, and what is shipped is found in it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mtl_med import doctor

PARTS = ("mtl_med", "bundles", "data_prep", "setup.cfg", "setup.py", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pt", "*.onnx", "*.ts", "runs", "eval")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a copy of the checkout, with one nested recipe and one bundle of its own added."""
    copy = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, copy / part, ignore=IGNORED)
        else:
            shutil.copy(root / part, copy / part)
    for name in ("data_prep/probe/deep/recipe.json", "bundles/probe/configs/train.json", "bundles/probe/LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("{}")
    (copy / "bundles/probe/models").mkdir()
    (copy / "bundles/probe/models/model.pt").write_bytes(b"weights do not belong into the wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as packed:
        packed.extractall(copy / "unpacked")
    return copy / "unpacked"


def relative_files(folder: Path, *patterns: str) -> set[str]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix() for path in found if "__pycache__" not in path.parts}


def test_every_module_is_in_the_wheel(root: Path, wheel: Path) -> None:
    """A new sub-package has to be listed in setup.cfg."""
    assert relative_files(root / "mtl_med", "**/*.py") == relative_files(wheel / "mtl_med", "**/*.py")
    assert (wheel / "mtl_med" / "py.typed").is_file()


def test_every_recipe_is_in_the_wheel(root: Path, wheel: Path) -> None:
    expected = relative_files(root / "data_prep", "**/*") | {"probe/deep/recipe.json"}
    assert relative_files(wheel / "mtl_med" / "recipes", "**/*") == expected


def test_every_bundle_is_in_the_wheel_without_weights(root: Path, wheel: Path) -> None:
    patterns = ("*.md", "*/LICENSE", "*/comparisons/*", "*/configs/*", "*/docs/*")
    expected = relative_files(root / "bundles", *patterns) | {"probe/configs/train.json", "probe/LICENSE"}
    assert relative_files(wheel / "mtl_med" / "bundles", "**/*") == expected


def test_what_is_shipped_is_found_in_the_wheel(run_python, wheel: Path, tmp_path: Path) -> None:
    script = "from mtl_med.files import shipped; print(shipped('recipes'), shipped('bundles'))"
    done = run_python("-c", script, cwd=tmp_path, env={"PYTHONPATH": str(wheel)})
    assert done.stdout.split() == [str(wheel / "mtl_med" / "recipes"), str(wheel / "mtl_med" / "bundles")], done.stderr


def test_licence_and_command_are_in_the_wheel(wheel: Path) -> None:
    (info,) = wheel.glob("*.dist-info")
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()
    assert "mtl-med = mtl_med.cli:main" in (info / "entry_points.txt").read_text()


def declared(root: Path) -> dict[str, str]:
    """Every dependency of setup.cfg with its lower bound."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"] + "".join(extras[name] for name in extras if name != "mlflow")
    matches = [re.fullmatch(r"([\w-]+)(?:>=([\d.]+))?(?:,<[\d.]+)?", line) for line in lines.split()]
    assert all(matches)
    return {match[1]: match[2] or "0" for match in matches if match}


def test_constraints_pin_every_direct_dependency(root: Path) -> None:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = dict(line.split("==") for line in lines)
    assert pinned.keys() == declared(root).keys()
    low = [name for name, bound in declared(root).items() if not at_least(pinned[name], bound)]
    assert not low


def at_least(version: str, bound: str) -> bool:
    return doctor.version_tuple(version) >= doctor.version_tuple(bound)


def test_every_third_party_import_is_declared(root: Path) -> None:
    """What mtl_med imports is installed with it."""
    names = {"ignite": "pytorch-ignite", "skimage": "scikit-image", "PIL": "pillow", "markupsafe": "jinja2"}
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.M)
    optional = {"mlflow"}
    imported = {name for path in (root / "mtl_med").rglob("*.py") for name in pattern.findall(path.read_text())}
    third_party = imported - sys.stdlib_module_names - {"mtl_med"} - optional
    assert {names.get(name, name) for name in third_party} <= declared(root).keys()
