"""Which files of a data set are the channels of one case, for the trees of volumes.

- nnU-Net numbers them: `case_0000.nii.gz` and `case_0001.nii.gz` with the labels `case.nii.gz`;
- the Decathlon stacks them along a fourth axis of one file;
- others put their names behind that of the case: `case_T1.nii.gz`, `case_FLAIR.nii.gz`. They count
  where `channel_names` says so.

The names come from the `dataset.json` beside the data, else they are the numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..formats import channels
from ..formats import sequences as files_of_cases


class Case(NamedTuple):
    """The volumes of one case.

    Attributes:
        path: the first of them.
        cell: all of them in the order of the network's channels, see `formats.channels`.
        names: those of the channels, () for a single volume.
        problem: why the case cannot be used, "" if it can.
    """

    path: Path
    cell: str
    names: tuple[str, ...] = ()
    problem: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the case table about its channels."""
        columns = {"channels": channels.SEPARATOR.join(self.names)}
        return {**columns, "problem": self.problem} if self.problem else columns


def of_folder(files: Mapping[str, Path], labels: Mapping[str, Path], cfg: Any) -> dict[str, Case]:
    """The cases of a folder by the names of their labels.

    Args:
        files: name without `.nii.gz` -> volume.
        labels: name -> label file.

    Raises:
        DataError: `channel_names` has a channel that no case has, or `dataset.json` is damaged.
    """
    numbered = _with_labels(channels.by_number(files), files, labels)
    named: dict[str, Any] = {}
    if not channels.are_numbers(cfg.channels):
        named = _with_labels(channels.by_name(files, cfg.channels), files, labels)
    groups = {**named, **numbered}
    case_of = {name: case for case, own in groups.items() for name in own.values()}
    numbers = {number for own in numbered.values() for number in own}
    cases: dict[str, Case] = {}
    for name, path in files.items():
        case = case_of.get(name, name)
        if case in cases:
            continue
        own = {channel: files[other] for channel, other in groups.get(case, {}).items()}
        if case in numbered:
            cases[case] = _numbered(own, numbers, cfg)
        elif case in named:
            cases[case] = _named(own, cfg.channels)
        else:
            cases[case] = single(path, cfg)
    return cases


def of_pictures(files: Mapping[str, Path], labels: Mapping[str, Path], cfg: Any) -> dict[str, Case]:
    """The same for pictures as nnU-Net numbers them, `case_0000.png`; {} for other names.

    A file alone holds all channels of its case, such as red, green and blue.

    Raises:
        DataError: as `of_folder`.
    """
    numbered = _with_labels(channels.by_number(files), files, labels)
    numbers = {number for own in numbered.values() for number in own}
    cases = {}
    for case, own in numbered.items():
        paths = {number: files[name] for number, name in own.items()}
        if numbers == {0}:
            cases[case] = Case(paths[0], str(paths[0]))
        else:
            cases[case] = _numbered(paths, numbers, cfg)
    return cases


def _with_labels(groups: Mapping[str, Any], files: Mapping, labels: Mapping) -> dict[str, Any]:
    """The groups that are cases: their name is that of labels, and of no volume.

    A volume that has labels of its own name is a case itself, such as case_0001 with case_0001.
    """
    result = {}
    for case, own in groups.items():
        own = {channel: name for channel, name in own.items() if name not in labels}
        if own and case in labels and case not in files:
            result[case] = own
    return result


def single(path: Path, cfg: Any) -> Case:
    """The case of one file: a volume, or several along a fourth axis."""
    try:
        n_volumes = files_of_cases.n_volumes(path)
    except DataError:  # preparation says what is wrong with the file
        n_volumes = 1
    if not 1 < n_volumes <= channels.MOST:
        return Case(path, str(path))
    names = channels.names_beside(path) or tuple(map(str, range(n_volumes)))
    if len(names) != n_volumes:
        problem = (
            f"{n_volumes} volumes along its fourth axis, but dataset.json names {len(names)} "
            f"channels ({', '.join(names)}); correct one of the two"
        )
        return Case(path, str(path), problem=problem)
    return _chosen(channels.of_fourth_axis(path, n_volumes), names, path, cfg)


def _numbered(paths: dict[int, Path], numbers: set[int], cfg: Any) -> Case:
    """The case of files that are numbered; `numbers` are those of all cases together."""
    first = paths[min(paths)]
    names = channels.names_beside(first) or tuple(map(str, range(max(numbers) + 1)))
    missing = [f"{k:04d} ({name})" for k, name in enumerate(names) if k not in paths]
    others = [f"{k:04d}" for k in sorted(paths) if k >= len(names)]
    if missing or others:
        problem = f"its channel {', '.join(missing)} is missing; add the file"
        if others:
            problem = (
                f"its channel {', '.join(others)} is none of dataset.json ({', '.join(names)}); "
                "move the file away, or name it there"
            )
        return Case(first, str(first), problem=problem)
    return _chosen([str(paths[k]) for k in range(len(names))], names, first, cfg)


def _named(paths: dict[str, Path], names: tuple[str, ...]) -> Case:
    """The case of files that have the names of channels behind that of the case."""
    first = next(iter(paths.values()))
    missing = [name for name in names if name not in paths]
    if missing:
        problem = f"its channel {', '.join(missing)} is missing; add the file"
        return Case(first, str(first), problem=problem)
    parts = [str(paths[name]) for name in names]
    return Case(Path(parts[0]), channels.join(parts), names if len(names) > 1 else ())


def _chosen(parts: list[str], names: tuple[str, ...], path: Path, cfg: Any) -> Case:
    """The case with those of its channels that `channel_names` wants, by default all."""
    places = channels.order(cfg.channels, names, path)
    chosen = [parts[place] for place in places]
    names = tuple(names[place] for place in places)
    first = Path(channels.file_of(chosen[0]))
    return Case(first, channels.join(chosen), names if len(names) > 1 else ())
