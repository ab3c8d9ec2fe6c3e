"""Which files are the channels of one case, where a prediction is asked for.

The network knows the names of its channels in their order, `cfg.channel_names`. Files are told
apart by nnU-Net's numbers (case_0000, case_0001), or by those names (case_T2, case_ADC).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, listed
from ..files import folded
from . import channels, nifti, volumes

# Names of volumes that every case has, so that only the folder tells the case: case01/image.nii.gz.
_OF_EVERY_CASE = ("image", "img", "volume", "vol", "scan")


def cell_of(source: str | Path | Sequence[str | Path] | Mapping[str, str | Path], cfg) -> str:
    """The cell (see `channels`) of one volume, as `Predictor.predict_volume` takes it.

    Args:
        source: one file or folder; or, for a network with several channels,

            - its files in the order of `cfg.channel_names`, or joined by `::`,
            - a dict name -> file,
            - one of its files, where the others lie beside it,
            - a folder with the files of one case,
            - a file with a fourth axis.

    Raises:
        DataError: a channel is missing or in another place than its name or number says.
    """
    names = cfg.channels
    if isinstance(source, Mapping):
        source = channels.in_order(source, names or ("0",))
    if not isinstance(source, str | Path):
        parts = list(source)
        channels.check_given(parts, names or ("the image",))
        return channels.join(parts)
    parts = channels.split(source)
    if len(parts) > 1:
        return cell_of(parts, cfg)
    path = Path(source)
    if channels.number_of(path) is None and path.is_file() and n_volumes(path) > 1:
        return _of_fourth_axis(path, names)
    if not names or (len(names) == 1 and path.is_file()):
        return str(source)
    return _of_several_files(path, names)


def of_files(files: Iterable[Path], cfg) -> tuple[dict[str, str], dict[str, str]]:
    """The cases of a folder for a network with several channels.

    Args:
        files: those of the folder that can be predicted.

    Returns:
        Name of a case -> its cell; and name of a file -> why it is in no case.
    """
    names = cfg.channels
    by_stem = {_stem(file): file for file in files}
    cells: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for case, of_case in _groups(by_stem, names).items():
        own = {place: by_stem.pop(stem) for place, stem in of_case.items()}
        missing = [name for place, name in enumerate(names) if place not in own]
        if not missing and len(own) == len(names):
            cells[case or own[0].absolute().parent.name] = channels.join(
                own[place] for place in range(len(names))
            )
            continue
        reason = f"its case {case} has {len(own)} channels, the network takes {', '.join(names)}"
        if missing:
            reason = f"its case {case} lacks the channel {', '.join(missing)}"
        left_out |= {file.name: reason for file in own.values()}
    for stem, file in by_stem.items():
        if len(names) == 1 or (volumes.is_volume(file) and n_volumes(file) > 1):
            cells[stem] = str(file)
        else:
            left_out[file.name] = (
                f"the network takes {len(names)} channels ({', '.join(names)}); expected files "
                "that end in _0000, _0001 ... or in these names"
            )
    return cells, left_out


def name_of(cell: str, cfg) -> str:
    """The name of a case: that of its first file, without the number or name of a channel.

    Where all cases call their file so, as ITK-SNAP's `case01/image.nii.gz`, it is the folder's.
    """
    path = Path(channels.first_file(cell))
    stem = _stem(path)
    if folded(stem) in _OF_EVERY_CASE and not path.is_dir():
        return path.absolute().parent.name or stem
    if len(channels.files(cell)) < 2:
        return stem
    by_name = channels.by_name([stem], cfg.channels)
    case = next(iter(by_name or channels.by_number([stem])), stem)
    return case or path.absolute().parent.name


def _stem(path: str | Path) -> str:
    """The name of a file without its suffix, that of a folder as it is."""
    name, stem = Path(path).name, nifti.stem(path)
    return Path(name).stem if stem == name and not Path(path).is_dir() else stem


def n_volumes(path: Path) -> int:
    """The length of the fourth axis of a file; 1 for other files than NIfTI."""
    return nifti.n_volumes(path) if str(path).lower().endswith((".nii", ".nii.gz")) else 1


def _of_fourth_axis(path: Path, names: tuple[str, ...]) -> str:
    length = n_volumes(path)
    present = channels.names_beside(path)
    if len(present) != length:
        present = tuple(map(str, range(length)))
    if not names:
        raise DataError(
            f"{path}: {length} volumes along its fourth axis, but the network takes one; split "
            "it first"
        )
    places = channels.order(names, present, path)
    parts = channels.of_fourth_axis(path, length)
    return channels.join(parts[place] for place in places)


def _of_several_files(path: Path, names: tuple[str, ...]) -> str:
    """The cell of the case of which `path` is one file, or which lies in the folder `path`."""
    folder = path if path.is_dir() else path.absolute().parent
    if volumes.is_series(path) or not folder.is_dir():
        folder = path.absolute().parent
    entries = sorted(entry for entry in folder.glob("[!.]*") if volumes.is_volume(entry))
    by_stem = {_stem(entry): entry for entry in entries}
    groups = _groups(by_stem, names)
    if folder != path:
        stem = _stem(path)
        groups = {case: own for case, own in groups.items() if stem in own.values()}
    complete = {case: own for case, own in groups.items() if set(own) == set(range(len(names)))}
    if len(complete) != 1:
        content = listed((entry.name for entry in entries), most=6) or "none"
        what = "several cases" if complete else "no case with all of them"
        raise DataError(
            f"{path}: the network takes {len(names)} channels ({', '.join(names)}), and here is "
            f"{what}, by names that end in _0000, _0001 ... or in these names; volumes in "
            f"{folder.name}: {content}; give the files in this order"
        )
    own = next(iter(complete.values()))
    return channels.join(by_stem[own[number]] for number in range(len(names)))


def _groups(files: Mapping[str, Path], names: Sequence[str]) -> dict[str, dict[int, str]]:
    """Case -> place of the channel -> name of its file; by names first, then by numbers.

    What the numbers mean says a `dataset.json` beside the files; without one they are the places.
    """
    place = {name: number for number, name in enumerate(names)}
    groups: dict[str, dict[int, str]] = {}
    if not channels.are_numbers(names):
        for case, own in channels.by_name(files, names).items():
            groups[case] = {place[name]: stem for name, stem in own.items()}
    if any(len(own) == len(names) for own in groups.values()):
        return groups
    by_number = channels.by_number(files)
    if not by_number:
        return groups
    present = channels.names_beside(next(iter(files.values())))
    if not present:
        return dict(by_number)
    places = channels.order(names, present, next(iter(files.values())).parent)
    return {
        case: {k: own[number] for k, number in enumerate(places) if number in own}
        for case, own in by_number.items()
    }
