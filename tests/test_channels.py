"""Channels of a case: nnU-Net's and the Decathlon's trees, their order, neighbouring slices."""

import json

import nibabel
import numpy as np
import onnx
import pytest
import torch

from seglib import (
    config,
    data,
    evaluation,
    export,
    inference,
    layouts,
    models,
    prepare,
    training,
)
from seglib.__main__ import main
from seglib.errors import ConfigError, DataError
from seglib.formats import channels, stacks, volumes
from tests.helpers import save_nifti

pytestmark = pytest.mark.usefixtures("without_figures")

AFFINE = np.diag([1.0, 1.2, 5.0, 1.0])
NAMES = ("T2", "ADC")


def case_voxels(number, depth=4):
    """(x, y, z, channel) int16 noise and a label map of its first channel."""
    rng = np.random.default_rng(number)
    voxels = rng.integers(0, 1000, (16, 20, depth, 2)).astype(np.int16)
    return voxels, (voxels[..., 0] > 800).astype(np.uint8)


def write(path, array, affine=AFFINE):
    return save_nifti(nibabel.Nifti1Image(array, affine), path)


def write_nnunet(root, n=3, names=NAMES):
    """A raw tree of nnU-Net with a file for each channel."""
    for number in range(n):
        voxels, labels = case_voxels(number)
        for k in range(2):
            write(root / "imagesTr" / f"case{number}_{k:04d}.nii.gz", voxels[..., k])
        write(root / "labelsTr" / f"case{number}.nii.gz", labels)
    if names:
        write_json(root, {"channel_names": dict(enumerate(names))})
    return root


def write_decathlon(root, n=3, modality=NAMES):
    """A tree of the Decathlon, whose files have a fourth axis."""
    for number in range(n):
        voxels, labels = case_voxels(number)
        write(root / "imagesTr" / f"case{number}.nii.gz", voxels)
        write(root / "labelsTr" / f"case{number}.nii.gz", labels)
    write_json(root, {"modality": dict(enumerate(modality))})
    return root


def write_json(root, content):
    labels = {"background": 0, "lesion": 1}
    (root / "dataset.json").write_text(json.dumps({**content, "labels": labels}))


def make(root, tmp_path, **settings):
    fixed = dict(
        class_names=("background", "lesion"), label_map={}, image_size=(20, 16), resize="none"
    )
    fixed |= dict(architecture="unet", base_channels=4, depth=2, stem="full", epochs=1, augment={})
    fixed |= dict(work_dir=str(tmp_path / "work"), precision="fp32", device="cpu", num_workers=0)
    return config.preset("cardiac", "smoke", data_root=str(root), **{**fixed, **settings})


def build(cfg):
    return prepare.build(layouts.scan(cfg), cfg)


def pictures(store):
    """(volume, slice) -> image (H, W, C)."""
    arrays = store.open()[0]
    keys = zip(store.cases["volume"], store.cases["slice"].astype(int))
    return {key: arrays[row] for key, row in zip(keys, store.cases["row"])}


def by_hand(path, channel=None):
    """(S, H, W) uint8 of a file, as the preset cardiac shows it."""
    voxels = np.asanyarray(nibabel.load(path).dataobj)
    voxels = voxels if channel is None else voxels[..., channel]
    return volumes.clip_percentiles(voxels.transpose(2, 1, 0), 0.5, 99.5)


# ---- trees of several channels


@pytest.mark.parametrize("wanted", [NAMES, NAMES[::-1], ("adc",)])
def test_channels_of_nnunet_and_of_the_decathlon_are_the_same(tmp_path, wanted):
    trees = write_nnunet(tmp_path / "n"), write_decathlon(tmp_path / "m")
    several = [pictures(build(make(root, tmp_path, channel_names=wanted))) for root in trees]
    assert several[0].keys() == several[1].keys() and len(several[0]) == 12
    for (volume, number), image in several[0].items():
        np.testing.assert_array_equal(image, several[1][volume, number])
        path = tmp_path / "m" / "imagesTr" / f"{volume}.nii.gz"
        for place, name in enumerate(wanted):
            plane = by_hand(path, NAMES.index(name.upper()))[number]
            np.testing.assert_array_equal(image[..., place], plane)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_cases_are_named_without_the_number_of_a_channel(tmp_path, n_channels):
    root = write_nnunet(tmp_path / "n", names=NAMES[:n_channels])
    for path in (root / "imagesTr").glob("*_0001.nii.gz"):
        if n_channels == 1:
            path.unlink()
    cases = layouts.scan(make(root, tmp_path, channel_names=NAMES[:n_channels]))
    assert set(cases["volume"]) == set(cases["patient"]) == {"case0", "case1", "case2"}
    assert cases["case"].iloc[0] == "case0_000"


