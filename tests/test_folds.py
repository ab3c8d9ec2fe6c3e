"""Cross-validation: who is scored by whom, what is trained again, and the means of networks."""

import json
import shutil
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from seglib import (
    config,
    evaluation,
    export,
    folds,
    inference,
    layouts,
    prepare,
    runs,
    training,
    zoo,
)
from seglib.errors import ConfigError, DataError
from seglib.report import Report
from tests.helpers import (
    TINY,
    command,
    error_of,
    read_picture,
    same_weights,
    write_picture,
)

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def lung(lung_store, tmp_path):
    """(cfg, store) of 16 phantoms, eight of each finding, and a training of a second."""
    store, cfg = lung_store
    changes = {**TINY, "work_dir": str(tmp_path / "work"), "image_size": 64, "val_split": 0.2}
    return cfg.replace(**changes, scheduler="none", bootstrap=20, lr=0.02), store


@pytest.fixture
def trained(monkeypatch):
    """The cases that each call of `fit` has trained on: [(folder, train and val, test)]."""
    calls = []
    real_fit = training.fit

    def fit(cfg, batches, **options):
        cases = {part: set(loader.dataset.cases["case"]) for part, loader in batches.items()}
        calls.append((options["folder"].name, cases["train"] | cases["val"], cases["test"]))
        return real_fit(cfg, batches, **options)

    monkeypatch.setattr(training, "fit", fit)
    return calls


# --- the folds ---


def test_folds_are_by_patient_and_stratified():
    patients = np.repeat(np.arange(30), 2)
    labels = (patients % 3 == 0).astype(int)
    fold = prepare.patient_folds(labels, patients, 5)
    assert pd.Series(fold).groupby(patients).nunique().max() == 1
    assert {labels[fold == number].sum() for number in range(5)} == {4}
    assert {(fold == number).sum() for number in range(5)} == {12}
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(
        fold[order], prepare.patient_folds(labels[order], patients[order], 5)
    )


def test_rare_labels_are_spread_as_evenly_as_scikit_learn_spreads_them():
    labels = np.array(["a"] * 14 + ["b"] * 7 + ["c"] * 2)
    fold = prepare.patient_folds(labels, np.arange(23), 5)
    with pytest.warns(UserWarning, match="least populated"):
        expected = [rows for _, rows in StratifiedKFold(5).split(labels, labels)]
    for label in "abc":
        mine = sorted((labels[fold == number] == label).sum() for number in range(5))
        assert mine == sorted((labels[rows] == label).sum() for rows in expected)


@pytest.mark.parametrize("n_folds", [0, 1, 4])
def test_a_number_of_folds_that_the_patients_do_not_allow(n_folds):
    with pytest.raises(DataError, match=f"folds: {n_folds} is not allowed for 3 patients"):
        prepare.patient_folds(list("aab"), list("xyz"), n_folds)


def test_labels_that_all_patients_have_alone():
    fold = prepare.patient_folds(list("abcdefg"), range(7), 3)
    assert sorted(np.bincount(fold)) == [2, 2, 3]


# --- training and scores ---


def test_every_case_is_scored_once_by_networks_that_never_saw_it(lung, trained):
    cfg, store = lung
    crossed = training.cross_validate(cfg, store, folds=4)
    assert [name for name, _, _ in trained] == [f"fold_{k}_seed_0" for k in range(4)]
    everyone = set(store.cases["case"])
    for (_, seen, scored), run in zip(trained, crossed.runs):
        assert not seen & scored and seen | scored == everyone and len(scored) == 4
        hashes = store.cases.set_index("case")["sha256"].str.slice(0, 16)
        assert runs.describe_weights(run.best)["trained_on"] == sorted(hashes[sorted(seen)])
    report = crossed.report
    assert sorted(report.per_image["case"]) == sorted(everyone)
    of_fold = report.per_image.groupby("fold")["case"].agg(set)
    assert of_fold.tolist() == [scored for _, _, scored in trained]
    assert not report.per_image["seen"].any()
    assert crossed.table["dice"].tolist() == pytest.approx(
        report.per_image.groupby("fold")["dice"].mean().tolist()
    )
    assert crossed.table["patients"].sum() == 16
    # Two findings of eight patients each: two of each in every fold.
    findings = store.cases.set_index("case")["finding"]
    assert all((findings[sorted(c)] == "normal").sum() == 2 for _, _, c in trained)


