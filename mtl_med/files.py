"""Files that are whole or absent, hashes, safe names, and weights that cannot run code."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_med.errors import ModelError, MtlMedError, OutputError, UsageError, nearest

if TYPE_CHECKING:
    import torch

__all__ = [
    "atomic_files",
    "atomic_path",
    "json_fault",
    "load_weights",
    "read_json",
    "safe_name",
    "sha256_bytes",
    "sha256_file",
    "shipped",
    "within",
    "write_json",
    "write_text",
]

_SHIPPED = {"recipes": "data_prep", "bundles": "bundles"}  # name in the wheel -> name in the checkout
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}

# Read once: to read it means to change it for a moment, which threads would see.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | Path, *, for_owner: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    The temporary name keeps the suffixes of `path`, since writers choose their format by them. After an error nothing
    is left and the old file, if there was one, is untouched.

    Args:
        path: the file.
        for_owner: nobody else may ever read it.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.name[-100:])
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        _flush(temporary)
        temporary.chmod(0o600 if for_owner else 0o666 & ~_UMASK)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_files(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder; on success its files move into `folder`, each over the one of its name.

    For files that belong together: after an error none of them is there, and older ones are as they were. An error that
    names one of the temporary files names the one in `folder` instead.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    staging: Path | None = None
    if folder.exists() and not folder.is_dir():
        raise OutputError("is a file, expected a folder", where=folder, fix="Choose another")
    try:
        beside = folder if folder.is_dir() else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=beside, prefix=".tmp-"))
        yield staging
        folder.mkdir(exist_ok=True)
        for path in sorted(staging.iterdir()):
            os.replace(path, folder / path.name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    except MtlMedError as error:
        if staging is None or Path(error.where).parent != staging:
            raise
        where = folder / Path(error.where).name
        raise type(error)(error.what, where=where, why=error.why, fix=error.fix) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    fix = "Free some space" if error.errno == errno.ENOSPC else "Check the folder's permissions or choose another"
    return OutputError(f"cannot write: {error.strerror or error}", where=path, fix=fix)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def write_text(path: str | Path, text: str, *, for_owner: bool = False) -> None:
    r"""Write UTF-8 text atomically, with newlines as given.

    The bytes of a path that are no UTF-8, which Python holds as lone surrogates, are written as `\udcff`: readable
    everywhere, and in JSON an escape that gives the path back. `for_owner`: nobody else may ever read it.
    """
    with atomic_path(path, for_owner=for_owner) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write readable, byte-stable JSON atomically (keys in the order given, no NaN)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, fix: str = "Mend or rewrite the file") -> Any:
    """Read JSON.

    Args:
        path: the file.
        fix: what the user can do where it is damaged.

    Raises:
        UsageError: the file is missing or is no JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    except (ValueError, RecursionError) as error:  # also text that is no UTF-8, and numbers of thousands of digits
        raise UsageError(f"is not valid JSON: {error}", where=path, fix=fix) from error


def json_fault(value: Any, pattern: Any, name: str = "") -> str:
    """What of a JSON value is not as a pattern says, one clause; "" where all is.

    Args:
        value: as `read_json` gives it.
        pattern: a type or several; `[inner]` for a list; `{...: inner}` for an object with any keys, `{"key": inner,
            "other?": inner}` for one that has the first and may have the second, and any others.
        name: what the value is called in the clause.

    Returns:
        such as "'cases[3].folder' is missing".
    """
    kind: Any = type(pattern) if isinstance(pattern, (list, dict)) else pattern
    if not isinstance(value, kind):
        shown = repr(value)
        return f"'{name.lstrip('.') or 'all'}' is {shown if len(shown) <= 60 else shown[:60] + '...'}"
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(pattern, list):
        parts = [(f"[{number}]", item, pattern[0]) for number, item in enumerate(value)]
    elif isinstance(pattern, dict) and ... in pattern:
        parts = [(f".{key}", item, pattern[...]) for key, item in value.items()]
    elif isinstance(pattern, dict):
        for key, inner in pattern.items():
            if key.removesuffix("?") in value:
                parts.append((f".{key.removesuffix('?')}", value[key.removesuffix("?")], inner))
            elif not key.endswith("?"):
                return f"'{name.lstrip('.')}{'.' if name else ''}{key}' is missing"
    return next((fault for part, item, inner in parts if (fault := json_fault(item, inner, name + part))), "")


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def safe_name(text: str, limit: int = 64) -> str:
    """A file name made of letters, digits, `.`, `_`, `+` and `-` only: never empty, hidden, reserved or a path."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", ascii_text).strip("._")[:limit].strip("._")
    if not name or name.split(".")[0].lower() in _RESERVED:
        name = f"x_{name}" if name else f"x_{sha256_bytes(text.encode(errors='surrogatepass'))[:8]}"
    return name


def within(root: str | Path, relative: str | Path) -> Path:
    """`root / relative`, refused when it leaves `root`.

    Raises:
        UsageError: an absolute path, `..`, a link that leads outside, or what can be no path.
    """
    root = Path(root).resolve()
    try:
        path = (root / relative).resolve()
    except ValueError as error:  # a NUL among the characters
        raise UsageError(f"{str(relative)!r} is no path: {error}", where=root, fix="Use a path inside it") from error
    if not path.is_relative_to(root):
        raise UsageError(f"path '{relative}' leads outside the folder", where=root, fix="Use a path inside it")
    return path


def shipped(kind: str) -> Path:
    """Folder of what comes with the library: `recipes` (facts about data sets) or `bundles` (MONAI bundles).

    A wheel holds them inside the package; a checkout, and so an editable install, beside it.

    Raises:
        UsageError: an unknown kind, or an installation without the folder.
    """
    if kind not in _SHIPPED:
        raise UsageError(f"nothing called '{kind}' is shipped", fix=nearest(kind, _SHIPPED))
    package = Path(__file__).resolve().parent
    for folder in (package / kind, package.parent / _SHIPPED[kind]):
        if folder.is_dir():
            return folder
    raise UsageError(f"the {kind} are missing", where=package, fix="Install mtl_med again")


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict without running code from it.

    Args:
        path: `.safetensors`, or a torch file that holds a state dict, also below the key `model` or `state_dict`.

    Raises:
        ModelError: the file is missing, unreadable, or holds no state dict.
    """
    import torch

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError("there are no weights", where=path, fix="Train first, or give the path of weights") from error
    except ImportError as error:
        raise ModelError("safetensors is not installed", where=path, fix="pip install safetensors") from error
    except Exception as error:
        raise ModelError(f"cannot be read as weights ({type(error).__name__})", where=path) from error
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError("holds no state dict", where=path, fix="Save `network.state_dict()` with torch.save")
    return loaded
