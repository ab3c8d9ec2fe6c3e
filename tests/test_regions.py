"""Measures of regions against scikit-image, SimpleITK and scipy, and the table that holds them."""

import csv
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage
from skimage import measure as skimage_measure

from seglib import config, regions, runs
from seglib.commands.table import COMMANDS
from seglib.errors import ConfigError, DataError
from seglib.formats import volumes
from seglib.inference import Prediction, Predictor, VolumePrediction
from tests.helpers import (
    ORIENTATIONS,
    FakePredictor,
    command,
    edit_dicom,
    error_of,
    labelled,
    labels_like,
    numbered_volume,
    perfect,
    read_picture,
    save_nifti,
    write_picture,
    write_series,
    write_series_and_labels,
)
from tests.sources import ROOT

CLASSES = regions.Options()
OBJECTS = regions.Options(objects=True)
XYZ = ("centroid_x_px", "centroid_y_px", "centroid_z_px")
PATIENT = ("centroid_right_mm", "centroid_anterior_mm", "centroid_superior_mm")
BOX = ("box_x_px", "box_y_px", "box_z_px", "box_width_px", "box_height_px", "box_depth_px")


def disc(row, column, radius, shape=(80, 100)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def measured(mask, image, options=CLASSES, pixel_mm=None):
    original = regions.of_array(image, pixel_mm)
    return regions.measure([("cell", mask)], original, options)


def grey_predictor(task="binary", **changes):
    """Predicts what is brighter than 120, or the nearest grey of `labelled`, in every picture."""
    names = {"binary": ("cell",), "multiclass": ("background", "a", "b", "c")}[task]
    fields = {"class_names": names, "task": task, "image_size": 64, "in_channels": 1}
    fields |= {"mean": (0,), "std": (1,)}
    fields |= {"loss": {"binary": "bce", "multiclass": "cross_entropy"}[task]}
    cfg = config.preset("binary", "smoke", **fields, **changes)
    return FakePredictor(cfg, perfect if task == "binary" else labelled)


# ---- against other libraries


def test_a_picture_is_measured_as_scikit_image_and_scipy_do():
    image = np.random.default_rng(0).integers(0, 60000, (80, 100)).astype(np.uint16)
    mask = disc(20, 30, 9) | disc(60, 70, 15) | disc(60, 20, 1)
    row = measured(mask, image, pixel_mm=(0.5, 0.25)).iloc[0]
    (expected,) = skimage_measure.regionprops(mask.astype(int), image)
    assert row["area_px"] == expected.area
    assert row["area_mm2"] == pytest.approx(expected.area * 0.125)
    centroid = (row["centroid_y_px"], row["centroid_x_px"])
    assert centroid == pytest.approx(ndimage.center_of_mass(mask))
    top, left, bottom, right = expected.bbox
    corner = (row["box_x_px"], row["box_y_px"], row["box_width_px"], row["box_height_px"])
    assert corner == (left, top, right - left, bottom - top)
    assert row["mean_intensity"] == pytest.approx(image[mask].mean())
    assert row["components"] == 3
    assert row["largest_component_px"] == disc(60, 70, 15).sum()
    assert row["largest_component_mm2"] == pytest.approx(disc(60, 70, 15).sum() / 8)


def measures_by_simpleitk(image, labels):
    """Label -> (x, y, z, centroid to the right, anterior, superior, box, mL, mean)."""
    shape = SimpleITK.LabelShapeStatisticsImageFilter()
    shape.Execute(labels)
    intensity = SimpleITK.LabelIntensityStatisticsImageFilter()
    intensity.Execute(labels, image)
    return {
        label: (
            labels.TransformPhysicalPointToContinuousIndex(shape.GetCentroid(label)),
            np.array(shape.GetCentroid(label)) * (-1, -1, 1),  # it counts to the left, posterior
            shape.GetBoundingBox(label),
            shape.GetPhysicalSize(label) / 1000,
            intensity.GetMean(label),
        )
        for label in shape.GetLabels()
    }


def check_against_simpleitk(table, expected):
    assert len(table) == len(expected) >= 2
    for row, (xyz, patient, box, ml, mean) in zip(table.to_dict("records"), expected.values()):
        np.testing.assert_allclose([row[name] for name in XYZ], xyz, atol=1e-3)
        np.testing.assert_allclose([row[name] for name in PATIENT], patient, atol=1e-3)
        assert tuple(row[name] for name in BOX) == box
        assert row["volume_ml"] == pytest.approx(ml, rel=1e-4)
        assert row["mean_intensity"] == pytest.approx(mean, rel=1e-5)


def of_volume(path, mask, cfg, numbers):
    original = regions.of_volume(path, cfg)
    masks = [(str(number), mask == number) for number in numbers]
    return regions.measure(masks, original, CLASSES)


@pytest.mark.parametrize("canonical", [True, False])
def test_volumes_are_measured_in_the_axes_of_their_file_as_simpleitk_does(tmp_path, canonical):
    changes = {} if canonical else {"window_level": None, "window_width": None}
    cfg = config.preset("rsna", "smoke", **changes)
    upright = numbered_volume()
    truth = np.zeros(upright.shape, np.uint8)
    truth[1:4, 2:8, 0:3], truth[5:, 1, 2:] = 1, 2
    truth[6, 8, 4] = 1
    for axes in ORIENTATIONS[:: 1 if canonical else 7]:
        image = upright.as_reoriented(axes)
        labels = labels_like(upright, truth).as_reoriented(axes)
        path = save_nifti(image, tmp_path / "ct.nii.gz")
        truth_path = save_nifti(labels, tmp_path / "truth.nii.gz")
        expected = measures_by_simpleitk(
            SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32),
            SimpleITK.ReadImage(str(truth_path), SimpleITK.sitkUInt8),
        )
        table = of_volume(path, volumes.read_labels(path, truth_path, cfg), cfg, (1, 2))
        check_against_simpleitk(table, expected)
        assert table["components"].tolist() == [2, 1]
        assert table["largest_component_voxels"].tolist() == [54, 6]


