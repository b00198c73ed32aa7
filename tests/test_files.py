"""Files are whole or absent; names are safe; weights cannot run code; what is shipped is found."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from pathlib import Path

import pytest

from mtl_med import files
from mtl_med.errors import ModelError, OutputError, UsageError


def test_atomic_path_writes_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.nii.gz"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith("b.nii.gz")
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["b.nii.gz"]


def test_atomic_path_gives_the_usual_permissions(tmp_path: Path) -> None:
    files.write_text(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ValueError, match="half way"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write: .*Free some space") as caught,
        files.atomic_path(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "way").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        files.write_text(tmp_path / "way" / "file", "x")


def test_json_is_byte_stable_and_readable(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "Ä"})
    expected = '{\n  "b": [\n    1,\n    2.5\n  ],\n  "a": "Ä"\n}\n'
    assert (tmp_path / "a.json").read_bytes() == expected.encode()
    assert files.read_json(tmp_path / "a.json") == {"b": [1, 2.5], "a": "Ä"}


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"{", "is not valid JSON"), (b"\xff\xfe", "is not valid JSON")],
    ids=["missing", "broken", "binary"],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match=f"a.json: {message}"):
        files.read_json(tmp_path / "a.json")


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's own example
    assert files.sha256_file(tmp_path / "abc") == files.sha256_bytes(b"abc") == known
    assert hashlib.sha256(b"abc").hexdigest() == known


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pt_7", "pt_7"),
        ("Müller, Anna", "Muller_Anna"),
        ("../../etc/passwd", "etc_passwd"),
        ("a\0b/c\\d", "a_b_c_d"),
        ("..hidden", "hidden"),
        ("CON", "x_CON"),
        ("nul.txt", "x_nul.txt"),
        ("1.2.840+x-y", "1.2.840+x-y"),
    ],
)
def test_safe_name(text: str, name: str) -> None:
    assert files.safe_name(text) == name


@pytest.mark.parametrize("text", ["", "...", "///", "患者", "a" * 500])
def test_safe_name_is_never_empty_or_long(text: str) -> None:
    name = files.safe_name(text)
    assert 0 < len(name) <= 64 and name not in {".", ".."} and "/" not in name


def test_unprintable_names_stay_apart() -> None:
    assert files.safe_name("患者") != files.safe_name("患")


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "link/x"])
def test_within_refuses_to_leave(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="leads outside"):
        files.within(root, relative)


def test_within_stays(tmp_path: Path) -> None:
    assert files.within(tmp_path, "a/../b") == tmp_path.resolve() / "b"


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_weights_cannot_run_code(tmp_path: Path) -> None:
    import torch

    trap = tmp_path / "sprung"
    torch.save({"model": Canary(trap)}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Canary(trap)))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(ModelError, match=rf"{name}: cannot be read as weights"):
            files.load_weights(tmp_path / name)
    assert not trap.exists()
    pickle.loads((tmp_path / "evil.pkl").read_bytes())
    assert trap.exists(), "the trap itself works"


@pytest.mark.parametrize("key", ["", "model", "state_dict"])
def test_weights_are_found(tmp_path: Path, key: str) -> None:
    import torch

    state = {"layer.weight": torch.arange(6.0).reshape(2, 3)}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "m.pt")
    loaded = files.load_weights(tmp_path / "m.pt")
    assert list(loaded) == ["layer.weight"]
    assert torch.equal(loaded["layer.weight"], state["layer.weight"])


def test_weights_that_are_none(tmp_path: Path) -> None:
    import torch

    with pytest.raises(ModelError, match=r"m.pt: there are no weights. Train first"):
        files.load_weights(tmp_path / "m.pt")
    torch.save({"epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        files.load_weights(tmp_path / "m.pt")


def test_shipped_in_the_checkout(root: Path) -> None:
    assert files.shipped("recipes") == root / "data_prep"
    assert files.shipped("bundles") == root / "bundles"
    with pytest.raises(UsageError, match=r"'recipe'.*Did you mean recipes\?"):
        files.shipped("recipe")
