"""Runs `python ...` commands in forks of itself: what takes long to import is imported once, before any torch work.

Reads one JSON request a line from stdin and answers each with one line: {"run": [arguments], "cwd", "env", "out",
"err"} starts a command and gives its process id; {"wait": pid, "timeout": seconds} gives its exit code, negative for a
signal as `subprocess` does, or null when it has not ended by then.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from typing import Any

PRELOADED = (
    *("fire", "SimpleITK", "nibabel", "pandas", "torch._dynamo", "torch.utils.tensorboard"),
    *("monai.bundle", "monai.engines", "monai.handlers", "monai.inferers", "monai.networks", "monai.transforms"),
    *("mtl_med.evaluation", "mtl_med.inference", "mtl_med.loading", "mtl_med.networks", "mtl_med.training"),
)


def start(request: dict[str, Any]) -> int:
    """Fork; the child runs the command and never returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            code = child(request)
        except BaseException:
            traceback.print_exc()
            code = 1
        os._exit(code)
    return pid


def child(request: dict[str, Any]) -> int:
    """Become the process that `python *request["run"]` would be; returns its exit code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without it
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags, 0o644), descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    words = request["run"]
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, request["cwd"])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            exec(words[1], {"__name__": "__main__"})
        else:
            sys.argv = words
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except BaseException as error:
        code = report(error)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def report(error: BaseException) -> int:
    """What the interpreter does with an exception that nothing catches: the exception hook, and the exit code."""
    if not isinstance(error, SystemExit):
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except SystemExit as exit_request:
            error = exit_request
        else:
            return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    sys.stderr.write(f"{error.code}\n")
    return 1


def wait(pid: int, timeout: float) -> int | None:
    """Exit code of a child, or None when it has not ended in time."""
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an import prints must not be taken for an answer
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if "run" in request else wait(request["wait"], request["timeout"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
