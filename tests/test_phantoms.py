"""Phantoms: their tree, their realism in numbers; no folder is half written or overwritten."""

import gzip
import io

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from seglib import phantoms, presets, tables
from seglib.errors import ConfigError, DataError
from seglib.phantoms import chest


def read(path):
    """PNG -> (H, W) uint8, checking that it is grey with 8 bits."""
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        return np.array(picture)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "deep" / "lung"
    assert phantoms.write("lung", folder) == folder
    return folder


@pytest.fixture(scope="module")
def cases(root):
    """(stem, image, right, left) of the 24 default phantoms; masks (H, W) bool."""
    masks = root / "MontgomerySet/ManualMask"
    pairs = [(p, masks / "rightMask" / p.name, masks / "leftMask" / p.name) for p in images(root)]
    read_all = [(image.stem, *map(read, (image, right, left))) for image, right, left in pairs]
    assert all(set(np.unique(m)) == {0, 255} for _, _, *both in read_all for m in both)
    return [(stem, image, right > 0, left > 0) for stem, image, right, left in read_all]


def images(root):
    return sorted((root / "MontgomerySet/CXR_png").iterdir())


def test_tree_and_names(root):
    names = [f"MCUCXR_{i + 1:04d}_{i % 2}.png" for i in range(24)]
    folders = ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask")
    expected = {f"MontgomerySet/{folder}/{name}" for folder in folders for name in names}
    assert set(contents(root)) == expected | {"PHANTOM.txt"}
    text = (root / "PHANTOM.txt").read_text()
    assert text.count("\n") == 1
    assert all(word in text for word in ("Synthetic", "phantom=lung", "n=24", "seed=0"))
    assert [p.name for p in root.parent.iterdir()] == ["lung"]


def test_sizes_sides_and_areas(cases):
    sizes = {image.shape for _, image, _, _ in cases}
    assert len(sizes) > 12
    assert any(height != width for height, width in sizes)
    for stem, image, right, left in cases:
        assert right.shape == left.shape == image.shape, stem
        assert 320 <= min(image.shape) <= max(image.shape) <= 400, stem
        assert not (ndimage.binary_dilation(right, iterations=3) & left).any(), stem
        assert ndimage.label(right)[1] == ndimage.label(left)[1] == 1, stem
        assert np.nonzero(right)[1].max() < np.nonzero(left)[1].min() + image.shape[1] / 20, stem
        lungs = right | left
        assert 0.15 < lungs.mean() < 0.45, stem
        assert not (lungs[[0, -1]].any() or lungs[:, [0, -1]].any()), stem
        # Bright heart and belly, dark air: a film uses its grey range.
        assert np.ptp(np.percentile(image, [2, 98])) > 120, stem


def test_no_grey_threshold_finds_the_lungs(cases):
    """Mean Dice of the best threshold for the set, on the whole film and on the body alone."""
    dice = {"film": [], "body": []}
    for _, image, right, left in cases:
        lungs = right | left
        dark, _ = ndimage.label(ndimage.gaussian_filter(image, 2) < 30)
        rim = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
        outside = np.isin(dark, rim[rim > 0])
        for region, keep in (("film", np.ones_like(lungs)), ("body", ~outside)):
            hit = np.cumsum(np.bincount(image[keep & lungs], minlength=256))
            all_dark = np.cumsum(np.bincount(image[keep], minlength=256))
            below = 2 * hit / (all_dark + lungs.sum())
            above = 2 * (hit[-1] - hit) / (all_dark[-1] - all_dark + lungs.sum())
            dice[region].append(np.r_[below, above])
    best = {region: np.mean(curves, 0).max() for region, curves in dice.items()}
    # Measured: film 0.56, body 0.69 (102 real Montgomery films: 0.54 and 0.72).
    assert 0.3 < best["film"] < 0.65
    assert 0.3 < best["body"] < 0.75


def test_tuberculosis_is_no_matter_of_mean_brightness(cases):
    """The classes' mean lung grey overlaps: a classifier has to look at texture."""
    grey = {
        finding: [i[r | s].mean() for stem, i, r, s in cases if stem[-1] == finding]
        for finding in "01"
    }
    assert min(grey["1"]) < np.median(grey["0"]) < max(grey["1"])


def test_same_image_whatever_n_and_other_seeds_differ(root, tmp_path):
    small = contents(phantoms.write("lung", str(tmp_path / "small"), n=4))
    medium = contents(phantoms.write("lung", tmp_path / "medium", n=8))
    large = contents(root)
    small.pop("PHANTOM.txt")
    assert len(small) == 12
    assert all(medium[path] == large[path] == data for path, data in small.items())
    assert len({data for path, data in large.items()}) == 73
    other = contents(phantoms.write("lung", tmp_path / "other", n=2, seed=1))
    assert all(large[path] != data for path, data in other.items())


