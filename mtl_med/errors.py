"""Errors that say what is wrong, where, why and how to mend it, and the exit codes they end in."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

__all__ = [
    "EXIT_ALL_FAILED",
    "EXIT_CANNOT_WRITE",
    "EXIT_INTERRUPTED",
    "EXIT_NOTHING_FOUND",
    "EXIT_OK",
    "EXIT_OUR_FAULT",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "CaseError",
    "GeometryError",
    "ModelError",
    "MtlMedError",
    "NothingFoundError",
    "OutputError",
    "UsageError",
    "find_error",
    "install_excepthook",
    "nearest",
]

EXIT_OK = 0
EXIT_OUR_FAULT = 1
EXIT_USAGE = 2
EXIT_NOTHING_FOUND = 3
EXIT_SOME_FAILED = 4
EXIT_ALL_FAILED = 5
EXIT_CANNOT_WRITE = 6
EXIT_INTERRUPTED = 130


class MtlMedError(Exception):
    """Base of every error that a user can cause and mend.

    Args:
        what: one clause that names the fault, with found and expected values.
        where: the file, case or option it was found in.
        why: the reason, where it is not plain from `what`.
        fix: what the user can do about it, as an imperative.
    """

    exit_code = EXIT_OUR_FAULT

    def __init__(self, what: str, *, where: str | Path = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, str(where), why, fix
        super().__init__(self.sentence())

    def __reduce__(self) -> tuple:
        """Keep the keyword parts when an error crosses a process border."""
        return _rebuild, (type(self), self.what, self.where, self.why, self.fix)

    def sentence(self) -> str:
        """The whole message on one line: where, what, why, how to mend it."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        tail = [part for part in (self.why, self.fix) if part]
        return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in [head, *tail])


def _rebuild(kind: type[MtlMedError], what: str, where: str, why: str, fix: str) -> MtlMedError:
    return kind(what, where=where, why=why, fix=fix)


class UsageError(MtlMedError):
    """A command, option or configuration that cannot be meant."""

    exit_code = EXIT_USAGE


class ModelError(UsageError):
    """Weights or a checkpoint that do not belong to this network."""


class NothingFoundError(MtlMedError):
    """A folder that holds no data of the expected kind."""

    exit_code = EXIT_NOTHING_FOUND


class CaseError(MtlMedError):
    """One case that cannot be used; the others go on."""

    exit_code = EXIT_ALL_FAILED


class GeometryError(CaseError):
    """Grids, affines or orientations that do not fit together."""


class OutputError(MtlMedError):
    """The output cannot be written: permissions, a full disk, a path in the way."""

    exit_code = EXIT_CANNOT_WRITE


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A hint that names the known words nearest to `word`, or all of them when none is near."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=count, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(words)}."


def find_error(error: BaseException | None) -> MtlMedError | None:
    """The MtlMedError that caused `error`, looked for along its causes and contexts."""
    while error is not None:
        if isinstance(error, MtlMedError):
            return error
        error = error.__cause__ or error.__context__
    return None


def install_excepthook() -> None:
    """Let an MtlMedError end the process with its sentence and exit code, also from inside MONAI's wrappers."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write("\ninterrupted\n")
            raise SystemExit(EXIT_INTERRUPTED)
        ours = find_error(error)
        if ours is None:
            previous(kind, error, trace)
            return
        sys.stderr.write(f"error: {ours}\n")
        sys.stderr.flush()
        raise SystemExit(ours.exit_code)

    sys.excepthook = hook
