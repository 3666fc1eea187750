"""Headless Chromium for tests of pages: opened, driven, photographed, its console listened to.

    with Browser.start() as browser:                       # skips the test where there is no Chromium
        page = browser.page(width=1400, dark=True)
        page.open("http://127.0.0.1:8000/")                # or a file's: path.as_uri()
        page.choose("input[type=file]", [picture])         # or page.drop("body", [picture])
        page.wait("document.querySelector('output')")      # until it is true of the page
        assert page.evaluate("document.title") == "lit-od"
        page.screenshot(Path("page.png"))                  # the whole page, not only what fits the window
        assert page.complaints == []

Spoken to over a pipe in the Chrome DevTools protocol: no driver, no port and no package is needed.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ABSENT = "no Chromium here: on Debian, apt-get install chromium"
SECONDS = 60.0
"""How long an answer of the browser, or a state of a page, is waited for."""

_FLAGS = (
    "--headless --remote-debugging-pipe --no-first-run --no-default-browser-check --disable-gpu --disable-quic "
    "--disable-dev-shm-usage --disable-background-networking --disable-component-update --disable-sync "
    "--disable-extensions --hide-scrollbars --force-color-profile=srgb"
).split()
_KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowDown": 40}


def chromium() -> str | None:
    """The browser's program; None where none is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running Chromium; each page is a tab of its own that shares nothing with the others."""

    def __init__(self, process: "subprocess.Popen[bytes]", reading: int, writing: int) -> None:
        self._process, self._reading, self._writing = process, reading, writing
        self._received = b""
        self._last = 0
        self._pages: dict[str, Page] = {}

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Self]:
        """A browser with an empty profile, ended with the block. Skips the test where Chromium is absent."""
        program = chromium()
        if program is None:
            pytest.skip(ABSENT)
        flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # which Chromium refuses to root
        to_browser, from_browser = _pipe(), _pipe()
        # The protocol's pipes are descriptors 3 and 4 of the browser.
        shell = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
            process = subprocess.Popen(
                ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={profile}", "about:blank"],
                pass_fds=(to_browser[0], from_browser[1]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            os.close(to_browser[0])
            os.close(from_browser[1])
            browser = cls(process, from_browser[0], to_browser[1])
            try:
                yield browser
            finally:
                browser._stop()

    def page(self, *, width: int = 1400, height: int = 900, dark: bool = False) -> "Page":
        """A fresh tab with a window of so many CSS pixels, whose user prefers light or dark."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.prefer(dark=dark)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call the protocol and wait for the answer; events that come meanwhile go to their pages."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            if "id" not in answer:  # else it answers a call that was given up
                self._tell(answer)

    def listen(self, seconds: float) -> None:
        """Take the events that come within so many seconds."""
        deadline = time.monotonic() + seconds
        with suppress(TimeoutError):
            while True:
                if "id" not in (event := self._next(deadline, "events")):
                    self._tell(event)

    def _tell(self, event: dict[str, Any]) -> None:
        if (page := self._pages.get(event.get("sessionId", ""))) is not None:
            page.hear(event)

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser gave no answer in {SECONDS:g} s to {what}")
            data = os.read(self._reading, 1 << 20)
            if not data:
                raise AssertionError(f"the browser has ended, status {self._process.poll()}")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _stop(self) -> None:
        with suppress(OSError, AssertionError, TimeoutError):
            self.call("Browser.close")
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reading)
        os.close(self._writing)


class Page:
    """A tab.

    Attributes:
        complaints: Console errors and warnings, uncaught exceptions, and what could not be loaded, so far.
        requests: Every address that it has asked for, so far.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the protocol for this page."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, as JSON can hold it; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {_exception(result['exceptionDetails'])}")
        return result["result"].get("value")

    def wait(self, script: str, *, seconds: float = SECONDS) -> None:
        """Wait until an expression is true. Raises AssertionError after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"!!({script})"):
            assert time.monotonic() < deadline, f"not true within {seconds:g} s: {script}; {self.complaints}"
            self._browser.listen(0.05)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, with the mouse."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key: a character, or Enter, Tab, Escape, ArrowDown and the like."""
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        given = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in an `<input type=file>`, as its dialog would."""
        node = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=node["objectId"])

    def drop(self, selector: str, paths: Sequence[Path]) -> None:
        """Drag files or folders from the desktop to an element and let them go there."""
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window so many CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, *, dark: bool) -> None:
        """Let the user prefer dark or light colours."""
        wanted = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def screenshot(self, file: Path) -> None:
        """A PNG of the whole page, from its top to its end, as wide as the window; 8,000 pixels at most."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window; 0 where nothing scrolls sideways."""
        wide: int = self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return max(0, wide)

    def unnamed(self) -> list[str]:
        """Controls and pictures that a screen reader has no name for, as the browser itself computes names."""
        roles = {"button", "link", "textbox", "combobox", "checkbox", "radio", "image", "slider", "searchbox", "table"}
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        named = [(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes
                 if not node["ignored"]]  # fmt: skip
        return [str(role) for role, name in named if role in roles and not str(name or "").strip()]

    def hear(self, event: dict[str, Any]) -> None:
        """Take one event of the protocol."""
        given = event["params"]
        match event["method"]:
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                words = [str(each.get("value", each.get("description", ""))) for each in given["args"]]
                self.complaints.append(f"console.{given['type']}: {' '.join(words)}")
            case "Runtime.exceptionThrown":
                self.complaints.append(f"exception: {_exception(given['exceptionDetails'])}")
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                entry = given["entry"]
                self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}".strip())
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])

    def _middle(self, selector: str) -> tuple[float, float]:
        name = json.dumps(selector)
        self.evaluate(f"document.querySelector({name}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"(box => [box.x, box.y, box.width, box.height])"
                            f"(document.querySelector({name}).getBoundingClientRect())")  # fmt: skip
        return box[0] + box[2] / 2, box[1] + box[3] / 2


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above the descriptors that the browser wants them at."""
    ends = os.pipe()
    above = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return above[0], above[1]