def test_the_number_of_channels_must_fit(tmp_path):
    root = write_nnunet(tmp_path / "n")
    with pytest.raises(
        DataError, match=r"a case has 2 \(T2, ADC\), and in_channels=1; set channel"
    ):
        build(make(root, tmp_path))
    assert make(root, tmp_path, channel_names=NAMES).in_channels == 2
    with pytest.raises(DataError, match="no channel FLAIR; there are T2, ADC"):
        build(make(root, tmp_path, channel_names=("T2", "FLAIR")))
    with pytest.raises(ConfigError, match=r"channel_names: 2 names .* in_channels=3"):
        make(root, tmp_path, channel_names=NAMES, in_channels=3)
    with pytest.raises(ConfigError, match="repeat a name"):
        make(root, tmp_path, channel_names=("T2", "t2"))


def test_a_case_without_one_of_its_channels_is_set_aside(tmp_path):
    root = write_nnunet(tmp_path / "n")
    (root / "imagesTr" / "case1_0001.nii.gz").unlink()
    store = build(make(root, tmp_path, channel_names=NAMES))
    assert set(store.cases["volume"]) == {"case0", "case2"}
    assert "its channel 0001 (ADC) is missing" in store.report.problems["problem"][0]


def test_a_channel_that_dataset_json_does_not_name(tmp_path):
    root = write_nnunet(tmp_path / "n", names=("T2",))
    with pytest.raises(DataError, match=r"its channel 0001 is none of dataset.json \(T2\)"):
        build(make(root, tmp_path))
    root = write_decathlon(tmp_path / "m", modality=("a", "b", "c"))
    with pytest.raises(
        DataError, match="2 volumes along its fourth axis, but dataset.json names 3"
    ):
        build(make(root, tmp_path))


@pytest.mark.parametrize("table", ["T2", {"0": "T2", "2": "ADC"}, {}, {"a": "T2"}, 7])
def test_a_damaged_table_of_channels(tmp_path, table):
    root = write_nnunet(tmp_path / "n", names=())
    write_json(root, {"channel_names": table})
    with pytest.raises(DataError, match="dataset.json: channel_names is .*expected the channels"):
        layouts.scan(make(root, tmp_path))


def test_cases_with_and_without_further_channels(tmp_path):
    root = write_decathlon(tmp_path / "m")
    write(root / "imagesTr" / "case0.nii.gz", case_voxels(0)[0][..., 0])
    with pytest.raises(DataError, match="the cases differ: 8 with T2, ADC; 4 with one volume"):
        build(make(root, tmp_path, channel_names=NAMES))


def test_channels_on_other_axes_are_turned_and_other_grids_refused(tmp_path):
    root = write_nnunet(tmp_path / "n", n=2)
    cfg = make(root, tmp_path, channel_names=NAMES)
    before = {key: image.copy() for key, image in pictures(build(cfg)).items()}
    path = root / "imagesTr" / "case1_0001.nii.gz"
    image = nibabel.load(path)
    moved = image.affine @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1.0]])
    write(path, np.asanyarray(image.dataobj).transpose(1, 0, 2)[:, :, ::-1], moved)
    after = pictures(build(cfg))
    assert all((before[key] == after[key]).all() for key in before)
    write(
        path,
        np.asanyarray(image.dataobj),
        image.affine + np.diag([0, 0, 0, 0]) + 3 * np.eye(4, k=3),
    )
    problems = build(cfg).report.problems["problem"]
    assert problems.str.contains("a channel on another grid than the first one").all()
    assert set(build(cfg).cases["volume"]) == {"case0"}


def test_an_empty_channel_is_told(tmp_path):
    root = write_nnunet(tmp_path / "n")
    write(root / "imagesTr" / "case1_0001.nii.gz", np.full((16, 20, 4), 7, np.int16))
    notes = build(make(root, tmp_path, channel_names=NAMES)).report.notes
    assert any("nothing can be seen in case1_0001.nii.gz" in note for note in notes)


def test_names_of_channels_behind_those_of_cases(tmp_path):
    for number in range(2):
        voxels, labels = case_voxels(number)
        for k, name in enumerate(("t1", "t1ce")):
            write(tmp_path / "t" / "images" / f"p{number}_{name}.nii.gz", voxels[..., k])
        write(tmp_path / "t" / "labels" / f"p{number}.nii.gz", labels)
    store = build(make(tmp_path / "t", tmp_path, channel_names=("T1ce", "T1")))
    for (volume, number), image in pictures(store).items():
        for place, name in enumerate(("t1ce", "t1")):
            plane = by_hand(tmp_path / "t" / "images" / f"{volume}_{name}.nii.gz")[number]
            np.testing.assert_array_equal(image[..., place], plane)


def test_cells():
    cell = channels.join(["/d/a::b/x.nii.gz", "/d/y.nii.gz::3", "/d/y.nii.gz::0"])
    assert channels.split(cell) == ["/d/a::b/x.nii.gz", "/d/y.nii.gz::3", "/d/y.nii.gz::0"]
    assert channels.files(cell) == ["/d/a::b/x.nii.gz", "/d/y.nii.gz"]
    assert channels.split("relative.nii.gz") == ["relative.nii.gz"]


# ---- neighbouring slices


@pytest.mark.parametrize("reach", [1, 2, 7])
@pytest.mark.parametrize("names", [None, NAMES])
def test_context_slices_are_a_naive_stack(tmp_path, reach, names):
    root = write_nnunet(tmp_path / "n")
    if names is None:
        for path in (root / "imagesTr").glob("*_0001.nii.gz"):
            path.unlink()
        write_json(root, {})
    plain = pictures(build(make(root, tmp_path, channel_names=names)))
    cfg = make(root, tmp_path, channel_names=names, context_slices=reach)
    assert cfg.input_channels == (2 * reach + 1) * (2 if names else 1)
    stacked = pictures(build(cfg))
    assert stacked.keys() == plain.keys()
    for (volume, number), image in stacked.items():
        expected = []
        for offset in range(-reach, reach + 1):
            neighbour = min(max(number + offset, 0), 3)  # within the volume, ends repeated
            expected.append(plain[volume, neighbour])
        np.testing.assert_array_equal(image, np.concatenate(expected, axis=-1))


def test_context_is_read_from_the_volume_where_cases_are_left_out(tmp_path):
    cfg = make(write_decathlon(tmp_path / "m"), tmp_path, channel_names=NAMES, context_slices=1)
    cases = layouts.scan(cfg)
    whole = pictures(prepare.build(cases, cfg))
    part = pictures(prepare.build(cases[cases["slice"] % 2 == 0], cfg))
    assert len(part) == 6 and all((part[key] == whole[key]).all() for key in part)


def test_what_context_decides_in_a_config(tmp_path):
    cfg = config.preset("rsna", "smoke", context_slices=1)
    assert (cfg.in_channels, cfg.input_channels, len(cfg.mean), len(cfg.std)) == (1, 3, 1, 1)
    cfg = config.preset("binary", "smoke", context_slices=2, augment="robust")
    assert cfg.input_channels == 5 and "colour" not in cfg.augment
    kept = config.preset("rsna", "smoke", context_slices=1, in_channels=3)
    assert kept.input_channels == 9 and len(kept.mean) == 3
    cfg = config.preset("rsna", "smoke")
    cfg.context_slices = 1
    assert cfg.validate().input_channels == 3
    with pytest.raises(ConfigError, match="context_slices: 8 is out of range"):
        config.preset("rsna", context_slices=8)
    with pytest.raises(ConfigError, match="'colour' changes colours"):
        config.preset("binary", context_slices=1, augment={"colour": 1})


def test_stores_without_context_keep_their_name(tmp_path):
    cfg = make(write_decathlon(tmp_path / "m"), tmp_path, channel_names=NAMES)
    assert "context_slices" not in prepare._store_settings(cfg)
    assert "channel_names" not in prepare._store_settings(cfg)
    assert prepare._store_settings(cfg.replace(context_slices=1))["context_slices"] == 1


def test_pictures_have_no_neighbours(tmp_path):
    cfg = make(tmp_path, tmp_path, context_slices=1)
    with pytest.raises(DataError, match="a picture has no slices beside it"):
        prepare.read_image({"image": "a.png", "case": "a"}, cfg)


# ---- training, prediction, evaluation, export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run, the store and the config of a network of two sequences with neighbours."""
    tmp_path = tmp_path_factory.mktemp("channels")
    root = write_nnunet(tmp_path / "n", n=4)
    cfg = make(root, tmp_path, in_channels=2, context_slices=1, val_split=1.5, test_split=1.5)
    store = build(cfg)
    run = training.fit(cfg, data.loaders(store, cfg))
    return run, store, cfg, root


def balanced(run):
    """Its predictor, whose network finds the lesion in about half of all pixels."""
    predictor = inference.Predictor.load(run.best)
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 6), np.uint8)
    logits = predictor.logits(torch.from_numpy(data.normalise(noise, predictor.table))[None])
    with torch.no_grad():
        bias = models.output_layer(predictor.models[0], 2).bias
        bias[1] += (logits[:, 0] - logits[:, 1]).median()
    return predictor


def test_the_order_is_stored_with_the_weights(trained):
    run, store, cfg, _ = trained
    predictor = inference.Predictor.load(run.best)
    assert predictor.config.channels == NAMES and not cfg.channels
    assert training.fit(cfg, data.loaders(store, cfg), resume=True).config.channels == NAMES
    assert "T2, ADC; of each of the slices -1, 0, +1" in stacks.description(predictor.config)


def test_volumes_are_predicted_as_the_store_has_them(trained, tmp_path):
    run, store, _, root = trained
    predictor = balanced(run)
    first = store.cases[store.cases["volume"] == "case0"].sort_values("slice")
    batch = np.stack([store.open()[0][row] for row in first["row"]])
    inputs = np.stack([data.normalise(image, predictor.table) for image in batch])
    prob = predictor.probabilities(torch.from_numpy(inputs)).numpy()
    masks = [predictor.mask(prob_of_slice) for prob_of_slice in prob]
    assert 0.2 < np.mean(masks) < 0.8
    files = [root / "imagesTr" / f"case0_{k:04d}.nii.gz" for k in range(2)]
    write(tmp_path / "four.nii.gz", case_voxels(0)[0])
    write_json(tmp_path, {"modality": dict(enumerate(NAMES))})
    for source in (
        files,
        {"adc": files[1], "T2": files[0]},
        files[1],
        "::".join(map(str, files)),
        tmp_path / "four.nii.gz",
    ):
        prediction = predictor.predict_volume(source, tmp_path / "out", batch_size=4)
        np.testing.assert_array_equal(prediction.mask, np.stack(masks))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["case0_mask.nii.gz", "four_mask.nii.gz"]


def test_files_in_another_order_are_refused(trained, tmp_path):
    run, _, _, root = trained
    predictor = balanced(run)
    files = [root / "imagesTr" / f"case0_{k:04d}.nii.gz" for k in range(2)]
    with pytest.raises(DataError, match="in another order than their numbers"):
        predictor.predict_volume(files[::-1])
    with pytest.raises(DataError, match=r"1 channels, but the network takes 2 \(T2, ADC\)"):
        predictor.predict_volume(files[:1])
    with pytest.raises(DataError, match="expected T2, ADC"):
        predictor.predict_volume({"T2": files[0], "FLAIR": files[1]})
    with pytest.raises(DataError, match="no case with all of them"):
        predictor.predict_volume(root / "labelsTr" / "case0.nii.gz")
    for k, name in enumerate(NAMES):
        write(tmp_path / f"x_{name}.nii.gz", case_voxels(0)[0][..., k])
    with pytest.raises(DataError, match="given as the channel T2, but its name says ADC"):
        predictor.predict_volume([tmp_path / "x_ADC.nii.gz", tmp_path / "x_T2.nii.gz"])
    write(tmp_path / "three.nii.gz", np.zeros((16, 20, 4, 3), np.int16))
    with pytest.raises(DataError, match="no channel T2, ADC; there are 0, 1, 2"):
        predictor.predict_volume(tmp_path / "three.nii.gz")
    with pytest.raises(DataError, match=r"takes \(H, W, 6\): T2, ADC; of each of the slices"):
        predictor.predict(np.zeros((16, 20), np.uint8))