def test_the_report_is_that_of_the_single_folds_together(lung):
    cfg, store = lung
    crossed = training.cross_validate(cfg, store, folds=3)
    report = crossed.report
    curve, matrix = None, 0
    for number, run in enumerate(crossed.runs):
        of_fold = report.per_image[report.per_image["fold"] == number]
        scored = store.cases["case"].isin(of_fold["case"])
        part = folds.replace(store, cases=store.cases[scored].assign(split="test"))
        single = evaluation.evaluate(run, folds.data.loaders(part, cfg)["test"])
        columns = single.per_image.columns
        pd.testing.assert_frame_equal(of_fold[columns].reset_index(drop=True), single.per_image)
        matrix = matrix + single.confusion["lung"]
        if curve is None:
            curve = single.curves["lung"]
        else:
            curve.merge(single.curves["lung"])
    pd.testing.assert_frame_equal(report.confusion["lung"], matrix)
    assert report.curves["lung"].auc() == curve.auc()
    case = report.per_image["case"].iloc[0]
    own = crossed.runs[report.per_image["fold"].iloc[0]]
    expected = inference.Predictor.load(own.best, "cpu").predict(report.examples(case)[0])
    np.testing.assert_array_equal(report.examples(case)[2], expected.mask)
    pages = {path.name for path in crossed.save().iterdir()}
    assert {"report.html", "sample_predictions.png", folds.TABLE} <= pages


def test_seeds_of_a_fold_are_averaged(lung):
    cfg, store = lung
    crossed = training.cross_validate(cfg, store, folds=2, seeds=(3, 1))
    assert crossed.table[["fold", "seed"]].to_numpy().tolist() == [[0, 3], [1, 3], [0, 1], [1, 1]]
    assert [run.config.seed for run in crossed.runs] == [3, 3, 1, 1]
    report = crossed.report
    row = report.per_image.iloc[5]
    image, truth, _ = report.examples(row["case"])
    of_fold = [run.best for run in crossed.runs[row["fold"] :: 2]]
    probs = [inference.Predictor.load(path, "cpu").predict(image).prob for path in of_fold]
    mean = np.mean(probs, axis=0)[0]
    dice = 2 * ((mean >= 0.5) & (truth == 1)).sum() / ((mean >= 0.5).sum() + (truth == 1).sum())
    assert row["dice"] == pytest.approx(dice)
    assert len(crossed.predictor.models) == 4


def test_finished_folds_are_not_trained_again_and_seeds_can_be_added(lung, trained):
    cfg, store = lung
    first = training.cross_validate(cfg, store, folds=2)
    weights = [run.best.read_bytes() for run in first.runs]
    again = training.cross_validate(cfg, store, folds=2, seeds=(0, 1))
    assert [name for name, _, _ in trained] == [
        *("fold_0_seed_0", "fold_1_seed_0", "fold_0_seed_1", "fold_1_seed_1")
    ]
    assert [run.best.read_bytes() for run in again.runs[:2]] == weights
    pd.testing.assert_frame_equal(again.table[:2], first.table)
    assert len(inference.Predictor.load(first.folder).models) == 4


def test_a_stopped_cross_validation_ends_with_the_same_weights(lung, monkeypatch, tmp_path):
    cfg, store = lung
    straight = training.cross_validate(cfg, store, folds=2, folder=tmp_path / "straight")
    save = training.saving.save
    n_saved = []

    def save_and_stop(session):
        save(session)
        n_saved.append(session)
        if len(n_saved) == 3:  # after the first epoch of the second fold
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.saving, "save", save_and_stop)
        training.cross_validate(cfg, store, folds=2)
    with pytest.raises(DataError, match="1 of 2 trainings .* not finished .fold_1_seed_0"):
        inference.Predictor.load(tmp_path / "work" / "lung_folds")
    resumed = training.cross_validate(cfg, store, folds=2)
    assert len(n_saved) == 3 and list(resumed.runs[1].history["epoch"]) == [1, 2]
    for one, other in zip(straight.runs, resumed.runs):
        assert same_weights(torch.load(one.best), torch.load(other.best))
    assert not list(resumed.folder.glob("*.1")) and not list(resumed.folder.rglob("*.ckpt"))


