"""JupyterLab and a headless Chromium for tests, steered over its DevTools protocol."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import websocket  # comes with JupyterLab's server

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NO_CHROMIUM = "no Chromium on the path (.ci/run installs it where it may)"
IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"


class NavigatedError(Exception):
    """The page was reloaded while a script of it ran."""


class Page:
    """One page of a browser: `page("document.title")` runs JavaScript and returns its value,
    awaited.
    """

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=90, suppress_origin=True)
        self.numbers, self.complaints = itertools.count(1), []
        for domain in ("Runtime", "Log", "Page"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (said := json.loads(self.socket.recv())).get("id") != number:
            self._note(said.get("method"), said.get("params"))
        if "navigated" in said.get("error", {}).get("message", ""):
            raise NavigatedError(said)
        assert "error" not in said, said
        return said["result"]

    def _note(self, kind, event):
        if kind == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.complaints.append(
                details.get("exception", {}).get("description") or details["text"]
            )
        elif kind == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.complaints.append(
                " ".join(str(a.get("value", a.get("description"))) for a in event["args"])
            )
        elif kind == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.complaints.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")

    def __call__(self, script):
        result = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script, seconds=60):
        end, value = time.monotonic() + seconds, None
        while not value:
            assert time.monotonic() < end, f"never true: {script}"
            with contextlib.suppress(NavigatedError):  # a reload in the middle: ask the new page
                value = self(script)
            if not value:
                time.sleep(0.2)
        return value


@contextlib.contextmanager
def running(*command, log, env=None):
    """A program and all that it starts, ended on the way out."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*map(str, command)], stdout=file, stderr=file, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fetch(address, seconds=60, process=None, log=None):
    """The body of an address, as soon as it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@contextlib.contextmanager
def jupyterlab(folder, notebook):
    """The address of JupyterLab with `folder/notebooks/<notebook>`, as a newcomer has it: no
    settings, no news.
    """
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The kernel gets what a user's would have: its own backend for figures, and progress bars.
    env = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "SEGLIB_PROGRESS")}
    env |= {
        "SEGLIB_SMOKE": "1",
        "PYTHONPATH": str(ROOT),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    for name in (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    ):
        env[name] = str(folder / name.lower())
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}"]
    log = folder / "lab.log"
    with running(sys.executable, "-m", "jupyterlab", *options, log=log, env=env) as process:
        fetch(f"http://127.0.0.1:{port}/api/status?token=secret", process=process, log=log)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{notebook}?token=secret"


@contextlib.contextmanager
def browser(folder, size="1200,6000"):
    """A page of a headless browser; its profile and log lie in `folder`."""
    profile, log = folder / "profile", folder / "chromium.log"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    options += [f"--window-size={size}", f"--user-data-dir={profile}", "about:blank"]
    with running(CHROMIUM, *options, log=log) as process:
        end = time.monotonic() + 60
        # Chromium makes the file first and writes into it then: port, and a path.
        port_file, lines = profile / "DevToolsActivePort", []
        while len(lines) < 2:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
            lines = port_file.read_text().splitlines() if port_file.is_file() else []
        port = lines[0]
        targets = json.loads(fetch(f"http://127.0.0.1:{port}/json", process=process, log=log))
        yield Page(
            next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        )