def test_a_dicom_series_is_measured_in_hu_by_column_row_and_slice(tmp_path):
    cfg = config.preset("rsna", "smoke")
    stack = np.random.default_rng(0).integers(800, 1300, (6, 7, 9)).astype(np.uint16)
    truth = write_series_and_labels(tmp_path, stack)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    image = reader.Execute()
    labels = SimpleITK.GetImageFromArray(truth)
    labels.CopyInformation(image)
    table = of_volume(tmp_path / "ct", truth, cfg, range(1, 6))
    check_against_simpleitk(table, measures_by_simpleitk(image, labels))
    assert set(table["intensity_unit"]) == {"HU"}


def test_the_unit_is_hu_only_where_nothing_speaks_against_it(tmp_path):
    cfg = config.preset("rsna", "smoke")
    mri = config.preset("rsna", "smoke", window_level=None, window_width=None)
    stack = np.random.default_rng(0).integers(0, 2000, (4, 8, 8)).astype(np.uint16)
    for file in write_series(tmp_path / "mr", stack):
        edit_dicom(file, Modality="MR")
    write_series(tmp_path / "ct", stack)
    shifted = nibabel.Nifti1Image(np.full((9, 8, 7), 1030, np.int16), np.diag([2, 2, 3, 1]))
    shifted.get_fdata()[0, 0, 0] = 0
    shifted = nibabel.Nifti1Image(shifted.get_fdata().astype(np.int16), shifted.affine)
    save_nifti(shifted, tmp_path / "shifted.nii.gz")
    units = [
        regions.of_volume(tmp_path / name, chosen).unit
        for name, chosen in (("mr", cfg), ("ct", mri), ("shifted.nii.gz", cfg))
    ]
    assert units == ["stored value", "HU", "stored value"]


