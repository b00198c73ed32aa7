"""`mtl-med doctor`: versions, devices, memory, and what is missing with the command that brings it."""

from __future__ import annotations

import argparse
import configparser
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtl_med import __version__
from mtl_med.errors import EXIT_OK, EXIT_OUR_FAULT

__all__ = ["Requirement", "add_arguments", "requirements", "run", "version_tuple"]

DISTRIBUTION = "mtl_med"
CHECKOUT_SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
PYTHON_REQUIRED = (3, 11)
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)\s*(?:>=\s*(?P<minimum>[\w.]+))?[^;]*(?:;.*extra == [\"'](?P<extra>\w+))?"
)


@dataclass(frozen=True)
class Requirement:
    """A package that mtl_med uses.

    Args:
        name: name for pip.
        minimum: lowest version that will do; empty for any.
        extra: the optional extra that it belongs to; empty for a package that is always needed.
        found: version that is installed; None when it is missing.
    """

    name: str
    minimum: str
    extra: str
    found: str | None

    @property
    def fulfilled(self) -> bool:
        """Whether it is installed and recent enough."""
        return self.found is not None and version_tuple(self.found) >= version_tuple(self.minimum)

    @property
    def verdict(self) -> str:
        """One word or two for the table."""
        return "ok" if self.fulfilled else "missing" if self.found is None else "too old"


def version_tuple(version: str) -> tuple[int, ...]:
    """The numbers of a release, "2.13.0+cpu" -> (2, 13, 0); what follows a letter or `+` does not count."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def requirements(lines: list[str] | None = None) -> list[Requirement]:
    """What mtl_med asks for, with what is there.

    Args:
        lines: requirements in the form of pip; default: what mtl_med declares. Empty when it is not installed.
    """
    if lines is None:
        lines = _declared()
    matches = [match for line in lines if (match := _REQUIREMENT.match(line))]
    return [
        Requirement(match["name"], match["minimum"] or "", match["extra"] or "", _found(match["name"]))
        for match in matches
    ]


def _declared() -> list[str]:
    """Requirements of the installed mtl_med; in a checkout those of its setup.cfg, which may be newer."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return _of_setup(CHECKOUT_SETUP) if CHECKOUT_SETUP.is_file() else lines


def _of_setup(path: Path) -> list[str]:
    config = configparser.ConfigParser(interpolation=None)
    config.read(path, encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    for extra, members in config["options.extras_require"].items():
        lines += [f'{line}; extra == "{extra}"' for line in members.split("\n") if line]
    return [line for line in lines if line]


def _found(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med doctor`: none."""


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0 when everything that is required is there, 1 otherwise."""
    del args
    found = requirements()
    needed = [item for item in found if not item.extra]
    problems = list(_problems(needed))
    print(f"mtl_med {__version__} in {Path(__file__).resolve().parent}")
    print(f"Python {platform.python_version()} in {sys.prefix}\n")
    _print_table(needed)
    for extra in sorted({item.extra for item in found if item.extra}):
        print(f"\noptional: {extra}")
        members = [item for item in found if item.extra == extra]
        _print_table(members)
        if not all(item.fulfilled for item in members):
            print(f"  to get it: {_pip(f'{DISTRIBUTION}[{extra}]')}")
    print()
    for line in _machine():
        print(line)
    print("\n" + ("\n".join(problems) if problems else "Everything that is required is here."))
    return EXIT_OUR_FAULT if problems else EXIT_OK


def _problems(needed: list[Requirement]) -> Iterator[str]:
    if sys.version_info < PYTHON_REQUIRED:
        yield f"Python is too old: found {platform.python_version()}, needed 3.11: sudo apt install python3.11-venv"
    if not needed:
        yield f"mtl_med is not installed: {sys.executable} -m pip install -c constraints.txt -e ."
    lacking = [item for item in needed if not item.fulfilled]
    if lacking:
        wanted = " ".join(f"'{item.name}>={item.minimum}'" if item.minimum else item.name for item in lacking)
        yield f"missing or too old: {_pip(wanted, quote=False)}"


def _pip(what: str, *, quote: bool = True) -> str:
    return f"{sys.executable} -m pip install " + (f"'{what}'" if quote else what)


def _print_table(items: list[Requirement]) -> None:
    for item in items:
        minimum = f">= {item.minimum}" if item.minimum else "any"
        print(f"  {item.name:<18}{item.found or '-':<16}{minimum:<12}{item.verdict}")


def _machine() -> Iterator[str]:
    yield f"processor   {os.cpu_count()} threads ({platform.machine()})"
    yield from _devices()
    memory = _memory_gib()
    if memory:
        yield f"memory      {memory[0]:.1f} of {memory[1]:.1f} GiB available"
    disk = shutil.disk_usage(Path.cwd())
    yield f"disk        {disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free in {Path.cwd()}"


def _memory_gib() -> tuple[float, float] | None:
    """Available and total memory, GiB; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line}
    return kib["MemAvailable"] / 2**20, kib["MemTotal"] / 2**20


def _devices() -> Iterator[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield f"torch       cannot be imported: {error}"
        return
    yield f"torch       {torch.get_num_threads()} threads"
    yield f"bf16        {_bf16_on_cpu()}"
    count = torch.cuda.device_count()
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16 only"
        yield f"GPU {index}       {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
    if not count:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        yield f"GPU         none (torch is {build})"


def _bf16_on_cpu() -> str:
    """What training with `precision auto` decides by."""
    try:
        from mtl_med.training.runtime import cpu_has_fast_bf16
    except (ImportError, OSError) as error:
        return f"cannot be told: {error}"
    return "in the processor's hardware" if cpu_has_fast_bf16() else "not in the processor's hardware"
