"""The cardiac phantoms: files, anatomy and volumes by group; they are read as ACDC."""

import gzip

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from seglib import config, layouts, phantoms, prepare
from seglib.formats import volumes
from seglib.phantoms import heart

N = 10
GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
EJECTION = {
    "NOR": (0.5, 0.7),
    "DCM": (0.15, 0.4),
    "HCM": (0.6, 0.8),
    "MINF": (0.25, 0.45),
    "RV": (0.5, 0.65),
}
DIASTOLE_ML = {
    "NOR": (90, 160),
    "DCM": (180, 300),
    "HCM": (80, 150),
    "MINF": (130, 220),
    "RV": (80, 145),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return phantoms.write("cardiac", tmp_path_factory.mktemp("cardiac") / "tree", n=N)


@pytest.fixture(scope="module")
def patients(root):
    """A list of (group, [(image, labels) at ED, at ES]); NIfTI images as nibabel opens them."""
    found = []
    for folder in sorted((root / "training").iterdir()):
        said = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
        assert list(said) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        assert said["ED"] == "1" and 8 <= int(said["ES"]) <= 14 < int(said["NbFrame"])
        assert 120 < float(said["Height"]) < 210 and 30 < float(said["Weight"]) < 130
        stems = [f"{folder.name}_frame{int(said[phase]):02d}" for phase in ("ED", "ES")]
        names = [f"{stem}{part}.nii.gz" for stem in stems for part in ("", "_gt")]
        assert {p.name for p in folder.iterdir()} == {"Info.cfg", *names}
        loaded = [nibabel.load(folder / name) for name in names]
        found.append((said["Group"], [tuple(loaded[:2]), tuple(loaded[2:])]))
    return found


def numbers(image):
    return np.asarray(image.dataobj)


def millilitres(image, label):
    return np.count_nonzero(numbers(image) == label) * np.prod(image.header.get_zooms()) / 1000


def inner_slices(labels):
    """Slices that show the left ventricle, without the first and the last."""
    shown = np.nonzero((labels == 3).any((0, 1)))[0]
    return [labels[..., k] for k in shown[1:-1]]


def test_headers(patients):
    assert [group for group, _ in patients] == list(GROUPS) * 2
    for _, phases in patients:
        headers = [image.header for pair in phases for image in pair]
        assert len({(h.get_data_shape(), h.get_zooms()) for h in headers}) == 1
        for image, labels in phases:
            width, height, n_slices = image.shape
            assert 130 <= min(width, height) <= max(width, height) <= 170 and 8 <= n_slices <= 10
            pixel, same, gap = image.header.get_zooms()
            assert 1.4 <= pixel == same <= 1.7 and 8 <= gap <= 10
            for one in (image, labels):
                assert np.allclose(one.affine, np.diag([pixel, pixel, gap, 1]))
                assert one.header.get_xyzt_units()[0] == "mm" and one.header["sform_code"] > 0
            assert (image.get_data_dtype(), labels.get_data_dtype()) == (np.int16, np.uint8)
            assert set(np.unique(numbers(labels))) == {0, 1, 2, 3}
            assert numbers(image).min() >= 0 and np.ptp(np.percentile(numbers(image), [1, 99])) > 60
    peaks = [np.percentile(numbers(phases[0][0]), 99) for _, phases in patients]
    assert max(peaks) > 3 * min(peaks), "every scanner has its own scale"


def test_volumes_of_the_groups(patients):
    walls, rights = {}, {}
    for group, [(_, ed), (_, es)] in patients:
        left, left_es = millilitres(ed, 3), millilitres(es, 3)
        low, high = DIASTOLE_ML[group]
        assert low < left < high, (group, left)
        low, high = EJECTION[group]
        assert low < 1 - left_es / left < high, (group, left, left_es)
        assert millilitres(es, 2) == pytest.approx(millilitres(ed, 2), rel=0.2)
        assert millilitres(es, 1) < 0.85 * millilitres(ed, 1)
        walls.setdefault(group, []).append(millilitres(ed, 2))
        rights.setdefault(group, []).append(millilitres(ed, 1))
    assert min(walls["HCM"]) > 1.3 * max(walls["NOR"]), "thick muscle"
    assert min(rights["RV"]) > 1.2 * max(rights["NOR"]), "large right ventricle"


def test_the_muscle_closes_around_the_cavity(patients):
    for _, phases in patients:
        for _, image in phases:
            labels = numbers(image)
            assert len(inner_slices(labels)) >= 4
            for plane in inner_slices(labels):
                cavity = plane == 3
                touched = ndimage.binary_dilation(cavity, np.ones((3, 3))) & ~cavity
                assert set(plane[touched]) == {2}, (
                    "no right ventricle and no background at the cavity, corners included"
                )
                assert (
                    ndimage.label(cavity)[1] == ndimage.label(plane == 2, np.ones((3, 3)))[1] == 1
                )
                assert np.array_equal(ndimage.binary_fill_holes(plane == 2), plane >= 2)


def test_from_base_to_apex(patients):
    unlabelled = without_right = 0
    for _, phases in patients:
        ed, es = (numbers(labels) for _, labels in phases)
        for labels in (ed, es):
            assert not (labels[[0, -1]].any() or labels[:, [0, -1]].any())
            areas = {k: (labels == k).sum((0, 1)) for k in (1, 3)}
            first = np.nonzero(areas[3])[0][0]
            assert first <= 2 and areas[3][first:].all(), (
                "only slices above the valves have no label"
            )
            assert areas[3][-1] < 0.5 * areas[3][first] and (np.diff(areas[3][first:]) < 9).all()
            assert areas[1][first] > 2 * areas[1][-1]
            unlabelled += first > 0
            without_right += areas[1][-1] == 0
            for plane in inner_slices(labels):
                if (plane == 1).any():  # axes x, y: the right ventricle lies at the image's left
                    assert np.nonzero(plane == 1)[0].mean() < np.nonzero(plane == 3)[0].mean() - 8
        middle = ed.shape[2] // 2
        assert (es[..., middle] == 3).sum() < (ed[..., middle] == 3).sum()
    assert 3 < unlabelled < 20 and without_right >= 10


def test_both_phases_show_one_patient(patients):
    """Away from the heart, two phases differ by noise alone, and two patients by far more."""
    smooth = []
    for _, phases in patients:
        far = ~ndimage.binary_dilation(
            sum(numbers(labels) > 0 for _, labels in phases).any(2), iterations=14
        )
        ed, es = (
            ndimage.gaussian_filter(numbers(image) * 1.0, (2, 2, 0))[far] for image, _ in phases
        )
        assert np.corrcoef(ed.ravel(), es.ravel())[0, 1] > 0.99
        smooth.append(numbers(phases[0][0])[:140, :140, :8].ravel())
    other = np.corrcoef(smooth)[~np.eye(N, dtype=bool)]
    assert other.max() < 0.9


def test_no_band_of_grey_finds_a_class(patients):
    """Mean Dice over all volumes of the best band (low, high), after the clipping of the preset."""
    for label, limit in ((1, 0.5), (2, 0.5), (3, 0.5)):
        curves = []
        for image, truth in (pair for _, phases in patients for pair in phases):
            grey, mask = (
                volumes.clip_percentiles(numbers(image), 0.5, 99.5),
                numbers(truth) == label,
            )
            hit, every = (
                np.r_[0, np.cumsum(np.bincount(g, minlength=256))]
                for g in (grey[mask], grey.ravel())
            )
            found = every[None] - every[:, None]  # pixels in a band [low, high)
            curves.append(2 * (hit[None] - hit[:, None]) / np.maximum(found + mask.sum(), 1))
        best = np.mean(curves, 0).max()
        assert best < limit, (label, best)


def test_image_i_depends_on_seed_and_i_only(root, tmp_path):
    def contents(folder):
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*.*")
            if p.is_file()
        }

    files, small = (
        contents(root / "training"),
        contents(phantoms.write("cardiac", tmp_path / "few", n=2) / "training"),
    )
    assert len(small) == 10 and all(files[path] == content for path, content in small.items())
    other = contents(phantoms.write("cardiac", tmp_path / "other", n=1, seed=1) / "training")
    assert not set(other.values()) & set(files.values())
    assert len(set(files.values())) == 5 * N
    assert all(data[4:8] == b"\0\0\0\0" for path, data in files.items() if path.endswith(".gz")), (
        "no time of writing"
    )


