"""One way for every bundle's tests to call it; each module names its configs as CONFIGS."""

from __future__ import annotations

import pytest

from tests.bundles.bundle_command import Run, words_of


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, forked_python) -> Run:
    """`run("train", "evaluate", output_dir=...)`: what it says; it must end with `code`."""
    folder = request.module.CONFIGS

    def run(*configs: str, code: int = 0, **options: object) -> str:
        done = forked_python.run(*words_of(folder, *configs, **options))
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run
