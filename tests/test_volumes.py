"""Volumes: labels land on the voxels of their image, and HU become eight bits; real CT."""

import gc
import os
import weakref
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from seglib import presets
from seglib.errors import DataError
from seglib.formats import orientation, volumes
from tests.helpers import (
    ORIENTATIONS,
    displayed,
    labels_like,
    numbered_volume,
    rsna_config,
    save_nifti,
    write_organs,
    write_series_and_labels,
)

CLASSES = ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel")


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPS", "SPL", "ASR"])
def test_dicom_and_nifti_labels_meet(tmp_path, stack, codes):
    truth = write_series_and_labels(tmp_path, stack, codes)
    volume = volumes.read(tmp_path / "ct")
    np.testing.assert_array_equal(volumes.read_labels_like(volume, tmp_path / "seg.nii.gz"), truth)
    if codes == "LAS":  # the way the README of the test data lays them over each other
        stored = np.asarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj)
        for k, plane in enumerate(truth):
            np.testing.assert_array_equal(stored[:, :, k].T[::-1], plane)


def test_labels_beside_their_volume_are_refused(tmp_path):
    image = numbered_volume()
    volume = volumes.read_nifti(save_nifti(image, tmp_path / "ct.nii"))
    truth = (np.asarray(image.dataobj) % 5).astype(np.uint8)

    def moved(voxels, name, array=truth):
        affine = image.affine @ nibabel.affines.from_matvec(np.eye(3), voxels)
        return save_nifti(nibabel.Nifti1Image(array, affine), tmp_path / name)

    np.testing.assert_array_equal(
        volumes.read_labels_like(volume, moved((0.4, 0, 0), "near.nii")), displayed(truth)
    )
    far = moved((0, 0.6, 0), "far.nii")
    with pytest.raises(DataError, match=r"far\.nii: lies up to 0\.6 voxels beside its volume ct\."):
        volumes.read_labels_like(volume, far)
    short = moved((0, 0, 0), "short.nii", truth[..., 1:])
    with pytest.raises(DataError, match=r"short\.nii: labels of 4x9x7.*volume of 5x9x7 \(ct\."):
        volumes.read_labels_like(volume, short)
    wider = nibabel.Nifti1Image(truth, image.affine @ np.diag([1.2, 1, 1, 1]))
    with pytest.raises(DataError, match=r"wide\.nii: lies up to"):
        volumes.read_labels_like(volume, save_nifti(wider, tmp_path / "wide.nii"))
    rotation = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.6, 0, 0))
    oblique = nibabel.Nifti1Image(truth, rotation @ image.affine)
    with pytest.raises(DataError, match=r"oblique\.nii: labels of 7x9x5, turned obliquely"):
        volumes.read_labels_like(volume, save_nifti(oblique, tmp_path / "oblique.nii"))


