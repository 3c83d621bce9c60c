"""Opens a page in headless Chromium, and tells what it said and what it asked for.

Chromium's own switches are enough: the page's console goes to standard error, and a net log lists
every request.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
REQUIRED = "ADAMOFFLOAD_REQUIRE_BROWSER"
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=2000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
_CONSOLE = re.compile(r"CONSOLE[:(]\S* (.*)")  # CONSOLE:1] "text", source: address (line)


@dataclass(frozen=True)
class Visit:
    """What came of opening a page.

    Attributes
    ----------
    dom : str
        The document as the browser understood it.
    console : list of str
        What the page said.
    requests : list of str
        Addresses that the page asked for, beside its own.
    """

    dom: str
    console: list[str]
    requests: list[str]


def chromium() -> str:
    """Return the browser's command; skip the test without one, or fail where one is required."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but none of {', '.join(NAMES)} is installed")
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def visit(page: Path, folder: Path) -> Visit:
    """Open a file, served on this machine; `folder` is where the browser may write."""
    handler = partial(_Quiet, directory=str(page.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        try:
            return _visit(f"{origin}/{quote(page.name)}", origin, folder)
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _visit(url: str, origin: str, folder: Path) -> Visit:
    net_log = folder / "net.json"
    done = subprocess.run(
        [
            chromium(),
            *_QUIET,
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={net_log}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    said = done.stderr.decode("utf-8", "replace").splitlines()
    asked = _requests(json.loads(net_log.read_text("utf-8")), origin)
    assert asked[0] == url  # or the log would prove nothing
    return Visit(
        done.stdout.decode("utf-8"),
        [found[1] for line in said if (found := _CONSOLE.search(line))],
        asked[1:],
    )


def _requests(log: dict[str, Any], origin: str) -> list[str]:
    """Return what the page asked for, itself first; the browser also asks for things of its own."""
    begins = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [e.get("params") or {} for e in log["events"] if e["type"] == begins]
    return [
        params["url"]
        for params in started
        if params.get("initiator") == origin or params.get("request_type") == "main frame"
    ]