@pytest.mark.parametrize("i", [999, 1000, 1001])
def test_large_numbers(i):
    files = heart.cardiac_case(i, np.random.default_rng([7, i]))
    assert len(files) == 5 and all(path.startswith(f"training/patient{i + 1}/") for path in files)
    for path, content in files.items():
        if path.endswith(".gz"):
            assert np.ptp(numbers(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)))) >= 3


def test_the_store(root, patients, tmp_path):
    cfg = config.preset("cardiac", "smoke", data_root=str(root), work_dir=str(tmp_path))
    cases = layouts.scan(cfg)
    assert cases.attrs["notes"] == [] and set(cases["phase"]) == {"ED", "ES"}
    cases = cases[cases["patient"].isin([f"patient00{i}" for i in (1, 2, 3)])].reset_index(
        drop=True
    )
    store = prepare.build(cases, cfg)
    assert len(store.report.problems) == 0 and len(store.cases) == len(cases)
    assert store.cases.groupby("patient")["phase"].nunique().eq(2).all()
    for (_, phases), (_, rows) in zip(patients, cases.groupby("patient")):
        for (image, _), phase in zip(phases, ("ED", "ES")):
            part = rows[rows["phase"] == phase]
            spacing = part[["spacing_col_mm", "spacing_row_mm", "spacing_slice_mm"]].to_numpy(float)
            assert len(part) == image.shape[2] and np.allclose(
                spacing, image.header.get_zooms(), atol=1e-4
            )
    _, masks = store.open()
    shares = [np.mean(masks == k) for k in (1, 2, 3)]
    assert min(shares) > 0.01 and set(np.unique(masks)) <= {0, 1, 2, 3, 255}
