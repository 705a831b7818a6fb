"""A headless Chromium with one page, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
PATIENCE = 20.0  # seconds
_CODES = {"Tab": 9, "Enter": 13, "Escape": 27}


class Browser:
    """See the module.  `console` has what the page logged, its exceptions and violations of its policy; `requests` the
    URLs that it asked for."""

    def __init__(self, directory: Path, *, width: int = 1280, height: int = 1400, dark: bool = False) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        ours, theirs = os.pipe(), os.pipe()  # what we say, what it says
        self._out, self._in = ours[1], theirs[0]
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [
                "bash",  # sh knows descriptors of one digit alone
                "-c",
                f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}',
                "bash",
                CHROMIUM,
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
                *("--remote-debugging-pipe", f"--user-data-dir={directory}", "--disable-extensions"),
                *("--disable-background-networking", f"--window-size={width},{height}", "about:blank"),
            ],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result; AssertionError if it has none."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            said = self._read(end, method)
            if said.get("id") == number:
                assert "error" not in said, said["error"]
                return dict(said["result"])

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        """Give the page so much room."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, program: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        """Return what is shown in an element; empty if there is none."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def until(self, claim: Callable[[], object], what: str) -> None:
        """Wait for something to be true of the page."""
        end = time.monotonic() + PATIENCE
        while not claim():
            assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}; {self.console}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press keys: letters, or `Tab`, `Enter`, `Escape`."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = _CODES.get(key) or (ord(key.upper()) if key.isalnum() else 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """Write what is seen."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _read(self, end: float, what: str) -> dict[str, Any]:
        """Read one message; note what is of interest."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            assert ready, f"Chromium does not answer: {what}"
            octets = os.read(self._in, 1 << 20)
            assert octets, "Chromium has ended"
            self._buffer += octets
        line, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(line)
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.console.append(str(said["params"]["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(said["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(str(said["params"]["entry"]))
        return said
