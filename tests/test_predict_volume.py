"""Volumes in, masks out: shape, orientation, spacing and unit of the input, checked by nibabel and
pydicom.
"""

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from seglib import config, phantoms
from seglib.errors import DataError
from seglib.formats import nifti, volumes
from seglib.inference import Predictor
from tests.helpers import edit_dicom, write_series


class Bright(torch.nn.Module):
    """Class 1 where the first channel is above one half, else the background."""

    def __init__(self, n_classes=2):
        super().__init__()
        self.n_classes = n_classes

    def forward(self, image):
        score = 20 * (image[:, :1] - 0.5)
        return torch.cat([-score, score, *[score - 99] * (self.n_classes - 2)], dim=1)[
            :, : max(self.n_classes, 2)
        ]


def predictor(**changes):
    names = ("background", "liver")
    fields = {
        "class_names": names,
        "label_map": {},
        "image_size": 64,
        "mean": (0,) * 3,
        "std": (1,) * 3,
        "resize": "letterbox",
    }
    return Predictor(
        Bright(), config.preset("rsna", "smoke", **{**fields, **changes}), "cpu", "fp32"
    )


AFFINES = {
    "RAS": np.diag([2.0, 2.0, 5.0, 1]),
    "LPS": np.diag([-2.0, -2.0, 5.0, 1]),
    "head first": np.array([[0, 0, 2.0, -9], [0, -1.5, 0, 4], [4.0, 0, 0, 7], [0, 0, 0, 1]]),
    "coronal": np.array([[1.0, 0, 0, 0], [0, 0, 3.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]]),
    "oblique": np.array([[1.9, 0.3, 0, 1], [-0.3, 1.9, 0.2, 2], [0, -0.1, 4.9, 3], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_on_the_volume_whatever_its_axes(tmp_path, name):
    rng = np.random.default_rng(0)
    array = np.full((31, 27, 22), -900, np.int16)
    array[5:20, 9:16, 4:17] = 200
    array[2, 3, 1] = 200  # one corner marks the orientation
    array += rng.integers(-20, 20, array.shape, np.int16)
    image = nibabel.Nifti1Image(array, AFFINES[name])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "ct.nii.gz")
    found = predictor(image_size=128).predict_volume(tmp_path / "ct.nii.gz", tmp_path / "out")
    saved = nibabel.load(tmp_path / "out" / "ct_mask.nii.gz")
    assert saved.shape == array.shape and saved.get_data_dtype() == np.uint8
    np.testing.assert_allclose(saved.affine, AFFINES[name], atol=1e-4)
    assert saved.header.get_xyzt_units()[0] == "mm"
    truth, mask = array > 0, np.asarray(saved.dataobj) == 1
    assert (
        2 * (truth & mask).sum() / (truth.sum() + mask.sum()) > 0.9
    )  # the grid of 128 is not that of the file
    assert mask[5:20, 9:16, 4:17].mean() > 0.9 and mask[25:, 20:].sum() == 0
    voxel = abs(np.linalg.det(AFFINES[name][:3, :3])) / 1000
    assert found.millilitres == {"liver": pytest.approx(mask.sum() * voxel, rel=0.01)}
    assert found.mask.shape == found.grid.shape


def test_a_dicom_series_gives_a_nifti_on_its_place(tmp_path):
    tree = phantoms.write("rsna", tmp_path / "ct", n=1)
    series = next((tree / "train_images").glob("*/*"))
    labels = next((tree / "segmentations").glob("*.nii"))
    found = predictor().predict_volume(series, tmp_path / "here.nii.gz")
    saved = nibabel.load(tmp_path / "here.nii.gz")
    np.testing.assert_allclose(saved.affine, found.grid.affine, atol=1e-3)
    assert nifti.is_oriented(saved)
    again = volumes.read_labels_like(volumes.read_grid(series), tmp_path / "here.nii.gz")
    np.testing.assert_array_equal(again, found.mask)
    assert volumes.read_labels_like(volumes.read_grid(series), labels).shape == found.mask.shape


def test_a_dicom_series_also_gives_a_dicom_segmentation(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    tree = phantoms.write("rsna", tmp_path / "ct", n=1)
    series = next((tree / "train_images").glob("*/*"))
    found = predictor().predict_volume(series, tmp_path / "out", dicom=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{series.name}_mask.{e}" for e in ("dcm", "nii.gz")
    ]
    saved = highdicom.seg.segread(tmp_path / "out" / f"{series.name}_mask.dcm")
    uids = [
        pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in found.grid.files
    ]
    pixels = saved.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, found.grid.restore(found.mask))
    assert pixels.any() and [segment.SegmentLabel for segment in saved.SegmentSequence] == ["liver"]


@pytest.mark.parametrize("harm", ["zero bytes", "cut short"])
def test_a_damaged_slice_is_named_and_its_series_is_not_half_done(tmp_path, harm):
    tree = phantoms.write("rsna", tmp_path / "ct", n=1)
    series = next((tree / "train_images").glob("*/*"))
    bad = sorted(series.glob("*.dcm"))[2]
    bad.write_bytes(b"" if harm == "zero bytes" else bad.read_bytes()[:-2000])
    with pytest.raises(DataError, match=bad.name):
        predictor().predict_volume(series, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_spacing_gives_no_millilitres(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((12, 13, 5), np.int16), np.eye(4)), tmp_path / "mri.nii.gz"
    )
    cfg = config.preset("cardiac", "smoke", mean=(0,), std=(1,))
    found = Predictor(Bright(4), cfg, "cpu", "fp32").predict_volume(
        tmp_path / "mri.nii.gz", tmp_path
    )
    assert (
        list(found.millilitres) == list(cfg.class_names[1:])
        and np.isnan(list(found.millilitres.values())).all()
    )
    assert nibabel.load(tmp_path / "mri_mask.nii.gz").shape == (12, 13, 5)


def specks():
    """(S, H, W) bool: a rod through all slices, and in slice 3 a square that is larger than the
    rod's section.
    """
    volume = np.zeros((8, 64, 64), bool)
    volume[:, 10:16, 10:16] = True
    volume[3, 40:52, 40:52] = True
    return volume


@pytest.mark.parametrize("several", [False, True], ids=["multiclass", "multilabel"])
def test_components_are_those_of_the_volume(tmp_path, several):
    """The rod is the largest component (288 voxels), although the square (144) is larger in its
    slice.
    """
    both = specks()
    rod, square = both & (np.arange(64) < 30), both & (np.arange(64) > 30)
    array = np.where(both, 200, -900).astype(np.int16).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-2.0, -2.0, 5.0, 1])), tmp_path / "a.nii")
    changes = {"task": "multilabel", "loss": "bce"} if several else {}
    model = predictor(**changes)

    def mask():
        found = model.predict_volume(tmp_path / "a.nii").mask
        return found[1] == 1 if several else found == 1

    assert np.array_equal(mask(), both)
    model.keep_largest_component = True
    assert np.array_equal(mask(), rod)
    model.keep_largest_component = False
    for size, expected in ((40, both), (150, rod), (300, 0 * both)):
        model.min_component_size = size
        assert np.array_equal(mask(), expected), size
    assert square.sum() == 144 and rod.sum() == 288


