"""Channels: which files hold the sequences of a case, what they are called, and in which order.

A cell `image` of a case table with several channels joins them by `::`, in their order:
`case_0000.nii.gz::case_0001.nii.gz`. A number behind a file with a fourth axis, as those of the
Decathlon have, selects a volume of it: `brats.nii.gz::0::brats.nii.gz::3`. The column `channels`
has their names, joined in the same way. `stacks` reads the pixels.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, listed
from ..files import folded
from . import legends

SEPARATOR = "::"
MOST = 16  # so many channels an image may have, as config.in_channels
# What dataset.json calls the table of channels: nnU-Net 2; nnU-Net 1 and the Decathlon.
_KEYS = ("channel_names", "modality")
_NNUNET = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")  # a file of nnU-Net, without its suffix


def split(cell: str | Path) -> list[str]:
    """The channels of a cell: paths, with `::` and a number for a volume of a fourth axis."""
    channels: list[str] = []
    for text in str(cell).split(SEPARATOR):
        is_path = not channels or os.path.isabs(text)
        if is_path:
            channels.append(text)
        else:  # a number, or a part of a path that holds the separator itself
            channels[-1] += SEPARATOR + text
    return channels


def join(channels: Iterable[str | Path]) -> str:
    """The cell of channels in their order; paths become absolute."""
    return SEPARATOR.join(os.path.abspath(channel) for channel in channels)


def file_of(channel: str | Path) -> str:
    """The file or folder of one channel."""
    path, separator, number = str(channel).rpartition(SEPARATOR)
    return path if separator and number.isdigit() else str(channel)


def number_of(channel: str | Path) -> int | None:
    """The number of the volume along a fourth axis; None for a file of three axes."""
    path, separator, number = str(channel).rpartition(SEPARATOR)
    return int(number) if separator and number.isdigit() else None


def files(cell: str | Path) -> list[str]:
    """The files (or folders of a series) that a cell names, each once, in their order."""
    return list(dict.fromkeys(map(file_of, split(cell))))


def first_file(cell: str | Path) -> str:
    """The first file of a cell."""
    return file_of(split(cell)[0])


def of_fourth_axis(path: str | Path, n_volumes: int) -> list[str]:
    """The channels of a file that holds so many volumes along a fourth axis."""
    return [f"{path}{SEPARATOR}{number}" for number in range(n_volumes)]


# ---- names


def names_of(cell: str) -> tuple[str, ...]:
    """The names in a cell of the column `channels`; () for a single volume or picture."""
    return tuple(cell.split(SEPARATOR)) if cell else ()


def names_beside(path: str | Path) -> tuple[str, ...]:
    """The names of the channels as the `dataset.json` beside a file has them; () without one.

    nnU-Net 2 writes `"channel_names": {"0": "T2", "1": "ADC"}`, the Decathlon and nnU-Net 1 call
    the table `modality`. A name that occurs twice gets its number.

    Raises:
        DataError: the file cannot be read, or its table is not of this form.
    """
    source = legends.beside(path, legends.DATASET_JSON)
    content = legends.read_json(source) if source else None
    if not isinstance(content, dict):
        return ()
    key = next((key for key in _KEYS if key in content), None)
    if key is None:
        return ()
    table = content[key]
    if isinstance(table, list):
        table = {str(number): name for number, name in enumerate(table)}
    numbers = [str(number) for number in range(len(table) if isinstance(table, dict) else 0)]
    if not numbers or set(table) != set(numbers) or len(numbers) > MOST:
        raise DataError(
            f"{source}: {key} is {str(table)[:80]}; expected the channels from 0, at most {MOST}: "
            '{"0": "T2", "1": "ADC"}; correct it'
        )
    names = [str(table[number]).strip() or number for number in numbers]
    if any(SEPARATOR in name for name in names):
        raise DataError(f"{source}: {key} has a name with {SEPARATOR!r}; rename that channel")
    keys = [folded(name) for name in names]
    return tuple(
        f"{name}_{number}" if keys.count(key) > 1 else name
        for number, name, key in zip(numbers, names, keys)
    )


def are_numbers(names: Iterable[str]) -> bool:
    """Whether channels have no names but their numbers."""
    return all(name.isdecimal() for name in names)


def agree(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two orders of channels are the same, as far as both have names."""
    if max(len(first), len(second)) < 2:
        return True
    if are_numbers(first) != are_numbers(second):
        return len(first) == len(second)
    return list(map(folded, first)) == list(map(folded, second))


