"""What several test files build: series and volumes with labels, stores, predictors."""

import io
import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from scipy import ndimage

from seglib import case_io, config, metrics, prepare, training
from seglib.__main__ import main
from seglib.formats import images, volumes
from seglib.inference import Predictor

# All 48 ways in which a file can store the axes of a patient, as nibabel writes orientations.
ORIENTATIONS = [
    np.array([[axis, sign] for axis, sign in zip(order, signs)], float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SPACING_XYZ = (0.8, 1.5, 4.0)  # right-left, back-front, foot-head
PALM_CLASSES = ("atrophy", "detachment", "disc")  # of `multilabel_store`
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def numbered_volume(shape=(7, 9, 5)):
    """A NIfTI image in R-A-S axes; every voxel has a number of its own."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 1000
    return nibabel.Nifti1Image(
        array, nibabel.affines.from_matvec(np.diag(SPACING_XYZ), (-30, 12, -400))
    )


def displayed(array):
    """(x, y, z) in R-A-S axes as radiologists see it: from the feet, up is anterior, left is R."""
    return array[::-1, ::-1].transpose(2, 1, 0)


def save_nifti(image, path):
    """Write an image, in a new folder where needed; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


ITK_AFFINE = nibabel.affines.from_matvec(  # an oblique one, in R-A-S
    nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag(SPACING_XYZ), (-30, 12, -400)
)


def save_simpleitk(array, path, affine=ITK_AFFINE, compress=False, **fields):
    """Write (x, y, z) or (x, y, z, layer) by SimpleITK, with keys of NRRD; returns the path."""
    moved = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(moved[:3, :3], axis=0)
    is_vector = array.ndim == 4
    array = array.transpose(2, 1, 0, 3) if is_vector else array.T
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array), isVector=is_vector)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(moved[:3, 3].tolist())
    image.SetDirection((moved[:3, :3] / spacing).ravel().tolist())
    for key, text in fields.items():
        image.SetMetaData(key, text)
    SimpleITK.WriteImage(image, str(path), useCompression=compress)
    return path


def labels_like(image, array, dtype=np.uint8):
    """A label map with the geometry of an image."""
    return nibabel.Nifti1Image(np.asarray(array, dtype), image.affine)


def write_series(
    folder,
    stored,
    *,
    bits=12,
    signed=False,
    syntax=ExplicitVRLittleEndian,
    number=None,
    name="{}.dcm",
    series=None,
    **tags,
):
    """A CT series of the stored numbers (S, H, W); returns its files.

    Slice k lies at z = 10 + 2.5 k mm, and SliceThickness, 5 mm, is not that distance. `number` and
    the values of `tags` may be functions of k.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, paths = series or generate_uid(), []
    for k, plane in enumerate(stored):
        path = folder / name.format(k)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", CTImageStorage)
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID = meta.MediaStorageSOPClassUID
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID = series
        data.Modality = "CT"
        data.SeriesDescription = "portal venous"
        data.ImagePositionPatient = [-20, -30, 10 + 2.5 * k]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [0.5, 0.7]
        data.SliceThickness = 5
        data.InstanceNumber = number(k) if number else k + 1
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = 16
        data.BitsStored = bits
        data.HighBit = bits - 1
        data.PixelRepresentation = int(signed)
        data.RescaleSlope = 1
        data.RescaleIntercept = -1024
        data.PixelData = plane.astype(np.int16 if signed else np.uint16).tobytes()
        for tag, value in tags.items():
            setattr(data, tag, value(k) if callable(value) else value)
        if syntax == ImplicitVRLittleEndian:
            meta.TransferSyntaxUID = syntax
        elif syntax != ExplicitVRLittleEndian:
            data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
        paths.append(path)
    return paths


def edit_dicom(path, **tags):
    """Change attributes of a file; None takes one out."""
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.save_as(path)
    return path


def write_series_and_labels(folder, stack, codes="LAS"):
    """A DICOM series and labels 0 to 5 of its voxels in `codes` axes; returns displayed labels."""
    write_series(folder / "ct", stack)
    truth = (stack % 6).astype(np.uint8)
    affine = volumes.read_grid(folder / "ct").affine  # of (slice, row, column)
    image = nibabel.Nifti1Image(truth, affine)
    stored = nibabel.orientations.axcodes2ornt(codes)
    reordering = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), stored)
    save_nifti(image.as_reoriented(reordering), folder / "seg.nii.gz")
    return truth


def write_organs(folder, image, truth, leave_out=()):
    """A mask file an organ as TotalSegmentator writes them, float64; the bowel has three files."""
    rows = np.indices(truth.shape)[0]
    masks = {
        "liver": truth == 1,
        "spleen": truth == 2,
        "kidney_left": truth == 3,
        "kidney_right": truth == 4,
        "colon": (truth == 5) & (rows % 3 == 0),
        "small_bowel": (truth == 5) & (rows % 3 == 1),
        "duodenum": (truth == 5) & (rows % 3 == 2),
        "stomach": truth == 0,
    }
    for name in set(masks) - set(leave_out):
        save_nifti(labels_like(image, masks[name], np.float64), folder / f"{name}.nii.gz")
    return folder


def rsna_config(root, tmp_path, **changes):
    """The rsna preset in its smoke size, with the window of `numbered_volume`."""
    values = {"image_size": 16, "window_level": -500, "window_width": 1000, **changes}
    return config.preset(
        "rsna", "smoke", data_root=str(root), work_dir=str(tmp_path / "work"), **values
    )


def truth_of(store, cfg):
    """Case -> (image, labels) in the size of the files."""
    rows = [row for _, row in store.cases.iterrows()]
    sizes = [(int(row["height"]), int(row["width"])) for row in rows]
    return {
        row["case"]: (
            case_io.read_image(row, cfg),
            prepare.read_truth(row, cfg, {}, size)[0][..., 0],
        )
        for row, size in zip(rows, sizes)
    }


def write_picture(path, array):
    """Write an array as a picture of 8 bits, in a new folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def save_picture(path, array, mode=None, **options):
    """Write an array with Pillow, in `mode` if given; returns the path as text."""
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return str(path)


