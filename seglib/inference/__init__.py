"""`Predictor`: from trained weights to masks in the size of the input. Taught in `04` and `08`.

The rooms, in the order in which data passes them:

- `loading`: weights files to networks;
- `folders`: what a folder has to predict, one case after the other;
- `frames`: an array to what the network sees;
- `views`, `batches`: a batch to probabilities, as the mean over views; those to masks;
- `masks`: what a prediction holds: classes, volumes, cleaned masks;
- `writing`, `measuring`: a prediction to files, and to a table.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import case_io, data, hosts, regions
from ..errors import ConfigError, DataError
from ..formats import images, inputs, sequences, stacks, volumes
from ..layouts import stacks as stacks_of_pages
from . import folders, frames, loading, masks, measuring, writing
from .batches import OPTIONS, BatchPredictor
from .masks import Prediction, VolumePrediction, class_mask, class_plane, clean
from .views import NO_FLIPS

__all__ = [
    "NO_FLIPS",
    "OPTIONS",
    "Prediction",
    "Predictor",
    "VolumePrediction",
    "class_mask",
    "class_plane",
    "clean",
]


class Predictor(BatchPredictor):
    """A trained network with everything it needs to go from pixels to a mask.

    `Predictor.load(run.best).predict(array)` resizes the array to the network's size and the result
    back to the size of the array. One of `OPTIONS` that is set on a predictor holds for all of its
    predictions and evaluations; `evaluation.compare` tells whether it improves them.

    Attributes:
        tta: test-time augmentation, the mean over flipped views. True: the flips that the network
            was trained with; "hflip", "vflip" or "hflip,vflip": these, where you know that a
            mirrored image of your data is as plausible as the original.
        tta_rotation: degrees; the mean also includes two views, turned by this angle to the left
            and to the right.
        min_component_size: connected components of fewer pixels (volumes: voxels) are removed from
            every class.
        keep_largest_component: of every class only the largest connected component of a picture or
            volume is kept.
        fill_holes: background that a class encloses becomes that class.
        temperature: logits are divided by it.
        thresholds: one for each class, instead of the config's; see `evaluation.tuned`.
        chosen: temperature and thresholds as text, with the data they were chosen on.
        models: the networks; of several, the mean of their probabilities is used.
        trained_on: first 16 characters of the hashes of the images that the weights were trained
            with, those of all networks together; None if one of them does not tell.
        files: the weights files that the networks were loaded from, empty for one in memory.
        checksums: the SHA-256 of each file, None where the JSON beside it has none.
    """

    trained_on: list[str] | None = None
    files: tuple[Path, ...] = ()
    checksums: tuple[str | None, ...] = ()

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str = "auto",
        precision: str = "auto",
        model: torch.nn.Module | None = None,
    ) -> "Predictor":
        """From a weights file and the `.json` beside it; nothing in either is executed.

        Args:
            path: a file, or the name of a network of the zoo, such as "lung", see `zoo.resolve`;
                several of them, or the folder of a cross-validation: the mean of the probabilities
                of these networks.
            precision: "auto" computes as in training, if the device can; see
                `hosts.choose_precision`.
            model: the network, where `training.fit` was given one of your own. The weights go into
                a copy of it.

        Raises:
            DataError: a file is missing, torn, tries to run code, or the weights are of another
                network; they are of a network of your own and `model` is not given; or several
                networks differ in their classes or their input.
        """
        weights = loading.read([path] if isinstance(path, str | Path) else path, model)
        predictor = cls(weights.networks, weights.config, device, precision, weights.trained_in)
        predictor.trained_on = weights.trained_on
        predictor.files, predictor.checksums = weights.files, weights.checksums
        return predictor

    @property
    def weights(self) -> Path | None:
        """The file of the weights; None for a network in memory, and for several files."""
        return self.files[0] if len(self.files) == 1 else None

    # ---- arrays

    def predict(self, image: np.ndarray) -> Prediction:
        """An image of any size and number type -> a `Prediction` of its height and width.

        Args:
            image: (H, W) or (H, W, C), RGB.

        Raises:
            DataError: not an image array, a number of channels that cannot be brought to the
                network's, or an image larger than the frame of a network that was trained on whole
                frames without scaling (`resize="none"`).
        """
        return self.predict_pixels(frames.to_pixels(image, self.config))

    def predict_pixels(self, pixels: np.ndarray) -> Prediction:
        """The same for an image in the form of the training images, as `read` returns it.

        Args:
            pixels: (H, W, in_channels) uint8, which is not scaled once more.
        """
        cfg = self.config
        sides = pixels.shape[:2]
        frames.check_memory(sides, frames.of_image(sides, cfg), cfg)
        batch = torch.from_numpy(frames.network_input(pixels, cfg, self.table))[None]
        prob = self.probabilities(batch)[0].cpu().numpy()
        prob = images.unfit(prob, sides, cfg.resize)
        return Prediction(prob, self.mask(prob))

    def predict_tiled(
        self, image: np.ndarray, overlap: float = 0.5, batch_size: int = 8
    ) -> Prediction:
        """The same at the image's own resolution: tiles of the network's size, blended smoothly.

        For images much larger than the network's input, if the network was trained at their scale.
        See `tiles.blend`. With `resize="none"` and `patch_size`, `predict` does the same.

        Args:
            overlap: share of a tile that the next tile also covers, 0.3 to 0.9.
            batch_size: number of tiles that are computed at once.
        """
        if not 0.3 <= overlap <= 0.9:
            raise DataError(f"overlap: {overlap} is not allowed; expected 0.3 to 0.9")
        pixels = frames.to_pixels(image, self.config)
        sides = pixels.shape[:2]
        frame = frames.at_least(sides, self.config.network_height_width)
        frames.check_memory(sides, frame, self.config)
        padded = data.normalise(images.fit_image(pixels, frame, "none"), self.table)  # (C, H, W)
        progress = functools.partial(hosts.progress, desc="tiles", leave=False)
        prob = self._blended(torch.from_numpy(padded)[None], overlap, batch_size, progress)
        prob = images.unfit(prob[0].numpy(), sides, "none")
        return Prediction(prob, self.mask(prob))

    # ---- files

    def read(self, path: str | Path) -> np.ndarray:
        """An image file in the form of the training images: (H, W, in_channels) uint8."""
        return case_io.read_picture(path, self.config)

    def write(
        self,
        prediction: Prediction,
        image: np.ndarray,
        output: str | Path,
        name: str,
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        truth: np.ndarray | None = None,
    ) -> None:
        """Write `<name>_mask.png` of a prediction into a folder: 0 and 255, or class numbers.

        A multilabel prediction has a file for each class, `<name>_<class>_mask.png`.

        Args:
            image: (H, W, C) uint8, as `read` returns it.
            overlay: also `<name>_overlay.png`, the mask in colour on the image.
            panels: also `<name>_visualization.png`: image, prediction, the truth (H, W) where it is
                given and, with `probability`, the probability of any structure.
        """
        drawing = (overlay, panels, probability, truth)
        writing.picture(prediction, image, Path(output), name, self.config, *drawing)

    def outline(
        self, writer: Any, path: str | Path, prediction: Prediction, name: str = ""
    ) -> None:
        """Add a predicted mask to a file of a labelling tool, where it can be corrected.

        Args:
            writer: of `annotations.writers`; its `save` comes after the last image.
            path: the picture file of which the prediction is.
            name: of the file of LabelMe, by default that of the picture.

        Raises:
            DataError: the file exists already.
        """
        planes = dict(masks.by_class(prediction.mask, self.config))
        writer.add(path, planes, images.exif_orientation(path), name)

    def predict_file(
        self,
        path: str | Path,
        output: str | Path | None = None,
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
        tiff_pages: stacks_of_pages.Pages | None = None,
    ) -> Any:
        """An image file -> a `Prediction`; with `output`, also the files of `write`.

        Args:
            tiff_pages: what the pages of a multi-page TIFF are, as in `prepare --tiff_pages`:
                "volume", whose `VolumePrediction` is returned, or "pictures", of which a list is
                returned. None: such a file is refused.
        """
        if tiff_pages is not None:
            with stacks_of_pages.unfolded(path, tiff_pages) as volume_or_folder:
                if tiff_pages == "volume":
                    return self.predict_volume(volume_or_folder, output)
                return [
                    self.predict_file(page, output, overlay, panels, probability, tiled)
                    for page in sorted(volume_or_folder.iterdir())
                ]
        image = self.read(path)
        prediction = self.predict_tiled(image) if tiled else self.predict(image)
        if output is not None:
            self.write(
                prediction,
                image,
                output,
                name=Path(path).stem,
                overlay=overlay,
                panels=panels,
                probability=probability,
            )
        return prediction

    def predict_folder(
        self,
        folder: str | Path,
        output: str | Path = "predictions",
        overlay: bool = False,
        panels: bool = False,
        probability: bool = False,
        tiled: bool = False,
        table: str | Path | None = None,
        objects: bool = False,
        neck: float = regions.NECK,
        pixel_mm: float | Sequence[float] | None = None,
        writer: Any = None,
    ) -> dict[str, Any]:
        """Every picture and NIfTI volume of a folder, by `predict_file` and `predict_volume`.

        A network with several channels predicts cases, whose files `sequences.of_files` tells
        apart; their names stand for those of files below.

        A file that cannot be read is reported under "failed"; the others are still predicted. Other
        threads read and write pictures, so that the network does not wait for files.

        Args:
            table: a CSV file that receives the measures of all images, see `measure`.
            writer: of `annotations.writers`, receives the masks of all pictures: see `outline`.

        Returns:
            A dict: `done`, a list of file names; `failed`, name -> reason; `millilitres`, name of a
            volume -> {class: mL}; `notes`, name -> what is odd about the file; `left_out`, name ->
            reason, of images of other kinds and of sub folders with images; `masks`, the names of
            masks of the images; `no_image`, those of all others; with `table`, also `measures`.

        Raises:
            DataError: no such folder, or there is nothing in it that can be predicted.
        """
        options = regions.options(objects, neck, pixel_mm)
        regions.check_table(table, options)
        content = inputs.read(folder, output)
        tables: list[pd.DataFrame] = []

        def use(item: folders.Item, prediction: Prediction | VolumePrediction) -> None:
            if writer and not item.is_volume:
                self.outline(writer, Path(item.source), prediction, item.name)
            if table is not None:
                measures = measuring.of_file(item.source, prediction, options, self.config)
                tables.append(measures.assign(case=item.name, file=item.label))

        items = folders.to_predict(content, folder, self.config)
        predict = self.predict_tiled if tiled else self.predict
        write = functools.partial(
            self.write, overlay=overlay, panels=panels, probability=probability
        )
        steps = folders.Steps(self.read, predict, write, self.predict_volume, draws=panels)
        result = folders.predict(items, Path(output), steps, use)
        result |= {name: getattr(content, name) for name in ("left_out", "no_image", "masks")}
        if table is not None:
            result["measures"] = regions.table_of(tables, objects)
            regions.save(result["measures"], table)
        return result

    # ---- measures

    def measure(
        self,
        source: str | Path | np.ndarray,
        prediction: Prediction | VolumePrediction | None = None,
        objects: bool = False,
        neck: float = regions.NECK,
        pixel_mm: float | Sequence[float] | None = None,
    ) -> pd.DataFrame:
        """Size, place and mean intensity of each structure that is predicted in an image.

        Measured on the original grid, and in the values of the file: HU for CT. `regions.COLUMNS`
        names the columns; pixel (0, 0) or voxel (0, 0, 0) is the first one of the file.

        Args:
            source: an array as for `predict`, a picture file, or a volume as for `predict_volume`.
            prediction: that of `source`, where there is one already; None predicts it.
            objects: one row for each object, such as a nucleus, instead of one for each class;
                objects that touch are split by a watershed, see `regions.split`.
            neck: objects are split where the neck between them is narrower than this share of the
                narrower one; 0 splits only what does not touch.
            pixel_mm: height and width of a pixel in mm, or one number for both, where the file of
                a picture does not tell it, and for arrays.

        Returns:
            A row for each class or object. Where a pixel has no known size, values in mm are
            missing.

        Raises:
            DataError: as `predict`, `predict_volume`; a folder of pictures; the shape of
                `prediction` is another one.
            ConfigError: `neck` or `pixel_mm` out of range, or `pixel_mm` for a volume.
        """
        options = regions.options(objects, neck, pixel_mm)
        if not isinstance(source, str | Path):
            prediction = prediction or self.predict(source)
            original = regions.of_array(source, options.pixel_mm)
            return measuring.of_original(prediction, original, options, self.config)
        if not volumes.is_volume(source):
            prediction = prediction or self.predict(self.read(source))
        elif pixel_mm is not None:
            raise ConfigError(f"pixel_mm: {source} is a volume, whose file tells it; leave it out")
        else:
            inputs.refuse_pictures(source)
            prediction = prediction or self.predict_volume(source)
        return measuring.of_file(str(source), prediction, options, self.config)

    # ---- volumes

    def predict_volume(
        self,
        path: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
        output: str | Path | None = None,
        batch_size: int = 8,
        dicom: bool = False,
    ) -> VolumePrediction:
        """The file of a volume or the folder of a DICOM series to a `VolumePrediction`.

        The network sees slice by slice; `min_component_size`, `keep_largest_component` and
        `fill_holes` act on the whole volume.

        Args:
            path: a file or folder. For a network with several channels: the files in the order of
                `config.channel_names`, a dict name -> file, or one file or folder from which the
                others are found: see `sequences.cell_of`.
            output: a file whose suffix names its format (.nii.gz, .nrrd, .mha), or a folder that
                receives `<name>_mask` in the format of the input: `.nii.gz` of NIfTI and DICOM,
                `.seg.nrrd` with the names of the classes of NRRD, `.mha` of MetaImage (multilabel:
                one file per class). It has the axes, geometry and unit of the input, so that a
                viewer lays it exactly over the image.
            dicom: also `<name>_mask.dcm`, a DICOM Segmentation over the series; only for a series,
                needs highdicom.

        Raises:
            DataError: no such volume, or one that is damaged or unsuitable for the network.
        """
        cell = sequences.cell_of(path, self.config)
        volume = stacks.read_8_bit(cell, self.config)
        grid = volume.grid
        planes = self._predict_slices(volume.voxels, batch_size)
        mask = self.cleaned(np.moveaxis(np.stack(planes), 0, -3))
        notes = volume.notes
        if volume.voxels.min() == volume.voxels.max():
            notes += ("all voxels are alike: nothing can be seen; export it again",)
        millilitres = masks.millilitres(mask, grid, self.config)
        prediction = VolumePrediction(mask, grid, millilitres, notes)
        if output is not None:
            writing.volume(prediction, cell, Path(output), self.config, dicom)
        return prediction

    def _predict_slices(self, slices: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """The mask of every slice of a volume, of `stacks.read_8_bit`, before it is cleaned."""
        cfg, planes = self.config, []
        starts = range(0, len(slices), batch_size)
        for start in hosts.progress(starts, desc="predict", leave=False):
            batch = []
            for number in range(start, min(start + batch_size, len(slices))):
                image = stacks.image(slices, number, cfg)
                batch.append(frames.network_input(image, cfg, self.table))
            for prob in self.probabilities(torch.from_numpy(np.stack(batch))).cpu().numpy():
                planes.append(self.raw_mask(images.unfit(prob, slices.shape[1:3], cfg.resize)))
        return planes
