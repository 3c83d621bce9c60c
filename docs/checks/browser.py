"""Opens pages in headless Chromium, and tells what they said and what they asked for.

One browser shows any number of pages: it is spoken to over a pipe, in Chrome's DevTools protocol.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import F_DUPFD_CLOEXEC, fcntl
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
REQUIRED = "ADAMOFFLOAD_REQUIRE_BROWSER"
_SWITCHES = (
    "--headless",
    "--remote-debugging-pipe",  # it reads commands from descriptor 3 and writes to 4
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
_DOM = "document.documentElement.outerHTML"


@dataclass(slots=True)
class Visit:
    """What came of opening a page.

    Attributes
    ----------
    console : list of str
        Errors and warnings: the page's, and the browser's about it.
    requests : list of str
        Addresses that the page asked for, beside its own.
    answer : object
        What the script asked of the page returned.
    pending : set of str
        The browser's names of the requests that have no answer yet.
    """

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    answer: Any = None
    pending: set[str] = field(default_factory=set)

    def note(self, event: str, said: dict[str, Any]) -> None:
        """Keep what an event of the browser tells."""
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
            self.pending.add(said["requestId"])
        elif event in ("Network.loadingFinished", "Network.loadingFailed"):
            self.pending.discard(said["requestId"])
        elif event == "Runtime.exceptionThrown":
            thrown = said["exceptionDetails"]
            self.console.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            values = (value.get("value", value.get("description")) for value in said["args"])
            self.console.append(" ".join(map(str, values)))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{said['entry']['text']} {said['entry'].get('url', '')}".strip())


class Browser:
    """One tab of a running Chromium, at the other end of two pipes."""

    def __init__(self, commands: int, messages: int, limit_s: float = 60.0) -> None:
        self._commands, self._messages, self._limit_s = commands, messages, limit_s
        self._asked, self._unread, self._loaded = 0, b"", ""
        self._visit, self._tab = Visit(), dict[str, str]()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._tab = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, url: str, script: str = _DOM) -> Visit:
        """Open an address, wait until it is loaded, and answer a script, or what it promises."""
        self._load("about:blank")  # what the last page still says is not this one's
        self._visit = Visit()
        self._load(url)
        self._visit.answer = self.evaluate(script)
        self._visit.requests.remove(url)  # or the others would prove nothing
        return self._visit

    def evaluate(self, script: str) -> Any:
        """Return what a script says of the page that is open."""
        told = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise ValueError(f"the script failed: {told['exceptionDetails']}")
        return told["result"].get("value")

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Show pages in a window of so many pixels, to a reader who prefers light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol, and return its result."""
        self._asked += 1
        command = {"id": self._asked, "method": method, "params": parameters, **self._tab}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._asked:
            pass
        if "error" in message:
            raise ValueError(f"{method}: {message['error']['message']}")
        return message["result"]  # type: ignore[no-any-return]

    def _load(self, url: str) -> None:
        """Open an address, and wait until the page and all that it shows has come."""
        told = self.ask("Page.navigate", url=url)
        if "errorText" in told:
            raise OSError(f"{url} cannot be opened: {told['errorText']}")
        while self._loaded != told["loaderId"] or self._visit.pending:
            self._receive()

    def _receive(self) -> dict[str, Any]:
        """Return the next message, once noted."""
        end = time.monotonic() + self._limit_s
        while b"\0" not in self._unread:
            if not select.select([self._messages], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the browser said nothing for {self._limit_s:g} s")
            got = os.read(self._messages, 1 << 16)
            if not got:
                raise ConnectionError("the browser ended")
            self._unread += got
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        event, said = message.get("method", ""), message.get("params", {})
        if event == "Page.lifecycleEvent" and said["name"] == "load":
            self._loaded = said["loaderId"]
        self._visit.note(event, said)
        return message


@contextmanager
def start(command: str) -> Iterator[Browser]:
    """Run a browser, and end it with all its processes."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Numbers above 4, so that the copies to 3 and 4 overwrite neither of them.
    theirs = [fcntl(fd, F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        pid = os.posix_spawnp(
            command,
            [command, *_SWITCHES, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
                *((os.POSIX_SPAWN_DUP2, ours, fd) for fd, ours in enumerate(theirs, start=3)),
            ],
            setpgroup=0,
        )
        for fd in (theirs_in, theirs_out, *theirs):
            os.close(fd)
        try:
            yield Browser(ours_out, ours_in)
        finally:
            os.killpg(pid, signal.SIGKILL)  # its profile goes with it: there is nothing to save
            os.waitpid(pid, 0)
            os.close(ours_out)
            os.close(ours_in)


def find() -> str | None:
    """Return the browser's command, if one is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def chromium() -> str:
    """Return the browser's command; skip the test without one, or fail where one is required."""
    found = find()
    if found is None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but none of {', '.join(NAMES)} is installed")
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and give its address."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def visit(page: Path) -> Visit:
    """Open a file, served on this machine; the answer is its document as the browser has it."""
    with start(chromium()) as browser, serve(page.parent) as origin:
        return browser.open(f"{origin}/{quote(page.name)}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
