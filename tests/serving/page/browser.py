"""A real headless Chromium, driven over its DevTools protocol: it clicks and types as people do."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
OPTIONS = ("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
           "--disable-dev-shm-usage", "--disable-background-networking", "--force-prefers-reduced-motion",
           "--disable-component-update", "--disable-sync", "--no-default-browser-check")  # fmt: skip
STARTS_SECONDS = 120
# Answers when a condition holds; what changes no document, as the end of a stream, is looked for once a frame.
WHEN = """new Promise((resolve) => {
  const look = () => {
    let found = null;
    try { found = (() => (%s))(); } catch {}
    if (found) resolve(found); else requestAnimationFrame(look);
  };
  look();
})"""
# Of what a selector finds, the last that is seen and has the text, in it or as its label.
PICK = """(selector, text) => [...document.querySelectorAll(selector)]
  .filter((one) => one.checkVisibility() && (one.textContent + (one.ariaLabel ?? "")).includes(text)).at(-1)"""
PLACE = """(one) => {
  one.scrollIntoView({ block: "center" });
  const { x, y, width, height } = one.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
}"""
CHOOSE = """(selector, value) => {
  const list = document.querySelector(selector);
  list.value = value;
  for (const kind of ["input", "change"]) list.dispatchEvent(new Event(kind, { bubbles: true }));
}"""


class Gone(Exception):
    """The document that was asked is not there any more."""


class Browser:
    """One page of it. `errors`: what its console was told of errors, those of its policy included."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, timeout_seconds: float = 120, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._connection.recv(timeout=timeout_seconds))
            if told.get("id") == number:
                if "navigated" in str(told.get("error")):
                    raise Gone
                assert "error" not in told, (method, told["error"])
                return dict(told["result"])
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        given = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(given["exceptionDetails"])[:500])
        elif told.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.js("window.before = true")
        self.call("Page.navigate", url=url)
        self.until("!window.before && document.readyState === 'complete'")

    def js(self, expression: str, timeout_seconds: float = 120) -> Any:
        """The value of an expression on the page."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
                         timeout_seconds=timeout_seconds)  # fmt: skip
        assert "exceptionDetails" not in told, (expression, told["exceptionDetails"])
        return told["result"].get("value")

    def until(self, condition: str, timeout_seconds: float = 240) -> Any:
        """Wait until a condition holds."""
        try:
            while True:
                try:
                    return self.js(WHEN % condition, timeout_seconds)
                except Gone:  # another document comes in its place
                    continue
        except TimeoutError:
            pytest.fail(f"never came: {condition}\nerrors: {self.errors}\npage: {self.js('document.body.innerText')}")

    def click(self, selector: str, text: str = "") -> None:
        """Click on what a selector finds, where it stands; of several, on the last that has the text."""
        found = _called(PICK, selector, text)
        self.until(f"{found} && !{found}.disabled")
        x, y = self.js(f"({PLACE})({found})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put a text where there may be one already."""
        self.click(selector)
        self.js(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press(self, name: str) -> None:
        codes = {"Enter": 13, "Escape": 27}
        text = {"text": "\r"} if name == "Enter" else {}
        about = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def choose(self, selector: str, value: str) -> None:
        """Choose an entry of a list."""
        self.until(f"document.querySelector({json.dumps(f'{selector} option[value={json.dumps(value)}]')})")
        self.js(_called(CHOOSE, selector, value))

    def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def _called(function: str, *given: str) -> str:
    return f"({function})({', '.join(map(json.dumps, given))})"


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile. Skips the test where there is none."""
    program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    folder.mkdir(parents=True, exist_ok=True)
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()  # it does not run as root otherwise
    command = [program, *OPTIONS, *root, f"--user-data-dir={folder}", "about:blank"]
    environment = os.environ | {"HOME": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = _address(process)
        assert process.stderr is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        pages = requests.get(f"{address}/json/list", timeout=STARTS_SECONDS).json()
        target = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        with connect(target, max_size=1 << 26, compression=None) as connection:
            yield Browser(connection)
    finally:
        process.terminate()
        process.wait(timeout=120)


def _address(process: subprocess.Popen[str]) -> str:
    """Where it listens, which it tells when it does."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("DevTools listening on ws://"):
            return "http://" + line.split("ws://")[1].split("/")[0]
    raise AssertionError("".join(said[-20:]))
