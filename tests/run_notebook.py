"""Execute a notebook, print what its cells tagged `scores` wrote: run_notebook.py SOURCE.ipynb
COPY.ipynb
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def tagged_text(notebook, tag="scores"):
    """The text outputs of all cells with `tag`, in order, without standard error and pictures."""
    texts = []
    for cell in notebook.cells:
        if tag not in cell.metadata.get("tags", []):
            continue
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                texts.append(output.text)
            elif output.output_type in ("display_data", "execute_result"):
                texts.append(output.data.get("text/plain", ""))
    return "\n".join(text.rstrip() for text in texts if text.strip())


def tidy(notebook, width=480, colours=64):
    """What a notebook is committed with: no standard error, no time stamps, figures as small
    palette PNGs.
    """
    notebook.metadata.pop(
        "widgets", None
    )  # widgets live in a kernel; their state holds every figure once more
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [
                o
                for o in cell.outputs
                if o.get("name") != "stderr" and "_Training finished._" not in str(o.get("data"))
            ]
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "image/png" in data:
                picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
                picture.thumbnail((width, 10 * width))
                small = io.BytesIO()
                picture.quantize(
                    colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
                ).save(small, "PNG", optimize=True)
                data["image/png"] = base64.b64encode(small.getvalue()).decode()


def main(source, copy):
    """Run `source` in its folder and save the executed `copy` in any case; 0 if all cells ran."""
    source, copy = Path(source), Path(copy)
    if not source.is_file():
        print(f"{source}: no such notebook", file=sys.stderr)
        return 1
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(source.resolve().parent)}},
        on_cell_start=lambda cell, cell_index: progress(cell_index, len(notebook.cells)),
    )
    print(f"Executing {source}", flush=True)
    problem = ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        problem = ANSI.sub("", str(error))
    progress(None, 0)
    tidy(notebook)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)

    if problem:
        print(f"{source}: a cell failed; executed up to there: {copy}\n{problem}", file=sys.stderr)
        return 1
    print(tagged_text(notebook) or f"(no cell of {source} is tagged `scores`)")
    print(f"Executed copy: {copy}")
    return 0


def progress(index, total):
    """One line that moves, on terminals only: a log should not fill with it."""
    if sys.stderr.isatty():
        text = "" if index is None else f"cell {index + 1} of {total}"
        print(f"\r{text:20}", end="\r" if index is None else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
