"""Headless Chromium, driven through chromedriver by the WebDriver protocol over plain HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ENTER, SHIFT, ESCAPE, TAB = "\ue007", "\ue008", "\ue00c", "\ue004"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,860",
    "--lang=en-US",
    "--accept-lang=en-US",
)
WAIT_S = 10.0


def missing_programs() -> str:
    """Why no browser can be started here; empty if one can."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    packages = "apt-get install chromium chromium-driver"
    return f"{' and '.join(absent)} not on PATH ({packages})" if absent else ""


class Browser:
    """Use as a context manager. `profile`: an empty folder for Chromium's own files."""

    def __init__(self, profile: Path) -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # Chromium's, too: a full pipe would stop it
            text=True,
        )
        self._session = ""
        try:
            self._url = f"http://127.0.0.1:{self._port()}"
            options = {
                "binary": shutil.which("chromium"),
                "args": [*FLAGS, f"--user-data-dir={profile}"],
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "timeouts": {"script": 15_000, "pageLoad": 15_000},
            }
            opened = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end_driver()
            raise
        self._session = f"/session/{opened['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._call("DELETE", self._session)
        self._end_driver()

    def open(self, url: str) -> None:
        """Load a page anew; what earlier pages logged is forgotten."""
        self.logs("browser")
        self.logs("performance")
        self._post(f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a function body in JavaScript returns, promises awaited."""
        body = {"script": script, "args": list(arguments)}
        return self._post(f"{self._session}/execute/sync", body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post(
            f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters}
        )

    def type(self, selector: str, keys: str) -> None:
        """Real key presses in the first element that the selector finds."""
        found = {"using": "css selector", "value": selector}
        (element,) = self._post(f"{self._session}/element", found).values()
        self._post(f"{self._session}/element/{element}/value", {"text": keys})

    def press(self, key: str, modifier: str = "") -> None:
        """One key in whatever has the focus."""
        keys = [modifier, key] if modifier else [key]
        actions = [{"type": "keyDown", "value": value} for value in keys]
        actions += [{"type": "keyUp", "value": value} for value in reversed(keys)]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._post(f"{self._session}/actions", {"actions": [source]})

    def wait_for(self, expression: str, timeout_s: float = WAIT_S) -> Any:
        """The JavaScript expression's value once it is true; fails with the page's text."""
        start = time.monotonic()
        while True:
            value = self.run(f"return {expression}")
            if value:
                return value
            if time.monotonic() - start > timeout_s:
                text = self.run("return document.body.innerText")
                raise AssertionError(f"{expression} did not come true; the page reads:\n{text}")
            time.sleep(0.02)

    def screenshot(self, file: Path) -> bytes:
        image = base64.b64decode(self._call("GET", f"{self._session}/screenshot"))
        file.write_bytes(image)
        return image

    def view(self, width: int, height: int, touch: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )

    def prefer(self, theme: str) -> None:
        """The system's theme, `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def speak(self, language: str) -> None:
        """The browser's language, such as `zh-CN`; felt by pages opened later."""
        agent = self.run("return navigator.userAgent")
        self.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call."""
        return self._post(f"{self._session}/se/log", {"type": kind})

    def console_errors(self) -> list[str]:
        return [entry["message"] for entry in self.logs("browser") if entry["level"] == "SEVERE"]

    def requested_hosts(self) -> set[str]:
        """Scheme and host of all the page asked for, data: and blob: included."""
        events = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        urls = [
            urlsplit(event["params"]["request"]["url"])
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return {f"{url.scheme}://{url.netloc}" for url in urls}

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return int(match[1])
        raise RuntimeError("chromedriver ended without telling its port")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"content-type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            with error:
                value = json.load(error)["value"]
            raise RuntimeError(f"{value['error']}: {value['message']}") from None

    def _end_driver(self) -> None:
        end: Callable[[], None]
        for end in (self._driver.terminate, self._driver.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._driver.wait(10)
                break
        if self._driver.stdout is not None:
            self._driver.stdout.close()
