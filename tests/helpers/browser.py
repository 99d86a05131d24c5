"""A real browser without a window, driven over two pipes by its DevTools protocol: JSON, each message ended by a 0."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --use-fake-device-for-media-stream "
    "--use-fake-ui-for-media-stream --remote-debugging-pipe"
).split()
PATIENCE = 60  # seconds
LAUNCH = """
import os, sys
from fcntl import F_DUPFD, fcntl
ends = [fcntl(int(end), F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in enumerate(ends, 3):  # the browser reads from 3 and writes to 4
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._unread, self._number, self._session = b"", 0, {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for part in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{part}.enable")
        self.call("Page.setInterceptFileChooserDialog", enabled=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def event(self, method: str) -> dict[str, Any]:
        """Return the next event of a kind."""
        while True:
            for place, event in enumerate(self.events):
                if event.get("method") == method:
                    found: dict[str, Any] = self.events.pop(place)["params"]
                    return found
            self.events.append(self._message())

    def open(self, address: str, width: int = 1200, height: int = 900) -> None:
        """Open an address."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.event("Page.loadEventFired")

    def run(self, code: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        look = f"const look = () => ({condition}) ? done(true) : requestAnimationFrame(look); look()"
        self.run(f"new Promise(done => {{ {look} }})")

    def text(self, selector: str) -> str:
        """Return what the first element of a kind says."""
        return str(self.run(f"document.querySelector({selector!r}).innerText"))

    def press(self, key: str, **more: Any) -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]} | more
        event |= {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def choose(self, *files: Path) -> None:
        """Answer the dialog in which a person chooses files."""
        node = self.event("Page.fileChooserOpened")["backendNodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], backendNodeId=node)

    def screenshot(self, file: Path) -> None:
        """Save what is to be seen, the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Return what the page has logged as wrong, and what it has asked of others than its own address."""
        here = self.run("location.origin")
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(parameters))
            if event.get("method") == "Network.requestWillBeSent":
                address = parameters["request"]["url"]
                if not address.startswith((here, f"blob:{here}", "data:")):
                    found.append(address)
        return found

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._read], [], [], PATIENCE)[0], "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start the browser with a fresh profile."""
    assert CHROMIUM
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    ours = (str(from_us), str(to_us))
    command = [sys.executable, "-c", LAUNCH, *ours, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, pass_fds=(from_us, to_us), **silent)
    os.close(from_us)
    os.close(to_us)
    try:
        yield Page(from_browser, to_browser)
    finally:
        os.close(to_browser)  # it ends when nobody drives it any more
        os.close(from_browser)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