def test_second_call_rewrites_nothing_and_other_phantoms_are_replaced(tmp_path):
    folder = phantoms.write("lung", tmp_path / "set", n=2)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert phantoms.write("lung", folder, n=2) == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    phantoms.write("lung", folder, n=1, seed=3)
    assert len(images(folder)) == 1
    assert "seed=3" in (folder / "PHANTOM.txt").read_text()
    assert list(tmp_path.iterdir()) == [folder]


def test_foreign_files_are_never_touched(tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="mine"):
        phantoms.write("lung", foreign, n=1)
    with pytest.raises(DataError, match="thesis"):
        phantoms.write("lung", foreign / "thesis.txt", n=1)
    mixed = phantoms.write("lung", tmp_path / "mixed", n=1)
    (mixed / "MontgomerySet/CXR_png/MCUCXR_0104_1.png").write_bytes(b"a real film")
    with pytest.raises(DataError, match="4 files"):
        phantoms.write("lung", mixed, n=2)
    assert phantoms.write("lung", mixed, n=1) == mixed
    assert contents(foreign) == {"thesis.txt": b"years of work"}
    assert len(images(mixed)) == 2
    lossy = phantoms.write("lung", tmp_path / "lossy", n=1)
    images(lossy)[0].unlink()
    with pytest.raises(DataError, match="2 files"):
        phantoms.write("lung", lossy, n=1)


def test_killed_call_leaves_no_half_tree(tmp_path, monkeypatch):
    def stop(i, rng):
        raise KeyboardInterrupt

    monkeypatch.setattr(chest, "lung_case", stop)
    with pytest.raises(KeyboardInterrupt):
        phantoms.write("lung", tmp_path / "set", n=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lungs", {}, "'lung'"),
        ("lung", {"n": 0}, "n=0"),
        ("lung", {"hospital": "secnd"}, "did you mean 'second'"),
        ("plain", {"hospital": "second"}, "'plain' know one hospital"),
    ],
)
def test_wrong_calls_say_what_to_do(tmp_path, monkeypatch, name, options, words):
    plain = presets.PRESETS["lung"]._replace(phantom=lambda i, rng: chest.lung_case(i, rng))
    monkeypatch.setitem(presets.PRESETS, "plain", plain)
    with pytest.raises(ConfigError, match=words):
        phantoms.write(name, tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", presets.PRESETS)
def test_another_hospital_keeps_the_tree(tmp_path, name):
    """The same folders and names; nobody is a patient of both hospitals."""
    first = phantoms.write(name, tmp_path / "first", n=2)
    second = phantoms.write(name, tmp_path / "second", n=2, hospital="second")
    ours, theirs = contents(first), contents(second)
    assert phantoms.write(name, first, n=2, hospital="first") == first
    if name not in ("rsna", "cardiac", "palm"):  # those vary in slices, frames and lesions
        assert set(ours) == set(theirs)
    assert {path.split("/")[0] for path in ours} == {path.split("/")[0] for path in theirs}
    shared = {path for path, b in theirs.items() if b in ours.values()}
    assert all("Lesion Masks" in path for path in shared), "empty masks are alike"
    assert "hospital=second" in (second / "PHANTOM.txt").read_text()
    phantoms.write(name, second, n=2)
    assert contents(second) == ours, "phantoms of another hospital are replaced"


# Of case 1 with seed 0: number of files, sum of all pixels, sum of those off the upper left third.
FINGERPRINTS = {
    "palm": (3, 57682999, 22207499),
    "rsna": (18, 138654059, 81750301),
    "cardiac": (5, 22959915, 6057802),
    "lung": (3, 33049251, 14992344),
    "binary": (2, 19029549, 7460779),
}


def pixels_of(path, content):
    """The pixels of a phantom's file, whatever its format."""
    if isinstance(content, np.ndarray):
        return content
    if path.endswith((".jpg", ".bmp")):
        return np.asarray(Image.open(io.BytesIO(content)))
    if path.endswith(".dcm"):
        return pydicom.dcmread(io.BytesIO(content)).pixel_array
    if path.endswith(".nii"):
        return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj)
    if path.endswith(".nii.gz"):
        return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)
    return np.frombuffer(content, np.uint8)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_seed_always_draws_the_same_pixels(name):
    """Results on phantoms, here and in notebooks, hold for these pixels only.

    Sums are compared, not bytes: another version of a library may round another way.
    """
    painter = tables.load(presets.PRESETS[name].phantom)
    files = painter(1, np.random.default_rng([0, 1]))
    arrays = [pixels_of(path, content).astype(float) for path, content in files.items()]
    middle = [array[tuple(slice(n // 3, None) for n in array.shape)] for array in arrays]
    sums = [sum(array.sum() for array in group) for group in (arrays, middle)]
    assert len(files) == FINGERPRINTS[name][0]
    assert sums == pytest.approx(FINGERPRINTS[name][1:], rel=1e-4), [len(files), *sums]
