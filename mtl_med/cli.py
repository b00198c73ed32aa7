"""The command line `mtl-med` = `python -m mtl_med`: thin, and quick because each command is imported when it is called.

A command is a module with `add_arguments(parser)` and `run(args) -> int | None`, listed in `COMMANDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtl_med import __version__
from mtl_med.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_OUR_FAULT, EXIT_USAGE, find_error, nearest

__all__ = ["COMMANDS", "Command", "guard", "main", "main_of"]


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Args:
        module: where its `add_arguments` and `run` lie.
        summary: one line for the list of commands.
        example: a line that works as it stands once the paths are filled in.
    """

    module: str
    summary: str
    example: str


COMMANDS = {
    "demo": Command(
        "mtl_med.demo",
        "the whole way once: phantoms, preparation, training, prediction, evaluation",
        "mtl-med demo --out demo --minutes 2",
    ),
    "prep": Command(
        "mtl_med.prep.command",
        "raw data to a study folder",
        "mtl-med prep openkbp --source open-kbp/provided-data --out study --workers 2",
    ),
    "evaluate": Command(
        "mtl_med.evaluation",
        "predictions against the study's truth, as one long table",
        "mtl-med evaluate --study study --predictions predictions --out metrics.csv",
    ),
    "baseline": Command(
        "mtl_med.baselines",
        "predictions by a table instead of a network, to compare with",
        "mtl-med baseline --kind distance --study study --out baseline",
    ),
    "export": Command(
        "mtl_med.export",
        "a predicted case as DICOM: RTSTRUCT, RTDOSE, SEG",
        "mtl-med export predictions/CASE --reference exports/CT --to rtstruct rtdose",
    ),
    "compare": Command(
        "mtl_med.comparison.command",
        "methods x seeds, trained and scored alike, as one table with intervals",
        "mtl-med compare axial --study study --out comparison",
    ),
    "check": Command(
        "mtl_med.check",
        "a bundle's files, ids, keys and declared outputs, one line per fault",
        "mtl-med check openkbp_dose_oar_segmentation",
    ),
    "dvh": Command(
        "mtl_med.dosimetry.dvh",
        "DVH metrics, clinical goals and plan quality of doses, from a study, NIfTI files or DICOM",
        "mtl-med dvh --dose RD.dcm --structures RS.dcm --prescription-gy 78 --goals prostate --out dvh.csv",
    ),
    "gamma": Command(
        "mtl_med.dosimetry.gamma",
        "gamma index and signed errors between two doses, with every parameter told",
        "mtl-med gamma study predictions --max-gamma 1.1 --out gamma.csv --maps maps",
    ),
    "report": Command(
        "mtl_med.report.command",
        "predictions as pages to look at: the cohort, every case, worst first",
        "mtl-med report --study study --predictions predictions --out report",
    ),
    "explain": Command(
        "mtl_med.explain.command",
        "where a trained network looks in one image, and where its tasks disagree",
        "mtl-med explain ham10000_lesion_classification CASE --study study --out predictions/CASE/explain",
    ),
    "info": Command(
        "mtl_med.info",
        "what methods, encoders and bundles there are, or what lies in a study folder",
        "mtl-med info data study",
    ),
    "doctor": Command(
        "mtl_med.doctor",
        "versions, devices, and what is missing and how to get it",
        "mtl-med doctor",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Argument parser that ends a usage fault in one line and the way to the help."""

    def error(self, message: str) -> None:  # type: ignore[override]
        sentence = message if message.endswith(("?", ".")) else f"{message}."
        self.exit(EXIT_USAGE, f"error: {sentence} See: {self.prog} --help\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the options of `command` are filled in, so that no other module is imported."""
    parser = _Parser(
        prog="mtl-med",
        description="Multi-task learning on medical images with MONAI.",
        epilog="example:\n  mtl-med demo --out demo --minutes 2\n\nEach command has its own help: mtl-med prep --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mtl-med {__version__}")
    _add_debug(parser)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands", parser_class=_Parser)
    for name, entry in COMMANDS.items():
        child = commands.add_parser(name, help=entry.summary, **_texts(entry.summary, entry.example))
        if name == command:
            _fill(child, entry)
    return parser


def _texts(summary: str, example: str) -> dict:
    return {
        "description": textwrap.fill(summary[0].upper() + summary[1:] + ".", 100),
        "epilog": f"example:\n  {example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _fill(parser: argparse.ArgumentParser, entry: Command) -> None:
    module = importlib.import_module(entry.module)
    module.add_arguments(parser)
    _add_debug(parser)
    parser.set_defaults(run=module.run)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: the subparser's default must not overwrite a --debug that stands before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mtl-med` with `argv` (default: the process's own) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in argv if not word.startswith("-")), None)

    def call() -> int | None:
        parser = build_parser(command if command in COMMANDS else None)
        if command is not None and command not in COMMANDS:
            parser.error(f"unknown command '{command}'. {nearest(command, COMMANDS)}")
        args = parser.parse_args(argv)
        if command is None:
            parser.print_help()
            return EXIT_USAGE
        return args.run(args)

    return guard(call, debug="--debug" in argv)


def main_of(command: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run one command as a program of its own, such as `python -m mtl_med.prep`; same options, same exit codes."""
    argv = list(sys.argv[1:] if argv is None else argv)
    entry = COMMANDS[command]
    prog = prog or f"python -m {entry.module}"

    def call() -> int | None:
        example = entry.example.replace(f"mtl-med {command}", prog)
        parser = _Parser(prog=prog, **_texts(entry.summary, example))
        _fill(parser, entry)
        args = parser.parse_args(argv)
        return args.run(args)

    return guard(call, debug="--debug" in argv)


def guard(call: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run `call` and turn what it raises into one sentence on stderr and an exit code.

    Args:
        call: returns an exit code, or None for 0.
        debug: show the traceback too.

    Returns:
        The exit code (see `mtl_med.errors`).
    """
    _print_anything()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mtl_med").setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        code = call()
        sys.stdout.flush()
        return EXIT_OK if code is None else code
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _leave_pipe()
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)


def _print_anything() -> None:
    """Let a terminal that lacks a letter (an arrow in ASCII, the bytes of a path) show an escape in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _explain(error: Exception) -> int:
    ours = find_error(error)
    if ours is not None:
        sys.stderr.write(f"error: {ours}\n")
        return ours.exit_code
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mtl_med"):
        message = f"error: the module '{error.name}' is missing. See what to install with: mtl-med doctor\n"
        sys.stderr.write(message)
        return EXIT_OUR_FAULT
    text = " ".join(str(error).split())
    sys.stderr.write(
        f"error: unexpected {type(error).__name__}: {text}. "
        "This is a fault of mtl_med; run again with --debug for the traceback.\n"
    )
    return EXIT_OUR_FAULT


def _leave_pipe() -> int:
    """The reader (`| head`) has seen enough; keep the interpreter's last flush from complaining."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK
