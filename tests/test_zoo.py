"""Networks that are called by a name: stored, found, checked, used, and those that are shipped."""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from seglib import config, data, evaluation, export, hosts, phantoms, runs, training, zoo
from seglib.errors import ConfigError, DataError
from seglib.formats import images
from seglib.inference import Predictor
from tests import zoo as make_zoo
from tests.helpers import command, convolution, error_of

ABOUT = zoo.About(
    purpose="lungs in synthetic X-rays",
    data="Sixteen phantoms.",
    terms="Public domain.",
    tests=[
        {"data": "phantoms, folds", "metric": "dice", "value": 0.9, "low": 0.8, "high": 1, "n": 16}
    ],
    limits="Never seen a patient.",
    command="make zoo",
)


@pytest.fixture(scope="module")
def run(lung_store, tmp_path_factory):
    """A run of two epochs on phantoms, whose batch norm has running statistics of its own."""
    store, cfg = lung_store
    folder = tmp_path_factory.mktemp("zoo_run")
    fields = dict(base_channels=4, depth=2, epochs=2, precision="fp32", device="cpu", lr=3e-3)
    cfg = cfg.replace(**fields, work_dir=str(folder))
    return training.fit(cfg, data.loaders(store, cfg))


@pytest.fixture(scope="module")
def pictures(lung_tree):
    return sorted((lung_tree / "MontgomerySet" / "CXR_png").glob("*.png"))[:4]


@pytest.fixture(scope="module")
def stored(run, pictures, tmp_path_factory):
    """A folder with the network `chest`."""
    folder = tmp_path_factory.mktemp("zoo")
    zoo.save(run, "chest", folder, pictures, ABOUT)
    return folder


