"""Errors tell where, what, why and how to mend it, survive process borders and end in their exit code."""

from __future__ import annotations

import pickle

import pytest

from mtl_med import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("MtlMedError", 1),
        ("UsageError", 2),
        ("ModelError", 2),
        ("NothingFoundError", 3),
        ("CaseError", 5),
        ("GeometryError", 5),
        ("OutputError", 6),
    ],
)
def test_exit_codes(kind: str, code: int) -> None:
    assert getattr(errors, kind).exit_code == code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.MtlMedError("it broke"), "it broke."),
        (errors.MtlMedError("it broke", where="a.csv"), "a.csv: it broke."),
        (
            errors.MtlMedError("found 2", where="a.csv", why="Three are needed", fix="Add one"),
            "a.csv: found 2. Three are needed. Add one.",
        ),
        (errors.MtlMedError("is it?", fix="Look!"), "is it? Look!"),
    ],
    ids=["what", "where", "all", "own-punctuation"],
)
def test_sentence(error: errors.MtlMedError, sentence: str) -> None:
    assert error.sentence() == str(error) == sentence


def test_pickling_keeps_kind_and_parts() -> None:
    error = pickle.loads(pickle.dumps(errors.GeometryError("a", where="b", why="c", fix="d")))
    assert type(error) is errors.GeometryError
    assert (error.what, error.where, error.why, error.fix) == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("evalute", "Did you mean evaluate?"),
        ("xyz", "Known: demo, evaluate, prep."),
    ],
)
def test_nearest(word: str, hint: str) -> None:
    assert errors.nearest(word, ["prep", "demo", "evaluate"]) == hint


def test_find_error_looks_through_wrappers() -> None:
    inner = errors.UsageError("inner")
    try:
        try:
            raise inner
        except errors.UsageError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as wrapped:
        assert errors.find_error(wrapped) is inner
    assert errors.find_error(RuntimeError("alone")) is None
    assert errors.find_error(None) is None


@pytest.mark.parametrize(
    ("raised", "code", "last_line"),
    [
        ("errors.OutputError('disk full', where='x')", 6, "error: x: disk full."),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("ValueError('other')", 1, "ValueError: other"),
    ],
)
def test_excepthook(run_python, raised: str, code: int, last_line: str) -> None:
    done = run_python("-c", f"from mtl_med import errors; errors.install_excepthook(); raise {raised}")
    assert done.stderr.splitlines()[-1] == last_line
    assert ("Traceback" in done.stderr) == (code == 1)
    assert done.returncode == code
