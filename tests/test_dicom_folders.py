"""Folders of patients, studies and series, as archives export them, in training and prediction."""

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from seglib import case_io, config, layouts, runs
from seglib.errors import DataError
from seglib.formats import dicom_folders, dicom_seg, volumes
from seglib.inference import Predictor
from tests.helpers import truth_of, write_series


def export(root, flat=False):
    """Two patients with a labelled CT and a second series each; name -> labels as displayed."""
    truth = {}
    for number in (1, 2):
        folder = root / f"p{number}" / "study"
        ids = {"PatientID": f"ID{number}", "StudyInstanceUID": generate_uid()}
        ids["FrameOfReferenceUID"] = generate_uid()
        stack = np.random.default_rng(number).integers(900, 1200, (3 + number, 20, 24))
        names = ("all", "all") if flat else ("ct", "other")
        write_series(folder / names[0], stack, name="a{}.dcm", **ids)
        write_series(folder / names[1], stack[:2], name="b{}.dcm", Modality="MR", **ids)
        series = max(dicom_folders.read(folder).series, key=lambda one: one.n_files)
        grid = volumes.read_grid(series.path)
        mask = np.random.default_rng(number).random(grid.shape) > 0.5
        target = folder / (names[0] if flat else "labels") / "seg.dcm"
        dicom_seg.write(target, {"liver": mask, "spleen": ~mask}, grid)
        truth[number] = mask
    return truth


def config_of(root, **changes):
    names = ("background", "liver", "spleen")
    changes = {"data_root": str(root), "class_names": names, "layout": "dicom", **changes}
    return config.preset("rsna", "smoke", **changes)


@pytest.mark.parametrize("flat", [False, True], ids=["folders", "one folder a study"])
def test_the_series_that_labels_refer_to_is_the_volume(tmp_path, flat):
    truth = export(tmp_path / "d", flat)
    cfg = config_of(tmp_path / "d")
    cases = layouts.scan(cfg)
    assert list(cases["patient"].unique()) == ["ID1", "ID2"]
    assert len(cases) == sum(len(mask) for mask in truth.values())
    shown = truth_of(type("Store", (), {"cases": cases}), cfg)
    for number, mask in truth.items():
        own = cases[cases["patient"] == f"ID{number}"]["case"]
        labels = np.stack([shown[case][1] for case in own])
        np.testing.assert_array_equal(labels, np.where(mask, 1, 2))
    assert any("without labels" in note for note in cases.attrs["notes"])


def test_the_layout_is_found_by_itself(tmp_path):
    export(tmp_path / "d")
    cases = layouts.scan(config_of(tmp_path / "d", layout="auto"))
    assert cases["volume"].nunique() == 2


def in_two_files(folder, liver, spleen, names=("liver", "spleen")):
    """A series, and a file of segments for each of two structures."""
    stack = np.random.default_rng(0).integers(900, 1200, liver.shape)
    ids = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    write_series(folder / "ct", stack, PatientID="ID1", **ids)
    grid = volumes.read_grid(folder / "ct")
    for file, name, mask in zip(("one", "two"), names, (liver, spleen)):
        dicom_seg.write(folder / "labels" / f"{file}.dcm", {name: mask}, grid)


def test_a_file_of_segments_for_each_structure_is_united(tmp_path):
    mask = np.random.default_rng(1).random((3, 20, 24))
    liver, spleen = mask > 0.6, mask < 0.3
    in_two_files(tmp_path / "d" / "p1", liver, spleen)
    cfg = config_of(tmp_path / "d")
    cases = layouts.scan(cfg)
    shown = truth_of(type("Store", (), {"cases": cases}), cfg)
    labels = np.stack([shown[case][1] for case in cases["case"]])
    np.testing.assert_array_equal(labels, np.where(liver, 1, np.where(spleen, 2, 0)))
    found = config.preset("binary", "smoke", data_root=str(tmp_path / "d"))
    layouts.scan(found)
    assert found.class_names == ("background", "liver", "spleen")


def test_files_of_segments_that_overlap_are_refused_for_classes_that_exclude_each_other(tmp_path):
    mask = np.random.default_rng(1).random((3, 20, 24))
    liver, spleen = mask > 0.4, mask > 0.7
    in_two_files(tmp_path / "d" / "p1", liver, spleen)
    cfg = config_of(tmp_path / "d")
    cases = layouts.scan(cfg)
    with pytest.raises(DataError, match=r"one\.dcm and .*two\.dcm: .* belong to liver and spleen"):
        truth_of(type("Store", (), {"cases": cases}), cfg)
    names = ("liver", "spleen")
    both = config_of(tmp_path / "d", task="multilabel", class_names=names, loss="combined")
    rows = layouts.scan(both).to_dict("records")
    for name, own in zip(names, (liver, spleen)):
        planes = [case_io.read_mask(row, name, both, False).pixels for row in rows]
        np.testing.assert_array_equal(np.stack(planes), own)


def test_files_that_repeat_a_segment_are_a_problem(tmp_path):
    mask = np.random.default_rng(1).random((3, 20, 24)) > 0.5
    in_two_files(tmp_path / "d" / "p1", mask, mask, names=("liver", "Liver"))
    problem = layouts.scan(config_of(tmp_path / "d"))["problem"].iloc[0]
    assert "two.dcm: a segment Liver, as in " in problem and "one.dcm" in problem


def test_without_labels_it_says_what_is_there(tmp_path):
    write_series(tmp_path / "d/p/ct", np.zeros((3, 8, 6), np.int16))
    with pytest.raises(DataError, match="1 DICOM series and 0 files of labels"):
        layouts.scan(config_of(tmp_path / "d"))


def test_a_series_is_called_by_its_folder_and_number(tmp_path):
    export(tmp_path / "d", flat=True)
    series = dicom_folders.read(tmp_path / "d").series
    assert len(series) == 4
    for one in series:
        assert one.path.name == f"all#{one.uid}"
        volume = volumes.read(one.path, canonical=False)
        assert len(volume.voxels) == one.n_files
        header = pydicom.dcmread(volume.grid.files[0])
        assert header.SeriesInstanceUID == one.uid
        assert volumes.is_volume(one.path) and volumes.is_series(one.path)
        assert volumes.stamp(one.path)


def test_a_folder_of_patients_is_predicted_series_by_series(tmp_path):
    export(tmp_path / "d", flat=True)
    write_series(tmp_path / "d/p3/ct", np.zeros((3, 20, 24), np.int16))
    cfg = config.preset("rsna", "smoke", class_names=("background", "liver"), label_map={})
    model = Predictor(runs.network(cfg), cfg, "cpu", "fp32")
    result = model.predict_folder(tmp_path / "d", tmp_path / "out")
    assert not result["failed"] and len(result["done"]) == 5
    assert set(result["millilitres"]) == set(result["done"])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 5 and "p3_ct_mask.nii.gz" in written
    shapes = sorted(nibabel.load(tmp_path / "out" / name).shape[0] for name in written)
    assert shapes == sorted((4, 2, 5, 2, 3))
