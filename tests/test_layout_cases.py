"""Folders of a case each: ITK-SNAP's, and several sequences as BraTS has them."""

import nibabel
import numpy as np
import pytest

from seglib import config, layouts, prepare
from seglib.errors import DataError
from seglib.formats import channels
from tests.helpers import save_nifti

AFFINE = np.diag([1.0, 1.2, 5.0, 1.0])


def write(path, seed=0, labels=False, shape=(8, 8, 3)):
    numbers = np.random.default_rng(seed).integers(0, 2 if labels else 900, shape)
    save_nifti(nibabel.Nifti1Image(numbers.astype(np.int16), AFFINE), path)


def make(root, preset="cardiac", **settings):
    fixed = dict(class_names=("background", "a"), task="multiclass", loss="cross_entropy")
    fixed |= dict(label_map={}, image_size=8, patch_size=None, work_dir=str(root.parent / "work"))
    return config.preset(preset, "smoke", data_root=str(root), **{**fixed, **settings})


@pytest.mark.parametrize("preset", ["cardiac", "rsna", "binary"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_folders_of_itk_snap(tmp_path, preset, suffix):
    for number in range(3):
        folder = tmp_path / "t" / f"case{number:02d}"
        write(folder / f"image{suffix}", number)
        write(folder / f"segmentation{suffix}", number, labels=True)
    cases = layouts.scan(make(tmp_path / "t", preset))
    assert len(cases) == 9 and "channels" not in cases
    assert sorted(set(cases["patient"])) == ["case00", "case01", "case02"]
    assert {path.rsplit("/", 1)[1] for path in cases["labels"]} == {f"segmentation{suffix}"}
    if preset == "cardiac":
        assert len(prepare.build(cases, make(tmp_path / "t")).cases) == 9


def write_brats(root, names=("flair", "t1", "t1ce", "t2"), n=2):
    for number in range(n):
        case = f"BraTS_{number:03d}"
        for k, name in enumerate(names):
            write(root / case / f"{case}_{name}.nii.gz", 10 * number + k)
        write(root / case / f"{case}_seg.nii.gz", number, labels=True)
    return root


def test_sequences_of_brats(tmp_path):
    root = write_brats(tmp_path / "t")
    cases = layouts.scan(make(root))
    assert set(cases["channels"]) == {"flair::t1::t1ce::t2"}
    wanted = ("T2", "FLAIR")
    cfg = make(root, channel_names=wanted)
    cases = layouts.scan(cfg)
    names = [path.rsplit("/", 1)[1] for path in channels.files(cases["image"][0])]
    assert names == ["BraTS_000_t2.nii.gz", "BraTS_000_flair.nii.gz"]
    assert prepare.build(cases, cfg).open()[0].shape == (6, 8, 8, 2)
    with pytest.raises(DataError, match="no channel dwi; there are flair, t1, t1ce, t2"):
        layouts.scan(make(root, channel_names=("t2", "dwi")))


def test_one_sequence_of_several(tmp_path):
    cases = layouts.scan(make(write_brats(tmp_path / "t"), channel_names=("T1",)))
    assert cases["image"][0].endswith("BraTS_000_t1.nii.gz") and "channels" not in cases


def test_a_missing_sequence_and_two_label_files_set_the_case_aside(tmp_path):
    root = write_brats(tmp_path / "t", n=4)
    (root / "BraTS_001" / "BraTS_001_t2.nii.gz").unlink()
    write(root / "BraTS_002" / "BraTS_002_mask.nii.gz", labels=True)
    (root / "BraTS_003" / "BraTS_003_seg.nii.gz").unlink()
    names = ("flair", "t1", "t1ce", "t2")
    cases = layouts.scan(make(root, channel_names=names))
    report = prepare.build(cases, make(root, channel_names=names)).report
    problems = " ".join(report.problems["problem"])
    assert "its sequence t2 is missing" in problems
    assert "which labels are its own is not clear: BraTS_002_" in problems
    assert "BraTS_003_flair.nii.gz" in " ".join(report.notes)
    names = set(report.problems["case"].str[:9])
    assert names == {"BraTS_001", "BraTS_002"}


@pytest.mark.parametrize("older", ["segmentation_old", "segmentation2", "mask-first"])
def test_older_labels_are_no_sequence(tmp_path, older):
    for number in range(3):
        folder = tmp_path / "t" / f"case{number}"
        write(folder / "image.nii.gz", number)
        write(folder / "segmentation.nii.gz", number, labels=True)
    write(tmp_path / "t" / "case1" / f"{older}.nii.gz", labels=True)
    cases = layouts.scan(make(tmp_path / "t"))
    assert "channels" not in cases
    problems = cases.groupby("volume")["problem"].first()
    assert "which labels are its own is not clear" in problems["case1"]
    assert problems["case0"] == problems["case2"] == ""


def test_a_root_without_cases(tmp_path):
    write(tmp_path / "t" / "a" / "image.nii.gz")
    with pytest.raises(DataError, match="no folder of a case; expected such as case01/image"):
        layouts.scan(make(tmp_path / "t", layout="cases"))
