"""Chromium without a window, asked over a pipe: no driver, no port, no network.

With ``--remote-debugging-pipe`` the browser reads commands from file descriptor 3 and answers on 4, JSON
that ends in a zero byte. So a page can be loaded at any width, light or dark, questioned and photographed, and what it
complains about is heard.

    python -m tests.chromium report.html 400 dark picture.png
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
_OFFLINE = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_PATIENCE = 60  # seconds for one answer


class Page:
    """One tab."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._number, self._rest, self._session = 0, b"", ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events that come meanwhile are noted."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._send, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, file: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Loads a file in a window of this size."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.ask("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._next()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def photograph(self, file: Path) -> None:
        """The whole page, from top to bottom."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))

    def print(self, file: Path) -> None:
        """The page on paper."""
        data = self.ask("Page.printToPDF", printBackground=True)["data"]
        file.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"Chromium said nothing for {_PATIENCE} s"
            data = os.read(self._receive, 1 << 20)
            assert data, "Chromium ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, details: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Log.entryAdded":
            self.complaints.append(details["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(details["exceptionDetails"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(details["args"]))
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])


def _pipe() -> tuple[int, int]:
    """Both ends, at numbers that no move to 3 and 4 can hit."""
    ends = os.pipe()
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return reading, writing


@contextmanager
def chromium() -> Iterator[Page]:
    """A browser with one tab, and nothing left of it afterwards."""
    assert CHROMIUM is not None, "there is no chromium"
    ours_in, theirs_out = _pipe()
    theirs_in, ours_out = _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [*_OPTIONS, *_OFFLINE, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # Bash moves the pipes to the numbers at which the browser looks for them (dash knows one digit).
        moved = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out} 2>/dev/null'
        process = subprocess.Popen(["bash", "-c", moved, CHROMIUM, *options], pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Page(ours_out, ours_in)
        finally:
            os.close(ours_out)  # the browser ends when its pipe does
            os.close(ours_in)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    report, wide, scheme, picture = sys.argv[1:]
    with chromium() as page:
        page.open(Path(report), int(wide), dark=scheme == "dark")
        page.photograph(Path(picture))
        print("\n".join(page.complaints))
