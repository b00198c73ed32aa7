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


@pytest.mark.parametrize("there", [True, False])
def test_files_that_belong_together_come_together(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "a" / "b"
    if there:
        files.write_text(folder / "x", "old")
        files.write_text(folder / "other", "stays")
    with pytest.raises(UsageError, match=rf"^{folder / 'y'}: is wrong"), files.atomic_files(folder) as made:
        (made / "x").write_text("new")
        raise UsageError("is wrong", where=made / "y")
    assert {path.name: path.read_text() for path in folder.glob("*")} == (
        {"x": "old", "other": "stays"} if there else {}
    )
    with files.atomic_files(folder) as made:
        (made / "x").write_text("new")
        (made / "y").write_text("new")
        assert not (folder / "y").exists()
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {"x": "new", "y": "new"} | ({"other": "stays"} if there else {})
    assert not list(tmp_path.rglob(".tmp-*"))


def test_files_that_cannot_be_written_are_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "way").write_text("")
    with pytest.raises(OutputError, match=r"way: is a file, expected"), files.atomic_files(tmp_path / "way") as made:
        (made / "x").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["way"]


PATTERN = {"name": str, "cases": [{"folder": str, "gy?": (int, float)}], "names?": {...: [str]}}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"name": "a", "cases": []}, ""),
        ({"name": "a", "cases": [{"folder": "b", "gy": 2.5, "more": 1}], "names": {"x": ["y"]}, "other": 3}, ""),
        ([], "'all' is []"),
        ({"cases": []}, "'name' is missing"),
        ({"name": None, "cases": []}, "'name' is None"),
        ({"name": "a", "cases": {}}, "'cases' is {}"),
        ({"name": "a", "cases": [{"folder": "b"}, {}]}, "'cases[1].folder' is missing"),
        ({"name": "a", "cases": [{"folder": "b", "gy": "2"}]}, "'cases[0].gy' is '2'"),
        ({"name": "a", "cases": [], "names": {"x": ["y", 3]}}, "'names.x[1]' is 3"),
        ({"name": list(range(99)), "cases": []}, f"'name' is {str(list(range(99)))[:60]}..."),
    ],
)
def test_what_is_not_as_expected_in_json_is_named(value: object, fault: str) -> None:
    assert files.json_fault(value, PATTERN) == fault


def test_a_file_in_the_way_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "way").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        files.write_text(tmp_path / "way" / "file", "x")


def test_json_is_byte_stable_and_readable(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "Ä"})
    expected = '{\n  "b": [\n    1,\n    2.5\n  ],\n  "a": "Ä"\n}\n'
    assert (tmp_path / "a.json").read_bytes() == expected.encode()
    assert files.read_json(tmp_path / "a.json") == {"b": [1, 2.5], "a": "Ä"}


def test_a_path_of_other_bytes_comes_back_from_json(tmp_path: Path) -> None:
    path = os.fsdecode(b"/data/r\xe4w/\xf0\x9f\x98\x80")
    files.write_json(tmp_path / "a.json", {"source": path})
    assert r"/data/r\udce4w/\N{GRINNING FACE}".replace(r"\N{GRINNING FACE}", "\N{GRINNING FACE}") in (
        tmp_path / "a.json"
    ).read_text(encoding="utf-8")
    assert os.fsencode(files.read_json(tmp_path / "a.json")["source"]) == os.fsencode(path)
    assert files.safe_name(os.fsdecode(b"\xff")).startswith("x_")


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


def test_within_refuses_what_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'a\\x00' is no path"):
        files.within(tmp_path, "a\0")


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
