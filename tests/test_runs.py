"""What a run leaves on disk, and how it is resumed: weights, descriptions, checkpoints."""

import copy
import hashlib
import json
import os
import pickle
import shutil

import pandas as pd
import pytest
import torch
from torch import nn

from seglib import config, data, export, models, runs, training
from seglib.errors import ConfigError, DataError, SeglibError
from seglib.inference import Predictor
from tests.helpers import TINY, convolution, same_weights, stop_after

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def trained(lung_store, tmp_path_factory):
    """A finished run of two epochs, read only; its network is `UNet(1, 1, 2, 2)`."""
    store, cfg = lung_store
    cfg = cfg.replace(**TINY, work_dir=str(tmp_path_factory.mktemp("trained")), save_every=1)
    return training.fit(cfg, data.loaders(store, cfg))


def description(weights):
    return json.loads(weights.with_suffix(".json").read_text())


def is_final(run, other):
    """Whether two runs ended with the same bits."""
    return same_weights(*(torch.load(r.folder / "final_model.pth") for r in (run, other)))


# ---- files


def test_files_of_a_run(trained):
    weights = ["best_model", "final_model", "checkpoint_epoch_1", "checkpoint_epoch_2"]
    expected = {f"{name}.{suffix}" for name in weights for suffix in ("pth", "json")}
    expected |= {"history.csv", "run.json", "config.json", "last.ckpt"}
    expected |= {"training_history.png", "sample_predictions.png"}
    assert {path.name for path in trained.folder.iterdir()} == expected
    assert trained.folder.name == "lung" and trained.best == trained.folder / "best_model.pth"
    assert (trained.folder / "training_history.png").read_bytes().startswith(b"\x89PNG")
    final, last = (trained.folder / f"{name}.pth" for name in ("final_model", "checkpoint_epoch_2"))
    assert same_weights(torch.load(final), torch.load(last))


def test_the_name_of_the_best_weights_is_a_setting(tiny):
    run = training.fit(*tiny(checkpoint_name="best_model_512.pth", epochs=1))
    assert run.best.name == "best_model_512.pth" and run.best.is_file()
    assert not (run.folder / "best_model.pth").exists()
    assert not list(run.folder.glob("checkpoint_*"))


def test_json_beside_weights_describes_them(trained):
    for path in trained.folder.glob("*.pth"):
        facts = description(path)
        assert facts["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts["config"] == trained.config.to_dict()
        assert (facts["class_names"], facts["mean"], facts["std"]) == (["lung"], [0.5], [0.25])
        assert facts["versions"]["torch"] == torch.__version__
        assert facts["network"] is facts["loss"] is None  # those of the config
    assert description(trained.folder / "final_model.pth")["epoch"] == 2


def test_json_is_json_without_validation_images(lung_store, tmp_path):
    """NaN is no JSON: other programs refuse such a file."""
    store = copy.copy(lung_store[0])
    store.cases = store.cases.assign(split="train")
    cfg = lung_store[1].replace(**TINY, work_dir=str(tmp_path))
    run = training.fit(cfg, data.loaders(store, cfg))

    def refuse(constant):
        raise ValueError(constant)

    for path in run.folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_run_load_gives_the_run_back(trained):
    loaded = runs.Run.load(trained.folder)
    for name in ("folder", "config", "info", "best", "model"):
        assert getattr(loaded, name) == getattr(trained, name)
    pd.testing.assert_frame_equal(loaded.history, trained.history, check_exact=False, rtol=1e-12)
    network = convolution()
    assert runs.Run.load(trained.folder, model=network).model is network
    with pytest.raises(DataError, match="no run here"):
        runs.Run.load(trained.folder / "elsewhere")


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_a_damaged_run_is_refused(tmp_path, name):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "history.csv").write_text("epoch\n1\n")
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="run.json or history.csv is damaged"):
        runs.Run.load(tmp_path)


def test_a_second_fit_moves_the_first_aside(tiny):
    contents = []
    for seed in (1, 2, 3):
        run = training.fit(*tiny(seed=seed))
        contents.append({path.name: path.read_bytes() for path in run.folder.iterdir()})
    folder = run.folder.parent
    assert sorted(path.name for path in folder.iterdir()) == ["lung", "lung.1", "lung.2"]
    for name, expected in zip(("lung.1", "lung.2"), contents):
        assert {path.name: path.read_bytes() for path in (folder / name).iterdir()} == expected


class Heavy(nn.Module):
    """A network of 4 MB, so that headers of files do not count."""

    def __init__(self):
        super().__init__()
        self.layer = convolution()
        self.ballast = nn.Parameter(torch.zeros(1_000_000))

    def forward(self, image):
        return self.layer(image) + self.ballast.mean()