@pytest.fixture
def chest(stored, tmp_path, monkeypatch):
    """A copy of that folder, searched for names; the current folder is empty."""
    folder = shutil.copytree(stored, tmp_path / "networks")
    monkeypatch.setenv("SEGLIB_ZOO", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(hosts.finding, "_homes", lambda: [tmp_path / "here"])
    return folder


# --- stored


def test_the_file_holds_the_weights_of_the_run_rounded_once(run, stored):
    """Read with the library alone: kernels of 16 bits, everything else exact."""
    original = torch.load(run.best, weights_only=True)
    with safe_open(stored / "chest.safetensors", "pt") as file:
        assert set(file.keys()) == set(original)
        for name, value in original.items():
            tensor = file.get_tensor(name)
            if value.ndim > 1:
                assert torch.equal(tensor, value.half()), name
            else:
                assert tensor.dtype == value.dtype and torch.equal(tensor, value), name
    kernels = sum(2 * value.numel() for value in original.values() if value.ndim > 1)
    size = (stored / "chest.safetensors").stat().st_size
    assert kernels < size < kernels + 20_000


def test_predictions_are_those_of_the_run(run, chest, pictures):
    original, by_name = Predictor.load(run.best, "cpu"), Predictor.load("chest", "cpu")
    assert all(value.dtype in (torch.float32, torch.int64) for value in by_name.model.buffers())
    assert all(value.dtype == torch.float32 for value in by_name.model.parameters())
    for picture in pictures:
        image = original.read(picture)
        first, second = original.predict(image), by_name.predict(image)
        assert 0 < np.abs(first.prob - second.prob).max() <= zoo.MOST_DIFFERENCE
        assert (first.mask != second.mask).mean() <= zoo.MOST_CHANGED


def test_a_predictor_is_stored_as_its_run(run, stored, pictures, tmp_path):
    zoo.save(Predictor.load(run.best, "cpu"), "again", tmp_path, pictures, ABOUT)
    weights = (stored / "chest.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == weights
    described = [
        json.loads(path.read_text()) for path in (stored / "chest.json", tmp_path / "again.json")
    ]
    assert described[0] == described[1]


def test_the_description_is_complete_and_names_no_path(run, stored):
    description = runs.describe_weights(stored / "chest.safetensors")
    assert description["weights_sha256"] == images.sha256(stored / "chest.safetensors")
    assert description["class_names"] == ["lung"] and description["about"]["terms"] == ABOUT.terms
    assert (
        description["trained_on"] == run.info["trained_on"] and description["precision"] == "fp32"
    )
    assert description["versions"]["torch"] == torch.__version__
    assert "gpu" not in description["versions"] and "host" not in description["versions"]
    assert not paths_in(description)
    assert config.from_dict(description["config"]).base_channels == 4
    assert runs.describe_weights(run.best)["config"]["data_root"], "there was a path to leave out"


def paths_in(value):
    """The texts in a description that look like the path of a file of the machine."""
    if isinstance(value, dict):
        return [path for entry in value.values() for path in paths_in(entry)]
    if isinstance(value, list):
        return [path for entry in value for path in paths_in(entry)]
    return re.findall(r"(?:^|[\s'\"(])(?:~?/\w|[A-Z]:\\)\S*", str(value))


def test_patches_are_compared_patch_by_patch(tmp_path, pictures, monkeypatch):
    cfg = config.preset("lung", "smoke", patch_size=(16, 32))
    predictor = Predictor(runs.network(cfg), cfg, "cpu", "fp32")
    shapes = []
    predictor.model.register_forward_pre_hook(lambda model, args: shapes.append(args[0].shape[2:]))
    zoo.save(predictor, "patches", tmp_path, pictures[:1])
    assert set(shapes) == {(16, 32)} and len(shapes) == 2 * 64 * 64 / (16 * 32)


def spoilt(change):
    """A predictor of one convolution whose state `change` has changed."""
    cfg = config.preset("lung", "smoke")
    network = convolution()
    with torch.no_grad():
        change(network)
    return Predictor(network, cfg, "cpu", "fp32")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda net: net.weight[0, 0, 0, 0].fill_(7e4), "weight: its largest weight is 7e+04"),
        (lambda net: net.weight.fill_(torch.nan), "weight: its largest weight is nan"),
        (lambda net: net.bias.fill_(torch.inf), "bias: its largest weight is inf"),
        # Every weight is rounded to 0 or to a multiple of 6e-8: the mask turns over.
        (lambda net: net.weight.fill_(2.9e-8), "the network predicts otherwise"),
        (lambda net: (net.weight.fill_(100.03), net.bias.fill_(-1000)), "predicts otherwise"),
    ],
)
def test_what_half_precision_would_change_is_refused(change, message, pictures, tmp_path):
    with pytest.raises(DataError, match=re.escape(message)):
        zoo.save(spoilt(change), "spoilt", tmp_path / "out", pictures)
    assert not (tmp_path / "out").exists()


def test_running_statistics_outside_half_precision_are_kept(run, pictures, tmp_path):
    predictor = Predictor.load(run.best, "cpu")
    modules = predictor.model.named_modules()
    name, norm = next(row for row in modules if isinstance(row[1], torch.nn.BatchNorm2d))
    norm.running_var.fill_(1e9)
    norm.running_mean.fill_(1e-9)
    state = safetensors.torch.load_file(zoo.save(predictor, "wide", tmp_path, pictures))
    assert torch.equal(state[f"{name}.running_var"], norm.running_var)
    assert torch.equal(state[f"{name}.running_mean"], norm.running_mean)


@pytest.mark.parametrize(
    "name, n_pictures, error, message",
    [
        ("../chest", 1, ConfigError, "name: '../chest' is not allowed"),
        ("chest.pth", 1, ConfigError, "name: 'chest.pth' is not allowed"),
        ("", 1, ConfigError, "name: '' is not allowed"),
        ("chest", 0, ConfigError, "pictures: none were passed"),
    ],
)
def test_names_and_pictures_are_checked(run, pictures, tmp_path, name, n_pictures, error, message):
    with pytest.raises(error, match=re.escape(message)):
        zoo.save(run, name, tmp_path / "out", pictures[:n_pictures])
    assert not (tmp_path / "out").exists()


