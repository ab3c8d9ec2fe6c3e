"""The phantom CT of the abdomen: DICOM headers, anatomy in mL, labels, and the way to a store."""

import io

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from scipy import ndimage

from seglib import config, layouts, phantoms, prepare
from seglib.formats import volumes
from seglib.phantoms import abdomen

CLASSES = ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel")
N = 12
CUT = {2: "top", 4: "bottom", 8: "top", 10: "bottom"}
# Of the standard's CT image: must be there, may be empty.
TYPE_2 = (
    "PatientName PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName KVP"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return phantoms.write("rsna", tmp_path_factory.mktemp("abdomen") / "rsna", n=N)


@pytest.fixture(scope="module")
def series(root):
    """The folders of slices, in the order of the phantoms, each with its label map."""
    folders = sorted(root.glob("train_images/*/*"), key=lambda folder: int(folder.name))
    return [(folder, root / f"segmentations/{folder.name}.nii") for folder in folders]


@pytest.fixture(scope="module")
def cases(series):
    """(volume, labels) as the package reads and displays them."""
    found = [volumes.read(folder) for folder, _ in series]
    return [
        (volume, volumes.read_labels_like(volume, path)) for volume, (_, path) in zip(found, series)
    ]


def headers(folder):
    return [pydicom.dcmread(path) for path in folder.glob("*.dcm")]


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def cores(labels, number):
    """A class without its rim, which is half another tissue."""
    return ndimage.binary_erosion(labels == number, np.ones((1, 3, 3)))


def test_tree_of_numbers(root, series):
    assert len(series) == N and all(path.is_file() for _, path in series)
    assert {p.name for p in root.iterdir()} == {"train_images", "segmentations", "PHANTOM.txt"}
    assert len({folder.parent.name for folder, _ in series}) == N
    for folder, _ in series:
        assert folder.name.isdigit() and folder.parent.name.isdigit()
        numbers = sorted(int(path.stem) for path in folder.iterdir())
        assert numbers == list(range(1, len(numbers) + 1)) and 17 <= len(numbers) <= 20


def test_headers(series):
    uids, directions, kinds, syntaxes, sizes = [], set(), set(), [], set()
    for folder, _ in series:
        slices = sorted(headers(folder), key=lambda h: h.ImagePositionPatient[2])
        first = slices[0]
        for h, path in ((h, folder / f"{h.InstanceNumber}.dcm") for h in slices):
            assert (
                path.is_file()
                and h.SOPClassUID == h.file_meta.MediaStorageSOPClassUID == CTImageStorage
            )
            assert (
                h.Modality == "CT"
                and h.PatientID.startswith("PHANTOM-")
                and h.PatientID == first.PatientID
            )
            assert (
                h.SOPInstanceUID == h.file_meta.MediaStorageSOPInstanceUID
                and h.SOPInstanceUID.is_valid
            )
            assert (h.RescaleSlope, h.RescaleIntercept, h.RescaleType) == (1, -1024, "HU")
            assert (h.Rows, h.Columns, h.BitsAllocated, h.HighBit) == (
                128,
                128,
                16,
                h.BitsStored - 1,
            )
            assert (
                h.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
                and h.PixelSpacing[0] == h.PixelSpacing[1]
            )
            assert (h.WindowCenter, h.WindowWidth) == (50, 400) and all(
                tag in h for tag in TYPE_2.split()
            )
            for name in (
                "StudyInstanceUID",
                "SeriesInstanceUID",
                "FrameOfReferenceUID",
                "PixelSpacing",
            ):
                assert h[name].value == first[name].value
        places = np.array([h.ImagePositionPatient for h in slices], float)
        steps = np.diff(places, axis=0)
        assert np.allclose(steps, [0, 0, first.SliceThickness], atol=1e-6)
        assert 8 <= first.SliceThickness <= 12 and 2.5 <= first.PixelSpacing[0] <= 3.2
        sizes.add((first.SliceThickness, *first.PixelSpacing))
        uids += [h.SOPInstanceUID for h in slices] + [
            first.SeriesInstanceUID,
            first.StudyInstanceUID,
        ]
        directions.add(slices[0].InstanceNumber == 1)
        kinds.add((first.PixelRepresentation, first.BitsStored))
        syntaxes.append(first.file_meta.TransferSyntaxUID)
    assert len(set(uids)) == len(uids) and len(sizes) == N
    assert directions == {True, False} and kinds == {(0, 12), (1, 16)}
    assert syntaxes == [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless] * (N // 3)


def test_values_are_hounsfield_units(cases):
    for volume, labels in cases:
        values = volume.voxels
        assert volume.notes == () and values.dtype == np.int16
        corners = values[:, :10][..., [*range(10), *range(118, 128)]]
        assert corners.mean() == pytest.approx(-1000, abs=5) and 2 < corners.std() < 25
        assert -1200 < values.min() < -1000 and 350 < values.max() < 1500, "air and bone"
        fat = np.histogram(values[(values > -160) & (values < 0)], 32)
        assert fat[1][fat[0].argmax()] == pytest.approx(-102, abs=14), (
            "the most frequent soft value is fat"
        )
        assert (values[labels == 5] < -500).mean() > 0.01, "gas in the bowel"
    means = {n: [v.voxels[cores(labels, n)].mean() for v, labels in cases] for n in range(1, 5)}
    assert all(20 < np.min(m) and np.max(m) < 260 and np.ptp(m) > 30 for m in means.values()), (
        "phases differ"
    )
    assert np.max(means[3]) > 140 and np.max(means[1]) < 150


def test_organ_volumes(cases):
    limits = {1: (1100, 2000), 2: (90, 300), 3: (115, 230), 4: (115, 230), 5: (400, 1400)}
    millilitres = [
        np.bincount(labels.ravel(), minlength=6)[1:] * np.prod(v.spacing_mm) / 1000
        for v, labels in cases
    ]
    for n, (low, high) in limits.items():
        whole = [ml[n - 1] for i, ml in enumerate(millilitres) if i not in CUT]
        assert low < min(whole) <= max(whole) < high, (CLASSES[n], min(whole), max(whole))
        assert np.std(whole) > 0.05 * np.mean(whole), "patients differ"
    for i, (_, labels) in enumerate(cases):
        liver, kidneys = (labels[-1] == 1).mean(), np.isin(labels[0], (3, 4)).mean()
        assert (liver > 0.1) == (CUT.get(i) == "top"), "whether the series ends within the liver"
        assert (kidneys > 0.01) == (CUT.get(i) == "bottom"), "whether it begins within the kidneys"


def test_every_organ_is_one_piece(cases):
    for _, labels in cases:
        for number in range(1, 5):
            pieces, _ = ndimage.label(labels == number, np.ones((3, 3, 3)))
            assert np.bincount(pieces.ravel())[1:].max() > 0.93 * (pieces > 0).sum(), CLASSES[
                number
            ]


def test_right_is_left_in_the_picture(series, cases):
    for (volume, labels), (_, path) in zip(cases, series):
        rows, columns = np.array([np.argwhere(labels == n).mean(0)[1:] for n in range(1, 5)]).T
        assert columns[0] < 60 < 68 < columns[1] and columns[3] < 60 < 68 < columns[2]
        assert (rows[1:4] > rows[0]).all(), "spleen and kidneys lie behind the middle of the liver"
        # The same in mm, from the label file alone: x runs to the right, z up.
        image = nibabel.load(path)
        places = [np.argwhere(np.asarray(image.dataobj) == n).mean(0) for n in range(1, 5)]
        x, _, z = np.array(
            [nibabel.affines.apply_affine(image.affine, place) for place in places]
        ).T
        assert x[1] < x[2] < 0 < x[3] and x[1] < 0 < x[0] and z[0] > z[3], (
            "x runs to the patient's right"
        )
        spine = np.argwhere(volume.voxels[:, 40:] > 300)[:, 1:].mean(0) + [40, 0]
        assert spine[0] > rows[3] and 55 < spine[1] < 73, "bone lies in the middle of the back"


def test_labels_lie_on_their_slices(series, cases):
    """Voxel by voxel from both headers, without the package; and on the tissue that they name."""
    for folder, path in series[:4]:
        image, (volume, labels) = nibabel.load(path), cases[series.index((folder, path))]
        numbers = np.asarray(image.dataobj)
        assert numbers.dtype == np.uint8 and set(np.unique(numbers)) == set(range(6))
        for h in headers(folder)[::5]:
            rows, columns = np.indices((128, 128))
            x, y, z = (float(v) for v in h.ImagePositionPatient)
            step = float(h.PixelSpacing[0])
            ras = np.stack([-(x + columns * step), -(y + rows * step), np.full((128, 128), z)], -1)
            index = nibabel.affines.apply_affine(np.linalg.inv(image.affine), ras)
            assert np.abs(index - np.rint(index)).max() < 1e-3
            shown = numbers[tuple(np.rint(index).astype(int).transpose(2, 0, 1))]
            k = int(
                np.argmin(
                    [np.abs(p - h.pixel_array.astype(int) + 1024).sum() for p in volume.voxels]
                )
            )
            assert np.array_equal(labels[k], shown)
    assert len({nibabel.aff2axcodes(nibabel.load(path).affine) for _, path in series}) == 2, (
        "stored in two ways"
    )
    for volume, labels in cases:
        for number in (1, 2, 3, 4):
            inside = volume.voxels[cores(labels, number)]
            assert inside.mean() > 15 and (inside < -60).mean() < 0.01, "far above fat"
        mirrored = volume.voxels[cores(labels[:, :, ::-1], 1)]
        assert mirrored.std() > 3 * volume.voxels[cores(labels, 1)].std(), "left is not right"


def test_no_band_of_values_finds_an_organ(cases):
    """Mean Dice over the patients of the best band of HU, the same for all, edges every 10 HU."""
    edges = np.arange(-200, 401, 10)
    wider = np.arange(len(edges))[:, None] < np.arange(len(edges))
    best = {}
    for number in range(1, 6):
        dice = []
        for volume, labels in cases:
            inside = labels == number
            every = np.r_[0, np.cumsum(np.histogram(volume.voxels, edges)[0])]
            hit = np.r_[0, np.cumsum(np.histogram(volume.voxels[inside], edges)[0])]
            sizes = np.maximum(every - every[:, None], 0) + inside.sum()
            dice.append(np.where(wider, 2 * (hit - hit[:, None]) / sizes, 0))
        best[CLASSES[number]] = np.mean(dice, 0).max()
    # Measured: liver 0.53, spleen 0.14, kidneys 0.24 and 0.22, bowel 0.25; a U-Net of 12 channels,
    # trained 12 epochs on 24 patients at 96 pixels, reached 0.96, 0.91, 0.94, 0.93 and 0.87 on 6
    # others.
    assert max(best.values()) < 0.58 and best["spleen"] < 0.25, best
    assert min(best.values()) > 0.05


def test_same_bytes_and_no_two_alike(root, tmp_path):
    files = contents(root)
    small = contents(phantoms.write("rsna", tmp_path / "small", n=2))
    small.pop("PHANTOM.txt")
    assert all(files[path] == content for path, content in small.items()) and len(small) > 30
    other = contents(phantoms.write("rsna", tmp_path / "other", n=1, seed=1))
    assert not [path for path, content in other.items() if files.get(path) == content]
    files.pop("PHANTOM.txt")
    assert len(set(files.values())) == len(files)


@pytest.mark.parametrize(("seed", "i"), [(5, 32), (6, 1001), (7, 998)])
def test_large_numbers_and_seeds(seed, i):
    files = abdomen.rsna_case(i, np.random.default_rng([seed, i]))
    labels = nibabel.Nifti1Image.from_bytes(
        next(data for path, data in files.items() if path.endswith(".nii"))
    )
    assert set(np.unique(np.asarray(labels.dataobj))) == set(range(6))
    assert (
        len(files) == labels.shape[2] + 1
        and labels.header["qform_code"] == labels.header["sform_code"] > 0
    )


def test_without_an_encoder_slices_are_plain(monkeypatch):
    """What the RLE and JPEG 2000 files hold is what the plain ones hold."""
    usual = {i: abdomen.rsna_case(i, np.random.default_rng(i)) for i in (1, 2)}
    monkeypatch.setattr(
        "pydicom.pixels.get_encoder", lambda uid: type("None", (), {"is_available": False})
    )
    for i, files in usual.items():
        for path, content in abdomen.rsna_case(i, np.random.default_rng(i)).items():
            if path.endswith(".dcm"):
                plain, packed = (
                    pydicom.dcmread(io.BytesIO(data)) for data in (content, files[path])
                )
                assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
                assert packed.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
                assert np.array_equal(plain.pixel_array, packed.pixel_array)


def test_from_the_tree_to_the_store(tmp_path):
    root = phantoms.write("rsna", tmp_path / "rsna", n=3)
    cfg = config.preset("rsna", "smoke", data_root=str(root), work_dir=str(tmp_path / "work"))
    cases = layouts.scan(cfg)
    assert cases["patient"].nunique() == cases["volume"].nunique() == 3
    assert len(cases) == len(list(root.rglob("*.dcm"))) and set(cases["label_numbers"]) == {"class"}
    assert cases.attrs["notes"] == [
        "labels: numbers 0 to 5 are taken as class numbers, not as TotalSegmentator's (label_map)"
    ]
    store = prepare.build(cases, cfg)
    assert (
        len(store.report.problems) == 0
        and len(store.report.set_aside) == 0
        and len(store.cases) == len(cases)
    )
    pixels, masks = store.open()
    assert masks.shape[:3] == pixels.shape[:3] == (len(cases), 64, 64) and set(
        np.unique(masks)
    ) == set(range(6))
    assert 0.02 < (masks == 1).mean() < 0.2
