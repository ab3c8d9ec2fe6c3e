"""The first notebook in JupyterLab itself: a browser opens it, runs every cell and sees figures and
progress bars.

The browser is Chromium, steered over its DevTools protocol; without Chromium the test is skipped.
"""

import base64
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import websocket  # comes with JupyterLab's server
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NAME = "00_start_here.ipynb"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
BAR = ".jupyter-widgets .progress-bar"
# A progress bar goes when its work is done, so what it shows is noted meanwhile.
WATCH = f"""
window.bars = new Set();
new MutationObserver(() => {{
  for (const bar of document.querySelectorAll("{BAR}")) {{
    const name = bar.closest(".jp-OutputArea-output").textContent.split(":")[0].trim();
    bars.add(name + " " + bar.style.width);
  }}
}}).observe(document, {{subtree: true, childList: true, attributes: true}});
"""
IMAGES = "[...document.querySelectorAll('.jp-RenderedImage img')]"
FIGURES = f"{IMAGES}.map(image => image.complete ? image.naturalWidth : 0)"
CELLS = "jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(cell => cell.toJSON())"


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
        end = time.monotonic() + seconds
        while not (value := self(script)):
            assert time.monotonic() < end, f"never true: {script}"
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


@pytest.fixture
def lab(tmp_path):
    """The address of JupyterLab with the first notebook, as a newcomer has it: no settings, no
    news.
    """
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NAME, tmp_path / "notebooks")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
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
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
    }
    for name in (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    ):
        env[name] = str(tmp_path / name.lower())
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}"]
    log = tmp_path / "lab.log"
    with running(sys.executable, "-m", "jupyterlab", *options, log=log, env=env) as process:
        fetch(f"http://127.0.0.1:{port}/api/status?token=secret", process=process, log=log)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{NAME}?token=secret"


@pytest.fixture
def page(tmp_path):
    """A page of a headless browser, high enough to show the whole notebook."""
    profile, log = tmp_path / "profile", tmp_path / "chromium.log"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    options += ["--window-size=1200,6000", f"--user-data-dir={profile}", "about:blank"]
    with running(CHROMIUM, *options, log=log) as process:
        end = time.monotonic() + 60
        while not (profile / "DevToolsActivePort").is_file():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
        targets = json.loads(fetch(f"http://127.0.0.1:{port}/json", process=process, log=log))
        yield Page(
            next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        )


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the path (.ci/run installs it where it may)"
)
def test_the_first_notebook_runs_in_jupyterlab(lab, page, tmp_path):
    # JupyterLab has no current notebook in a page without focus.
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.send("Page.navigate", url=lab)
    page.wait(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
    )
    page(WATCH)
    assert page("jupyterapp.commands.execute('notebook:run-all-cells')") is True
    cells = [cell for cell in page(CELLS) if cell["cell_type"] == "code"]
    # Before anything is asserted, so that a failure can be looked at.
    picture = base64.b64decode(page.send("Page.captureScreenshot")["data"])
    (tmp_path / "lab.png").write_bytes(picture)
    print("screenshot:", tmp_path / "lab.png")

    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    widths = page.wait(f"(f => f.length == {len(figures)} && f)({FIGURES})")
    assert len(widths) >= 3 and min(widths) > 300
    assert np.asarray(Image.open(io.BytesIO(picture)).convert("L")).std() > 10

    bars = page("[...bars]")
    assert "lung 0%" in bars and "lung 100%" in bars
    assert any(
        re.fullmatch(r"lung \d+\.?\d*%", bar) and bar not in ("lung 0%", "lung 100%")
        for bar in bars
    ), bars
    left = page(
        f"[...document.querySelectorAll('{BAR}')].filter(bar => bar.checkVisibility()).length"
    )
    assert left == 0, "finished bars stay"
    # The badges in the text come from other hosts, which a machine may not reach.
    ours = [said for said in page.complaints if "net::ERR" not in said or "127.0.0.1" in said]
    assert not ours, ours
