"""The table "your data -> what to run" of the README: every line on a small tree of its kind.

`TREES` names the lines. The commands are those of the README, as they stand there, in a folder that
holds the tree; only the size of the training is added.
"""

import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from seglib.formats import dicom_seg, volumes
from tests.helpers import command, save_nifti, write_picture, write_series
from tests.sources import ROOT

# Added to `train`: a second instead of minutes.
TINY = "--size smoke --epochs 1 --image_size 32 --base_channels 2 --depth 2 --batch_size 4"
TINY += " --precision fp32 --device cpu --num_workers 0 --bootstrap 20"
N_CASES = 6
TWO = ("background", "liver", "spleen")


def rows_of(page):
    """The lines of the table of a page: what the data is -> its commands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text.split("| your data |")[1].split("\n\n")[0]
    rows = {}
    for line in table.splitlines()[2:]:
        cells = line.strip("| ").split(" | ")
        name = re.sub(r"[`*]", "", cells[0]).split(":")[0]
        rows[name] = re.findall(r"`python -m seglib ([^`]+)`", cells[-1])
    return rows


def numbers_of(case, shape=(40, 48)):
    """Class numbers (H, W): 1 a square, 2 a disc, at another place in every case."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint8)
    labels[5 : 17 + case, 4:20] = 1
    labels[(rows - 26) ** 2 + (columns - 32 - case % 3) ** 2 <= 81] = 2
    return labels


def image_of(case, shape=(40, 48)):
    noise = np.random.default_rng(case).integers(0, 20, (*shape, 3))
    return (noise + 80 * numbers_of(case, shape)[..., None]).astype(np.uint8)


def write_images(folder, name="case_{}.png"):
    for case in range(N_CASES):
        write_picture(folder / name.format(case), image_of(case))


def write_masks(folder, convert, name="case_{}.png"):
    for case in range(N_CASES):
        write_picture(folder / name.format(case), convert(numbers_of(case)))


# ---- pictures


def same_names(root):
    write_images(root / "D" / "images")
    write_masks(root / "D" / "masks", lambda labels: 255 * (labels > 0))
    return ("structure",)


def other_names(root):
    write_images(root / "IMAGES", "case_{}.jpg")
    write_masks(root / "MASKS", lambda labels: 255 * (labels > 0), "case_{}_mask.png")
    return ("structure",)


def class_numbers(root):
    write_images(root / "D" / "images")
    write_masks(root / "D" / "masks", lambda labels: labels)
    labels = {name: number for number, name in enumerate(TWO)}
    (root / "D" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return TWO


def colours(root):
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]])
    write_images(root / "D" / "images")
    write_masks(root / "D" / "masks", lambda labels: palette[labels])
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(TWO, palette)]
    text = "\n".join(["# label:color_rgb:parts:actions", *lines])
    (root / "D" / "labelmap.txt").write_text(text)
    return TWO


def folder_for_each_class(root):
    write_images(root / "D" / "images")
    write_masks(root / "D" / "masks" / "disc", lambda labels: 255 * (labels > 0))
    write_masks(root / "D" / "masks" / "cup", lambda labels: 255 * (labels == 2))
    return ("cup", "disc")


