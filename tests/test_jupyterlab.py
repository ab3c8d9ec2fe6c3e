"""The first notebook in JupyterLab itself: a browser opens it, runs every cell and sees figures and
progress bars.

Without Chromium the test is skipped, see `browser`.
"""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM, IDLE, NO_CHROMIUM, ROOT, browser, jupyterlab

NAME = "00_start_here.ipynb"
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


@pytest.fixture
def lab(tmp_path):
    """The address of JupyterLab with the first notebook."""
    for path in (f"notebooks/{NAME}", "docs/systems.jpg"):
        (tmp_path / path).parent.mkdir()
        shutil.copy(ROOT / path, tmp_path / path)
    with jupyterlab(tmp_path, NAME) as address:
        yield address


@pytest.fixture
def page(tmp_path):
    """A page of a headless browser, high enough to show the whole notebook."""
    with browser(tmp_path) as page:
        yield page


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_the_first_notebook_runs_in_jupyterlab(lab, page, tmp_path):
    # JupyterLab has no current notebook in a page without focus.
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.send("Page.navigate", url=lab)
    page.wait(IDLE)
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
    opening = "[...document.images].find(image => image.src.includes('systems.jpg'))"
    assert page(f"{opening}.naturalWidth") > 1000
    left = page(
        f"[...document.querySelectorAll('{BAR}')].filter(bar => bar.checkVisibility()).length"
    )
    assert left == 0, "finished bars stay"
    # The badges in the text come from other hosts, which a machine may not reach.
    ours = [said for said in page.complaints if "net::ERR" not in said or "127.0.0.1" in said]
    assert not ours, ours
