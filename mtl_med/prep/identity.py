"""De-identification of what leaves preparation: names by a secret key, and texts without what tells who somebody is.

Source: DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile. Preparation writes new files and copies
no DICOM header into them, so that what the profile removes (X) or empties (Z) is simply not written: names, dates,
times, addresses, institutions, staff, devices, accession numbers and every free text. What it replaces (D, U) becomes a
pseudonym: cases, patients, identifiers, and structures whose names are not words of the table. What is kept: voxels,
geometry, doses, standard names, prescriptions and numbers of fractions. The pixels themselves are not looked at (no
Clean Pixel Data option), and faces are cut off only where `mtl_med.prep.deface` is asked for.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from hashlib import sha256
from pathlib import Path

from mtl_med.errors import OutputError, UsageError

__all__ = ["Pseudonyms", "is_pseudonym", "key_file"]

_HEADER = "mtl_med key 1"
_KEY_BYTES = 32


def key_file(study: Path) -> Path:
    """Where the key of a study lies: beside its folder, never inside."""
    study = study.resolve()
    return study.parent / f"{study.name}.key"


class Pseudonyms:
    """Names that say nothing to whoever lacks the key, and are the same in each run with it.

    Each is the beginning of an HMAC-SHA256 of what it stands for.

    Args:
        key: at least 16 secret bytes.

    Raises:
        UsageError: the key is too short to keep a secret.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise UsageError(f"a key of {len(key)} bytes keeps no secret", fix="Use 16 bytes or more, at random")
        self._key = key

    def __repr__(self) -> str:
        """Without the key: this may stand in a log."""
        return "Pseudonyms(...)"

    def case_id(self, patient_id: str, *more: str) -> str:
        """Id of a case.

        Args:
            patient_id: whose it is.
            more: what tells it from other cases of the patient, such as the UID of the CT series.
        """
        return f"case_{self.token('case', patient_id, *more)}"

    def patient(self, patient_id: str) -> str:
        """A name for a patient, by which all of one patient's cases go to one split."""
        return f"patient_{self.token('patient', patient_id)}"

    def structure(self, original: str) -> str:
        """A name for a structure whose own must not be told; the same in each case that has one called so."""
        return f"ROI_{self.token('structure', original, length=8)}"

    def uid(self, original: str) -> str:
        """A valid DICOM UID in place of another; equal ones stay equal, so that references hold.

        Source: DICOM PS3.5 Annex B.2, UIDs below 2.25 from 128 random bits.
        """
        return f"2.25.{int(self.token('uid', original, length=32), 16)}"

    def token(self, kind: str, *parts: str, length: int = 16) -> str:
        """Hexadecimal digits that stand for `parts`; what one kind of thing gets says nothing about another.

        Args:
            kind: what they are.
            parts: texts; padding of DICOM values does not count.
            length: number of digits, up to 64.
        """
        texts = [kind, *(part.strip(" \0") for part in parts)]
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        message = b"".join(len(data).to_bytes(8, "big") + data for data in encoded)
        return hmac.new(self._key, message, sha256).hexdigest()[:length]

    @classmethod
    def read(cls, path: Path) -> Pseudonyms:
        """With the key of a file.

        Raises:
            UsageError: it is missing, no key, or others may read it.
        """
        if path.exists() and not path.is_file():
            raise UsageError("is no key", where=path, fix="Give the file that an earlier run made")
        try:
            mode = path.stat().st_mode
            lines = path.read_text(encoding="ascii").split("\n")
            key = bytes.fromhex(lines[1]) if lines[0] == _HEADER else b""
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
        except (ValueError, IndexError) as error:
            raise UsageError("is no key", where=path, fix="Give the file that an earlier run made") from error
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise UsageError("others may read this key", where=path, fix=f"chmod 600 {path}")
        if len(key) != _KEY_BYTES:
            raise UsageError("is no key", where=path, fix="Give the file that an earlier run made")
        return cls(key)

    @classmethod
    def read_or_make(cls, path: Path) -> Pseudonyms:
        """With the key of a file, which is made when it is missing: whole or not at all, for its owner alone.

        Runs that start at once, also on several machines with one file system, get the same key.

        Raises:
            UsageError: the file is no key.
            OutputError: it cannot be made.
        """
        if not path.exists():
            _make(path)
        return cls.read(path)


def _make(path: Path) -> None:
    """Write a key under another name and link it to its own, which one of several runs achieves."""
    text = f"{_HEADER}\n{secrets.token_hex(_KEY_BYTES)}\n"
    part = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(part, text)
            _link(part, path)
        except FileExistsError:  # another run was first
            pass
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        fix = "Make the study in a folder that you may write to"
        raise OutputError(f"the key cannot be made: {error.strerror or error}", where=path, fix=fix) from error


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _link(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: not whole for a moment, but still made once
        _write(path, part.read_text(encoding="ascii"))


def is_pseudonym(case_id: str) -> bool:
    """Whether an id has the form of those that `Pseudonyms.case_id` gives."""
    return re.fullmatch(r"case_[0-9a-f]{16}", case_id) is not None