def test_other_settings_and_cases_are_refused_or_begin_anew(lung, trained, tmp_path):
    cfg, store = lung
    first = training.cross_validate(cfg, store, folds=2)
    for changes, text in (
        ({"lr": 0.5}, "lr=0.02, now 0.5"),
        ({"epochs": 3}, "epochs=2, now 3"),
        ({"split_seed": 1}, "split_seed=0, now 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            training.cross_validate(cfg.replace(**changes), store, folds=2)
    with pytest.raises(ConfigError, match="folds=2, now 3"):
        training.cross_validate(cfg, store, folds=3)
    fewer = prepare.build(layouts.scan(cfg)[1:], cfg.replace(work_dir=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="1 are gone and 0 new, such as MCU"):
        training.cross_validate(cfg, fewer, folds=2)
    assert len(trained) == 2, "nothing was trained"
    other = training.cross_validate(cfg.replace(lr=0.5), store, folds=2, resume=False)
    assert other.folder == first.folder and (other.folder.with_name("lung_folds.1")).is_dir()
    assert runs.Run.load(other.runs[0].folder).config.lr == 0.5
    training.cross_validate(cfg.replace(lr=0.5, bootstrap=30, test_split=0.5), store, folds=2)
    assert len(trained) == 4, "these settings do not matter"


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"init_from": "none.pth"}, "none.pth: no such file"),
        ({"init_from": "."}, r"\.: a folder; give the weights file in it"),
        ({"val_split": 20.0}, "val_split: 20 takes all 8 patients outside fold 0"),
        ({"image_size": 64, "depth": 7}, "image_size: 64 is too small"),
    ],
)
def test_what_is_refused_leaves_an_earlier_one_in_its_place(lung, changes, text):
    cfg, store = lung
    folder = runs.folds_folder(runs.folder_of(cfg))
    (folder / "fold_0_seed_0").mkdir(parents=True)
    (folder / "folds.csv").write_text("earlier")
    with pytest.raises((ConfigError, DataError), match=text):
        training.cross_validate(cfg.replace(**changes), store, folds=2, resume=False)
    assert (folder / "folds.csv").read_text() == "earlier"


def test_a_folder_of_something_else_is_never_renamed(lung, tmp_path):
    picture = tmp_path / "pictures/a.png"
    write_picture(picture, np.zeros((8, 8)))
    with pytest.raises(ConfigError, match="pictures: holds no run but a.png; give a new"):
        training.cross_validate(*lung, folds=2, folder=picture.parent)
    with pytest.raises(ConfigError, match="a.png: a file; give a folder"):
        training.cross_validate(*lung, folds=2, folder=picture)
    assert picture.is_file()


def test_a_corrected_mask_is_noticed(lung, tmp_path):
    cfg, store = lung
    training.cross_validate(cfg, store, folds=2)
    copy = folds.replace(store, folder=tmp_path / "store")
    copy.folder.mkdir()
    pictures, masks = (np.array(array) for array in store.open())
    row = store.cases["row"].iloc[3]
    masks[row, 5, 5] = 1 - masks[row, 5, 5]
    np.save(copy.folder / "images.npy", pictures)
    np.save(copy.folder / "masks.npy", masks)
    name = store.cases["case"].iloc[3]
    with pytest.raises(ConfigError, match=f"other masks of 1 cases, such as {name}"):
        training.cross_validate(cfg, copy, folds=2)


def test_the_pixels_are_decoded_once(lung_tree, lung, monkeypatch, tmp_path):
    cfg, _ = lung
    cfg = cfg.replace(work_dir=str(tmp_path / "once"))
    decoded = []
    decode = prepare._decode_case
    monkeypatch.setattr(
        prepare, "_decode_case", lambda *args: decoded.append(args[0]["case"]) or decode(*args)
    )
    store = prepare.build(layouts.scan(cfg), cfg)
    training.cross_validate(cfg, store, folds=3)
    assert len(decoded) == len(set(decoded)) == 16
    assert len(list((tmp_path / "once" / "stores").iterdir())) == 1


