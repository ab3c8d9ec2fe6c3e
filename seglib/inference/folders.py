"""Folders: what there is to predict, and its cases one after the other.

Other threads read and write pictures, so that the network does not wait for files.
"""

import functools
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import hosts, memory
from ..errors import DataError
from ..formats import channels, images, inputs, nifti, sequences, volumes
from .masks import Prediction, VolumePrediction

READ_AHEAD = 4  # pictures of a folder that are read before the network needs them


class Item(NamedTuple):
    """A picture or volume of a folder.

    `label` tells it in the results, `name` begins the names of its files; `source` is a path, or
    the cell of several channels.
    """

    label: str
    name: str
    source: str
    is_volume: bool


class Steps(NamedTuple):
    """What `predict` does with each item: methods of a `Predictor`, their options set.

    `read`: source -> pixels. `predict`: pixels -> `Prediction`. `write`: prediction, pixels,
    folder, name -> None. `predict_volume`: source, file of the mask -> `VolumePrediction`.
    `draws`: whether `write` draws with matplotlib, which has to stay in the calling thread.
    """

    read: Callable[[str], np.ndarray]
    predict: Callable[[np.ndarray], Prediction]
    write: Callable[[Prediction, np.ndarray, Path, str], None]
    predict_volume: Callable[[str, Path], VolumePrediction]
    draws: bool


def to_predict(content: inputs.Inputs, folder: str | Path, cfg) -> list[Item]:
    """What a folder has to predict: its files, or its cases of several channels.

    Files that are in no case are added to `content.left_out`.
    """
    if not cfg.channels:
        names = _output_names(content.files, folder)
        return [
            Item(inputs.label(file, folder), names[file], str(file), volumes.is_volume(file))
            for file in content.files
        ]
    cells, left_out = sequences.of_files(content.files, cfg)
    content.left_out.update(left_out)
    return [
        Item(
            label=case if len(channels.files(cell)) > 1 else Path(cell).name,
            name=case,
            source=cell,
            is_volume=volumes.is_volume(cell),
        )
        for case, cell in cells.items()
    ]


def _output_names(files: list[Path], folder: str | Path) -> dict[Path, str]:
    """File -> name of its results: its stem, or `a_png` and `a_jpg` where two share a stem.

    That of a series below the folder has its path, such as `patient1_ct`.
    """
    labels = {file: re.sub("[/#]", "_", inputs.label(file, folder)) for file in files}
    stems = {
        file: nifti.stem(label) if volumes.is_volume(file) else Path(label).stem
        for file, label in labels.items()
    }
    n_files = Counter(stems.values())
    return {
        file: stem if n_files[stem] == 1 else labels[file].replace(".", "_")
        for file, stem in stems.items()
    }


def predict(
    items: list[Item],
    output: Path,
    steps: Steps,
    use: Callable[[Item, Prediction | VolumePrediction], None],
) -> dict[str, Any]:
    """Predict every item and write its mask; an item that raises `DataError` stops no other.

    Args:
        use: what else is done with each prediction.

    Returns:
        `done`, `failed`, `millilitres` and `notes`, as `Predictor.predict_folder` returns them.
    """
    result: dict[str, Any] = {"done": [], "failed": {}, "millilitres": {}, "notes": {}}
    for item, predict_item in _jobs(items, output, steps):
        try:
            prediction, notes = predict_item()
            use(item, prediction)
            if item.is_volume:
                result["millilitres"][item.label] = prediction.millilitres
            result["done"].append(item.label)
            result["notes"] |= {item.label: notes} if notes else {}
        except DataError as error:
            result["failed"][item.label] = str(error)
    return result


def _jobs(items: list[Item], output: Path, steps: Steps) -> Iterator[tuple[Item, Callable]]:
    """Each item with a function that predicts it and writes its mask.

    The function returns the prediction and the notes on the file.
    """

    def predict_volume(item: Item) -> tuple[VolumePrediction, tuple[str, ...]]:
        suffix = volumes.mask_suffix(channels.first_file(item.source))
        prediction = steps.predict_volume(item.source, output / (item.name + suffix))
        return prediction, prediction.notes

    def predict_picture(item: Item, picture: Future) -> tuple[Prediction, tuple[str, ...]]:
        image, notes = picture.result()
        prediction = steps.predict(image)
        write = functools.partial(steps.write, prediction, image, output, item.name)
        if steps.draws:
            write()
        else:
            writes.append(pool.submit(write))
        return prediction, notes

    with memory.keep_freed_memory(), ThreadPoolExecutor(2) as pool:
        writes: deque[Future] = deque()
        progress = hosts.progress(items, desc="predict", leave=False)
        read = functools.partial(_read_picture, steps.read)
        for item, picture in _read_ahead(pool, read, progress):
            if item.is_volume:
                yield item, functools.partial(predict_volume, item)
            else:
                yield item, functools.partial(predict_picture, item, picture)
            while len(writes) > READ_AHEAD:
                writes.popleft().result()  # raises here if the disk is full
        for future in writes:
            future.result()


def _read_picture(
    read: Callable[[str], np.ndarray], item: Item
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A picture of a folder, and what is odd about it; None for a volume."""
    if item.is_volume:
        return None
    return read(item.source), images.notes_of(channels.first_file(item.source))


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable, items: Iterable[Item]
) -> Iterator[tuple[Item, Future]]:
    """Each item with the future of `read(item)`, which was started `READ_AHEAD` items earlier."""
    started: deque[tuple[Item, Future]] = deque()
    for item in items:
        started.append((item, pool.submit(read, item)))
        if len(started) > READ_AHEAD:
            yield started.popleft()
    yield from started
