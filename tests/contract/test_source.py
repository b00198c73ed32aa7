"""Rules that every source file keeps, each with a piece of source that breaks it (the must-fail twin)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mtl_med"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room knows only rooms before it (design: architecture). Entry points (__main__.py) know the
# command line, which itself imports a command only when it is called.
ROOMS = [
    *(
        "errors",
        "tasks",
        "geometry",
        "files",
        "provenance",
        "parallel",
        "manifest",
        "contours",
        "html",
        "io",
        "metrics",
    ),
    *("prep", "phantoms"),
    *("processes", "bundle", "loading", "networks", "training"),
    *("planes", "plane_figures", "pictures", "overlays", "postprocessing"),
    *("ledger", "inference", "scoring", "classification_figures", "image_evaluation", "evaluation"),
    *("dosimetry", "dose_tables", "baselines"),
    *("comparison", "check_network", "check", "report", "explain"),
    *("export", "info", "doctor", "demo", "demo_doses", "demo_images", "cli", "__main__"),
]
# Modules that are commands: what they print is what the user asked for.
COMMANDS = {
    "cli.py",
    "demo.py",
    "info.py",
    "doctor.py",
    "evaluation.py",
    "baselines.py",
    "prep/command.py",
    "export.py",
    "comparison/command.py",
    "report/command.py",
}
CASE_ID = re.compile(r"\bpt_\d+|\bISIC_\d{4,}|\bHAM_\d{4,}")

Faults = Iterator[tuple[int, str]]


def prints(source: str) -> Faults:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "print"


def asserts(source: str) -> Faults:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"


def unsafe_calls(source: str) -> Faults:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        keywords = {item.arg: getattr(item.value, "value", None) for item in node.keywords}
        name = ast.unparse(node.func)
        if name == "torch.load" and keywords.get("weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if keywords.get("shell") is True:
            yield node.lineno, "shell=True"
        if name in {"eval", "exec", "pickle.load", "pickle.loads"}:
            yield node.lineno, name


def stubs(source: str) -> Faults:
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError\(\s*\)", line):
            yield number, line.strip()


def case_ids(source: str) -> Faults:
    for number, line in enumerate(source.splitlines(), 1):
        if CASE_ID.search(line):
            yield number, line.strip()


RULES: dict[str, tuple[Callable[[str], Faults], set[str], str]] = {
    "no-print-outside-commands": (prints, COMMANDS, "def f():\n    print(1)\n"),
    "no-assert": (asserts, set(), "assert True\n"),
    "no-unsafe-call": (unsafe_calls, set(), "torch.load(path, map_location='cpu')\n"),
    "no-stub": (stubs, set(), "x = 1  # TODO later\n"),
    "no-case-id": (case_ids, set(), "if case == 'pt_215':\n    pass\n"),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule: str) -> None:
    find, exempt, _ = RULES[rule]
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        if path.relative_to(PACKAGE).as_posix() not in exempt
        for line, text in find(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("rule", RULES)
def test_rule_can_break(rule: str) -> None:
    find, _, bad = RULES[rule]
    assert list(find(bad))


@pytest.mark.parametrize(
    "bad",
    ["torch.load(p)", "torch.load(p, weights_only=False)", "run(c, shell=True)", "eval('1')", "pickle.loads(b)"],
)
def test_unsafe_calls_are_seen(bad: str) -> None:
    assert list(unsafe_calls(bad))
    assert not list(unsafe_calls("torch.load(p, weights_only=True); run(c, shell=False)"))


def test_recipes_name_no_case() -> None:
    files = [path for path in (ROOT / "data_prep").rglob("*") if path.is_file()]
    faults = [f"{path.relative_to(ROOT)}:{line}" for path in files for line, _ in case_ids(path.read_text("utf-8"))]
    assert not faults


def test_recipes_hold_no_code() -> None:
    assert not list((ROOT / "data_prep").rglob("*.py")), "a data set is facts; the engine is mtl_med/prep"


def rooms_imported(source: str, module: str) -> set[str]:
    """Rooms of mtl_med that a module imports, also inside functions; imports for type checking do not count."""
    tree = ast.parse(source)
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            names += [f"{start}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "mtl_med" and len(part) > 1 and part[1] in ROOMS}


def upward_imports(source: str, module: str) -> list[str]:
    room = module.split(".")[1]
    if module.endswith(".__main__"):
        return []
    return sorted(other for other in rooms_imported(source, module) if ROOMS.index(other) > ROOMS.index(room))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=[path.relative_to(PACKAGE).as_posix() for path in SOURCES])
def test_a_room_knows_only_rooms_below(path: Path) -> None:
    module = module_name(path)
    if module == "mtl_med":
        assert not rooms_imported(path.read_text(encoding="utf-8"), module)
        return
    assert module.split(".")[1] in ROOMS, "give the new room its place in ROOMS, as in the architecture"
    assert upward_imports(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from mtl_med.training.losses import x", ["training"]),
        ("from mtl_med import prep", []),
        ("from mtl_med import training, cli", ["cli", "training"]),
        ("import mtl_med.inference", ["inference"]),
        ("def f():\n    from mtl_med.training import x", ["training"]),
        ("from ..training import x", ["training"]),
        ("if TYPE_CHECKING:\n    from mtl_med.training import x", []),
    ],
)
def test_upward_imports_are_seen(source: str, found: list[str]) -> None:
    assert upward_imports(source, "mtl_med.loading.dataset") == found


LATE = (
    "torch",
    "monai",
    "ignite",
    "pandas",
    "SimpleITK",
    "scipy",
    "nibabel",
    "matplotlib",
    "pydicom",
    "skimage",
    "jinja2",
    "PIL",
    "distributed",
)


@pytest.mark.parametrize("module", ["mtl_med", "mtl_med.cli", "mtl_med.prep"])
def test_quick_modules_stay_quick(run_python, module: str) -> None:
    """What the command line needs for its help imports nothing that takes a noticeable time."""
    done = run_python("-c", f"import {module}, sys; print([name for name in {LATE} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("module", ["io", "metrics", "phantoms", "evaluation", "baselines", "manifest", "geometry"])
def test_rooms_without_torch(run_python, module: str) -> None:
    done = run_python("-c", f"import mtl_med.{module}, sys; print('torch' in sys.modules, 'monai' in sys.modules)")
    assert done.stdout.strip() == "False False", done.stderr