def test_a_finished_run_takes_five_times_its_weights(tiny):
    """Best and final weights, and in last.ckpt the weights with both moments of Adam, without which
    no further epoch would be that of an uninterrupted run."""
    cfg, batches = tiny()
    run = training.fit(cfg, batches, model=Heavy())
    size = sum(path.stat().st_size for path in run.folder.iterdir())
    assert size < 5.1 * run.best.stat().st_size
    straight = training.fit(*tiny("straight", epochs=3), model=Heavy())
    more = training.fit(cfg.replace(epochs=3), batches, model=Heavy(), resume=True)
    assert is_final(more, straight)


# ---- weights


class Kill(BaseException):
    """As SIGKILL, which no `except Exception` notices."""


@pytest.mark.parametrize("moment", range(6))
def test_weights_whose_writing_was_killed_have_their_own_description(tmp_path, monkeypatch, moment):
    """Killed before or after each of the three renamings: the weights are the old ones with the
    old description, or the new ones with the new one."""
    cfg = config.preset("lung", "smoke", **TINY)
    path = tmp_path / "best_model.pth"
    networks = {epoch: runs.network(cfg) for epoch in (1, 2, 3)}
    runs.save_weights(path, networks[1], cfg, epoch=1)
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == moment // 2 + 1:
            if moment % 2:
                replace(source, target)
            raise Kill
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(os, "replace", killed)
        runs.save_weights(path, networks[2], cfg, epoch=2)
    epoch = runs.describe_weights(path)["epoch"]
    assert epoch == (2 if moment >= 3 else 1)
    assert same_weights(torch.load(path), networks[epoch].state_dict())
    assert Predictor.load(path, "cpu", "fp32").weights == path
    runs.save_weights(path, networks[3], cfg, epoch=3)  # and the next one is whole again
    assert runs.describe_weights(path) == description(path) and description(path)["epoch"] == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            dict(image_size=15, depth=4),
            "image_size: 15 is too small for unet, .* 4 times; .* 16, or",
        ),
        (dict(image_size=(64, 8), depth=4), r"image_size: \(64, 8\) is too small"),
        (dict(image_size=64, patch_size=8, depth=4), "patch_size: 8 is too small"),
        (dict(image_size=15, architecture="aspp"), "image_size: 15 is too small for aspp"),
        (
            dict(image_size=31, depth=4, stem="space_to_depth"),
            "image_size: 31 is too small for unet, .* 5 times; .* 32, or",
        ),
        (dict(image_size=256, depth=8, base_channels=512), "base_channels: the weights .* GB"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings, words):
    """torch would say "Output size is too small", and the system would end the process."""
    with pytest.raises(ConfigError, match=words):
        runs.network(
            config.preset("binary", "smoke", **{"augment": {}, "stem": "full", **settings})
        )


def test_the_smallest_sides_are_enough():
    for settings in (
        dict(image_size=16, depth=4),
        dict(image_size=(17, 16), architecture="aspp"),
        dict(image_size=(16, 17), depth=3, stem="space_to_depth"),
    ):
        fields = {"base_channels": 1, "augment": {}, "stem": "full", **settings}
        cfg = config.preset("binary", "smoke", **fields)
        image = torch.zeros(2, 3, *cfg.height_width)
        assert runs.network(cfg)(image).shape == (2, 1, *cfg.height_width)


def test_weights_beside_the_description_of_others_are_refused(trained, tmp_path):
    """One of the two files was copied from another run, or from another epoch."""
    shutil.copy(trained.folder / "checkpoint_epoch_1.pth", tmp_path / "w.pth")
    shutil.copy(trained.folder / "checkpoint_epoch_2.json", tmp_path / "w.json")
    expected = description(tmp_path / "w.pth")["weights_sha256"][:12]
    found = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()[:12]
    for call in (runs.describe_weights, Predictor.load):
        with pytest.raises(
            DataError, match=f"w.json .* with {expected}, .* with {found}; .* copy both"
        ):
            call(tmp_path / "w.pth")
    with pytest.raises(DataError, match="describes other weights"):
        export.kaggle_folder(tmp_path / "w.pth", tmp_path / "made", "me", "Lung U-Net")


def test_a_description_without_sha256_is_taken_as_it_is(trained, tmp_path):
    shutil.copy(trained.best, tmp_path / "w.pth")
    facts = description(trained.best)
    del facts["weights_sha256"]
    (tmp_path / "w.json").write_text(json.dumps(facts))
    assert runs.describe_weights(tmp_path / "w.pth") == facts


