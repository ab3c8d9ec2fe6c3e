"""What a class answered: the verdicts that stand in the executed notebooks of students."""

import json
import re
from pathlib import Path

import pandas as pd

from ..errors import DataError

VERDICT = re.compile(r"^(\d\d\.\d+): (right|not yet|no answer yet)", re.MULTILINE)


def verdicts(folder: str | Path) -> pd.DataFrame:
    """The verdicts in all notebooks below a folder, one row a notebook, one column an exercise.

    Values are "right", "not yet", "no answer yet", and "" where the cell was not executed. Only
    cells tagged `exercise` count, and of several verdicts in a cell the last. The outputs are read
    as they are: execute the notebooks anew first where they may have been edited.

    Raises:
        DataError: no notebook with exercises lies below the folder, or a file is no notebook.
    """
    rows = {}
    for path in sorted(Path(folder).rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        row = _verdicts_of(path)
        if row:
            rows[path.relative_to(folder).as_posix()] = row
    if not rows:
        raise DataError(
            f"{folder}: no notebook with cells tagged `exercise` lies below this folder"
        )
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return table[sorted(table.columns)]


def _verdicts_of(path: Path) -> dict[str, str]:
    """Number of an exercise -> verdict, of one notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is no notebook (JSON with cells); save it again") from None
    row = {}
    for cell in cells:
        if "exercise" not in cell["metadata"].get("tags", []):
            continue
        asked = re.findall(r"""check\(\s*["'](\d\d\.\d+)["']""", "".join(cell["source"]))
        row |= dict.fromkeys(asked, "")
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            row |= dict(VERDICT.findall("".join(text)))
    return row