def test_holes_are_those_of_the_volume(tmp_path):
    """A tube is open at its ends: its slices have holes, the volume has none; a bubble is one."""
    solid = np.zeros((9, 64, 64), bool)
    solid[:, 10:30, 10:30] = True
    solid[:, 18:22, 18:22] = False
    solid[2:7, 40:56, 40:56] = True
    solid[4, 46:50, 46:50] = False
    array = np.where(solid, 200, -900).astype(np.int16).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-2.0, -2.0, 5.0, 1])), tmp_path / "a.nii")
    model = predictor()
    model.fill_holes = True
    filled = model.predict_volume(tmp_path / "a.nii").mask == 1
    assert not filled[:, 18:22, 18:22].any() and filled[4, 46:50, 46:50].all()


def test_classes_that_overlap_have_a_file_each(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).random((12, 13, 5)), np.diag([1, 1, 3, 1])),
        tmp_path / "a.nii",
    )
    cfg = config.preset("palm", "smoke", class_names=("one", "two"), mean=(0,) * 3, std=(1,) * 3)
    found = Predictor(Bright(), cfg, "cpu", "fp32").predict_volume(
        tmp_path / "a.nii", tmp_path / "out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_mask_one.nii.gz",
        "a_mask_two.nii.gz",
    ]
    assert found.mask.shape == (2, 5, 13, 12)
    two = np.asarray(nibabel.load(tmp_path / "out" / "a_mask_two.nii.gz").dataobj)
    np.testing.assert_array_equal(found.grid.display(two), found.mask[1])