def test_two_cross_validations_are_compared_on_the_same_cases(lung, tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "figures", lambda self: iter(()))
    cfg, store = lung
    first = training.cross_validate(cfg, store, folds=2, folder=tmp_path / "a")
    second = training.cross_validate(cfg.replace(seed=0, lr=0.01), store, 2, (5,), tmp_path / "b")
    table = evaluation.compare(first.report, second.report)
    a, b = (report.per_image["dice"].mean() for report in (first.report, second.report))
    row = table.set_index("class").loc["mean"]
    assert (row["n"], row["difference"]) == (16, pytest.approx(b - a))
    saved = evaluation.compare(first.save(), second.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(table, saved)
    assert pd.read_csv(first.folder / "table.csv")["fold"].tolist() == [0, 1]
    assert (
        "fold"
        in json.loads((tmp_path / "saved" / "evaluation_report.json").read_text())["per_image"][
            "columns"
        ]
    )


# --- bad input ---


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"folds": 1}, DataError, "folds: 1 is not allowed for 16 patients"),
        ({"folds": 17}, DataError, "folds: 17 is not allowed for 16 patients"),
        ({"folds": 2.5}, ConfigError, "folds: 2.5 is not allowed"),
        ({"seeds": ()}, ConfigError, "seeds: .. is not allowed"),
        ({"seeds": 3}, ConfigError, "seeds: 3 is not allowed"),
        ({"seeds": (1, 1)}, ConfigError, "repeat a seed"),
        ({"seeds": (-1,)}, ConfigError, "seed: -1 is out of range"),
        ({"store": pd.DataFrame()}, DataError, "store: found DataFrame without the checks"),
    ],
)
def test_wrong_arguments(lung, arguments, error, text):
    with pytest.raises(error, match=text):
        training.cross_validate(**{"cfg": lung[0], "store": lung[1], **arguments})


def test_a_cross_validation_that_cannot_be_opened(lung, tmp_path):
    with pytest.raises(DataError, match="nothing: no cross-validation here"):
        folds.load(tmp_path / "nothing", lung[1])
    with pytest.raises(ConfigError, match="lr: cannot be changed after the training"):
        folds.load(tmp_path / "nothing", lung[1], threshold=0.4, lr=0.1)


def test_several_processes_are_refused(lung, monkeypatch):
    state = types.SimpleNamespace(num_processes=2)
    monkeypatch.setattr(training, "processes", lambda device: state)
    with pytest.raises(ConfigError, match="runs in one process; start it without torchrun"):
        training.cross_validate(*lung, folds=2)


def test_two_folds_of_two_patients(lung, tmp_path):
    cfg, _ = lung
    cfg = cfg.replace(work_dir=str(tmp_path / "two"))
    store = prepare.build(layouts.scan(cfg)[:2], cfg)
    crossed = training.cross_validate(cfg, store, folds=2)
    assert crossed.table["patients"].tolist() == [1, 1]
    assert len(crossed.report.per_image) == 2
    assert any("one stays for training" in note for note in crossed.report.notes)
    with pytest.raises(ConfigError, match="flips: no option of a predictor; it has tta"):
        crossed.evaluate(flips=True)
    (crossed.runs[1].folder / "fold.json").write_text("{")
    with pytest.raises(DataError, match="fold_1_seed_0/fold.json: not the score of a fold"):
        training.cross_validate(cfg, store, folds=2)
    shutil.rmtree(crossed.runs[1].folder)
    again = training.cross_validate(cfg, store, folds=2)
    pd.testing.assert_frame_equal(again.report.per_image, crossed.report.per_image)
    (crossed.folder / "folds.json").write_text("{")
    with pytest.raises(DataError, match="cannot be continued .*; begin anew with resume=False"):
        training.cross_validate(cfg, store, folds=2)


# --- what is said before ---


def painted(tmp_path, classes, n_slices=1, split=""):
    """A case table of pictures, and its config: `classes` lists the classes of each patient.

    With `n_slices`, a patient is a volume of so many pictures.
    """
    rng, rows = np.random.default_rng(0), []
    for patient, names in enumerate(classes):
        for position in range(n_slices):
            case = f"p{patient}_{position}"
            row = {"case": case, "patient": f"p{patient}", "split": split}
            row["image"] = str(tmp_path / "tree" / f"{case}.png")
            pixels = rng.integers(0, 90, (32, 32), np.uint8)
            for k, name in enumerate("ab"):
                mask = np.zeros((32, 32), np.uint8)
                mask[8 * k + 4 : 8 * k + 12, 6:20] = 255 * (name in names)
                row[name] = str(tmp_path / "tree" / f"{case}_{name}.png")
                write_picture(Path(row[name]), mask)
                pixels = np.where(mask > 0, 200 + 40 * k, pixels)
            write_picture(Path(row["image"]), pixels)
            if n_slices > 1:
                row |= {"volume": f"v{patient}", "slice": position}
            rows.append(row)
    changes = {**TINY, "class_names": ("a", "b"), "task": "multilabel", "image_size": 32}
    cfg = config.preset("binary", "smoke", **changes, work_dir=str(tmp_path / "work"), bootstrap=20)
    return pd.DataFrame(rows), cfg.replace(loss="bce", lr=0.02, mask_inverted=False)


