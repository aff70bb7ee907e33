"""A real Chromium without a window, driven over its DevTools pipe: nothing is needed beyond the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_S = 60  # a busy machine needs some; who waits longer waits for nothing
# Chromium reads from 3 and writes to 4; through numbers that are neither, as what is given may be either.
_BECOME_CHROMIUM = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium_path() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One tab. A context manager, as it is a process with a profile of its own.

    Attributes:
        complaints: what the console was told of: errors, and refusals by the content policy.
    """

    def __init__(self) -> None:
        path = chromium_path()
        assert path is not None, f"none of {', '.join(NAMES)} is installed"
        self.complaints: list[str] = []
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        flags = (
            "--headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --disable-dev-shm-usage "
            "--no-first-run --hide-scrollbars --disable-background-networking --force-color-profile=srgb"
        )
        become = [sys.executable, "-c", _BECOME_CHROMIUM, str(theirs_in), str(theirs_out), path]
        self._process = subprocess.Popen(
            [*become, *flags.split(), f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._is_loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log"):
            self._call(f"{room}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._call("Browser.close")
        self._process.wait(10)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def look_like(self, width: int, height: int = 900, *, is_dark: bool = False) -> None:
        """A window of this size, in CSS pixels, of a system with a dark or a light theme."""
        is_phone = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[theme])

    def open(self, address: str) -> None:
        """Go there, and wait until the page has loaded."""
        self._is_loaded = False
        self._call("Page.navigate", url=address)
        while not self._is_loaded:
            self._receive(time.monotonic() + _PATIENCE_S)

    def value(self, script: str) -> Any:
        """What a script gives, promises awaited."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, within_s: float = _PATIENCE_S) -> Any:
        """The first value of an expression that is true; while a page is on its way, parts of it may be missing."""
        ends_s = time.monotonic() + within_s
        while time.monotonic() < ends_s:
            found = self.value(f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()")
            if found:
                return found
            self.value("new Promise(done => setTimeout(done, 50))")
        raise AssertionError(f"after {within_s} s not yet true: {script}")

    def press(self, key: str) -> None:
        """A key, as from a keyboard: "Tab", "Enter", " "."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def picture(self, highest: int) -> bytes:
        """The page from its top, at most so high in CSS pixels, as PNG."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], highest), "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            answer = self._receive(until_s)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def _receive(self, until_s: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, until_s - time.monotonic()))
            assert ready, "Chromium does not answer"
            read = os.read(self._from, 1 << 16)
            assert read, "Chromium has ended"
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method = message.get("method")
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Log.entryAdded" and message["params"]["entry"]["level"] in ("error", "warning"):
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        return message
