"""Execute a notebook, hold its claims, and print what its cells tagged `scores` wrote:

    python tests/run_notebook.py SOURCE.ipynb COPY.ipynb [--without-claims]

The claims of text cells (see `tests/claims.py`) are statements about the phantoms in the notebook's
own size: they are not evaluated while SEGLIB_SMOKE is set, nor with --without-claims, which is for
real data.
"""

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import ensure_async

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script finds only its own folder

from seglib.config import pick_size  # noqa: E402
from tests import claims, notebook_code, notebook_figures  # noqa: E402

ANSI = re.compile(r"\x1b\[[0-9;]*m")
PROGRESS = re.compile(r"\d+%\|")  # the text of a progress bar, which stays at 0 in a saved copy


class Client(NotebookClient):
    """Executes code cells and, between them, reads the variables of text cells with claims.

    Attributes:
        with_claims: whether they are read.
        problems: a line for each claim that is false or could not be evaluated.
    """

    with_claims = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.problems = []

    async def async_execute_cell(self, cell, cell_index, *arguments, **options):
        cell = await super().async_execute_cell(cell, cell_index, *arguments, **options)
        if cell.cell_type == "markdown":
            cell.metadata.pop("values", None)
            if self.with_claims and cell.metadata.get("claims"):
                await self._evaluate(cell, cell_index)
        return cell

    async def _evaluate(self, cell, cell_index):
        """Store the values of the claims' variables in the cell, and check the claims."""
        statements = cell.metadata["claims"]
        values, lines = {}, []
        try:
            names = claims.variables_of(statements)
            replies = await self._ask({name: claims.question(name) for name in names})
            values = {name: claims.answer(name, replies[name]) for name in names}
            lines = claims.failures(statements, values)
        except claims.ClaimError as error:
            lines = [str(error)]
        cell.metadata["values"] = values
        self.problems += [f"cell {cell_index}: {line}" for line in lines]

    async def _ask(self, questions):
        """The kernel's replies to expressions; its execution counter and history stay as they are.

        Each is one of IPython's `user_expressions` of an empty, silent cell.
        """
        message = self.kc.execute(
            "", silent=True, store_history=False, user_expressions=questions, stop_on_error=False
        )
        while True:
            reply = await ensure_async(self.kc.shell_channel.get_msg(timeout=60))
            if reply["parent_header"].get("msg_id") == message:
                return reply["content"]["user_expressions"]


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


def tidy(notebook):
    """What a notebook is committed with: no standard error, no progress widgets, no time stamps;
    printed text in one piece, figures as `notebook_figures` keeps them.
    """
    # Widgets live in a kernel; their state holds every figure once more.
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        kept = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr"
            and "_Training finished._" not in str(output.get("data"))
            and not PROGRESS.search(output.get("data", {}).get("text/plain", ""))
        ]
        cell.outputs = _joined(kept)
        notebook_figures.tidy(cell)


def _joined(outputs):
    """Texts that were printed one after the other as one: in how many parts they come is chance."""
    joined = []
    for output in outputs:
        is_text = output.output_type == "stream"
        if is_text and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def run(source, copy, with_claims=True):
    """Execute `source` in its folder and save the executed `copy` in any case.

    Returns (the executed notebook, a text about what failed, "" if nothing did).
    """
    notebook = nbformat.read(source, as_version=4)
    client = Client(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(source.resolve().parent)}},
        on_cell_start=lambda cell, cell_index: progress(cell_index, len(notebook.cells)),
    )
    client.with_claims = with_claims and pick_size("small") != "smoke"
    start, problem = time.perf_counter(), ""
    try:
        # A backend chosen for tests would show no figures in a notebook.
        client.execute(env={k: v for k, v in os.environ.items() if k != "MPLBACKEND"})
        if client.problems:
            problem = "\n".join([f"{source}: claims of the text do not hold", *client.problems])
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        words = ANSI.sub("", str(error))
        problem = f"{source}: a cell failed; executed up to there: {copy}\n{words}"
    progress(None, 0)
    minutes = (time.perf_counter() - start) / 60
    tidy(notebook)
    code = notebook_code.code_hash(notebook, source.stem)
    notebook.metadata["seglib"] = {"code": code, "minutes": round(minutes, 2)}
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
    return notebook, problem


def main(source, copy, *options):
    """0 if all cells ran and all claims hold."""
    source, copy = Path(source), Path(copy)
    if not source.is_file():
        print(f"{source}: no such notebook", file=sys.stderr)
        return 1
    print(f"Executing {source}", flush=True)
    notebook, problem = run(source, copy, "--without-claims" not in options)
    if problem:
        print(problem, file=sys.stderr)
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
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--without-claims"]):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
