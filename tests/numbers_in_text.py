"""Numbers in the running text of notebooks, and whether the notebook's outputs show them.

Looked at are decimals, percentages, and integers of 13 or more. Left out are headings, code, LaTeX,
links, references, exercises (they set values, and their checks compute the answers), and tables
of settings, whose first column is code.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

SMALLEST = 13  # smaller integers are counted by hand

# Parts of Markdown that are no running text; each is replaced by a blank.
NO_TEXT = re.compile(
    r"""
    ```.*?```                      # blocks of code
    | ~~~.*?~~~
    | `[^`]*`                      # spans of code
    | \$\$.*?\$\$                  # LaTeX
    | (?<![\\\w])\$(?!\s)[^$\n]*?(?<![\s\\])\$(?!\d)
    | \\\(.*?\\\) | \\\[.*?\\\]
    | !?\[[^\]]*\]\([^)]*\)        # links and pictures
    | https?://\S+
    | <!--.*?--> | </?[A-Za-z][^>]*>
    """,
    re.DOTALL | re.VERBOSE,
)
# Terms with a number that is part of their name, and numbers of lessons, exercises and years.
TERMS = re.compile(
    r"""
    95\s?%\s(?:(?:bootstrap|confidence)\s)?(?:intervals?|limits\ of\ agreement)
    | \b(?:16|32|64)[-\s]bits?\b
    | \b0\d\.\d\b                                      # an exercise, 04.2
    | \((?:[^()]*[,\s])?(?:19|20)\d\d[a-z]?\)          # (2015), (Ronneberger et al., 2015)
    | \b[A-Z]\w*(?:\set\sal\.)?,?\s(?:19|20)\d\d\b     # DSB 2018, Ronneberger et al., 2015
    """,
    re.VERBOSE,
)
NUMBER = re.compile(
    r"""
    (?<![\w.,])                                  # not inside HD95, U-Net3, 1.2.3
    (?<![A-Za-z]-)                               # nor after a hyphen: COVID-19
    (?P<digits>
        \d{1,3}(?:[,\u00a0\u202f]\d{3})+(?:\.\d+)? # 487,397
        | \d+(?:\.\d+)?(?:e[-+]?\d+)?            # 31, 0.97, 1e-3
    )
    (?P<percent>\s?%|\sper\scent\b|\spercent\b)?
    (?P<scale>\s?(?:M\b|k\b|million\b|thousand\b|billion\b))?
    (?!\.?\d)                                    # a version number such as 1.2.3
    (?!(?:st|nd|rd|th)\b)                        # 95th
    """,
    re.VERBOSE,
)
ABOUT = re.compile(
    r"(?:\b(?:about|around|roughly|nearly|almost|approximately|some|over|under|below|above"
    r"|(?:more|less|fewer)\sthan|at\s(?:least|most)|up\sto)|[~≈])\s?$",
    re.IGNORECASE,
)
SCALES = {"k": 1e3, "thousand": 1e3, "M": 1e6, "million": 1e6, "billion": 1e9}
# Numbers in outputs and code.
SHOWN = re.compile(
    r"(?<![\w.])(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)"
    r"(?P<percent>\s?%)?"
)


class Number(NamedTuple):
    """A number of a text.

    Attributes:
        text: as it is written, with its sign of per cent.
        value: without sign; of "31 M" 31e6, of "12 %" 12.
        half_unit: half a unit of its last digit: how far rounding moves a number.
        is_percent: whether it is a percentage.
        is_about: whether the text calls it approximate.
    """

    text: str
    value: float
    half_unit: float
    is_percent: bool = False
    is_about: bool = False


def running_text(source: str) -> str:
    """The running text of a Markdown cell, with blanks for everything else."""
    text = NO_TEXT.sub(_code_mark, source)
    lines, table = [], []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            table.append(line)
            continue
        if table:
            lines += [] if _is_of_settings(table) else table
            table = []
        if not line.lstrip().startswith("#"):
            lines.append(re.sub(r"^\s*\d+[.)]\s", "", line))  # the number of an item in a list
    return "\n".join(lines).replace(CODE, " ")


CODE = "\u2402"


def _code_mark(match: re.Match) -> str:
    """A mark for a span of code, for `_is_of_settings`; a blank for the rest."""
    return CODE if match[0].startswith("`") else " "


def _is_of_settings(table: list[str]) -> bool:
    """Whether the first cell of each row below the head of a table is code."""
    firsts = [line.strip().strip("|").split("|")[0].strip() for line in table[2:]]
    return bool(firsts) and all(first == CODE for first in firsts)


def numbers(source: str) -> list[Number]:
    """The numbers of a Markdown cell's running text that outputs must show."""
    text = TERMS.sub(" ", running_text(source))
    text = re.sub(r"(?<=\d)\s?x\s?(?=\d)", "×", text)  # 256x256
    result = []
    for match in NUMBER.finditer(text):
        digits, is_percent = match["digits"], bool(match["percent"])
        value, unit = _value_and_unit(digits)
        is_large = "." not in digits and "e" not in digits and value < SMALLEST
        if is_large and not is_percent and not match["scale"]:
            continue
        scale = SCALES[match["scale"].strip()] if match["scale"] else 1
        is_about = bool(ABOUT.search(text[: match.start()].rstrip("(-−–").rstrip(" ") + " "))
        half_unit = _rounding(digits, value, unit, is_about)
        words = " ".join(match[0].split())
        result.append(Number(words, value * scale, half_unit * scale, is_percent, is_about))
    return result


