"""A judge or data that is missing is a skip with its reason, and a failure where everything must be present."""

from __future__ import annotations

from pathlib import Path

import pytest

CASES = {
    "judge": ("def test(require_judge): require_judge('no-such-judge')", "the judge 'no-such-judge' is not installed"),
    "shared": ("def test(shared_dir): pass", "the shared data are not at"),
    "patients": ("def test(openkbp_source): pass", "the shared data are not at"),
}


@pytest.mark.parametrize(("strict", "word"), [("0", "skipped"), ("1", "REQUIRE_JUDGES=1, but")])
@pytest.mark.parametrize("case", CASES)
def test_missing_things(run_python, root: Path, tmp_path: Path, case: str, strict: str, word: str) -> None:
    source, reason = CASES[case]
    (tmp_path / "test_probe.py").write_text(source + "\n")
    env = {"REQUIRE_JUDGES": strict, "MTL_MED_SHARED": str(tmp_path / "nowhere")}
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", root / "setup.cfg", "--rootdir", tmp_path]
    done = run_python("-m", "pytest", *options, tmp_path / "test_probe.py", env=env)
    assert (done.returncode, word in done.stdout, reason in done.stdout) == (int(strict), True, True), done.stdout


def test_judges_that_are_there(require_judge) -> None:
    assert Path(require_judge("nibabel")).name == "__init__.py"
    assert Path(require_judge("sh")).is_absolute()
