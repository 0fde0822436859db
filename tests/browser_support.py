"""A headless Chromium for tests, without a network: opens a file, asks it, photographs it, says what it tried to load.

Spoken to over a pipe (Chrome DevTools Protocol), so that no port is opened; ends with the `with` block.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (make test installs it: scripts/system_packages.sh)"
)
# A proxy where nothing listens: whatever a page asks of the network fails.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One tab."""

    def __init__(self, to: int, back: int, deadline_s: float) -> None:
        self._to, self._back = to, back
        self._deadline = time.monotonic() + deadline_s
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.events: list[dict] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Load a file and wait until its script says that all is drawn."""
        self._call("Page.navigate", url="about:blank")  # what the page before still had to say, it says now
        self.ask("1")
        self.events.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        self._call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not (
            self.ask("location.protocol") == "file:" and self.ask("document.documentElement.dataset.drawn") == "yes"
        ):
            time.sleep(0.05)

    def media(self, kind: str) -> None:
        """Show the page as for `print` or `screen`."""
        self._call("Emulation.setEmulatedMedia", media="" if kind == "screen" else kind)

    def ask(self, expression: str) -> object:
        """The value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def photograph(self, path: Path, *, whole: bool = False) -> bytes:
        """A PNG of what is in the window, or of the whole page."""
        clip = {}
        if whole:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}}
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        png = base64.b64decode(answer["data"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        return png

    def print(self) -> bytes:
        """A PDF of the page."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    @property
    def requested(self) -> list[str]:
        """Every address the page asked for since it was opened, by scheme and up to 100 characters."""
        return [e["params"]["request"]["url"][:100] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    @property
    def complaints(self) -> list[str]:
        """Exceptions, errors of the console and failed requests."""
        found = []
        ours = {e["params"]["requestId"] for e in self.events if e["method"] == "Network.requestWillBeSent"}
        for event in self.events:
            name, params = event["method"], event["params"]
            request = params.get("requestId") or params.get("entry", {}).get("networkRequestId")
            if request and request not in ours:
                continue  # a request of the page before, given up late
            if name == "Runtime.exceptionThrown" or (name == "Log.entryAdded" and params["entry"]["level"] == "error"):
                found.append(json.dumps(params)[:500])
            if name == "Network.loadingFailed" or (name == "Runtime.consoleAPICalled" and params["type"] == "error"):
                found.append(json.dumps(params)[:500])
        return found

    def _call(self, method: str, **params: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(self._deadline - time.monotonic(), 0.0))
            assert ready, "the browser did not answer in time"
            read = os.read(self._back, 1 << 20)
            assert read, "the browser is gone"
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """Ask it to end itself."""
        self._session = None
        with contextlib.suppress(OSError, AssertionError):
            self._call("Browser.close")


@contextlib.contextmanager
def browser(deadline_s: float = 120.0) -> Iterator[Browser]:
    """A browser of its own with an empty profile; ended, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="sim2sky-chromium-", ignore_cleanup_errors=True) as profile:
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        # The browser wants its pipe at 3 and 4; the shell puts it there and becomes the browser.
        command = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
        process = subprocess.Popen(
            ["bash", "-c", command, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            page = Browser(to_browser, from_browser, deadline_s)
            yield page
            page.close()
        finally:
            os.close(to_browser)
            os.close(from_browser)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
