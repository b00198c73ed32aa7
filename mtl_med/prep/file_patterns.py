"""Patterns of file names that say which case and which structure a file is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtl_med.errors import UsageError, nearest

__all__ = ["ROLES", "FilePatterns", "Found"]

ROLES = ("ct", "dose", "mask_dose", "labels", "structure")
_PARTS = re.compile(r"\*\*/|\*|\{[a-z_]*\}|\.nii\.gz$|[^*{.]+|.")
_SPECIAL = {"**/": r"(?:[^/]+/)*", "*": r"[^/]*", ".nii.gz": r"\.nii(?:\.gz)?"}


@dataclass(frozen=True)
class Found:
    """What a file is.

    Args:
        role: one of ROLES.
        case: name of its case.
        structure: name of its structure; "" for other roles.
    """

    role: str
    case: str
    structure: str = ""


class FilePatterns:
    """What files of a folder are, by their paths.

    `{case}` and `{structure}` stand for a name without `/`, `*` for anything without `/`, `**/` for any folders or
    none; `.nii.gz` at the end for `.nii` too. The whole path below the folder has to fit. Where several patterns fit,
    the first role in the order of ROLES counts, and of its patterns the first.

    Args:
        patterns: role -> pattern or patterns.

    Raises:
        UsageError: an unknown role or placeholder, or a pattern without `{case}`, or no pattern for "ct".
    """

    def __init__(self, patterns: Mapping[str, str | Sequence[str]]) -> None:
        unknown = next((role for role in patterns if role not in ROLES), "")
        if unknown:
            raise UsageError(f"'{unknown}' is nothing that a file can be", where="files", fix=nearest(unknown, ROLES))
        if not patterns.get("ct"):
            raise UsageError("no pattern says which file is the CT", where="files", fix="Give 'ct' a pattern")
        self._patterns = [
            (role, _compiled(pattern, role)) for role in ROLES for pattern in _listed(patterns.get(role, ()))
        ]

    def what(self, path: str) -> Found | None:
        """What a file is; None where no pattern fits.

        Args:
            path: below the folder, with `/`.
        """
        for role, pattern in self._patterns:
            fits = pattern.fullmatch(path)
            if fits:
                return Found(role, fits["case"], fits["structure"] if role == "structure" else "")
        return None


def _listed(patterns: str | Sequence[str]) -> Iterable[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _compiled(pattern: str, role: str) -> re.Pattern[str]:
    wanted = {"case", "structure"} if role == "structure" else {"case"}
    expression, seen = "", set[str]()
    for part in _PARTS.findall(pattern):
        name = part[1:-1] if part.startswith("{") else ""
        if part.startswith("{") and name not in wanted:
            raise UsageError(
                f"'{part}' stands for nothing in '{pattern}'", where=f"files.{role}", fix=nearest(name, wanted)
            )
        if name:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            expression += _SPECIAL.get(part, re.escape(part))
    if seen != wanted:
        raise UsageError(
            f"'{pattern}' does not say where the name of the {' or '.join(sorted(wanted - seen))} stands",
            where=f"files.{role}",
            fix="Put {case} there, and {structure} for structures",
        )
    return re.compile(expression)