def test_a_volume_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b nothing")
    for bad in ("cut.nii.gz", "nowhere.nii.gz"):
        with pytest.raises(DataError, match=bad):
            predictor().predict_volume(tmp_path / bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_real_ct_comes_back_on_its_place(real, tmp_path):
    folder = real("totalsegmentator_ct")
    for name in ("example_ct_sm.nii.gz", "example_ct_dicom"):
        found = predictor(window_level=0.0).predict_volume(folder / name, tmp_path)
        saved = nibabel.load(tmp_path / f"{name.split('.')[0]}_mask.nii.gz")
        np.testing.assert_allclose(saved.affine, found.grid.affine, atol=1e-3)
        if name.endswith(".gz"):
            image = nibabel.load(folder / name)
            assert saved.shape == image.shape and np.allclose(saved.affine, image.affine, atol=1e-4)
            assert saved.header.get_zooms() == pytest.approx(image.header.get_zooms(), abs=1e-5)
        labels = folder / (
            "example_seg.nii.gz" if name.endswith(".gz") else "example_seg_dicom.nii.gz"
        )
        laid = volumes.read_labels_like(found.grid, labels)
        assert (
            found.mask[laid == 5] == 1
        ).mean() > 0.9  # the liver is soft tissue: bright in this window


@pytest.mark.parametrize("direction", [[1, 0, 0, 0, 1, 0], [0, 1, 0, -1, 0, 0]])
def test_a_mask_of_a_series_lies_on_it_by_qform_and_by_sform(tmp_path, direction):
    """Of a CT that lies straight, with positions in the space of the scanner (code 1)."""
    write_series(tmp_path / "ct", bright_stack(), ImageOrientationPatient=direction)
    found = predictor().predict_volume(tmp_path / "ct", tmp_path / "out")
    saved = nibabel.load(tmp_path / "out" / "ct_mask.nii.gz")
    for affine, code in (saved.get_qform(coded=True), saved.get_sform(coded=True)):
        np.testing.assert_allclose(affine, found.grid.affine, atol=1e-4)
        assert code == 1
    voxel_ml = np.prod(saved.header.get_zooms()) / 1000
    n_voxels = np.count_nonzero(saved.dataobj)
    assert found.millilitres["liver"] == pytest.approx(n_voxels * voxel_ml, rel=1e-6)


def test_a_tilted_gantry_has_no_qform(tmp_path):
    """A qform cannot hold shear: it would lie beside the sform."""
    tilted = [1, 0, 0, 0, np.cos(0.3), np.sin(0.3)]
    write_series(tmp_path / "ct", bright_stack(), ImageOrientationPatient=tilted)
    predictor().predict_volume(tmp_path / "ct", tmp_path / "out")
    saved = nibabel.load(tmp_path / "out" / "ct_mask.nii.gz")
    assert saved.header["qform_code"] == 0 and saved.header["sform_code"] == 1


@pytest.mark.parametrize("distance", [None, 2.5])
def test_a_mask_of_a_series_without_positions_states_none(tmp_path, distance):
    """Its header has the voxel sizes where they are known, as SimpleITK reads them, and no unit
    where they are not.
    """
    import SimpleITK

    tags = {} if distance is None else {"SpacingBetweenSlices": distance}
    for file in write_series(tmp_path / "ct", bright_stack(), **tags):
        edit_dicom(file, ImagePositionPatient=None, ImageOrientationPatient=None)
    found = predictor().predict_volume(tmp_path / "ct", tmp_path / "out")
    path = tmp_path / "out" / "ct_mask.nii.gz"
    header = nibabel.load(path).header
    assert header["qform_code"] == header["sform_code"] == 0
    assert header.get_xyzt_units()[0] == ("unknown" if distance is None else "mm")
    if distance is None:
        assert bytes(header["descrip"]).rstrip(b"\0") == b"voxel sizes in mm are unknown"
        return
    spacing = SimpleITK.ReadImage(str(path)).GetSpacing()
    assert spacing == pytest.approx((2.5, 0.5, 0.7))
    n_voxels = np.count_nonzero(nibabel.load(path).dataobj)
    assert found.millilitres["liver"] == pytest.approx(n_voxels * np.prod(spacing) / 1000)


def test_a_mask_of_uneven_slices_has_no_unit(tmp_path):
    files = write_series(tmp_path / "ct", bright_stack())
    files[2].unlink()
    found = predictor().predict_volume(tmp_path / "ct", tmp_path / "out")
    header = nibabel.load(tmp_path / "out" / "ct_mask.nii.gz").header
    assert np.isnan(found.millilitres["liver"]) and header.get_xyzt_units()[0] == "unknown"


def test_nothing_is_written_where_a_dicom_segmentation_is_refused(tmp_path):
    pytest.importorskip("highdicom")
    for file in write_series(tmp_path / "ct", bright_stack()):
        edit_dicom(file, PixelSpacing=None)
    with pytest.raises(DataError, match="write NIfTI instead"):
        predictor().predict_volume(tmp_path / "ct", tmp_path / "out", dicom=True)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_series_that_is_no_ct_is_noted_where_the_window_is_one_of_ct(tmp_path, modality):
    write_series(tmp_path / "series", bright_stack(), Modality=modality)
    notes = predictor().predict_volume(tmp_path / "series").notes
    assert any(f"Modality {modality}" in note for note in notes) == (modality != "CT")


def bright_stack():
    """Stored numbers (S, H, W) of air around soft tissue, for an intercept of -1024."""
    stack = np.full((6, 20, 24), 124, np.int16)
    stack[1:4, 5:12, 6:16] = 1224
    return stack


def test_a_volume_without_contrast_is_noted(tmp_path):
    for name, voxel in (("alike", 0), ("other", 90)):
        array = np.zeros((8, 9, 5), np.int16)
        array[0, 0, 0] = voxel
        image = nibabel.Nifti1Image(array, np.diag([2, 2, 5, 1]))
        nibabel.save(image, tmp_path / f"{name}.nii")
        notes = predictor().predict_volume(tmp_path / f"{name}.nii").notes
        assert any("all voxels are alike" in note for note in notes) == (name == "alike")