def test_scores_of_a_report_are_taken_as_they_are(run, pictures, tmp_path):
    numbers = {"value": np.float64(0.5), "low": np.nan, "high": np.nan, "n": np.int64(3)}
    tests = [{"data": "few", "metric": "dice", **numbers}]
    path = zoo.save(run, "few", tmp_path, pictures[:1], zoo.About(tests=tests))
    assert "| few | dice | 0.500 | – | 3 |" in export.card_of(path)
    with pytest.raises(ConfigError, match="about: a row of tests has the keys dice"):
        zoo.save(run, "few", tmp_path, pictures[:1], zoo.About(tests=[{"dice": 0.5}]))


def test_what_weights_cannot_hold_is_refused(run, pictures, tmp_path):
    for change in ({"temperature": 2.0}, {"thresholds": (0.3,)}):
        predictor = Predictor.load(run.best, "cpu")
        for name, value in change.items():
            setattr(predictor, name, value)
        with pytest.raises(DataError, match="temperature or thresholds"):
            zoo.save(predictor, "chest", tmp_path, pictures)


# --- found


def test_names_lead_to_files(chest, tmp_path):
    assert zoo.resolve("chest") == chest / "chest.safetensors"
    listing = zoo.listing().set_index("name").loc["chest"]
    assert listing["purpose"] == ABOUT.purpose and listing["classes"] == "lung"
    for path in ("runs/best_model.pth", "./chest", "best_model.pth", tmp_path / "chest"):
        assert str(zoo.resolve(path)) == str(zoo.Path(path))
    assert str(zoo.resolve(zoo.Path("chest"))) == "chest"


def test_an_unknown_name_suggests_the_nearest(chest):
    for load in (zoo.resolve, Predictor.load, export.card_of):
        with pytest.raises(DataError, match=r"chets: no such weights.*did you mean 'chest'\?"):
            load("chets")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_name_wins_over_a_file_of_this_folder_and_says_so(chest, run, kind):
    here = zoo.Path("chest")
    if kind == "file":
        shutil.copy(run.best, here)
    else:
        here.mkdir()
    with pytest.warns(UserWarning, match=rf"the {kind} chest of the current folder is ./chest"):
        assert zoo.resolve("chest").parent == chest
    here.rename("breast")
    assert zoo.resolve("breast") == zoo.Path("breast"), "a word that is no network is a path"


def test_the_own_folder_comes_before_the_package(chest, tmp_path, monkeypatch):
    package = shutil.copytree(chest, tmp_path / "package")
    monkeypatch.setattr(zoo, "FOLDER", package)
    assert zoo.resolve("chest").parent == chest
    monkeypatch.delenv("SEGLIB_ZOO")
    assert zoo.resolve("chest").parent == package
    monkeypatch.setenv("SEGLIB_ZOO", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="SEGLIB_ZOO: .*nowhere' is no folder"):
        zoo.resolve("chest")


def flip_a_bit(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: flip_a_bit(folder / "chest.safetensors"), "describes other weights"),
        (lambda folder: (folder / "chest.safetensors").write_bytes(b"torn"), "refused to load"),
        (lambda folder: (folder / "chest.safetensors").unlink(), "no such weights file"),
        (lambda folder: (folder / "chest.json").unlink(), "chest.json is missing beside it"),
        (lambda folder: (folder / "chest.json").write_text("{"), "not the description"),
        (
            lambda folder: (folder / "chest.json").write_text(
                (folder / "chest.json").read_text().replace("weights_sha256", "checksum")
            ),
            "lacks the weights_sha256",
        ),
    ],
)
def test_damaged_networks_are_refused_and_listed_as_such(chest, damage, message, tiny):
    damage(chest)
    cfg, batches = tiny(base_channels=4, depth=2, init_from="chest")
    for use in (lambda: Predictor.load("chest"), lambda: training.fit(cfg, batches)):
        with pytest.raises(DataError, match=f"chest: .*{message}.*write it again"):
            use()
    purpose = zoo.listing().set_index("name").loc["chest", "purpose"]
    assert purpose.startswith("cannot be used: ")