def _value_and_unit(digits: str) -> tuple[float, float]:
    """The value of "1,234.5" or "1.5e-3" and the value of its last digit."""
    plain = re.sub(r"[,\u00a0\u202f]", "", digits)
    mantissa, _, exponent = plain.partition("e")
    places = len(mantissa.partition(".")[2])
    return float(plain), 10.0 ** (int(exponent or 0) - places)


def _rounding(digits: str, value: float, unit: float, is_about: bool) -> float:
    """Half a unit of the last digit; of "about 120" half of ten, but at most 5 %."""
    if not is_about or "." in digits or "e" in digits:
        return unit / 2
    zeros = len(digits) - len(digits.rstrip("0"))
    return max(unit / 2, min(10.0**zeros / 2, 0.05 * value))


class Source(NamedTuple):
    """Numbers that outputs and code show: their values, and those of percentages apart."""

    values: set[float]
    percentages: set[float]

    def add(self, text: str) -> None:
        """Add the numbers of an output or of code."""
        for match in SHOWN.finditer(text):
            value = float(match["digits"].replace(",", ""))
            (self.percentages if match["percent"] else self.values).add(value)
            if "," in match["digits"]:  # perhaps a list: 256,256
                self.values.update(map(float, match["digits"].split(",")))

    def shows(self, number: Number) -> bool:
        """Whether one of the numbers is `number`, rounded as it is."""
        if number.is_percent:
            candidates = [*self.percentages, *self.values, *(100 * v for v in self.values)]
        else:
            candidates = [*self.values, *self.percentages, *(p / 100 for p in self.percentages)]
        margin = number.half_unit * (1 + 1e-6) + 1e-12
        return any(abs(abs(value) - number.value) <= margin for value in candidates)


def new_source() -> Source:
    return Source(set(), set())


def texts_of(cell: Any) -> Iterator[str]:
    """The source of a code cell and what its outputs hold as text."""
    yield cell.source
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        for kind, value in output.get("data", {}).items():
            if kind in ("text/plain", "text/markdown"):
                yield value
            elif kind == "text/html":
                yield re.sub(r"<style.*?</style>|<[^>]*>", " ", value, flags=re.DOTALL)


def quoted(quote: str, results: dict[str, list[dict]]) -> list[dict]:
    """The rows of `tests/results` that a quote "file | data | metric" names; [] if none is."""
    parts = [part.strip() for part in quote.split("|")]
    if len(parts) != 3:
        return []
    name, data, metric = parts
    rows = results.get(name, [])
    return [row for row in rows if row["data"] == data and row["metric"] == metric]


def uncovered(notebook: Any, results: dict[str, list[dict]]) -> list[str]:
    """A line for each number of the running text that nothing shows, and for each quote or given
    number that is wrong.
    """
    source, problems, is_exempt = new_source(), [], False
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            for text in texts_of(cell):
                source.add(text)
            continue
        headings = re.findall(r"^#{1,3} (.*)$", cell.source, re.MULTILINE)
        if headings:
            is_exempt = headings[-1].startswith(("Exercise", "References"))
        if not is_exempt:
            problems += [f"cell {index}: {line}" for line in _of_cell(cell, source, results)]
    return problems


def _of_cell(cell: Any, source: Source, results: dict[str, list[dict]]) -> Iterator[str]:
    """The problems of one text cell; `source` is what the cells before it show."""
    own = Source(set(source.values), set(source.percentages))
    for value in cell.metadata.get("values", {}).values():
        own.add(str(value))
    in_text = numbers(cell.source)
    for quote in cell.metadata.get("quotes", []):
        rows = quoted(quote, results)
        if not rows:
            yield f"the quote {quote!r} is no row of tests/results"
        quotation = new_source()
        for text in (str(value) for row in rows for value in row.values()):
            quotation.add(text)
        if rows and not any(quotation.shows(number) for number in in_text):
            yield f"the quote {quote!r} holds no number of the text"
        own.values.update(quotation.values)
        own.percentages.update(quotation.percentages)
    given = cell.metadata.get("given", {})
    yield from _of_given(given, in_text)
    texts = {_bare(text) for text in given}
    for number in in_text:
        if _bare(number.text) not in texts and not own.shows(number):
            yield f"no output before it shows {number.text}"


def _of_given(given: dict[str, str], in_text: Iterable[Number]) -> Iterator[str]:
    texts = {_bare(number.text) for number in in_text}
    for text, reason in given.items():
        if _bare(text) not in texts:
            yield f"the given number {text} is not in the text"
        if len(reason.strip()) < 3:  # "2^8" will do
            yield f"the given number {text} has no reason or source: {reason!r}"


def _bare(text: str) -> str:
    """A number as it is compared with those that are given: "50 %" and "50" are one."""
    text = re.sub(r"[,\s\u00a0\u202f]", "", text)
    return re.sub(r"(%|percent|M|k|million|thousand|billion)$", "", text).lstrip("-−+")