def polygons_of(case):
    """Class -> the corners (x, y) of its polygon in `numbers_of`."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    disc = np.stack([32.5 + case % 3 + 9 * np.cos(angles), 26.5 + 9 * np.sin(angles)], axis=1)
    square = [[4, 5], [20, 5], [20, 17 + case], [4, 17 + case]]
    return {"liver": square, "spleen": disc.round(2).tolist()}


def labelme(root):
    write_images(root / "D" / "images")
    for case in range(N_CASES):
        shapes = [
            {"label": name, "points": points, "shape_type": "polygon", "group_id": None}
            for name, points in polygons_of(case).items()
        ]
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        document |= {"imagePath": f"case_{case}.png", "imageHeight": 40, "imageWidth": 48}
        (root / "D" / "images" / f"case_{case}.json").write_text(json.dumps(document))
    return TWO


def coco_document(cases):
    """COCO of some of the cases; a polygon for each structure."""
    document = {
        "images": [
            {"id": case, "file_name": f"case_{case}.png", "height": 40, "width": 48}
            for case in cases
        ],
        "categories": [{"id": 1, "name": "liver"}, {"id": 2, "name": "spleen"}],
        "annotations": [],
    }
    for case in cases:
        for number, points in enumerate(polygons_of(case).values(), 1):
            annotation = {"id": 10 * case + number, "image_id": case, "category_id": number}
            annotation |= {"segmentation": [np.ravel(points).tolist()], "iscrowd": 0}
            document["annotations"].append(annotation)
    return document


def coco(root):
    write_images(root / "D" / "images")
    (root / "D" / "instances.json").write_text(json.dumps(coco_document(range(N_CASES))))
    return TWO


def cvat(root):
    write_images(root / "D" / "images")
    images = []
    for case in range(N_CASES):
        polygons = [
            f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in points)}" '
            'occluded="0" z_order="0"/>'
            for name, points in polygons_of(case).items()
        ]
        start = f'<image id="{case}" name="case_{case}.png" width="48" height="40">'
        images.append("".join([start, *polygons, "</image>"]))
    text = f"<annotations><version>1.1</version>{''.join(images)}</annotations>"
    (root / "D" / "annotations.xml").write_text(text)
    return TWO


def via(root):
    write_images(root / "D" / "images")
    document = {}
    for case in range(N_CASES):
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in points],
                    "all_points_y": [y for _, y in points],
                },
                "region_attributes": {"tissue": name},
            }
            for name, points in polygons_of(case).items()
        ]
        name, size = f"case_{case}.png", (root / "D" / "images" / f"case_{case}.png").stat().st_size
        entry = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        document[f"{name}{size}"] = entry
    (root / "D" / "via.json").write_text(json.dumps(document))
    return TWO


def yolo(root):
    write_images(root / "D" / "images")
    (root / "D" / "labels").mkdir()
    for case in range(N_CASES):
        lines = [
            " ".join([str(number), *(f"{x / 48:.5f} {y / 40:.5f}" for x, y in points)])
            for number, points in enumerate(polygons_of(case).values())
        ]
        (root / "D" / "labels" / f"case_{case}.txt").write_text("\n".join(lines))
    (root / "D" / "labels" / "data.yaml").write_text("names: [liver, spleen]\n")
    return TWO


def geojson(root):
    write_images(root / "D" / "images")
    for case in range(N_CASES):
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
                "properties": {"classification": {"name": name}},
            }
            for name, points in polygons_of(case).items()
        ]
        document = {"type": "FeatureCollection", "features": features}
        (root / "D" / "images" / f"case_{case}.geojson").write_text(json.dumps(document))
    return TWO


def imagej(root):
    roifile = pytest.importorskip("roifile")
    write_images(root / "D" / "images")
    for case in range(N_CASES):
        for name, points in polygons_of(case).items():
            roi = roifile.ImagejRoi.frompoints(points, name=name)
            roi.tofile(root / "D" / "images" / f"case_{case}.zip")
    return TWO


def roboflow(root):
    for part, cases in (("train", range(4)), ("valid", [4]), ("test", [5])):
        for case in cases:
            write_picture(root / "D" / part / f"case_{case}.png", image_of(case))
        document = coco_document(cases)
        (root / "D" / part / "_annotations.coco.json").write_text(json.dumps(document))
    return TWO


# ---- volumes


def volume_of(case):
    """A CT (48, 40, 6) and its class numbers, in the axes of a NIfTI file."""
    labels = np.repeat(numbers_of(case).T[..., None], 6, axis=2)
    labels[..., [0, -1]] = 0
    noise = np.random.default_rng(case).integers(-20, 20, labels.shape)
    voxels = np.int16([-900, 60, 130])[labels] + noise.astype(np.int16)
    return voxels, labels


def write_volumes(image_name, label_name, suffixes=("",)):
    """NIfTI volumes, and their labels; `suffixes` are those of the channels of an image."""
    affine = np.diag([-0.8, -0.8, 5, 1])
    for case in range(N_CASES):
        voxels, labels = volume_of(case)
        for channel, suffix in enumerate(suffixes):
            image = nibabel.Nifti1Image(voxels + 100 * channel, affine)
            path = Path(str(image_name).format(case=case, channel=suffix))
            image.header.set_xyzt_units("mm")
            save_nifti(image, path)
        save_nifti(nibabel.Nifti1Image(labels, affine), Path(str(label_name).format(case=case)))


def write_names(path, **more):
    labels = {name: number for number, name in enumerate(TWO)}
    path.write_text(json.dumps({"labels": labels, **more}))


def images_and_labels(root):
    write_volumes(root / "D/images/case_{case}.nii.gz", root / "D/labels/case_{case}.nii.gz")
    write_names(root / "D" / "dataset.json")
    return TWO


def decathlon(root):
    write_volumes(root / "D/imagesTr/case_{case}.nii.gz", root / "D/labelsTr/case_{case}.nii.gz")
    labels = {str(number): name for number, name in enumerate(TWO)}
    document = {"modality": {"0": "CT"}, "labels": labels, "tensorImageSize": "3D"}
    document["training"] = [
        {"image": f"./imagesTr/case_{k}.nii.gz", "label": f"./labelsTr/case_{k}.nii.gz"}
        for k in range(N_CASES)
    ]
    (root / "D" / "dataset.json").write_text(json.dumps(document))
    return TWO


def nnunet(root):
    names = root / "D/imagesTr/case_{case}_{channel}.nii.gz", root / "D/labelsTr/case_{case}.nii.gz"
    write_volumes(*names, suffixes=("0000", "0001"))
    more = {"channel_names": {"0": "T1", "1": "T2"}, "numTraining": N_CASES}
    write_names(root / "D" / "dataset.json", **more, file_ending=".nii.gz")
    return TWO


def itk_snap(root):
    write_volumes(root / "D/case{case}/image.nii.gz", root / "D/case{case}/segmentation.nii.gz")
    write_names(root / "D" / "dataset.json")
    return TWO


def one_folder(root):
    write_volumes(root / "D/image_{case}.nii.gz", root / "D/label_{case}.nii.gz")
    write_names(root / "D" / "dataset.json")
    return TWO


def slicer(root):
    """Volumes of 3D Slicer, and its segmentations with the names of the segments."""
    for case in range(N_CASES):
        for name, array in zip(("images/{}.nrrd", "labels/{}.seg.nrrd"), volume_of(case)):
            image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
            image.SetSpacing((0.8, 0.8, 5))
            if "seg" in name:
                for k, label in enumerate(TWO[1:]):
                    image.SetMetaData(f"Segment{k}_ID", f"Segment_{k}")
                    image.SetMetaData(f"Segment{k}_Name", label)
                    image.SetMetaData(f"Segment{k}_Layer", "0")
                    image.SetMetaData(f"Segment{k}_LabelValue", str(k + 1))
            path = root / "D" / name.format(f"case_{case}")
            path.parent.mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(image, str(path))
    return TWO


def write_series_of(root, case):
    """A series in `images/`; returns its class numbers (S, H, W) and its folder."""
    voxels, labels = volume_of(case)
    tags = {"PatientID": f"p{case}", "FrameOfReferenceUID": f"1.2.{case}"}
    tags |= {"StudyInstanceUID": f"1.3.{case}"}
    folder = root / "D" / "images" / f"case_{case}"
    write_series(folder, (voxels + 1024).transpose(2, 1, 0).astype(np.uint16), **tags)
    return labels.transpose(2, 1, 0), folder


def dicom_seg_labels(root):
    pytest.importorskip("highdicom")
    (root / "D" / "labels").mkdir(parents=True)
    for case in range(N_CASES):
        labels, folder = write_series_of(root, case)
        segments = {name: labels == number for number, name in enumerate(TWO[1:], 1)}
        grid = volumes.read_grid(folder)
        dicom_seg.write(root / "D" / "labels" / f"case_{case}.dcm", segments, grid)
    return TWO


def rtstruct_labels(root):
    """Structure sets with a polygon of each structure in the four middle slices."""
    (root / "D" / "labels").mkdir(parents=True)
    for case in range(N_CASES):
        _, folder = write_series_of(root, case)
        header = pydicom.dcmread(next(folder.iterdir()))
        rois, contours = [], []
        for number, (name, points) in enumerate(polygons_of(case).items(), 1):
            roi, drawn = pydicom.Dataset(), pydicom.Dataset()
            roi.ROINumber, roi.ROIName = number, name
            drawn.ReferencedROINumber, drawn.ContourSequence = number, []
            for k in range(1, 5):
                # `write_series` has pixels of 0.5 x 0.7 mm, and slices of 2.5 mm.
                x, y = (np.array(points) - 0.5).T
                place = np.stack([-20 + 0.7 * x, -30 + 0.5 * y, np.full(len(x), 10 + 2.5 * k)], 1)
                contour = pydicom.Dataset()
                contour.ContourGeometricType = "CLOSED_PLANAR"
                contour.NumberOfContourPoints = len(x)
                contour.ContourData = [f"{value:.6g}" for value in place.ravel()]
                drawn.ContourSequence.append(contour)
            rois.append(roi)
            contours.append(drawn)
        save_structures(root / "D" / "labels" / f"case_{case}.dcm", header, rois, contours)
    return TWO


def save_structures(path, header, rois, contours):
    kind = "1.2.840.10008.5.1.4.1.1.481.3"  # RT Structure Set Storage
    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = kind, pydicom.uid.generate_uid()
    data.Modality, data.PatientID = "RTSTRUCT", header.PatientID
    data.SeriesInstanceUID = pydicom.uid.generate_uid()
    series, study, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    data.StructureSetROISequence, data.ROIContourSequence = rois, contours
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def x_rays(root):
    """A DICOM file a patient."""
    for case in range(N_CASES):
        grey = image_of(case)[..., 0].astype(np.uint16) * 8
        tags = {"PatientID": f"p{case}", "Modality": "DX", "RescaleIntercept": 0}
        tags["SOPClassUID"] = "1.2.840.10008.5.1.4.1.1.1.1"
        write_series(root / "D" / "images", [grey], name=f"case_{case}.dcm", **tags)
    write_masks(root / "D" / "masks", lambda labels: 255 * (labels > 0))
    return ("structure",)


# ---- the lines

# What the data is, as in the tables -> the trees on which its commands are tried.
TREES = {
    "pictures and masks of one structure": [same_names],
    "masks with class numbers": [class_numbers],
    "masks in colours": [colours],
    "classes that may overlap": [folder_for_each_class],
    "masks with names of their own": [other_names],
    "polygons of LabelMe, COCO, CVAT, VIA, YOLO, GeoJSON (QuPath) or ImageJ": [
        *(labelme, coco, cvat, via, yolo, geojson, imagej),
    ],
    "an export of Roboflow": [roboflow],
    "NIfTI volumes with label maps": [images_and_labels, one_folder],
    "a task of the Medical Segmentation Decathlon": [decathlon],
    "raw data of nnU-Net": [nnunet],
    "cases of ITK-SNAP": [itk_snap],
    "volumes of 3D Slicer": [slicer],
    "DICOM series with DICOM SEG or RTSTRUCT": [dicom_seg_labels, rtstruct_labels],
    "X-rays as DICOM files": [x_rays],
}
CASES = [(name, tree) for name, trees in TREES.items() for tree in trees]


def run(line):
    """Run a line of a table, a training in its smallest size."""
    words = shlex.split(line)
    if words[0] == "train":
        words += TINY.split()
    return command(words[0], *words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name, tree", CASES, ids=[tree.__name__ for _, tree in CASES])
def test_the_line_works_on_its_tree(tmp_path, monkeypatch, capsys, name, tree):
    monkeypatch.chdir(tmp_path)
    class_names = tree(tmp_path)
    for line in rows_of("README.md")[name]:
        if line.startswith("train") and tree is not TREES[name][0]:
            line = line.replace("train", "prepare")  # one training a line is enough
        assert run(line) == 0, capsys.readouterr().err
    report = capsys.readouterr().out
    assert re.search(r"images read +(6|36)\n", report), report  # six slices a volume
    assert "images set aside  0" in report, report
    if tree is TREES[name][0]:
        weights = json.loads((tmp_path / "checkpoints" / "best_model.json").read_text())
        assert tuple(weights["config"]["class_names"]) == class_names
    else:
        assert set(class_names) - {"background"} <= set(re.findall(r"\w+", report))


def test_both_pages_have_the_lines_that_are_tried():
    rows = rows_of("README.md")
    assert list(rows) == list(TREES)
    assert rows == rows_of("data/README.md")
    assert all(rows.values())
