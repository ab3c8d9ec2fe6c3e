"""The mask editor in JupyterLab itself: what is painted with the mouse is what is saved.

Without Chromium the tests are skipped, see `browser`.
"""

import base64
import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy.ndimage import label

from tests.browser import CHROMIUM, IDLE, NO_CHROMIUM, browser, jupyterlab
from tests.helpers import read_picture, write_picture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
NAME = "correct.ipynb"
CODE = """
import pandas as pd
from seglib import annotate, config

cfg = config.preset("binary", task="multiclass", class_names=("background", "disc", "cup"),
                    loss="cross_entropy", image_size=64)
cases = pd.DataFrame({"case": ["a", "b"], "image": ["a.png", "b.png"]})
cases["labels"] = ["a_mask.png", ""]
queue = annotate.queue(cfg, cases, folder="corrected")
annotate.edit(queue, height=500)
"""
HEIGHT, WIDTH = 90, 160
CTRL, SHIFT = 2, 8  # modifiers of the DevTools protocol
CANVAS = "document.querySelector('.seglib-canvas')"
STATUS = "document.querySelector('.seglib-status')?.textContent"
RECT = f"(r => [r.left, r.top, r.width, r.height])({CANVAS}.getBoundingClientRect())"


class Mouse:
    """The mouse on the canvas of the editor; points are pixels of the mask, (x, y)."""

    def __init__(self, page):
        self.page = page

    def send(self, kind, point, button="left", modifiers=0, clicks=1, **more):
        left, top, width, height = self.page(RECT)
        # The whole image is shown, in the middle.
        scale = min(width / WIDTH, height / HEIGHT)
        x = left + (width - WIDTH * scale) / 2 + (point[0] + 0.5) * scale
        y = top + (height - HEIGHT * scale) / 2 + (point[1] + 0.5) * scale
        options = {"button": button, "buttons": 0 if kind == "mouseReleased" else 1}
        options |= {"clickCount": clicks, "modifiers": modifiers, **more}
        self.page.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **options)

    def stroke(self, *points, modifiers=0):
        self.send("mousePressed", points[0], modifiers=modifiers)
        for point in points[1:]:
            self.send("mouseMoved", point, modifiers=modifiers)
        self.send("mouseReleased", points[-1], modifiers=modifiers)

    def click(self, point, clicks=1):
        self.send("mousePressed", point, clicks=clicks)
        self.send("mouseReleased", point, clicks=clicks)


def press(page, key, modifiers=0):
    code = f"Key{key.upper()}" if key.isalpha() and len(key) == 1 else key
    options = {"key": key, "code": code, "modifiers": modifiers}
    options["windowsVirtualKeyCode"] = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(
        key, ord(key.upper()[0])
    )
    page.send("Input.dispatchKeyEvent", type="keyDown", **options)
    page.send("Input.dispatchKeyEvent", type="keyUp", **options)


def stroke_mask(points, diameter):
    """Pixels whose centre is at most half a diameter from the line through the points, by sampling
    the line densely."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    result = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        for t in np.linspace(0, 1, 2001):
            x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
            result |= (columns - x) ** 2 + (rows - y) ** 2 <= (diameter / 2) ** 2 + 1e-9
    return result


@pytest.fixture
def notebook(tmp_path):
    """The folder of a notebook with two images, of which the first has a mask."""
    folder = tmp_path / "notebooks"
    rng = np.random.default_rng(0)
    for name in "ab":
        write_picture(folder / f"{name}.png", rng.integers(60, 120, (HEIGHT, WIDTH, 3)))
    original = np.zeros((HEIGHT, WIDTH), np.uint8)
    original[30:60, 50:100] = 1
    write_picture(folder / "a_mask.png", original)
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": [{**cell, "id": "only", "source": CODE.strip()}], "nbformat": 4}
    content |= {"nbformat_minor": 5, "metadata": {"kernelspec": kernel}}
    (folder / NAME).write_text(json.dumps(content))
    return folder


def shown(page):
    """Wait for the editor to show a case; a kernel on a busy machine takes minutes to import."""
    page.wait(f"({STATUS} ?? '').startsWith('Shown')", seconds=300)


def stored(page):
    page.wait(f"({STATUS} ?? '').startsWith('All changes are stored')")


def save(page):
    page("document.querySelector('[data-name=save]').click()")
    page.wait(f"({STATUS} ?? '').startsWith('Saved')")


def open_notebook(page, address):
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.send("Page.navigate", url=address)
    page.wait(IDLE, seconds=300)


def polygon_mask(corners):
    """Pixels whose centre lies inside the corners; no centre lies on an edge of those used here."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2)
    outline = Outline([(x + 0.5, y + 0.5) for x, y in corners])
    inside = outline.contains_points(centres)
    for radius in (-1e-6, 1e-6):
        assert np.array_equal(outline.contains_points(centres, radius=radius), inside)
    return inside.reshape(HEIGHT, WIDTH)


def brush_size(page):
    return int(page("document.querySelector('input[type=range]').value"))