def order(wanted: Sequence[str], present: Sequence[str], where: str | Path) -> list[int]:
    """For each channel that a network takes, its place among those that are there.

    Where one of the two sides has numbers only, the order decides, and their counts must agree.

    Args:
        wanted: names, () for all that there are.
        present: the names of the channels of a case, in their order.
        where: file or folder, for the error message.

    Raises:
        DataError: a channel is missing.
    """
    if not wanted:
        return list(range(len(present)))
    places = {folded(name): place for place, name in enumerate(present)}
    missing = [name for name in wanted if folded(name) not in places]
    if not missing:
        return [places[folded(name)] for name in wanted]
    if len(wanted) == len(present) and are_numbers(wanted) != are_numbers(present):
        return list(range(len(present)))
    raise DataError(
        f"{where}: no channel {', '.join(missing)}; there are {', '.join(present) or 'none'}, and "
        f"channel_names is {', '.join(wanted)}; add the files, or name the channels as they are"
    )


# ---- names of files


def by_number(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Case -> number of the channel -> name, of names such as case_0000 and case_0001.

    Args:
        names: those of files, without their suffixes. Others are left out.
    """
    cases: dict[str, dict[int, str]] = {}
    for name in names:
        match = _NNUNET.fullmatch(name)
        if match:
            cases.setdefault(match["case"], {})[int(match["number"])] = name
    return cases


def by_name(names: Iterable[str], channel_names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Case -> channel -> name, of names such as case_T2 and case_ADC, or T2 alone (case "").

    Of channels whose names end alike, the longest one counts. Others are left out.
    """
    cases: dict[str, dict[str, str]] = {}
    by_length = sorted(channel_names, key=len, reverse=True)
    for name in names:
        for channel in by_length:
            case = _before(name, channel)
            if case is not None:
                cases.setdefault(case, {})[channel] = name
                break
    return cases


def _before(name: str, channel: str) -> str | None:
    """What stands in a name before the name of a channel; None where it ends otherwise."""
    if folded(name) == folded(channel):
        return ""
    beginning = name[: -len(channel)].rstrip("-_. ")
    has_boundary = len(beginning) < len(name) - len(channel)
    ends_so = folded(name).endswith(folded(channel))
    return beginning if ends_so and has_boundary and beginning else None


def check_given(channels: Sequence[str | Path], names: Sequence[str]) -> None:
    """Refuse files for the channels of a network that are too few, too many, or in another order.

    The order can be seen where the names of the files end in numbers as nnU-Net's do, or in the
    names of channels.

    Raises:
        DataError: says which file is expected where.
    """
    wanted = ", ".join(names)
    if len(channels) != len(names):
        raise DataError(
            f"{listed(Path(file_of(c)).name for c in channels)}: {len(channels)} channels, but the "
            f"network takes {len(names)} ({wanted}); give a file for each, in this order"
        )
    stems = [Path(file_of(channel)).name.split(".")[0] for channel in channels]
    by_numbers = [_NNUNET.fullmatch(stem) for stem in stems]
    numbers = [int(match["number"]) for match in by_numbers if match]
    expected = _numbers_of(names, file_of(channels[0]))
    if len(set(numbers)) == len(names) and numbers != (expected or sorted(numbers)):
        in_order = ", ".join(f"_{number:04d}" for number in expected or sorted(numbers))
        raise DataError(
            f"{stems[0]}: the channels are given in another order than their numbers say; give "
            f"them as {in_order}, which are {wanted}"
        )
    for stem, name in zip(stems, names):
        own = [channel for of_case in by_name([stem], names).values() for channel in of_case]
        if own and own[0] != name:
            raise DataError(
                f"{stem}: given as the channel {name}, but its name says {own[0]}; the order is "
                f"{wanted}"
            )


def _numbers_of(names: Sequence[str], path: str) -> list[int]:
    """The numbers of channels in the `dataset.json` beside a file; [] where it has none of them."""
    with contextlib.suppress(DataError):
        present = names_beside(path)
        if present and not are_numbers(names):
            return order(names, present, path)
    return []


def in_order(paths: Mapping[str, str | Path], names: Sequence[str]) -> list[str | Path]:
    """The files of a table channel -> file in the order of `names`.

    Raises:
        DataError: a channel is missing, or is none of the network.
    """
    by_key = {folded(name): path for name, path in paths.items()}
    unknown = [name for name in paths if folded(name) not in map(folded, names)]
    missing = [name for name in names if folded(name) not in by_key]
    if unknown or missing:
        raise DataError(
            f"channels: found {', '.join(map(str, paths))}; expected {', '.join(names)}; give "
            "each of them once"
        )
    return [by_key[folded(name)] for name in names]