@pytest.fixture
def announced(monkeypatch, capsys):
    """A function: what a cross-validation says before its first training."""

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    def text(cfg, store, n_folds):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "fit", stop)
            training.cross_validate(cfg, store, n_folds)
        return capsys.readouterr().out

    return text


def test_a_class_of_one_patient_is_named_with_its_folds(tmp_path, announced):
    cases, cfg = painted(tmp_path, ["a", "a", "ab", "a", "a", "a"])
    store = prepare.build(cases, cfg)
    text = announced(cfg, store, 3)
    fold = pd.read_csv(tmp_path / "work" / "binary_folds" / "folds.csv").set_index("case")["fold"]
    own = fold["p2_0"]
    others = ", ".join(str(k) for k in range(3) if k != own)
    assert "NOTE: b: in the masks of one patient (p2); no training mask contains it in" in text
    untrained = text.split("no training mask contains it in ")[1].split(", which")[0]
    assert str(own) in untrained
    assert f"no test mask contains it in folds {others}, which cannot score it" in text
    assert "NOTE: a:" not in text


def test_the_test_part_of_the_tree_takes_no_part(tmp_path, announced):
    cases, cfg = painted(tmp_path, ["a"] * 6)
    cases.loc[[1, 4], "split"] = "test"
    cases.loc[[0], "split"] = "val"
    store = prepare.build(cases, cfg)
    assert "own test part (2 images of 2 patients) takes no part" in announced(cfg, store, 2)
    table = pd.read_csv(tmp_path / "work" / "binary_folds" / "folds.csv")
    assert table["patient"].tolist() == ["p0", "p2", "p3", "p5"]
    # Other settings are no contradiction as long as nothing is trained.
    assert "4 patients (4 images) in 4 folds" in announced(cfg.replace(lr=0.1), store, 4)
    free = cfg.replace(keep_split=False, work_dir=str(tmp_path / "free"))
    assert "6 patients (6 images) in 2 folds" in announced(free, store, 2)
    cases["split"] = "test"
    with pytest.raises(DataError, match="all cases are in the test part of the tree"):
        training.cross_validate(cfg, prepare.build(cases, cfg), 2)


def test_equal_images_are_scored_once(tmp_path, announced):
    cases, cfg = painted(tmp_path, ["a"] * 5)
    for column in ("image", "a", "b"):
        shutil.copy(cases.loc[0, column], cases.loc[3, column])
    store = prepare.build(cases, cfg)
    assert "4 patients (4 images) in 2 folds" in announced(cfg, store, 2)


def test_first_weights_that_have_seen_the_cases_are_told(lung, tmp_path, announced):
    cfg, store = lung
    run = training.fit(cfg, folds.data.loaders(store, cfg), folder=tmp_path / "run")
    hashes = set(store.cases["sha256"].str.slice(0, 16))
    cfg = cfg.replace(init_from=str(run.best))
    assert "init_from: 16 of 16 images were in the training" in announced(cfg, store, 2)
    half = folds.replace(store, cases=store.cases[:8])
    tuned = training.fit(cfg, folds.data.loaders(half, cfg), folder=tmp_path / "tuned")
    assert set(runs.describe_weights(tuned.best)["trained_on"]) == hashes


def test_a_finished_one_is_opened_without_its_first_weights(lung, monkeypatch, tmp_path):
    cfg, store = lung
    run = training.fit(cfg, folds.data.loaders(store, cfg), folder=tmp_path / "run")
    cfg = cfg.replace(init_from="gone")
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "resolve", lambda name: run.best if name == "gone" else Path(name))
        crossed = training.cross_validate(cfg, store, folds=2)
    pd.testing.assert_frame_equal(folds.load(crossed.folder, store).table, crossed.table)
    with pytest.raises(DataError, match="gone: no such weights file"):
        training.cross_validate(cfg, store, folds=2, folder=tmp_path / "new")


