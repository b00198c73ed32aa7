"""`mtl-med`: quick help, one sentence per fault, exit codes that a script can rely on."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mtl_med import __version__, cli
from mtl_med.errors import GeometryError, OutputError, UsageError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """`command(body)` makes `mtl-med probe --number N` call `body(args)`."""

    def install(body) -> None:
        module = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--number", type=int), run=body)
        monkeypatch.setitem(sys.modules, "mtl_med_probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("mtl_med_probe", "a probe", "mtl-med probe --number 1"))

    return install


def exit_code(arguments: list[str]) -> int:
    """Exit code of `mtl-med` whether it returns or leaves by argparse."""
    try:
        return cli.main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


HELPS = [("mtl_med", "--help"), ("mtl_med.prep", "--help"), *(("mtl_med", name, "--help") for name in cli.COMMANDS)]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_has_an_example_and_imports_no_torch(run_python, words: tuple[str, ...]) -> None:
    script = (
        "import runpy, sys, atexit\n"
        "slow = ['torch', 'monai', 'pandas', 'SimpleITK']\n"
        "atexit.register(lambda: print('IMPORTED', [name for name in slow if name in sys.modules]))\n"
        f"sys.argv = ['program', *{list(words[1:])!r}]\n"
        f"runpy.run_module({words[0]!r}, run_name='__main__')"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert re.search(r"example:\s+(mtl-med|python -m mtl_med)", done.stdout)
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_help_answers_in_under_a_second(run_python) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        run_python("-m", "mtl_med", "--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_are_valid_commands(name: str) -> None:
    """Every example in a help parses."""
    words = cli.COMMANDS[name].example.split()
    assert words[:2] == ["mtl-med", name]
    assert cli.build_parser(name).parse_args(words[1:]).command == name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"mtl-med {__version__}\n"


def test_without_a_command_the_help_comes_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evalute"], "error: unknown command 'evalute'. Did you mean evaluate? See: mtl-med --help\n"),
        (["probe", "--number", "x"], "error: argument --number: invalid int value: 'x'. See: mtl-med probe --help\n"),
        (["probe", "--nmber", "1"], "error: unrecognized arguments: --nmber 1. See: mtl-med --help\n"),
    ],
    ids=["command", "value", "option"],
)
def test_usage_faults(command, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    command(lambda args: None)
    assert exit_code(words) == 2
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (4, 4)])
def test_a_command_gives_its_exit_code(command, returned: int | None, code: int) -> None:
    seen: list[argparse.Namespace] = []
    command(lambda args: (seen.append(args), returned)[1])
    assert exit_code(["probe", "--number", "7"]) == code
    assert seen[0].number == 7


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("no study", where="x", fix="Make one"), 2, "error: x: no study. Make one.\n"),
        (OutputError("disk full"), 6, "error: disk full.\n"),
        (GeometryError("grids differ"), 5, "error: grids differ.\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "error: unexpected ZeroDivisionError: division by zero. "
            "This is a fault of mtl_med; run again with --debug for the traceback.\n",
        ),
        (
            ModuleNotFoundError("No module named 'x'", name="x"),
            1,
            "error: the module 'x' is missing. See what to install with: mtl-med doctor\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_are_one_sentence(command, capsys, error: BaseException, code: int, sentence: str) -> None:
    def body(args: argparse.Namespace) -> None:
        raise error

    command(body)
    assert exit_code(["probe"]) == code
    assert capsys.readouterr().err == sentence


def test_our_error_inside_another_is_found(command, capsys) -> None:
    def body(args: argparse.Namespace) -> None:
        try:
            raise UsageError("the cause")
        except UsageError as error:
            raise RuntimeError("a wall of text") from error

    command(body)
    assert exit_code(["probe"]) == 2
    assert capsys.readouterr().err == "error: the cause.\n"


@pytest.mark.parametrize("words", [["--debug", "probe"], ["probe", "--debug"]], ids=["before", "after"])
def test_debug_shows_the_traceback(command, capsys, words: list[str]) -> None:
    command(lambda args: 1 / 0)
    assert exit_code(words) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    """`mtl-med ... | head -1` ends quietly."""
    script = (
        "import sys, types\nfrom mtl_med import cli\n"
        "def run(args):\n    for i in range(100000): print('line', i)\n"
        "sys.modules['probe'] = types.SimpleNamespace(add_arguments=lambda p: None, run=run)\n"
        "cli.COMMANDS['probe'] = cli.Command('probe', 's', 'e')\n"
        "sys.exit(cli.main(['probe']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), errors) == (0, b"")


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {}], ids=str
)
def test_what_a_terminal_cannot_show_is_escaped(run_python, environment: dict[str, str]) -> None:
    """Letters that its encoding lacks, and the bytes of a path that is no UTF-8, in help, results and errors."""
    script = r"""
import sys
from types import SimpleNamespace
from mtl_med import cli
def run(args):
    print("5 \u00b5m \u2192 \udcff")
    print("\u03b1/\u03b2 \udcff", file=sys.stderr)
    return 4
sys.modules["probe"] = SimpleNamespace(add_arguments=lambda parser: None, run=run)
cli.COMMANDS["probe"] = cli.Command("probe", "shows \u0394", "mtl-med probe")
try:
    cli.main(["probe", "--help"])
except SystemExit as leaving:
    print(leaving.code)
sys.exit(cli.main(["probe"]))
"""
    done = run_python("-c", script, env=environment)
    assert done.returncode == 4, done.stderr
    assert "Shows" in done.stdout and done.stdout.splitlines()[-1].endswith(r"\udcff")
    assert "Error" not in done.stderr and done.stderr.strip().endswith(r"\udcff")


def test_one_command_as_a_program(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda args: args.number)
    assert cli.main_of("probe", ["--number", "4"]) == 4
    with pytest.raises(SystemExit, match="0"):
        cli.main_of("probe", ["--help"], prog="python -m probe")
    assert "python -m probe --number 1" in capsys.readouterr().out


def test_both_ways_in_are_the_same(run_python) -> None:
    """`mtl-med` (beside this interpreter, once installed) and `python -m mtl_med` give the same help."""
    script = os.path.join(os.path.dirname(sys.executable), "mtl-med")
    if not os.path.exists(script):
        pytest.skip("mtl_med is not installed in this environment")
    installed = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert installed.stdout == run_python("-m", "mtl_med", "--help").stdout
