"""A real browser for tests: Debian's Chromium over its DevTools protocol, through a pipe and without a driver.

`python -m tests.report.browser PAGE PNG [--click SELECTOR]` takes a picture of a page, as for the README.

The protocol's messages are JSON with a zero byte behind each; the browser reads them from descriptor 3 and writes to 4
(`--remote-debugging-pipe`). That is all that a test here needs, and it works with whatever version is installed.
Source: https://chromedevtools.github.io/devtools-protocol/ (domains Target, Page, Runtime, Log, Network, Input).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # root in a container has no user namespaces; the pages are our own
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",  # WebGL 2 without a graphics card
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # what would leave this machine fails, and is recorded
    "--remote-debugging-pipe",
)
# Puts the pipe's ends where the browser looks for them.
_START = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execvp(sys.argv[3], sys.argv[3:])"
LOCAL = ("file:", "data:", "blob:", "about:")


class BrowserError(Exception):
    """The browser did not do what a test asked for."""


class Browser:
    """One Chromium, in which pages are opened one after the other."""

    def __init__(self, program: str, seconds: float = 60) -> None:
        self.seconds = seconds
        self._profile = tempfile.mkdtemp(prefix="browser-")
        their_input, self._out = _pipe()
        self._in, their_output = _pipe()
        arguments = [program, *SWITCHES, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(their_input), str(their_output), *arguments],
            pass_fds=(their_input, their_output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_input)
        os.close(their_output)
        self._rest = b""
        self._last = 0
        self._pages: dict[str, Page] = {}

    def open(
        self, path: str | Path, *, width: int = 1280, height: int = 1000, dark: bool = False, scale: int = 1
    ) -> Page:
        """Open a file as a user does who clicks it, and wait until it is loaded; `scale`: pixels per CSS pixel."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=theme)
        page.call("Page.navigate", url=Path(path).resolve().as_uri())
        page.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it go to their pages."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        end = time.monotonic() + self.seconds
        while True:
            answer = self._read(end)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return answer["result"]

    def listen(self, seconds: float) -> None:
        """Take in events for a while."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while True:
                self._read(end)

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserError("the browser has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.take(message["method"], message["params"])
        return message

    def close(self) -> None:
        """End the browser and remove its profile."""
        with contextlib.suppress(Exception):
            self.seconds = 5
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One page, with what it asked for and what went wrong in it since it was opened."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.requests: list[str] = []
        self.errors: list[str] = []

    @property
    def left_the_machine(self) -> list[str]:
        """Addresses that were asked for and are neither in the page nor on this disk."""
        return [address for address in self.requests if not address.startswith(LOCAL)]

    def take(self, method: str, event: dict[str, Any]) -> None:
        """Note an event."""
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(item.get("value", item.get("description"))) for item in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}".strip())

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """Value of an expression in the page, promises awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise BrowserError(f"after {seconds:g} s still not: {condition}; errors: {self.errors}")
            self._browser.listen(0.05)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move the mouse, or click, at a place of the window in CSS pixels; `kind`: "move", "click"."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if kind == "click":
            for event in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key, named as `KeyboardEvent.key` names it."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: str | Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)


def _pipe() -> tuple[int, int]:
    """A pipe with numbers beyond 9, so that the browser's 3 and 4 are free."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def main() -> None:
    """Picture of a page, after clicks in it."""
    parser = argparse.ArgumentParser(description="Picture of a page in Chromium.")
    parser.add_argument("page", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--click", action="append", default=[], help="CSS selector of what is clicked first")
    parser.add_argument("--show", default="body", help="CSS selector of what is scrolled to")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="the whole page and not the window alone")
    parser.add_argument("--wait", default="true", help="expression that holds when the page is ready")
    args = parser.parse_args()
    browser = Browser("chromium")
    try:
        page = browser.open(args.page, width=args.width, height=args.height, dark=args.dark)
        for selector in args.click:
            page.run(f"document.querySelector({json.dumps(selector)}).click()")
        page.wait(args.wait)
        page.run(f"document.querySelector({json.dumps(args.show)}).scrollIntoView()")
        browser.listen(0.5)
        page.screenshot(args.png, whole=args.whole)
        if page.errors or page.left_the_machine:
            raise SystemExit(f"errors: {page.errors}; requests: {page.left_the_machine}")
    finally:
        browser.close()


if __name__ == "__main__":
    main()