def test_weights_open_with_plain_torch_and_hold_tensors_only(trained):
    state = torch.load(trained.best)
    assert isinstance(state, dict)
    assert all(type(v) is torch.Tensor and v.device.type == "cpu" for v in state.values())
    network = models.UNet(1, 1, base_channels=2, depth=2)
    network.load_state_dict(state)
    again = runs.load_weights(trained.best, models.UNet(1, 1, 2, 2))
    assert same_weights(again.state_dict(), network.state_dict())


class Payload:
    """Unpickled carelessly it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_weights_file_that_runs_code_is_refused(tmp_path, protocol):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    network = models.UNet(1, 1, 2, 2)
    torch.save({**network.state_dict(), "extra": Payload(marker)}, path, pickle_protocol=protocol)
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload is live
    marker.unlink()
    with pytest.raises(DataError, match="refused to load"):
        runs.load_weights(path, network)
    path.write_bytes(pickle.dumps(Payload(marker), protocol))
    with pytest.raises(DataError, match="refused to load"):
        runs.load_weights(path, network)
    assert not marker.exists()


def test_torn_and_missing_weights(tmp_path, trained):
    network = models.UNet(1, 1, base_channels=2, depth=2)
    whole, torn = trained.best.read_bytes(), tmp_path / "torn.pth"
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        torn.write_bytes(whole[:size])
        with pytest.raises(DataError, match="torn.pth"):
            runs.load_weights(torn, network)
    with pytest.raises(DataError, match="no such file"):
        runs.load_weights(tmp_path / "none.pth", network)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (models.UNet(1, 1, 2, 3).state_dict(), r"another network.*unknown \(.*base_channels"),
        (models.UNet(1, 1, 2, 1).state_dict(), r"another network.*missing \(down\.1"),
        (models.UNet(1, 1, 4, 2).state_dict(), r"first\.0\.weight is \(4, 1, 3, 3\), .* \(2, 1,"),
        (models.UNet(1, 3, 2, 2).state_dict(), r"head\.weight is \(3, 2, 1, 1\)"),
        ([1, 2, 3], "no state_dict"),
    ],
)
def test_foreign_weights(tmp_path, state, message):
    network = models.UNet(1, 1, base_channels=2, depth=2)
    before = copy.deepcopy(network.state_dict())
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(DataError, match=message):
        runs.load_weights(tmp_path / "other.pth", network)
    assert same_weights(network.state_dict(), before)  # no half-loaded network


def test_weights_wrapped_in_a_dict_are_taken(tmp_path, trained):
    torch.save({"state_dict": torch.load(trained.best), "epoch": 3}, tmp_path / "wrapped.pth")
    network = runs.load_weights(tmp_path / "wrapped.pth", models.UNet(1, 1, 2, 2))
    assert same_weights(network.state_dict(), torch.load(trained.best))


# ---- checkpoints


def as_version_0_1(folder):
    """Rewrite the files of a run as version 0.1 wrote them, without the keys that came later."""

    def older(config):
        later = ("layout", "patch_size", "split_seed")
        return {k: v for k, v in config.items() if k not in later} | {"crop": 1.0}

    def without_names(facts):
        return {k: v for k, v in facts.items() if k not in ("network", "loss")}

    for path in folder.glob("*.json"):
        facts = without_names(json.loads(path.read_text()))
        if "config" in facts:
            facts["config"] = older(facts["config"])
        if path.name == "config.json":
            facts = older(json.loads(path.read_text()))
        path.write_text(json.dumps(facts))
    for path in folder.glob("*.ckpt"):
        checkpoint = torch.load(path)
        checkpoint["config"] = older(checkpoint["config"])
        checkpoint["info"] = without_names(checkpoint["info"])
        del checkpoint["state"]["n_splits"]
        torch.save(checkpoint, path)


def test_a_run_of_version_0_1_resumes_and_predicts(tiny, monkeypatch):
    straight = training.fit(*tiny("straight", epochs=3))
    stop_after(2, monkeypatch, *tiny("cut", epochs=3))
    cfg, batches = tiny("cut", epochs=3)
    folder = runs.folder_of(cfg)
    as_version_0_1(folder)
    old = runs.Run.load(folder)
    assert old.config == cfg and len(old.history) == 2
    network = Predictor.load(old.best, "cpu", "fp32").model
    assert same_weights(network.state_dict(), torch.load(old.best))
    assert is_final(training.fit(cfg, batches, resume=True), straight)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_weights_of_version_0_1_load_though_their_config_asks_for_a_part_in_vain(tmp_path):
    """That version ignored `bilinear` where the network is bilinear anyway; now it is refused."""
    cfg = config.preset("cardiac", "smoke", bilinear=True)
    with pytest.raises(ConfigError, match="bilinear: aspp does not have it"):
        runs.network(cfg)
    network = runs.network(cfg.replace(bilinear=False))
    weights = runs.save_weights(tmp_path / "best_model.pth", network, cfg)
    assert same_weights(Predictor.load(weights).model.state_dict(), network.state_dict())


def test_last_ckpt_that_runs_code_is_refused(tiny, tmp_path):
    cfg, batches = tiny()
    folder = runs.folder_of(cfg)
    folder.mkdir(parents=True)
    marker = tmp_path / "marker"
    (folder / "last.ckpt").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DataError, match="refused to load"):
        training.fit(cfg, batches, resume=True)
    assert not marker.exists()


@pytest.mark.parametrize("harm", ["torn", "empty", "overwritten"])
def test_a_damaged_last_state_falls_back_to_the_one_before(tiny, monkeypatch, harm):
    """The epoch is trained again, to the same weights; two damaged files are an error."""
    fields = dict(epochs=3, scheduler="onecycle", augment={"hflip": 0.5})
    straight = training.fit(*tiny("straight", **fields))
    cfg, batches = tiny("cut", **fields)
    stop_after(2, monkeypatch, cfg, batches)
    folder, copied = runs.folder_of(cfg), runs.folder_of(tiny("copied", **fields)[0])
    whole = (folder / "last.ckpt").read_bytes()
    bad = {"torn": whole[: len(whole) // 2], "empty": b"", "overwritten": b"x" * len(whole)}[harm]
    (folder / "last.ckpt").write_bytes(bad)
    shutil.copytree(folder, copied)
    message = r"last\.ckpt: refused to load.*before\.ckpt, an epoch earlier"
    with pytest.warns(UserWarning, match=message):
        resumed = training.fit(cfg, batches, resume=True)
    assert is_final(resumed, straight)
    (copied / "before.ckpt").write_bytes(bad)
    with pytest.raises(DataError, match=r"last\.ckpt"):
        training.fit(cfg, batches, resume=True, folder=copied)
    assert (copied / "best_model.pth").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "lr: .*begun with lr=0.001"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"depth": 3}, "depth"),
        ({"batch_size": 6}, "batch_size: .*batch_size=4"),
        ({"epochs": 5}, "epochs: .*epochs=3"),
        ({"seed": 7}, "seed"),
    ],
)
def test_a_config_that_contradicts_the_run_is_refused(tiny, monkeypatch, change, message):
    fields = dict(epochs=3, scheduler="onecycle", lr=1e-3)
    stop_after(1, monkeypatch, *tiny(**fields))
    folder = runs.folder_of(tiny(**fields)[0])
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ConfigError, match=message):
        training.fit(*tiny(**{**fields, **change}), resume=True)
    assert sorted(path.name for path in folder.iterdir()) == before  # nothing lost


def test_what_else_changed_is_said(tiny, monkeypatch, recwarn):
    stop_after(1, monkeypatch, *tiny(epochs=3))
    changes = dict(loss="dice", augment={"hflip": 0.5})
    with pytest.warns(UserWarning, match="augment .* -> .*hflip.*, loss 'combined' -> 'dice'"):
        training.fit(*tiny(epochs=3, patience=3, **changes), resume=True)
    recwarn.clear()
    training.fit(*tiny(epochs=4, bootstrap=50, **changes), resume=True)
    assert not [w for w in recwarn if "changed settings" in str(w.message)]


@pytest.mark.parametrize("scheduler", ["onecycle", "none"])
def test_other_images_cannot_join_a_schedule_that_counts_updates(tiny, monkeypatch, scheduler):
    cfg, batches = tiny(epochs=3, scheduler=scheduler)
    stop_after(1, monkeypatch, cfg, batches)
    fewer = data.loaders(batches["train"].dataset.store, cfg)
    dataset = fewer["train"].dataset
    dataset.cases, dataset.rows = dataset.cases.iloc[:8], dataset.rows[:8]
    fewer["train"].sampler.n = 8
    if scheduler == "onecycle":
        with pytest.raises(ConfigError, match="begun with 12 training images, now there are 8"):
            training.fit(cfg, fewer, resume=True)
    else:
        with pytest.warns(UserWarning, match="resumed with 8 training images instead of 12"):
            training.fit(cfg, fewer, resume=True)


def test_resume_with_another_network_says_so(tiny):
    cfg, batches = tiny()
    training.fit(cfg, batches)
    with pytest.raises(SeglibError, match="base_channels|network"):
        training.fit(cfg.replace(base_channels=3, epochs=3), batches, resume=True)