def test_unknown_spacing_leaves_millimetres_empty(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    path = save_nifti(image, tmp_path / "a.nii")
    cfg = config.preset("rsna", "smoke", window_level=None, window_width=None)
    original = regions.of_volume(path, cfg)
    table = regions.measure([("a", original.values[..., 0] > 30)], original, CLASSES)
    regions.save(table, tmp_path / "t.csv")
    (row,) = csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8-sig"))
    assert row["volume_voxels"] == "29" and row["components"] == "1"
    mm = [name for name in row if name.endswith(("_mm", "_ml", "_mm2"))]
    assert {row[name] for name in mm} == {""} and len(mm) == 5
    row = measured(disc(20, 20, 5), np.zeros((80, 100))).iloc[0]
    assert np.isnan(row["area_mm2"]) and np.isnan(row["largest_component_mm2"])


def test_a_class_that_is_not_there_has_a_size_of_zero_and_no_place():
    row = measured(np.zeros((80, 100), bool), np.ones((80, 100)), pixel_mm=(1, 1)).iloc[0]
    assert (row["area_px"], row["area_mm2"], row["components"]) == (0, 0, 0)
    assert row["largest_component_px"] == 0
    assert pd.isna(row[["centroid_x_px", "box_x_px", "box_width_px", "mean_intensity"]]).all()


def test_colours_have_a_mean_each_and_grey_saved_as_colour_has_one(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (80, 100, 4)).astype(np.uint8)
    mask = disc(40, 40, 20)
    write_picture(tmp_path / "rgba.png", colours)
    original = regions.of_picture(tmp_path / "rgba.png")
    row = regions.measure([("cell", mask)], original, CLASSES).iloc[0]
    means = [row[name] for name in regions.COLOURS]
    np.testing.assert_allclose(means, colours[mask][:, :3].mean(axis=0))
    assert np.isnan(row["mean_intensity"])
    row = measured(mask, np.repeat(colours[..., :1], 3, axis=2)).iloc[0]
    assert row["mean_intensity"] == pytest.approx(colours[mask][:, 0].mean())
    assert "mean_red" not in row


def test_a_picture_that_tells_the_size_of_its_pixels_has_square_millimetres(tmp_path):
    path = tmp_path / "a.tif"
    metadata = {"unit": "micron"}
    pixels = np.zeros((80, 100), np.uint8)
    tifffile.imwrite(path, pixels, imagej=True, resolution=(4, 2), metadata=metadata)
    original = regions.of_picture(path)
    row = regions.measure([("cell", disc(40, 40, 20))], original, CLASSES).iloc[0]
    assert row["area_mm2"] == pytest.approx(disc(40, 40, 20).sum() * 0.0005 * 0.00025)
    assert regions.of_picture(path, (0.0005, 0.00025)).spacing_mm == original.spacing_mm
    with pytest.raises(DataError, match="0.0005 x 0.00025 mm by its file, and pixel_mm is 1 x 1"):
        regions.of_picture(path, (1, 1))


def test_the_pixels_of_an_x_ray_are_those_in_the_patient(tmp_path):
    def size_of(**tags):
        tags = {"Modality": "DX", "PixelSpacing": [0.2, 0.25], **tags}
        (path,) = write_series(tmp_path, [np.arange(72).reshape(8, 9)], **tags)
        return regions.of_picture(path).spacing_mm

    assert size_of() == (0.2, 0.25)
    assert size_of(ImagerPixelSpacing=[0.3, 0.4]) == (0.2, 0.25)
    assert size_of(ImagerPixelSpacing=[0.2, 0.25]) is None
    calibrated = {"PixelSpacingCalibrationType": "FIDUCIAL"}
    assert size_of(ImagerPixelSpacing=[0.2, 0.25], **calibrated) == (0.2, 0.25)
    assert size_of(PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.25]) is None


def test_series_of_a_folder_are_told_apart(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name / "ct", np.full((3, 8, 8), 1024, np.uint16))
    target = tmp_path / "t.csv"
    grey_predictor().predict_folder(tmp_path / "in", tmp_path / "out", table=target)
    table = pd.read_csv(target)
    assert table["case"].tolist() == ["a_ct", "b_ct"]
    assert table["file"].tolist() == ["a/ct", "b/ct"]


# ---- objects


def test_touching_discs_are_split_and_others_are_not():
    pair = disc(30, 30, 14) | disc(30, 54, 14)
    one = disc(60, 80, 12)
    labels = regions.split(pair | one)
    assert labels.max() == 3
    assert len(np.unique(labels[pair])) == 2 and len(np.unique(labels[one])) == 1
    assert regions.split(pair, neck=0).max() == 1
    assert regions.split(disc(30, 30, 14) | disc(30, 36, 14)).max() == 1
    assert regions.split(np.ones((4, 5), bool)).max() == 1
    assert regions.split(np.zeros((4, 5), bool)).max() == 0


