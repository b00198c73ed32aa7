"""`mtl-med compare` as a process of its own, with the fake trainer in place of MONAI's.

python drive.py PROTOCOL --study ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from mtl_med import cli
from mtl_med.comparison import command


def fake_command(configs: object, args_file: Path) -> list[str]:
    return [sys.executable, "-S", str(Path(__file__).with_name("fake_trainer.py")), str(args_file)]


def no_trial(*_: object) -> None:
    """A made-up bundle has nothing to build."""


def main(words: list[str]) -> int:
    command.monai_command = fake_command
    command.try_rows = no_trial
    return cli.main(["compare", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
