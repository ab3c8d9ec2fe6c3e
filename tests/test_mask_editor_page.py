"""The mask editor in JupyterLab itself: what is painted with the mouse is what is saved.

Without Chromium the tests are skipped, see `browser`.
"""

import base64
import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline

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
CANVAS = "document.querySelector('.seglib-canvas')"
STATUS = "document.querySelector('.seglib-status')?.textContent"
RECT = f"(r => [r.left, r.top, r.width, r.height])({CANVAS}.getBoundingClientRect())"


class Mouse:
    """The mouse on the canvas of the editor; points are pixels of the mask, (x, y)."""

    def __init__(self, page):
        self.page = page

    def send(self, kind, point, button="left", modifiers=0, clicks=1):
        left, top, width, height = self.page(RECT)
        # The whole image is shown, in the middle.
        scale = min(width / WIDTH, height / HEIGHT)
        x = left + (width - WIDTH * scale) / 2 + (point[0] + 0.5) * scale
        y = top + (height - HEIGHT * scale) / 2 + (point[1] + 0.5) * scale
        options = {"button": button, "buttons": 0 if kind == "mouseReleased" else 1}
        options |= {"clickCount": clicks, "modifiers": modifiers}
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
    """Wait for the editor to show a case."""
    page.wait(f"({STATUS} ?? '').startsWith('Shown')")


def stored(page):
    page.wait(f"({STATUS} ?? '').startsWith('All changes are stored')")


def save(page):
    page("document.querySelector('[data-name=save]').click()")
    page.wait(f"({STATUS} ?? '').startsWith('Saved')")


def open_notebook(page, address):
    page.send("Emulation.setFocusEmulationEnabled", enabled=True)
    page.send("Page.navigate", url=address)
    page.wait(IDLE)


def test_what_the_mouse_paints_is_saved(notebook, tmp_path):
    original = read_picture(notebook / "a_mask.png")
    expected = original.copy()
    target = notebook / "corrected" / "masks" / "a.png"
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

        # Another class by its key, a smaller brush, and a polygon of it.
        press(page, "2")
        for _ in range(5):
            press(page, "[")
        size = int(page("document.querySelector('input[type=range]').value"))
        assert 1 < size < 15
        points = [(110, 10), (150, 40)]
        mouse.stroke(*points)
        stored(page)
        expected[stroke_mask(points, size)] = 2
        press(page, "p")
        corners = [(70, 40), (95, 45), (80, 80)]
        for corner in corners:
            mouse.click(corner)
        press(page, "Enter")
        page.wait("document.querySelector('.seglib-title').textContent.startsWith('1 of 2')")
        stored(page)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        centres = np.stack([columns + 0.5, rows + 0.5], -1).reshape(-1, 2)
        outline = Outline([(x + 0.5, y + 0.5) for x, y in corners])
        # Which pixels on the outline itself count is not decided by the reference.
        inside = outline.contains_points(centres, radius=-1e-6).reshape(HEIGHT, WIDTH)
        outside = ~outline.contains_points(centres, radius=1e-6).reshape(HEIGHT, WIDTH)
        sure = inside | outside if (inside & outside).sum() == 0 else ~(inside & outside)
        expected[inside] = 2

        # Undone changes are gone, on the page and in the kernel.
        press(page, "b")
        mouse.stroke((10, 80), (30, 80))
        stored(page)
        press(page, "z", modifiers=2)
        page.wait("!document.querySelector('[data-name=redo]').disabled")
        mouse.stroke((5, 5), (12, 5), modifiers=8)  # Shift erases
        expected[stroke_mask([(5, 5), (12, 5)], size)] = 0

        picture = base64.b64decode(page.send("Page.captureScreenshot")["data"])
        (tmp_path / "editor.png").write_bytes(picture)
        print("screenshot:", tmp_path / "editor.png")
        save(page)
        saved = read_picture(target)
        assert np.array_equal(saved[sure], expected[sure])
        assert np.array_equal(read_picture(notebook / "a_mask.png"), original)
        assert not page.complaints, page.complaints