def disc(height=60, width=80, row=0.45, col=0.55, radius=0.3):
    """(height, width) bool: a disc, by shares of the sides."""
    rows, cols = np.ogrid[:height, :width]
    return np.hypot(rows - row * height, cols - col * width) <= radius * min(height, width)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def read_picture(path):
    """The pixels of a picture as they are in the file."""
    with Image.open(path) as picture:
        return np.array(picture)


def same_pixels_of_bytes(content, array):
    """Whether the bytes of a picture file hold the pixels of an array."""
    with Image.open(io.BytesIO(bytes(content))) as picture:
        return np.array_equal(np.array(picture), array)


def command(line, *rest):
    """Exit status of `python -m seglib` in this process; `rest` are words that may hold spaces."""
    return main([*line.split(), *map(str, rest)])


def error_of(capsys, line, *rest):
    """The one message of a command line, which must end with status 2."""
    capsys.readouterr()
    assert command(line, *rest) == 2
    message = capsys.readouterr().err
    assert message.startswith("seglib: ")
    assert "Traceback" not in message
    return message


def copy_of_the_package(folder):
    """A copy of seglib as `folder / "seglib"`, for tests that change its text; returns its path."""
    source = Path(__file__).resolve().parents[1] / "seglib"
    return shutil.copytree(
        source, folder / "seglib", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )


# ---- stores without `prepare`, and predictors without a network