def test_a_table_that_was_filtered_afterwards_is_refused(lung):
    cfg, store = lung
    fewer = folds.replace(store, cases=store.cases[3:])
    with pytest.raises(DataError, match="store.cases was changed: it has 13 cases"):
        training.cross_validate(cfg, fewer, folds=2)


def test_volumes_stay_whole(tmp_path):
    cases, cfg = painted(tmp_path, ["a", "ab", "ab", "b"], n_slices=3)
    crossed = training.cross_validate(cfg, prepare.build(cases, cfg), folds=2)
    report = crossed.report
    assert report.per_image.groupby("volume")["fold"].nunique().max() == 1
    assert report.per_volume["volume"].nunique() == 4
    assert crossed.table["average"].tolist() == ["per volume"] * 2
    of_folds = report.per_volume[report.per_volume["annotated"]].groupby(["fold", "class"])["dice"]
    occurring = report.per_volume.groupby(["fold", "class"])["n_true"].sum() > 0
    expected = of_folds.mean()[occurring].groupby("fold").mean()
    assert crossed.table["dice"].tolist() == pytest.approx(expected.tolist())


# --- means of networks ---


def networks(n, n_classes):
    torch.manual_seed(0)
    return [torch.nn.Conv2d(3, n_classes, 3, padding=1) for _ in range(n)]


@pytest.mark.parametrize("task, n_classes", [("binary", 1), ("multilabel", 2), ("multiclass", 4)])
def test_an_ensemble_is_the_mean_of_the_probabilities(task, n_classes):
    names = tuple("abcd"[:n_classes])
    loss = "cross_entropy" if task == "multiclass" else "bce"
    cfg = config.preset(
        "binary", "smoke", task=task, class_names=names, loss=loss, augment={"hflip": 0.5}
    )
    members = networks(3, n_classes)
    for member in members:
        member.weight.data *= 60  # also probabilities near 0 and 1
    batch = torch.randn(2, 3, 8, 8)
    ensemble = inference.Predictor(members, cfg, "cpu", "fp32")
    single = [inference.Predictor(member, cfg, "cpu", "fp32") for member in members]
    assert len(ensemble.models) == 3
    for tta in (False, True):
        for predictor in (ensemble, *single):
            predictor.tta = tta
        mean = torch.stack([predictor.probabilities(batch) for predictor in single]).mean(0)
        torch.testing.assert_close(ensemble.probabilities(batch), mean, atol=1e-6, rtol=1e-4)


def test_networks_that_do_not_fit_together_are_refused(tmp_path):
    cfg = config.preset("binary", "smoke", image_size=32, base_channels=2, depth=2)
    other = {"image_size": 64, "class_names": ("lesion",), "threshold": 0.4, "mean": (0.5,)}
    first = runs.save_weights(tmp_path / "a.pth", runs.network(cfg, False, False), cfg)
    for name, value in other.items():
        changed = cfg.replace(**{name: value})
        second = runs.save_weights(tmp_path / f"{name}.pth", runs.network(cfg), changed)
        with pytest.raises(DataError, match=f"{name}.pth: {name} is .* in .*a.pth"):
            inference.Predictor.load([first, second])
    with pytest.raises(DataError, match="a.pth: given twice"):
        inference.Predictor.load([first, first])
    with pytest.raises(DataError, match="no weights file is given"):
        inference.Predictor.load([])
    with pytest.raises(DataError, match="a folder without a whole folds.json"):
        inference.Predictor.load(tmp_path)


def test_a_mean_tells_what_its_networks_have_seen(tmp_path):
    cfg = config.preset("binary", "smoke", image_size=32, base_channels=2, depth=2)
    paths = []
    for name, facts in {"a": {"trained_on": ["1"]}, "b": {"trained_on": ["2"]}, "c": {}}.items():
        path, network = tmp_path / f"{name}.pth", runs.network(cfg, False, False)
        paths.append(runs.save_weights(path, network, cfg, **facts))
    assert inference.Predictor.load(paths[:2], "cpu").trained_on == ["1", "2"]
    assert inference.Predictor.load(paths, "cpu").trained_on is None
    predictor = inference.Predictor.load(paths[:2], "cpu", "fp32")
    predictor.temperature = 1.7
    exported = export.to_program(predictor, tmp_path / "mean.pt2")  # compares them itself
    assert exported.difference < 1e-5
    with pytest.raises(DataError, match="mean of 2 networks, and a model card describes one"):
        export.kaggle_folder(predictor, tmp_path / "kaggle", "me", "A mean of two")