# --- used


def test_a_training_starts_from_a_name(chest, tiny, without_figures):
    cfg, batches = tiny(base_channels=4, depth=2, lr=1e-8, epochs=1, init_from="chest")
    started = torch.load(training.fit(cfg, batches).best, weights_only=True)
    for name, value in safetensors.torch.load_file(chest / "chest.safetensors").items():
        if value.ndim > 1:
            assert torch.allclose(started[name], value.float(), rtol=0, atol=1e-6), name


def test_images_of_the_training_are_told_apart(chest, lung_store):
    store, cfg = lung_store
    loaders = data.loaders(store, cfg.replace(num_workers=0))
    report = evaluation.evaluate(Predictor.load("chest", "cpu"), loaders["train"], distances=False)
    assert report.per_image["seen"].all()


@pytest.mark.parametrize("option", ["--model", "--model_path"])
def test_the_command_line_takes_names(chest, option, pictures, lung_tree, capsys):
    assert command(f"predict {option} chest --device cpu --image_path", str(pictures[0])) == 0
    assert f"weights: {chest / 'chest.safetensors'}, lung, on cpu" in capsys.readouterr().out
    assert zoo.Path("predictions", f"{pictures[0].stem}_mask.png").is_file()


def test_evaluate_scores_all_images_of_other_data(chest, lung_tree, capsys):
    line = "evaluate --model chest --device cpu --bootstrap 20"
    message = error_of(capsys, line)
    assert "data_dir: the network chest has no test part" in message
    assert command(line, "--data_dir", str(lung_tree)) == 0
    output = capsys.readouterr().out
    assert "all cases given" in output and "WARNING: the network was trained on 16" in output


def test_predict_without_weights_names_the_networks(chest, pictures, capsys):
    message = error_of(capsys, f"predict --image_path {pictures[0]}")
    assert "no weights best*.pth found" in message
    assert "--model chest (lungs in synthetic X-rays)" in message


def test_the_listing_and_the_card_are_printed(chest, capsys):
    assert command("zoo") == 0
    assert re.search(r"chest +lungs in synthetic X-rays +lung", capsys.readouterr().out)
    assert command("zoo chest") == 0
    card = capsys.readouterr().out
    for text in (ABOUT.purpose, ABOUT.data, ABOUT.terms, ABOUT.limits, ABOUT.command):
        assert text in card
    assert "| phantoms, folds | dice | 0.900 | 0.800 to 1.000 | 16 |" in card
    assert images.sha256(chest / "chest.safetensors") in card
    assert 'Predictor.load("chest")' in card
    assert "did you mean 'chest'?" in error_of(capsys, "zoo chets")


def test_a_kaggle_data_set_of_a_name_keeps_the_terms(chest, tmp_path):
    folder = export.kaggle_folder("chest", tmp_path / "kaggle", "somebody", "Chest phantoms")
    assert {"chest.safetensors", "chest.json"} <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert ABOUT.terms in card and 'hosts.find_model("chest.safetensors")' in card


# --- made


