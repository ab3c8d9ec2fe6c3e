"""Claims of a text cell: expressions over variables of the notebook, such as `loss_after < 0.1`.

They stand in the metadata of a markdown cell, `"claims": ["loss_after < 0.1"]`. The runner reads
the variables from the live kernel into `"values": {"loss_after": 0.031}`, and the tests evaluate
the claims again on these stored values.
"""

import ast
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

FUNCTIONS = {"abs": abs, "max": max, "min": min, "round": round}
PLAIN = (bool, int, float, str)
# What a claim may consist of: comparisons and arithmetic, no attributes, indices or other calls.
ALLOWED = (
    ast.Expression,
    ast.BoolOp,
    ast.boolop,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.operator,
    ast.Compare,
    ast.cmpop,
    ast.Call,
    ast.Name,
    ast.expr_context,
    ast.Constant,
    ast.Tuple,
)


class ClaimError(Exception):
    """A claim that can't be evaluated; the message says why."""


def variables(claim: str) -> list[str]:
    """The variables of a claim, sorted.

    Raises:
        ClaimError: for anything but comparisons and arithmetic of variables.
    """
    try:
        tree = ast.parse(claim, mode="eval")
    except SyntaxError as error:
        raise ClaimError(f"{claim!r} is no Python expression: {error.msg}") from None
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            raise ClaimError(
                f"{claim!r}: only comparisons and arithmetic of plain variables, no "
                f"{type(node).__name__}; compute the number in a code cell and give it a name"
            )
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") not in FUNCTIONS:
            raise ClaimError(f"{claim!r}: only the functions {', '.join(FUNCTIONS)} are known")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(FUNCTIONS)
    if not names:
        raise ClaimError(f"{claim!r} names no variable of the notebook")
    return sorted(names)


def variables_of(claims: Iterable[str]) -> list[str]:
    """The variables of all claims of a cell, sorted."""
    return sorted({name for claim in claims for name in variables(claim)})


def holds(claim: str, values: Mapping[str, Any]) -> bool:
    """Whether a claim is true of these values.

    Raises:
        ClaimError: if a variable has no value, or the expression fails.
    """
    missing = [name for name in variables(claim) if name not in values]
    if missing:
        raise ClaimError(f"{claim!r}: no value of {', '.join(missing)} is stored")
    code = compile(ast.parse(claim, mode="eval"), "<claim>", "eval")
    try:
        result = eval(code, {"__builtins__": {}, **FUNCTIONS}, dict(values))
    except Exception as error:
        raise ClaimError(f"{claim!r}: {type(error).__name__}: {error}") from None
    if not isinstance(result, bool):
        raise ClaimError(f"{claim!r} gives {result!r}, neither True nor False")
    return result


def failures(claims: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """A line for each claim that is false or can't be evaluated."""
    lines = []
    for claim in claims:
        try:
            if not holds(claim, values):
                numbers = ", ".join(f"{name} = {values[name]!r}" for name in variables(claim))
                lines.append(f"false: {claim} ({numbers})")
        except ClaimError as error:
            lines.append(str(error))
    return lines


def question(name: str) -> str:
    """An expression for the kernel: the variable as JSON; numpy and torch scalars as numbers."""
    return f"__import__('json').dumps({name}.item() if hasattr({name}, 'item') else {name})"


def answer(name: str, reply: Mapping[str, Any]) -> bool | int | float | str:
    """The value in the kernel's reply to `question`, floats to six significant digits.

    Raises:
        ClaimError: if the variable doesn't exist there, or holds no finite number, string or bool.
    """
    if reply["status"] != "ok":
        raise ClaimError(f"variable {name}: {reply['ename']}: {reply['evalue']}")
    value = json.loads(ast.literal_eval(reply["data"]["text/plain"]))
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, PLAIN) or not is_finite:
        raise ClaimError(f"variable {name} is {value!r}: no finite number, string or bool")
    return float(f"{value:.6g}") if isinstance(value, float) else value