def hand_store(folder, pictures, masks, splits, class_names, missing=(), **columns):
    """A store made without `prepare`: pictures (N, H, W, C), masks (N, H, W, K).

    `missing` holds pairs (row, class) of masks that do not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    masks, n = masks.copy(), len(pictures)
    cells = {name: [f"{i}_{name}.png" for i in range(n)] for name in class_names}
    for row, name in missing:
        cells[name][row] = ""
        masks[row, ..., class_names.index(name)] = 255
    np.save(folder / "images.npy", pictures)
    np.save(folder / "masks.npy", masks)
    table = {
        "case": [f"case{i}" for i in range(n)],
        "patient": [f"p{i}" for i in range(n)],
        "split": splits,
    }
    table |= {
        "image": [f"{i}.png" for i in range(n)],
        **cells,
        "sha256": [f"{i:064x}" for i in range(n)],
        "height": pictures.shape[1],
        "width": pictures.shape[2],
    }
    info = {
        "inverted": dict.fromkeys(class_names, False),
        "class_names": list(class_names),
        "notes": [],
    }
    report = prepare.DataReport(pd.DataFrame(), pd.DataFrame(), [])
    return prepare.Store(folder, pd.DataFrame({**table, **columns, "row": range(n)}), report, info)


def multilabel_store(folder, n=9, side=64, padding=8):
    """Three overlapping classes, drawn into the three colour channels: 200 inside, 40 outside.

    A letterbox pads `padding` rows above and below. Detachment is missing in every second case,
    atrophy in case 1, and all classes in case 5.
    """
    rows, columns = np.mgrid[:side, :side]
    rng = np.random.default_rng(0)
    masks = np.zeros((n, side, side, 3), np.uint8)
    for i, k in np.ndindex(n, 3):
        y, x = rng.uniform(0.35, 0.65, 2) * side
        masks[i, ..., k] = (rows - y) ** 2 + (columns - x) ** 2 < (
            rng.uniform(0.12, 0.25) * side
        ) ** 2
    pictures = np.where(masks == 1, 200, 40).astype(np.uint8)
    for frame, fill in ((pictures, 0), (masks, 255)):
        frame[:, :padding] = frame[:, side - padding :] = fill
    missing = (
        [(i, "detachment") for i in range(0, n, 2)]
        + [(1, "atrophy")]
        + [(5, name) for name in PALM_CLASSES]
    )
    splits = ["train"] * (n - 4) + ["val"] * 2 + ["test"] * 2
    return hand_store(folder, pictures, masks, splits, PALM_CLASSES, missing)


def all_in(store, part):
    store.cases = store.cases.assign(split=part)
    return store


def label_store(tmp_path, cfg, annotated=None):
    """Four label maps on disk and the store that `prepare` makes; images show the labels."""
    rows, columns = np.mgrid[:60, :80]
    table = {
        "case": list("wxyz"),
        "patient": list("wxyz"),
        "split": "test",
        "image": [],
        "labels": [],
    }
    for i in range(4):
        labels = np.uint8((rows // 20 + columns // 20 + i) % 4)
        for kind, pixels in (("image", 60 * labels + 10), ("labels", labels)):
            path = tmp_path / "tree" / kind / f"{i}.png"
            images.write_png(path, pixels)
            table[kind].append(str(path))
    if annotated:
        table["annotated"] = annotated
    return prepare.build(pd.DataFrame(table), cfg.replace(work_dir=str(tmp_path / "work")))


def cardiac_config(**overrides):
    fields = {
        "architecture": "unet",
        "percentiles": None,
        "augment": {},
        "test_split": 0,
        "val_split": 0,
    }
    return config.preset("cardiac", "smoke", **{**fields, **overrides})


class FakePredictor(Predictor):
    """A predictor without a network: `respond` turns pixels (N, C, H, W) into probabilities."""

    def __init__(self, cfg, respond):
        super().__init__(torch.nn.Identity(), cfg, "cpu", "fp32")
        self.respond = respond

    def probabilities(self, batch):
        prob = self._response(batch)
        if self.temperature == 1:
            return prob
        return metrics.probabilities(self.logits(batch) / self.temperature, self.config.task)

    def logits(self, batch):
        prob = self._response(batch)
        return prob.log() if self.config.task == "multiclass" else prob.logit(1e-7)

    def _response(self, batch):
        shape = (-1, 1, 1)
        mean, std = (
            np.broadcast_to(values, batch.shape[1]).reshape(shape)
            for values in (self.config.mean, self.config.std)
        )
        pixels = np.rint((batch.numpy() * std + mean) * 255)
        return torch.from_numpy(np.float32(self.respond(pixels)))


def perfect(pixels):
    """The stores of these tests show their classes in their channels: bright inside."""
    return np.where(pixels > 120, 0.99, 0.01)


def blurred(pixels):
    """Wrong in an orderly way: the structure moved and smeared."""
    return np.roll(ndimage.gaussian_filter(perfect(pixels), (0, 0, 3, 3)), 4, axis=-1)


def labelled(pixels):
    """Softmax of the class whose grey value is nearest."""
    far = np.abs(pixels - 60 * np.arange(4).reshape(-1, 1, 1) - 10)
    odds = np.exp(-far / 4)
    return odds / odds.sum(axis=1, keepdims=True)


# ---- trainings

# A training of about a second, for `Config.replace`.
TINY = dict(
    stem="full",
    base_channels=2,
    depth=2,
    epochs=2,
    batch_size=4,
    precision="fp32",
    device="cpu",
    num_workers=0,
    augment={},
)


def convolution(channels=1):
    """The smallest network, without batch norm, and always with the same weights."""
    network = torch.nn.Conv2d(channels, channels, 5, padding=2)
    weight = torch.linspace(-0.1, 0.2, network.weight.numel()).reshape_as(network.weight)
    network.load_state_dict({"weight": weight, "bias": torch.zeros(channels)})
    return network


def same_weights(first, second):
    """Whether two state_dicts hold the same bits."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def stop_after(n_epochs, monkeypatch, *arguments, **options):
    """`fit`, stopped as by the notebook's stop button right after `n_epochs` epochs were saved."""
    save = training.saving.save

    def save_and_stop(session):
        save(session)
        if session.state.epoch == n_epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.saving, "save", save_and_stop)
        training.fit(*arguments, **options)


def plant_pictures(root, *names):
    """Small black pictures under `root`; a name ends in its suffix."""
    for name in names:
        write_picture(Path(root, name), np.zeros((4, 5)))
    return Path(root)


def montgomery_tree(root, *stems):
    folders = ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask")
    names = [f"MontgomerySet/{folder}/{stem}.png" for folder in folders for stem in stems]
    return plant_pictures(root, *names)


def shenzhen_tree(root, *stems):
    images, masks = ([f"{name}.png" for name in stems], [f"{name}_mask.png" for name in stems])
    names = [f"img/{name}" for name in images] + [f"mask/{name}" for name in masks]
    return plant_pictures(root, *names)


def notes_of(cases):
    return "\n".join(cases.attrs["notes"])


def file_names(cell):
    """The file names of a mask cell, with their folder."""
    paths = [Path(path) for path in cell.split("|")] if cell else []
    return [f"{path.parent.name}/{path.name}" for path in paths]


def lung_config(root, **changes):
    return config.preset("lung", "smoke", data_root=str(root), **changes)


def binary_config(root, **changes):
    return config.preset("binary", "smoke", data_root=str(root), **changes)