def test_a_folder_is_predicted_case_by_case(trained, tmp_path):
    run, _, _, root = trained
    predictor = balanced(run)
    folder = tmp_path / "in"
    for number in range(2):
        for k in range(2):
            write(folder / f"a{number}_{k:04d}.nii.gz", case_voxels(number)[0][..., k])
    write(folder / "b_0000.nii.gz", case_voxels(0)[0][..., 0])
    write(folder / "c.nii.gz", case_voxels(0)[0][..., 0])
    results = predictor.predict_folder(folder, tmp_path / "out")
    assert results["done"] == ["a0", "a1"] and not results["failed"]
    assert "lacks the channel ADC" in results["left_out"]["b_0000.nii.gz"]
    assert "takes 2 channels (T2, ADC)" in results["left_out"]["c.nii.gz"]
    alone = predictor.predict_volume(root / "imagesTr" / "case1_0000.nii.gz").mask
    written = np.asanyarray(nibabel.load(tmp_path / "out" / "a1_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(written.transpose(2, 1, 0), alone)


def test_numbers_mean_what_dataset_json_beside_the_files_says(trained, tmp_path):
    run, _, _, root = trained
    predictor = balanced(run)
    for k in range(2):  # the same case, but ADC is channel 0 there
        write(tmp_path / "imagesTs" / f"a_{1 - k:04d}.nii.gz", case_voxels(1)[0][..., k])
    write_json(tmp_path, {"channel_names": {"0": "ADC", "1": "T2"}})
    expected = predictor.predict_volume(root / "imagesTr" / "case1_0000.nii.gz").mask
    results = predictor.predict_folder(tmp_path / "imagesTs", tmp_path / "out")
    assert results["done"] == ["a"], results
    written = np.asanyarray(nibabel.load(tmp_path / "out" / "a_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(written.transpose(2, 1, 0), expected)


def test_evaluation_refuses_other_channels(trained, tmp_path):
    run, store, cfg, root = trained
    batches = data.loaders(store, cfg)
    report = evaluation.evaluate(run, batches["test"], grid="original")
    assert report.about["images"] == 4
    other = make(root, tmp_path, channel_names=NAMES[::-1], context_slices=1)
    loader = data.loaders(build(other), other)["train"]
    with pytest.raises(DataError, match="takes the channels T2, ADC, the data has ADC, T2"):
        evaluation.evaluate(run, loader)
    flat = make(root, tmp_path, channel_names=NAMES)
    loader = data.loaders(build(flat), flat)["train"]
    with pytest.raises(DataError, match="takes 6 channels .* the store has 2"):
        evaluation.evaluate(run, loader)
    with pytest.raises(ConfigError, match="in_channels: the store has images of 2 channels"):
        training.fit(cfg, data.loaders(build(flat), flat))


def test_export_has_the_channels(trained, tmp_path):
    run = trained[0]
    exported = export.to_onnx(run.best, tmp_path / "network.onnx")
    model = onnx.load(exported.path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["channels"] == "6 channels (T2, ADC; of each of the slices -1, 0, +1)"
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 6
    card = export.card_of(run.best)
    assert "6 channels (T2, ADC; of each of the slices -1, 0, +1), (20, 16) pixels" in card


def test_the_command_line_takes_all_channels(tmp_path, capsys):
    root = write_nnunet(tmp_path / "n", n=6)
    line = ["prepare", "--preset", "cardiac", "--size", "smoke", "--data_dir", str(root)]
    line += ["--class_names", "background,lesion", "--label_map", "{}", "--image_size", "32"]
    line += ["--work_dir", str(tmp_path / "work")]
    assert main(line) == 0
    assert "channels: T2, ADC, as the data has them" in capsys.readouterr().out
    assert main([*line, "--in_channels", "1"]) == 2
    assert "a case has 2 (T2, ADC), and in_channels=1" in capsys.readouterr().err