def screenshot(page, path):
    path.write_bytes(base64.b64decode(page.send("Page.captureScreenshot")["data"]))
    print("screenshot:", path)


def test_what_the_mouse_paints_is_what_is_saved(notebook, tmp_path):
    original = read_picture(notebook / "a_mask.png")
    expected = original.copy()
    with jupyterlab(tmp_path, NAME) as address, browser(tmp_path, "1200,1000") as page:
        open_notebook(page, address)
        page("jupyterapp.commands.execute('notebook:run-all-cells')")
        shown(page)
        mouse = Mouse(page)

        # The brush, with the first class and the size that it has at the start.
        points = [(20, 20), (60, 25), (61, 70)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, 15)] = 1

        # Another class by its key, and a smaller brush.
        press(page, "2")
        for _ in range(5):
            press(page, "[")
        size = brush_size(page)
        assert 1 < size < 15
        points = [(110, 10), (150, 40)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, size)] = 2

        # A polygon, and a region that is filled with the class of another button.
        press(page, "p")
        corners = [(70.2, 40.3), (95.3, 45.2), (80.4, 80.6)]
        for corner in corners:
            mouse.click(corner)
        press(page, "Enter")
        stored(page)
        expected[polygon_mask(corners)] = 2
        page("document.querySelector('[data-class=disc]').click()")
        press(page, "f")
        mouse.click((130, 25))
        stored(page)
        expected[label(expected == 2)[0] == label(expected == 2)[0][25, 130]] = 1

        # What is undone is gone, on the page and in the kernel; Shift erases.
        press(page, "b")
        mouse.stroke((10, 80), (30, 80))
        stored(page)
        press(page, "z", modifiers=CTRL)
        page.wait("!document.querySelector('[data-name=redo]').disabled")
        points = [(40, 5), (43, 50)]
        mouse.stroke(*points, modifiers=SHIFT)
        stored(page)
        expected[stroke_mask(points, size)] = 0

        screenshot(page, tmp_path / "editor.png")
        save(page)
        assert np.array_equal(read_picture(notebook / "corrected/masks/a.png"), expected)
        assert np.array_equal(read_picture(notebook / "a_mask.png"), original)
        assert not page.complaints, page.complaints
        # The keys were not taken for commands of the notebook, such as A: a new cell above.
        assert page("jupyterapp.shell.currentWidget.content.widgets.length") == 1


def test_a_reload_of_the_page_and_a_restart_of_the_kernel_lose_nothing(notebook, tmp_path):
    expected = read_picture(notebook / "a_mask.png")
    draft, saved = (notebook / "corrected" / name for name in ("drafts/a.png", "masks/a.png"))
    with jupyterlab(tmp_path, NAME) as address, browser(tmp_path, "1200,1000") as page:
        open_notebook(page, address)
        page("jupyterapp.commands.execute('notebook:run-all-cells')")
        shown(page)
        mouse = Mouse(page)
        # Keys are the editor's only after a click into it.
        page("document.querySelector('[data-class=cup]').click()")
        points = [(20, 20), (60, 25)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, 15)] = 2
        page("jupyterapp.commands.execute('docmanager:save')")

        page.send("Page.reload")
        page.wait("performance.getEntriesByType('navigation')[0].type == 'reload'")
        page.wait(IDLE, seconds=300)
        shown(page)
        # The chosen class and the history are those from before.
        chosen = "document.querySelector('.seglib-classes .chosen').dataset.class"
        assert page(chosen) == "cup"
        assert not page("document.querySelector('[data-name=undo]').disabled")
        points = [(100, 70), (120, 70)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, 15)] = 2
        assert np.array_equal(read_picture(draft), expected) and not saved.exists()

        page("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        page.wait(IDLE, seconds=300)
        page("jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait(f"({STATUS} ?? '').startsWith('Shown: draft')", seconds=300)
        points = [(130, 80), (130, 80)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, 15)] = 1
        press(page, "n")
        page.wait("document.querySelector('.seglib-title').textContent == '2 of 2 · b · 1 saved'")
        assert np.array_equal(read_picture(saved), expected) and not draft.exists()


def test_pixels_are_hit_when_zoomed_in_too(notebook, tmp_path):
    with jupyterlab(tmp_path, NAME) as address, browser(tmp_path, "1200,1000") as page:
        open_notebook(page, address)
        page("jupyterapp.commands.execute('notebook:run-all-cells')")
        shown(page)
        mouse = Mouse(page)
        page("document.querySelector('[data-name=brush]').click()")
        while brush_size(page) > 1:
            press(page, "[")
        # The pixel below the mouse stays there while the wheel zooms.
        for _ in range(3):
            mouse.send("mouseWheel", (120, 20), deltaX=0, deltaY=-200)
        mouse.click((120, 20))
        stored(page)
        save(page)
        expected = read_picture(notebook / "a_mask.png")
        expected[20, 120] = 1
        assert np.array_equal(read_picture(notebook / "corrected/masks/a.png"), expected)