def test_make_zoo_trains_scores_and_writes_a_network(tmp_path, monkeypatch, capsys):
    """Rehearsed on phantoms, with the figures that the results hold."""
    for folder, n in (("montgomery", 6), ("shenzhen", 3), ("covid_cxr_leftright", 3)):
        phantoms.write("lung", tmp_path / "real" / folder, n=n, seed=n)
    results = {
        "date": "2026-01-01",
        "rows": [
            {"data": "Montgomery, 5 folds of 102 patients", "metric": metric, "value": 0.98}
            | {"low": 0.97, "high": 0.99, "n": 102}
            for metric in ("dice", "hd95")
        ],
    }
    (tmp_path / "lung.json").write_text(json.dumps(results))
    monkeypatch.setattr("tests.results.REAL", tmp_path / "real")
    monkeypatch.setattr(make_zoo, "FOLDER", tmp_path)
    tiny = dict(image_size=32, base_channels=2, depth=2, device="cpu", precision="fp32")
    tiny |= dict(num_workers=0, bootstrap=20)
    output = tmp_path / "out"
    card = make_zoo.make("lung", output, tmp_path / "work", epochs=1, **tiny)
    assert sorted(path.name for path in output.iterdir()) == [
        "lung.json",
        "lung.md",
        "lung.safetensors",
    ]
    description = runs.describe_weights(output / "lung.safetensors")
    tests = zoo.about_of(description).tests
    assert [row["n"] for row in tests] == [102, 3, 3] and not paths_in(description)
    assert len(description["trained_on"]) == 6 and description["config"]["val_split"] == 0
    assert "| dice | 0.980 | 0.970 to 0.990 | 102 |" in card.read_text()
    assert 'Predictor.load("lung")' in card.read_text() and not paths_in(card.read_text())
    weights = (output / "lung.safetensors").read_bytes()
    make_zoo.make("lung", output, tmp_path / "work", epochs=1, **tiny)
    assert (output / "lung.safetensors").read_bytes() == weights, "nothing is trained twice"


def test_a_network_without_scores_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr(make_zoo, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match="python -m tests.results nuclei"):
        make_zoo.make("nuclei", tmp_path / "out", tmp_path)


def test_there_is_a_recipe_for_every_network_of_the_package():
    assert tuple(make_zoo.RECIPES) == zoo.NETWORKS


# --- those of the package


SHIPPED = sorted({path.stem for path in zoo.FOLDER.iterdir()} - {"README"})


def test_the_package_has_whole_networks_of_its_names_alone():
    files = {path.name for path in zoo.FOLDER.iterdir()} - {"README.md"}
    endings = (".safetensors", ".json", ".md")
    assert files == {f"{name}{ending}" for name in SHIPPED for ending in endings}
    assert set(SHIPPED) == set(zoo.NETWORKS)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_small_described_and_scored(name):
    path = zoo.resolve(name)
    description = runs.describe_weights(path)
    about = zoo.About(**description["about"])
    assert path.stat().st_size <= 4e6
    assert not paths_in(description)
    assert description["trained_on"] and about.purpose and about.data and about.terms
    assert about.limits and about.command and about.tests
    for row in about.tests:
        assert row["low"] <= row["value"] <= row["high"] and row["n"] > 0
    card = (zoo.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert card == export.card_of(name), "make zoo renews it"
    assert not paths_in(card)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_fits_the_small_size_of_its_preset(name):
    """`fit(config.preset(..., "small", init_from=name))` works as the README says."""
    trained = config.from_dict(runs.describe_weights(zoo.resolve(name))["config"])
    cfg = config.preset(trained.preset, "small")
    runs.load_weights(zoo.resolve(name), runs.network(cfg, pretrained=False))


@pytest.mark.parametrize(
    "name, picture, mask",
    [
        ("lung", "shenzhen/img/CHNCXR_*.png", "shenzhen/mask/{stem}_mask.png"),
        ("nuclei", "dsb2018_nuclei/stage1_train/*/images/*.png", ""),
    ],
)
def test_a_shipped_network_segments_real_images(name, picture, mask, test_data):
    """The lungs of a hospital that was not trained on; the nuclei of training images."""
    predictor = Predictor.load(name, "cpu")
    overlaps = []
    for path in sorted(test_data.glob(picture))[:8]:
        parts = [test_data / mask.format(stem=path.stem)]
        if not mask:
            parts = sorted((path.parents[1] / "masks").glob("*.png"))
        truth = np.any([np.array(Image.open(part).convert("L")) > 127 for part in parts], axis=0)
        prediction = predictor.predict(predictor.read(path)).mask == 1
        overlaps.append(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))
    assert len(overlaps) == 8 and np.mean(overlaps) > 0.85