def test_a_wide_neck_is_split_where_the_share_allows_it():
    pair = disc(30, 30, 14) | disc(30, 50, 14)  # the neck has half a width of 9.8 of 14
    assert [regions.split(pair, neck).max() for neck in (0.5, 0.65, 0.8, 1)] == [1, 1, 2, 2]


def test_voxels_that_are_no_cubes_count_with_their_sides():
    """Two balls 3 mm apart in thick slices are one above the other, and split as in thin ones."""
    z, y, x = np.ogrid[:21, :41, :41]
    distance = [(4 * (z - at)) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 for at in (5, 11)]
    balls = (distance[0] <= 196) | (distance[1] <= 196)
    assert regions.split(balls, spacing_mm=(4, 1, 1)).max() == 2
    assert regions.split(balls, spacing_mm=(0.4, 0.1, 0.1)).max() == 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), st.floats(0, 1))
def test_objects_are_parts_of_connected_components(mask, neck):
    labels = regions.split(mask, neck)
    components, n_components = ndimage.label(mask)
    np.testing.assert_array_equal(labels > 0, mask)
    pairs = {(a, b) for a, b in zip(labels[mask].tolist(), components[mask].tolist())}
    assert len(pairs) == labels.max() >= n_components == len({b for _, b in pairs})
    if neck == 0:
        assert labels.max() == n_components
    for number in range(1, labels.max() + 1):
        assert ndimage.label(labels == number)[1] == 1


def test_the_objects_of_a_table_are_those_of_the_watershed():
    mask = disc(30, 30, 14) | disc(30, 54, 14) | disc(60, 80, 12)
    image = np.random.default_rng(0).random((80, 100))
    table = measured(mask, image, OBJECTS)
    labels = regions.split(mask)
    expected = skimage_measure.regionprops(labels, image)
    assert table["object"].tolist() == [1, 2, 3]
    assert table["area_px"].tolist() == [item.area for item in expected]
    np.testing.assert_allclose(table["mean_intensity"], [item.intensity_mean for item in expected])
    assert "components" not in table
    empty = measured(mask & False, image, OBJECTS)
    assert len(empty) == 0 and "object" in empty and "mean_intensity" in empty


def test_nuclei_of_real_pictures_are_told_apart(real):
    """The union of the nuclei drawn by hand, split again, has nearly as many objects."""
    n_true, n_objects, n_components = 0, 0, 0
    for folder in sorted((real("dsb2018_nuclei") / "stage1_train").iterdir())[:8]:
        nuclei = [read_picture(path) > 0 for path in (folder / "masks").glob("*.png")]
        mask = np.any(nuclei, axis=0)
        n_true += len(nuclei)
        n_objects += regions.split(mask).max()
        n_components += ndimage.label(mask)[1]
    assert abs(n_objects - n_true) < 0.5 * abs(n_components - n_true)


# ---- the calls


def test_measure_takes_arrays_pictures_and_predictions(tmp_path):
    picture = np.where(disc(20, 30, 9, (64, 64)), 200, 10).astype(np.uint8)
    write_picture(tmp_path / "a b.png", picture)
    model = grey_predictor()
    row = model.measure(tmp_path / "a b.png", pixel_mm=0.5).iloc[0]
    assert (row["case"], row["file"], row["class"]) == ("a b", "a b.png", "cell")
    assert row["area_px"] == (picture > 120).sum()
    assert row["area_mm2"] == row["area_px"] / 4 and row["mean_intensity"] == 200
    of_array = model.measure(picture).iloc[0]
    assert of_array["area_px"] == row["area_px"] and pd.isna(of_array["case"])
    ones = Prediction(np.ones((1, 64, 64)), np.ones((64, 64), np.uint8))
    assert model.measure(picture, ones).iloc[0]["area_px"] == 64 * 64
    with pytest.raises(DataError, match="expected one shape"):
        model.measure(picture[:32], ones)