def test_labels_without_orientation(tmp_path, stack):
    image = numbered_volume().as_reoriented(ORIENTATIONS[13])
    truth = (np.asarray(image.dataobj) % 5).astype(np.uint8)
    volume = volumes.read_nifti(save_nifti(image, tmp_path / "ct.nii"))
    path = save_nifti(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "seg.nii")
    labels = volumes.read_labels_like(volume, path)
    np.testing.assert_array_equal(labels, volume.grid.display(truth))
    save_nifti(nibabel.Nifti1Image(truth[:-1], np.eye(4)), path)
    with pytest.raises(DataError, match=r"seg\.nii.*without orientation.*its volume is"):
        volumes.read_labels_like(volume, path)
    write_series_and_labels(tmp_path / "d", stack)
    save_nifti(nibabel.Nifti1Image(np.zeros((6, 8, 5), np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match=r"seg\.nii.*DICOM series cannot be matched"):
        volumes.read_labels_like(volumes.read_grid(tmp_path / "d" / "ct"), path)


def test_labels_must_be_whole_numbers(tmp_path):
    image = numbered_volume()
    volume = volumes.read_nifti(save_nifti(image, tmp_path / "ct.nii"))
    numbers = np.asarray(image.dataobj) % 400

    def read(array, dtype):
        path = save_nifti(labels_like(image, array, dtype), tmp_path / "seg.nii")
        return volumes.read_labels_like(volume, path)

    labels = read(numbers, np.float64)
    np.testing.assert_array_equal(labels, displayed(numbers))
    assert labels.dtype == np.int32
    for array in (numbers + 0.5, np.where(numbers == 3, np.nan, numbers)):
        with pytest.raises(DataError, match=r"seg\.nii: labels are not whole"):
            read(array, np.float32)
    with pytest.raises(DataError, match=r"seg\.nii: label -1 is negative"):
        read(numbers - 1, np.int16)


def test_one_mask_file_an_organ(tmp_path):
    image = numbered_volume()
    truth = (np.asarray(image.dataobj) % 6).astype(np.uint8)
    volume = volumes.read_nifti(save_nifti(image, tmp_path / "ct.nii"))
    folder = write_organs(tmp_path / "seg", image, truth)
    np.testing.assert_array_equal(volumes.read_labels_like(volume, folder), displayed(truth))
    two = volumes.read_labels_like(volume, folder, ("background", "spleen", "liver"))
    np.testing.assert_array_equal(two, displayed(np.select([truth == 1, truth == 2], [2, 1], 0)))
    named = {
        "kidneys": [folder / "kidney_left.nii.gz", folder / "kidney_right.nii.gz"],
        "liver": folder / "liver.nii.gz",
    }
    expected = np.select([(truth == 3) | (truth == 4), truth == 1], [1, 2], 0)
    np.testing.assert_array_equal(volumes.read_labels_like(volume, named), displayed(expected))
    (folder / "duodenum.nii.gz").unlink()
    classes = list(volumes.organ_files(folder, CLASSES))
    assert classes == ["liver", "spleen", "left_kidney", "right_kidney"]
    with pytest.raises(DataError, match="no mask file of heart"):
        volumes.read_labels_like(volume, folder, ("background", "heart"))


@pytest.mark.parametrize(
    "orientation", ORIENTATIONS[::5], ids=lambda o: "".join(nibabel.orientations.ornt2axcodes(o))
)
def test_labels_may_be_stored_in_any_orientation(tmp_path, orientation):
    image = numbered_volume()
    truth = (np.asarray(image.dataobj) % 7).astype(np.uint8)
    other = image.as_reoriented(ORIENTATIONS[11])
    volume = volumes.read_nifti(save_nifti(other, tmp_path / "ct.nii"))
    path = save_nifti(labels_like(image, truth).as_reoriented(orientation), tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(volumes.read_labels_like(volume, path), displayed(truth))


def test_window():
    voxels = np.array([[[-2000, -150, 50, 250, 3000]]], np.int16)
    assert volumes.window(voxels, 50, 400).ravel().tolist() == [0, 0, 128, 255, 255]
    ramp = np.linspace(-150, 250, 1001, dtype=np.float32).reshape(1, 1, -1)
    expected = np.rint((ramp + 150) / 400 * 255)
    np.testing.assert_array_equal(volumes.window(ramp, 50, 400), expected)


def test_percentiles_are_those_of_the_volume():
    voxels = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    shown = volumes.clip_percentiles(voxels, 10, 90)
    assert shown.dtype == np.uint8 and (shown[:1] == 0).all() and (shown[-1:] == 255).all()
    assert np.diff(shown.ravel().astype(int)).max() == 1
    assert (volumes.clip_percentiles(np.full((2, 3, 3), 7), 1, 99) <= 128).all()


def test_a_volume_is_decoded_once(tmp_path, monkeypatch):
    calls = []
    real = volumes.read
    monkeypatch.setattr(volumes, "read", lambda path, **k: calls.append(path) or real(path, **k))
    paths = [str(save_nifti(numbered_volume(), tmp_path / f"{i}.nii")) for i in range(2)]
    cfg = rsna_config(tmp_path, tmp_path, window_level=50, window_width=400)
    for _ in range(3):
        for path in paths:
            assert volumes.read_8_bit(path, cfg).voxels.shape == (5, 9, 7)
    assert calls == paths
    image = numbered_volume()
    image = nibabel.Nifti1Image(np.asarray(image.dataobj) * 0 + 50, image.affine)
    save_nifti(image, Path(paths[0]))
    os.utime(paths[0], (0, 0))  # clocks of file systems may be too coarse to tell both apart
    assert (volumes.read_8_bit(paths[0], cfg).voxels == 128).all()
    (tmp_path / "bad.nii").write_bytes(b"junk")
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.nii"):
            volumes.read_8_bit(tmp_path / "bad.nii", cfg)
    assert len(calls) == 4 and len(volumes._cache.results) <= 4


def test_nothing_that_is_cached_can_be_changed(tmp_path):
    path = save_nifti(numbered_volume(), tmp_path / "ct.nii")
    labels = save_nifti(labels_like(numbered_volume(), np.zeros((7, 9, 5))), tmp_path / "seg.nii")
    cfg = rsna_config(tmp_path, tmp_path)
    for cached in (volumes.read_8_bit(path, cfg).voxels, volumes.read_labels(path, labels, cfg)):
        with pytest.raises(ValueError, match="read-only"):
            cached[0] = 1


def test_a_decoded_volume_carries_its_notes(tmp_path):
    """Every call returns them, whether the volume comes from its file or from the cache."""
    array = np.asarray(numbered_volume().dataobj).astype(np.float32)
    array[0, 0, 0] = np.nan
    path = save_nifti(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "ct.nii")
    cfg = rsna_config(tmp_path, tmp_path)
    for _ in range(2):
        volume = volumes.read_8_bit(path, cfg)
        assert volume.decoding_notes == (
            "1 voxels are not finite numbers; set to the minimum, -999",
        )
        assert volume.grid.notes == (orientation.NO_ORIENTATION,)
        assert volume.grid.spacing_note.startswith("spacing unknown")
        texts = (*volume.grid.notes, volume.grid.spacing_note, *volume.decoding_notes)
        assert volume.notes == texts


def test_an_error_that_is_cached_keeps_no_arrays(tmp_path, monkeypatch):
    """The traceback of an error would hold the local variables of all functions on its way."""
    arrays = []

    def read(path, **_):
        array = np.zeros(1000)
        arrays.append(weakref.ref(array))
        raise DataError(f"{path}: no voxel is a finite number")

    monkeypatch.setattr(volumes, "read", read)
    cfg = rsna_config(tmp_path, tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"ct\.nii: no voxel is a finite number"):
            volumes.read_8_bit(tmp_path / "ct.nii", cfg)
    gc.collect()
    assert len(arrays) == 1 and arrays[0]() is None


# ---- CT that is not in HU


def ct_phantom(rng):
    """HU of a trunk in air: soft tissue, a lung, a spine and the table's thin line."""
    rows, columns = np.mgrid[:64, :64]
    hu = np.where(np.hypot(rows - 32, columns - 32) < 27, 40, -1000)
    hu[np.hypot(rows - 25, columns - 22) < 8] = -850
    hu[np.hypot(rows - 46, columns - 32) < 4] = 600
    return (hu + rng.normal(0, 15, (6, 64, 64))).round()


NOT_HU = {
    "intercept lost": (lambda hu: hu + 1024, "shifted by about 1024"),
    "unsigned": (lambda hu: np.clip(hu + 1024, 0, None).astype(np.uint16), "shifted by about"),
    "intercept twice": (lambda hu: hu - 1024, "far below air"),
    "intercept twice, clipped": (lambda hu: np.maximum(hu, -1024) - 1024, "far below air"),
    "0 to 1": (lambda hu: (hu - hu.min()) / np.ptp(hu), "scaled or standardised"),
    "-1 to 1": (lambda hu: (hu - hu.min()) / np.ptp(hu) * 2 - 1, "scaled or standardised"),
    "thousands": (lambda hu: hu / 1000, "scaled or standardised"),
    "standardised": (lambda hu: (hu - hu.mean()) / hu.std(), "scaled or standardised"),
    "8 bits": (lambda hu: np.clip((hu + 150) / 400, 0, 1) * 255, "picture of 8 bits"),
    "ten times": (lambda hu: hu * 10, "far below air"),
    "16 bits": (lambda hu: (hu - hu.min()) / np.ptp(hu) * 65535, "of them above 300"),
}


@pytest.mark.parametrize("name", NOT_HU)
def test_a_ct_that_is_not_in_hu_is_noted(tmp_path, name):
    change, words = NOT_HU[name]
    hu = change(ct_phantom(np.random.default_rng(0)))
    image = nibabel.Nifti1Image(hu.T.astype(np.float32), np.diag([-0.8, -0.8, 5, 1]))
    path = save_nifti(image, tmp_path / "ct.nii")
    cfg = rsna_config(tmp_path, tmp_path, window_level=50, window_width=400)
    (note,) = volumes.read_8_bit(path, cfg).decoding_notes
    assert note.startswith("not in Hounsfield units") and words in note
    without = cfg.replace(window_level=None, window_width=None, percentiles=(1, 99))
    assert volumes.read_8_bit(path, without).decoding_notes == ()


def mri_phantom(rng):
    """A trunk of MRI: a dark background, muscle, bright fat, and no number below 0."""
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 32, columns - 32)
    signal = np.select([distance < 22, distance < 27], [160, 700], 0)
    signal[np.hypot(rows - 25, columns - 22) < 6] = 420
    return np.abs(signal + rng.normal(0, 12, (6, 64, 64))).round()


def test_mri_is_not_in_hu():
    voxels = mri_phantom(np.random.default_rng(0))
    for window in WINDOWS:
        (note,) = volumes.not_in_hu(voxels, *window)
        assert "none below 0" in note and volumes.FOR_MRI in note


def test_real_mri_is_not_in_hu(real):
    for path in (real("chaos_mr_t2") / "chaos_MR_T2_normalized").glob("image_*"):
        (note,) = volumes.not_in_hu(volumes.read(path).voxels, 50, 400)
        assert "shifted" not in note and volumes.FOR_MRI in note


WINDOWS = [(50, 400), (40, 80), (100, 150), (-600, 1500), (400, 1800)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_parts_of_a_ct_in_hu_are_not_noted(window):
    hu = ct_phantom(np.random.default_rng(0))
    parts = {
        "whole": hu,
        "soft tissue alone": hu[:, 20:44, 36:56],
        "lung": hu[:, 18:30, 16:28],
        "spine": hu[:, 38:56, 22:44],
        "contrast agent": np.where(hu > 0, hu + 120, hu)[:, 20:44, 36:56],
        "air": hu[:, :6, :6],
        "outside the field of view": np.where(hu < -900, -3024, hu),
        "masked": np.where(hu > -200, hu, 0),
        "one value": np.full((2, 8, 8), 40),
    }
    for name, part in parts.items():
        assert volumes.not_in_hu(part, *window) == (), name


def test_real_ct_is_in_hu(ct, real_series):
    rng = np.random.default_rng(0)
    scans = [volumes.read(ct / f"example_ct{name}.nii.gz").voxels for name in ("", "_sm")]
    for voxels in (*scans, real_series.voxels):
        for window in WINDOWS:
            assert volumes.not_in_hu(voxels, *window) == ()
        for _ in range(20):  # parts of it, with or without air
            low = [int(rng.integers(0, n * 3 // 4)) for n in voxels.shape]
            part = voxels[tuple(slice(a, a + n // 3) for a, n in zip(low, voxels.shape))]
            assert volumes.not_in_hu(part, 50, 400) == ()
        assert volumes.not_in_hu(voxels.astype(np.int32) + 1024, 50, 400)


def test_real_amos_is_in_hu(real):
    voxels = volumes.read(real("amos_ct") / "data" / "train" / "img").voxels
    assert volumes.not_in_hu(voxels, 50, 400) == ()
    assert volumes.not_in_hu(voxels + 1024, 50, 400)


@pytest.fixture(scope="module")
def real_series(ct):
    """The real DICOM series, whose JPEG 2000 takes a second to decode."""
    return volumes.read_dicom(ct / "example_ct_dicom")


def centre(labels, number):
    """Mean (slice, row, column) of a class, in 0 to 1."""
    return np.argwhere(labels == number).mean(axis=0) / labels.shape


def translated(numbers):
    table = {int(k): v for k, v in presets.PRESETS["rsna"].full["label_map"].items()}
    return np.vectorize(lambda n: table.get(n, 0), otypes=[np.uint8])(numbers)


@pytest.mark.parametrize(
    ("name", "labels", "shape", "spacing", "limits"),
    [
        ("example_ct.nii.gz", "example_seg", (112, 101, 122), (3, 3, 3), (-1207, 3382)),
        ("example_ct_sm.nii.gz", "example_seg.nii.gz", (30, 101, 122), (3, 3, 3), (-1207, 3382)),
        (
            "example_ct_dicom",
            "example_seg_dicom.nii.gz",
            (20, 512, 512),
            (2, 0.9765625, 0.9765625),
            (-1024, 3071),
        ),
    ],
)
def test_real_ct(ct, real_series, name, labels, shape, spacing, limits):
    volume = real_series if name == "example_ct_dicom" else volumes.read(ct / name)
    assert (
        volume.voxels.shape == shape
        and volume.spacing_mm == pytest.approx(spacing)
        and volume.notes == ()
    )
    assert limits[0] <= volume.voxels.min() <= -1000 and 800 <= volume.voxels.max() <= limits[1]
    truth = volumes.read_labels_like(volume, ct / labels)
    truth = truth if (ct / labels).is_dir() else translated(truth)
    liver, spleen = centre(truth, 1), centre(truth, 2)
    assert liver[2] < 0.45 and spleen[2] > 0.6, (
        "the liver lies on the patient's right, the image's left"
    )
    spine = np.argwhere(volume.voxels > 400).mean(axis=0)[1] / shape[1]
    assert liver[1] < spine + 0.05, "the spine is at the bottom"
    tissue = volume.voxels[truth == 1]
    assert 20 < np.median(tissue) < 180, "liver has the HU of liver: the labels lie on it"
    if (truth == 3).any():
        left, right = centre(truth, 3), centre(truth, 4)
        assert left[2] > 0.5 > right[2]
        assert liver[0] > max(left[0], right[0]), (
            "the liver lies above the kidneys, towards the head"
        )
    assert volume.restore(volume.voxels).shape == volume.grid.file_shape


def test_real_dicom(ct, real_series):
    volume = real_series
    heights = [
        float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2])
        for f in volume.grid.files
    ]
    assert heights == sorted(heights) and heights[0] == -804.5 and heights[-1] == -766.5
    seg = np.asarray(nibabel.load(ct / "example_seg_dicom.nii.gz").dataobj)
    truth = volumes.read_labels_like(volume, ct / "example_seg_dicom.nii.gz")
    for k in range(20):
        np.testing.assert_array_equal(truth[k], seg[:, :, k].T[::-1])
    for k in (0, 7, 19):
        plane = pydicom.dcmread(volume.grid.files[k]).pixel_array.astype(int)
        np.testing.assert_array_equal(volume.voxels[k], plane - 1024)


def test_real_organ_volumes(ct):
    volume = volumes.read(ct / "example_ct.nii.gz")
    truth = volumes.read_labels_like(volume, ct / "example_seg")
    for number, names in enumerate(
        [
            ["liver"],
            ["spleen"],
            ["kidney_left"],
            ["kidney_right"],
            ["colon", "small_bowel", "duodenum"],
        ],
        1,
    ):
        own = np.any(
            [
                np.asarray(nibabel.load(ct / "example_seg" / f"{n}.nii.gz").dataobj) > 0
                for n in names
            ],
            axis=0,
        )
        millilitres = (truth == number).sum() * np.prod(volume.spacing_mm) / 1000
        assert millilitres == pytest.approx(own.sum() * 27 / 1000) and millilitres > 10
    seg = volumes.read_labels_like(
        volumes.read_grid(ct / "example_ct_dicom"), ct / "example_seg_dicom.nii.gz"
    )
    stored = nibabel.load(ct / "example_seg_dicom.nii.gz")
    assert (seg == 5).sum() == (np.asarray(stored.dataobj) == 5).sum()


# ---- what the modules promise each other


def test_mask_files_have_the_classes_of_the_preset():
    classes = presets.PRESETS["rsna"].full["class_names"]
    assert classes == CLASSES and set(volumes.CLASS_OF_MASK_FILE.values()) == set(CLASSES[1:])