# --- the command line ---


@pytest.fixture
def here(lung_tree, tmp_path, monkeypatch):
    """An empty current folder, and the line of a training of seconds on the phantoms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Report, "figures", lambda self: iter(()))
    options = "--epochs 1 --base_channels 2 --depth 2 --image_size 32 --device cpu --bootstrap 20"
    return f"train --preset lung --size smoke --data_dir {lung_tree} {options} --precision fp32"


def test_folds_on_the_command_line(here, trained, capsys):
    assert command(f"{here} --folds 3 --seeds 0,1") == 0
    folder = Path("runs/lung_folds")
    assert len(pd.read_csv(folder / "table.csv")) == 6
    per_image = pd.read_csv(folder / "per_image.csv")
    assert sorted(per_image["fold"].unique()) == [0, 1, 2] and len(per_image) == 16
    assert "16 patients (16 images) in 3 folds" in capsys.readouterr().out

    line = f"evaluate --model_path {folder} --output_dir again --bootstrap 20"
    assert command(line) == 0
    again = pd.read_csv("again/per_image.csv")
    pd.testing.assert_frame_equal(again, per_image)
    assert command(f"{line} --threshold 0.1 --tta hflip --output_dir other") == 0
    other = pd.read_csv("other/per_image.csv")
    assert (other["n_pred"] > per_image["n_pred"]).any()
    assert command(f"compare {folder} again") == 0

    assert command(f"{here} --folds 3 --resume") == 0
    assert len(trained) == 6, "all folds were finished"
    assert command(f"{here} --folds 2") == 0
    assert len(trained) == 8 and Path("runs/lung_folds.1").is_dir(), "begun anew"


def test_a_folder_or_several_files_are_a_mean(here, lung_tree, capsys):
    assert command(f"{here} --folds 2") == 0
    first, second = (f"runs/lung_folds/fold_{k}_seed_0/best_model.pth" for k in (0, 1))
    image = next(iter(layouts.scan(config.preset("lung", data_root=str(lung_tree)))["image"]))
    sources = (
        f"--model_path {first} {second}",
        "--model_path runs/lung_folds",
        "--preset lung",
        "",
    )
    for number, source in enumerate(sources):
        line = f"predict {source} --image_path {image} --output_dir out{number}"
        assert command(line) == 0
    mean = inference.Predictor.load([first, second], "cpu").predict_file(image).mask
    for number in range(len(sources)):
        written = read_picture(f"out{number}/{Path(image).stem}_mask.png")
        np.testing.assert_array_equal(written > 0, mean > 0)
    line = f"evaluate --model_path {first} {second} --data_dir {lung_tree} --bootstrap 20"
    assert command(line) == 0
    assert "16 OF 16 IMAGES" in capsys.readouterr().out.replace("ALL 16", "16 OF 16")
    copies = [shutil.copy(Path(first).with_suffix(suffix), ".") for suffix in (".pth", ".json")]
    for paths in (first, f"{copies[0]} {first}"):
        message = error_of(capsys, f"evaluate --model_path {paths}")
        text = f"{first} is of one fold of a cross-validation; give its folder, runs/lung_folds"
        assert text in message


@pytest.mark.parametrize(
    "options, text",
    [
        ("--seeds 1,2", "seeds: trains the folds"),
        ("--folds 3 --seed 2", "seed: the folds of --folds are trained with"),
        ("--folds 3 --test_split 4", "test_split: with --folds every fold"),
        ("--folds 3 --seeds a", "seeds: 'a' is not allowed"),
        ("--folds many", "invalid int value: 'many'"),
        ("--folds 1", "folds: 1 is not allowed for 16 patients"),
        ("--folds 17", "folds: 17 is not allowed for 16 patients"),
    ],
)
def test_folds_that_the_command_line_refuses(here, capsys, options, text):
    assert text in error_of(capsys, f"{here} {options}")
    assert not Path("runs/lung_folds").exists()
