"""Pseudonyms: the same with the same key, nothing without it, and a key that only its owner reads."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import safe_name
from mtl_med.prep.identity import Pseudonyms, key_file

KEY = bytes(range(32))


@pytest.fixture
def names() -> Pseudonyms:
    return Pseudonyms(KEY)


def test_they_are_the_same_with_the_same_key(names: Pseudonyms) -> None:
    again, other = Pseudonyms(KEY), Pseudonyms(KEY[::-1])
    assert names.case_id("MRN 1", "1.2.3") == again.case_id("MRN 1", "1.2.3") != other.case_id("MRN 1", "1.2.3")
    assert names.uid("1.2.3") == again.uid("1.2.3") != other.uid("1.2.3")


def test_known_values(names: Pseudonyms) -> None:
    """They stay over versions: a study that grows keeps its names."""
    import hashlib
    import hmac

    message = b"".join(len(text).to_bytes(8, "big") + text for text in (b"patient", b"MRN 1"))
    assert names.patient("MRN 1") == f"patient_{hmac.new(KEY, message, hashlib.sha256).hexdigest()[:16]}"


def test_they_differ_where_what_they_stand_for_differs(names: Pseudonyms) -> None:
    assert len({names.case_id(*parts) for parts in [("a", "b"), ("ab",), ("a", "", "b"), ("b", "a"), ("a",)]}) == 5
    assert names.patient("a")[-16:] != names.case_id("a")[-16:] != names.structure("a")[-8:]
    assert len({names.token("case", str(number)) for number in range(10_000)}) == 10_000


def test_padding_does_not_count(names: Pseudonyms) -> None:
    assert names.case_id("MRN 1 ") == names.case_id("MRN 1\0") == names.case_id("MRN 1")


def test_they_are_safe_names_and_valid_uids(names: Pseudonyms) -> None:
    for text in ("", "Müller^Jörg", "../..", "1.2.840.10008.1"):
        assert safe_name(names.case_id(text)) == names.case_id(text)
        assert re.fullmatch(r"case_[0-9a-f]{16}", names.case_id(text))
        assert re.fullmatch(r"ROI_[0-9a-f]{8}", names.structure(text))
        assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", names.uid(text))
        assert len(names.uid(text)) <= 64


def test_the_key_is_not_told(names: Pseudonyms) -> None:
    assert KEY.hex() not in repr(names) and repr(KEY) not in repr(names)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(UsageError, match="15 bytes keeps no secret"):
        Pseudonyms(bytes(15))


def test_the_key_lies_beside_the_study_for_its_owner_alone(tmp_path: Path) -> None:
    path = key_file(tmp_path / "study")
    assert path == (tmp_path / "study.key").resolve()
    made = Pseudonyms.read_or_make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    again = Pseudonyms.read_or_make(path)
    assert path.read_bytes() == content
    assert made.case_id("a") == again.case_id("a") == Pseudonyms.read(path).case_id("a")
    assert [item.name for item in tmp_path.iterdir()] == ["study.key"], "nothing else is left"
    other = Pseudonyms.read_or_make(tmp_path / "other.key")
    assert other.case_id("a") != made.case_id("a")


def test_runs_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mtl_med.prep.identity import Pseudonyms; sys.stdin.readline();"
        "print(Pseudonyms.read_or_make(Path(sys.argv[1])).case_id('a'))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "study.key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [run.communicate("go\n", timeout=60)[0].strip() for run in runs]
    assert len(set(told)) == 1 and told[0].startswith("case_")


def test_without_hard_links_a_key_is_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    Pseudonyms.read_or_make(tmp_path / "study.key")
    assert stat.S_IMODE((tmp_path / "study.key").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"mtl_med key 1\n", b"mtl_med key 1\nzz\n", b"mtl_med key 1\nabcd\n", b"key\n" + b"ab" * 32, b"\xff\xfe\n\n"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is no key"):
        Pseudonyms.read_or_make(path)
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.key"
    Pseudonyms.read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others may read this key. chmod 600"):
        Pseudonyms.read(path)


def test_a_key_that_is_missing_or_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Pseudonyms.read(tmp_path / "study.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the key cannot be made"):
        Pseudonyms.read_or_make(tmp_path / "file" / "study.key")