def test_measures_are_of_the_original_size_not_of_the_network(tmp_path):
    picture = np.where(disc(100, 150, 60, (240, 320)), 50000, 100).astype(np.uint16)
    mask = picture > 25000
    model = grey_predictor(percentiles=(0, 100), resize="letterbox")
    row = model.measure(picture).iloc[0]
    assert row["area_px"] == pytest.approx(mask.sum(), rel=0.03)
    assert row["centroid_x_px"] == pytest.approx(150, abs=1)
    assert 45000 < row["mean_intensity"] <= 50000


def test_every_class_has_a_row():
    labels = (np.arange(64)[:, None] // 16 + np.zeros((1, 64), int)).astype(np.uint8)
    table = grey_predictor("multiclass").measure(60 * labels + 10)
    assert table["class"].tolist() == ["a", "b", "c"]
    assert table["area_px"].tolist() == [1024] * 3
    assert table["mean_intensity"].tolist() == [70, 130, 190]


def test_a_folder_of_pictures_and_volumes_has_one_table(tmp_path):
    picture = np.where(disc(20, 30, 9, (64, 64)), 200, 10).astype(np.uint8)
    for name in ("x.png", "x.bmp", "=1+2.png", "größe.png"):
        write_picture(tmp_path / "in" / name, picture)
    (tmp_path / "in" / "broken.png").write_bytes(b"no")
    volume = nibabel.Nifti1Image(np.stack([picture] * 3, -1), np.diag([2, 2, 5, 1]))
    save_nifti(volume, tmp_path / "in" / "scan.nii.gz")
    target = tmp_path / "new" / "measures.csv"
    answer = grey_predictor().predict_folder(tmp_path / "in", tmp_path / "out", table=target)
    assert list(answer["failed"]) == ["broken.png"]
    table = pd.read_csv(target)
    assert sorted(table["case"]) == sorted(["x_png", "x_bmp", "'=1+2", "größe", "scan"])
    assert target.read_bytes().startswith(b"\xef\xbb\xbf")
    of_scan = table[table["case"] == "scan"].iloc[0]
    assert of_scan["volume_voxels"] == 3 * (picture > 120).sum() and np.isnan(of_scan["area_px"])
    assert of_scan["volume_ml"] == pytest.approx(of_scan["volume_voxels"] * 0.02)
    assert set(table["area_px"].dropna()) == {(picture > 120).sum()}
    pd.testing.assert_series_equal(
        answer["measures"]["volume_ml"], table["volume_ml"], check_exact=False
    )


def test_options_of_a_table_need_one(tmp_path):
    write_picture(tmp_path / "x.png", np.zeros((8, 8)))
    with pytest.raises(ConfigError, match="give table"):
        grey_predictor().predict_folder(tmp_path, tmp_path / "out", objects=True)
    assert not (tmp_path / "out").exists()


def test_volumes_are_measured_by_their_own_prediction(tmp_path):
    path = save_nifti(numbered_volume(), tmp_path / "ct.nii.gz")
    model = grey_predictor()
    grid = volumes.read_grid(path, **volumes.options(model.config))
    prediction = VolumePrediction(np.ones(grid.shape, np.uint8), grid, {})
    row = model.measure(path, prediction).iloc[0]
    assert row["volume_ml"] == pytest.approx(7 * 9 * 5 * 0.8 * 1.5 * 4 / 1000)
    assert (row["case"], row["file"]) == ("ct", "ct.nii.gz")
    with pytest.raises(ConfigError, match="pixel_mm: .*is a volume"):
        model.measure(path, pixel_mm=1)


def test_a_multi_page_tiff_is_a_volume_or_pictures_as_it_is_said(tmp_path):
    pages = np.random.default_rng(0).integers(0, 256, (3, 20, 24), np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pages, photometric="minisblack")
    model = grey_predictor()
    with pytest.raises(DataError, match="predict --image_path FILE takes --tiff_pages too"):
        model.predict_file(path)
    found = model.predict_file(path, tmp_path / "a", tiff_pages="pictures")
    for page, prediction in zip(pages, found, strict=True):
        np.testing.assert_array_equal(prediction.mask, model.predict(page).mask)
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == [f"stack_{number:04d}_mask.png" for number in (1, 2, 3)]
    volume = model.predict_file(path, tmp_path / "b", tiff_pages="volume")
    assert volume.mask.shape == (3, 20, 24)
    written = nibabel.load(tmp_path / "b" / "stack_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, volume.mask)


def test_the_row_of_a_dicom_series_names_its_folder(tmp_path):
    write_series(tmp_path / "scan 1", np.full((3, 8, 8), 1024, np.uint16))
    row = grey_predictor().measure(tmp_path / "scan 1").iloc[0]
    assert (row["case"], row["file"]) == ("scan 1", "scan 1")
    assert row["volume_ml"] == pytest.approx(row["volume_voxels"] * 0.5 * 0.7 * 2.5 / 1000)


def test_a_case_folder_names_the_case_and_its_mask(tmp_path):
    model, rows = grey_predictor(), []
    for case in ("case01", "case02"):
        path = save_nifti(numbered_volume(), tmp_path / case / "image.nii.gz")
        rows.append(model.measure(path, model.predict_volume(path, tmp_path / "out")).iloc[0])
    assert [row["case"] for row in rows] == ["case01", "case02"]
    assert {row["file"] for row in rows} == {"image.nii.gz"}
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["case01_mask.nii.gz", "case02_mask.nii.gz"]


def test_a_folder_of_pictures_is_no_source_of_measures(tmp_path):
    write_picture(tmp_path / "in" / "x.png", np.zeros((8, 8)))
    with pytest.raises(DataError, match="not a DICOM series"):
        grey_predictor().measure(tmp_path / "in")


# ---- the command line


@pytest.fixture
def lesions(tmp_path, monkeypatch):
    """The options of a command line that predicts two pictures, by weights of a real network."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    predictor = grey_predictor(base_channels=2, depth=2)
    cfg = predictor.config
    network = runs.network(cfg, pretrained=False)
    torch.nn.init.zeros_(list(network.parameters())[-1])  # of the output: about half is structure
    runs.save_weights(tmp_path / "w.pth", network, cfg)
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "in" / name, np.random.default_rng(0).integers(0, 255, (64, 64)))
    save_nifti(numbered_volume(), tmp_path / "ct.nii.gz")
    return "predict --model_path w.pth --device cpu --output_dir out"


def test_the_command_line_predicts_the_pages_of_a_tiff(lesions, capsys):
    pages = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    tifffile.imwrite("stack.tif", pages, photometric="minisblack")
    assert "--tiff_pages" in error_of(capsys, f"{lesions} --image_path stack.tif")
    line = f"{lesions} --image_path stack.tif --tiff_pages"
    assert command(f"{line} pictures --table t.csv") == 0
    assert pd.read_csv("t.csv")["case"].tolist() == ["stack_0001", "stack_0002"]
    assert command(f"{line} volume --table v.csv") == 0
    assert pd.read_csv("v.csv")["case"].tolist() == ["stack"]
    assert Path("out/stack_mask.nii.gz").is_file()
    assert "is of one file" in error_of(capsys, f"{lesions} --image_dir in --tiff_pages volume")


def test_the_table_of_the_command_line_is_that_of_measure(lesions, capsys):
    assert command(f"{lesions} --image_dir in --table t.csv --pixel_mm 0.5x0.25") == 0
    assert "t.csv: 2 rows, one for each image and class" in capsys.readouterr().out
    table = pd.read_csv("t.csv")
    expected = Predictor.load("w.pth", "cpu").measure("in/b.png", pixel_mm=(0.5, 0.25))
    of_b = table[table["case"] == "b"].reset_index(drop=True)
    assert list(of_b) == list(expected)
    for name in ("area_px", "area_mm2", "centroid_x_px", "mean_intensity"):
        np.testing.assert_allclose(of_b[name].astype(float), expected[name].astype(float), 1e-8)
    assert (table["area_mm2"] == table["area_px"] / 8).all()
    # Written again, with other rows, for one file and for a volume.
    assert command(f"{lesions} --image_path in/b.png --table t.csv --objects") == 0
    objects = pd.read_csv("t.csv")
    assert objects["area_px"].sum() == of_b["area_px"].sum() and set(objects["case"]) == {"b"}
    assert f"t.csv: {len(objects)} objects in 1 of 1 images" in capsys.readouterr().out
    assert command(f"{lesions} --image_path ct.nii.gz --table volume.csv") == 0
    (of_volume,) = csv.DictReader(open("volume.csv", encoding="utf-8-sig"))
    assert of_volume["file"] == "ct.nii.gz" and float(of_volume["volume_ml"]) == pytest.approx(
        int(of_volume["volume_voxels"]) * 0.0048
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ("--table t.xlsx", "expected a file ending in .csv"),
        ("--table in", "expected a file ending in .csv"),
        ("--table folder.csv", "is a folder"),
        ("--table in/a.png/t.csv", "lies in a file"),
        ("--table mine.csv", "'mine.csv' exists and is no table of measures"),
        ("--table t.csv --pixel_mm abc", "pixel_mm: 'abc'"),
        ("--table t.csv --pixel_mm 1,2,3", "pixel_mm: [1.0, 2.0, 3.0]"),
        ("--table t.csv --pixel_mm -1", "pixel_mm: -1.0"),
        ("--table t.csv --objects --neck 2", "neck: 2.0 is not allowed; expected 0 to 1"),
    ],
)
def test_a_table_that_cannot_be_is_refused_before_anything_is_predicted(
    lesions, capsys, options, words
):
    Path("folder.csv").mkdir()
    Path("mine.csv").write_text("patient,age\n1,70\n")
    assert words in error_of(capsys, f"{lesions} --image_dir in {options}")
    assert not Path("out").exists() and Path("mine.csv").read_text().startswith("patient")


# ---- the file


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "  =1", "＝1"])
def test_no_text_is_a_formula(tmp_path, text):
    table = pd.DataFrame({"file": [text, "plain"], "class": ["a", text], "area_px": [-1, 2]})
    path = regions.save(table, tmp_path / "t.csv")
    rows = list(csv.reader(path.open(encoding="utf-8-sig", newline="")))
    assert rows[1:] == [["'" + text, "a", "-1"], ["plain", "'" + text, "2"]]


def test_names_are_kept(tmp_path):
    names = ['a,"b".png', "größe 图.png", "zwei\nzeilen.png"]
    path = regions.save(pd.DataFrame({"file": names}), tmp_path / "t.csv")
    rows = list(csv.reader(path.open(encoding="utf-8-sig", newline="")))
    assert rows[1:] == [[name] for name in names]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no UTF-8")
def test_a_name_that_is_no_utf_8_can_be_written(tmp_path):
    path = regions.save(pd.DataFrame({"file": ["a\udce9.png"]}), tmp_path / "t.csv")
    assert "a\\udce9.png" in path.read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("neck", [-0.1, 1.1, np.nan])
def test_necks_out_of_range_are_refused(neck):
    with pytest.raises(ConfigError, match="neck: .*expected 0 to 1"):
        regions.options(True, neck)


@pytest.mark.parametrize("pixel_mm", [0, -1, np.nan, np.inf, (1, 0), (1,), (1, 2, 3), 1e6, "a"])
def test_sizes_of_a_pixel_that_are_none_are_refused(pixel_mm):
    with pytest.raises(ConfigError, match="pixel_mm: .*expected the height and the width"):
        regions.options(pixel_mm=pixel_mm)


def test_the_command_line_has_the_default_of_the_package():
    (predict,) = (item for item in COMMANDS if item.function.__name__ == "predict")
    assert predict.options["--neck"]["default"] == regions.NECK


def test_objects_of_real_nuclei_are_as_many_as_the_page_says(real):
    drawn = components = objects = 0
    for case in sorted((real("dsb2018_nuclei") / "stage1_train").iterdir()):
        nuclei = [np.array(Image.open(path)) > 0 for path in sorted((case / "masks").iterdir())]
        drawn += len(nuclei)
        union = np.any(nuclei, axis=0)
        components += regions.split(union, neck=0).max()
        objects += regions.split(union).max()
    page = " ".join((ROOT / "docs" / "measures.md").read_text(encoding="utf-8").split())
    assert f"with {drawn} nuclei drawn by hand and then united" in page
    assert f"components are {components} objects and those of the watershed {objects}." in page
