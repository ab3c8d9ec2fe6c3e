"""Config: checks where a value is set, copies, files, and one list of fields for all uses."""

import copy
import importlib
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib import config, presets, tables
from seglib.commands import arguments, parts
from seglib.errors import ConfigError, SeglibError
from tests.helpers import copy_of_the_package

LUNG_AUGMENT = {"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}}
SUFFIXES = (".json", ".toml", ".cfg")


def make(name="lung", **changes):
    return config.preset(name, "full", **changes)


# Sizes and overrides


def test_smoke_variable(monkeypatch):
    assert config.preset("lung").size == "full"
    assert config.pick_size("small") == "small"
    monkeypatch.setenv("SEGLIB_SMOKE", "1")
    assert config.preset("lung").size == "smoke"
    assert config.preset("lung").image_size == 64
    assert config.pick_size("small") == "smoke"
    assert config.preset("lung", "full").size == "full", "a size that is named wins"
    assert config.preset("lung", image_size=96).image_size == 96, "an override wins"
    monkeypatch.setenv("SEGLIB_SMOKE", "0")
    assert config.preset("lung").size == "full"


@pytest.mark.parametrize("size", ["full", "medium", "small", "smoke"])
def test_overrides_win_over_every_size(size):
    cfg = config.preset("rsna", size, epochs=77, image_size=(512, 384), encoder_weights="a.pth")
    assert (cfg.epochs, cfg.image_size, cfg.encoder_weights) == (77, (512, 384), "a.pth")


def test_sizes_as_height_and_width():
    cfg = make(image_size=128)
    assert (cfg.height_width, cfg.patch_height_width) == ((128, 128), None)
    cfg = make(image_size=(64, 96), patch_size=32)
    assert (cfg.height_width, cfg.patch_height_width) == ((64, 96), (32, 32))


def test_settings_are_all_fields_and_the_number_of_classes():
    cfg = make("palm")
    assert cfg.settings == {**{f: getattr(cfg, f) for f in config.FIELDS}, "n_classes": 3}


# Checks at the line that sets a value


def test_assignment_in_a_later_cell_is_checked():
    cfg = make()
    cfg.epochs = 5
    assert cfg.epochs == 5
    with pytest.raises(ConfigError, match="epochs: 0 is out of range; expected 1 to 100000"):
        cfg.epochs = 0
    with pytest.raises(ConfigError, match="epochs: 'five' is not allowed; expected int"):
        cfg.epochs = "five"
    assert cfg.epochs == 5, "a refused value changes nothing"
    with pytest.raises(ConfigError, match=r"'epoch'; did you mean 'epochs'\?"):
        cfg.epoch = 5
    assert not hasattr(cfg, "epoch")


def test_errors_are_of_the_package_and_are_value_errors():
    with pytest.raises(SeglibError):
        make(epochs=-1)
    with pytest.raises(ValueError):
        make(epochs=-1)


@pytest.mark.parametrize(
    "setter, nearest",
    [
        (lambda: config.preset("lnug"), "lung"),
        (lambda: config.preset("lung", "smal"), "small"),
        (lambda: make(batchsize=4), "batch_size"),
        (lambda: make().replace(bach_size=4), "batch_size"),
        (lambda: make(loss="dise"), "dice"),
        (lambda: make(layout="palms"), "palm"),
        (lambda: make(scheduler="plato"), "plateau"),
        (lambda: make(mask_encoding="treshold"), "threshold"),
        (lambda: make(augment={"hflp": 0.5}), "hflip"),
        (lambda: config.parse("epochz", "3"), "epochs"),
    ],
)
def test_the_nearest_name_is_offered(setter, nearest):
    with pytest.raises(ConfigError, match=rf"did you mean '{nearest}'\?"):
        setter()


def test_every_range_is_held():
    """The limits themselves are allowed, what lies beyond is not; also within lists and tables."""
    n_limits = 0
    for name, field in config.FIELDS.items():
        value = getattr(make("cardiac"), name)
        for limit, step in ((field.metadata["low"], -1), (field.metadata["high"], 1)):
            if limit is None or name == "label_map":  # which is checked further, see below
                continue
            n_limits += 1
            length = len(value) if isinstance(value, tuple) else 0
            for number in (limit, limit + step):
                values = (number,) * length if length else number
                if number == limit:
                    config.check(name, values)
                else:
                    with pytest.raises(ConfigError, match=rf"^{name}: .* is out of range"):
                        config.check(name, values)
    assert n_limits > 40


@pytest.mark.parametrize(
    "field, value",
    [
        ("lr", math.nan),
        ("val_split", math.inf),
        ("image_size", (256, 4)),
        ("std", (0.2, 0.0, 0.2)),
        ("mean", (0.5, math.nan, 0.5)),
        ("label_map", {"5": -1}),
        ("label_map", {"5": 1.5}),
        ("label_map", {"liver": 1}),
        ("label_map", {"1.5": 1}),
        ("mask_encoding", {"red": 1}),
        ("mask_encoding", {"255,0": 1}),
        ("mask_encoding", {"256,0,0": 1}),
        ("mask_encoding", {"255,0,0": 300}),
        ("augment", {"rotate": {"angle": 10}}),
        ("augment", {"rotate": {"limit": "ten", "p": 0.5}}),
        ("augment", {"rotate": {"limit": 10, "p": 2}}),
        ("augment", {"hflip": -0.5}),
        ("augment", {"hflip": True}),
        ("augment", {"affine": {"scale": 0.9}}),
        ("augment", {"affine": {"scale": ["small", "large"]}}),
        ("augment", {"coarse_dropout": {"holes": None}}),
        ("augment", {"coarse_dropout": {"fill": 7}}),
        ("optimizer", "Adam"),
        ("loss", "DICE"),
        ("data_root", 5),
    ],
)
def test_a_wrong_value_is_refused_by_name(field, value):
    cfg = make("palm")
    before = getattr(cfg, field)
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        setattr(cfg, field, value)
    assert getattr(cfg, field) == before
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        make("palm", **{field: value})


# Checks of several fields together


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("lung", {"class_names": ("left", "right")}, "class_names: 2 names for the task 'binary'"),
        ("palm", {"class_names": ("disc",)}, "class_names: 1 names for the task 'multilabel'"),
        ("palm", {"class_names": ("disc", "disc", "cup")}, "class_names: .* repeat"),
        ("lung", {"class_names": ("image",)}, "'image' is a column of the case table"),
        ("lung", {"mean": (0.5, 0.5)}, "mean: 2 values for in_channels=1"),
        ("palm", {"std": (0.5, 0.5)}, "std"),
        ("palm", {"in_channels": 1}, "mean"),
        ("rsna", {"window_width": None}, "window_level and window_width"),
        ("lung", {"window_level": 50}, "window_level and window_width"),
        ("lung", {"loss": "cross_entropy"}, "loss: .* choose from bce, weighted_bce, dice, comb"),
        ("rsna", {"loss": "bce"}, "loss"),
        ("palm", {"image_size": (256, 128)}, "rot90 turns a frame of 256x128"),
        ("palm", {"patch_size": (64, 96)}, "rot90 turns a frame of 64x96"),
        ("lung", {"augment": {"colour": 0.5}}, "'colour' changes images of 3 channels, .* is 1"),
        ("lung", {"image_size": (64, 32), "patch_size": 48}, "patch_size"),
        ("palm", {"val_split": 1}, "val_split"),
        ("cardiac", {"percentiles": (99.5, 0.5)}, "percentiles"),
    ],
)
def test_fields_that_do_not_fit_together(name, changes, words):
    with pytest.raises(ConfigError, match=words):
        make(name, **changes)
    cfg = make(name)
    for field, value in changes.items():
        setattr(cfg, field, value)
    with pytest.raises(ConfigError, match=words):
        cfg.validate()


def test_allowed_combinations():
    assert make(mean=(0.5,), std=(0.25,), in_channels=3).mean == (0.5,), "one for all channels"
    assert make("lung", val_split=0.2, test_split=1).test_split == 1, "a share of 1: all"
    assert make("palm", image_size=(256, 128), augment={"hflip": 0.5}).height_width == (256, 128)


@pytest.mark.parametrize("name, value", [("hflpi", 0.5), ("hflip", 7)])
def test_a_change_inside_augment_is_caught_by_validate(name, value):
    cfg = make()
    cfg.augment[name] = value
    with pytest.raises(ConfigError, match="augment"):
        cfg.validate()


@pytest.mark.parametrize(
    ("name", "parameter", "value", "words"),
    [
        ("gauss_noise", "std", 1.5, "a number from 0 to 1"),
        ("gauss_noise", "std", -0.1, "a number from 0 to 1"),
        ("grid_distortion", "limit", 2, "a number from -1 to 1"),
        ("coarse_dropout", "holes", 0, "a number of at least 1"),
        ("coarse_dropout", "size", 1.1, "a number from 0 to 1"),
        ("affine", "scale", (0, 1), "two numbers from 0.01 to 100, the lower one first"),
        ("affine", "scale", (1.2, 0.8), "two numbers from 0.01 to 100, the lower one first"),
        ("affine", "translate", 1.5, "a number from 0 to 1"),
        ("rotate", "limit", -10, "a number from 0 to 360"),
        ("brightness_contrast", "contrast", 1.1, "a number from 0 to 1"),
        ("gamma", "exponent", 1.2, "two numbers from 0.1 to 10, the lower one first"),
        ("gamma", "exponent", (0, 2), "two numbers from 0.1 to 10, the lower one first"),
        ("gamma", "exponent", (0.5, 1, 2), "two numbers"),
        ("blur", "sigma", (0, 1), "two numbers from 0.1 to 20"),
        ("low_resolution", "scale", (0.5, 1.5), "two numbers from 0.01 to 1"),
        ("jpeg", "quality", (0, 90), "two numbers from 1 to 100"),
        ("jpeg", "quality", "low", "two numbers"),
        ("colour", "hue", 0.6, "a number from 0 to 0.5"),
        ("elastic", "strength", 0.5, "a number from 0 to 0.2"),
        ("elastic", "points", 1, "a number from 2 to 32"),
        ("shading", "strength", math.nan, "a number from 0 to 4"),
        ("sharpness", "amount", (True, 2), "two numbers"),
        ("intensity_curve", "strength", -1, "a number from 0 to 2"),
    ],
)
def test_parameters_that_albumentations_would_refuse(name, parameter, value, words):
    text = f"augment: '{parameter}' of '{name}' is .*; expected {words}"
    with pytest.raises(ConfigError, match=text):
        make(augment={name: {"p": 0.5, parameter: value}})


# Sets of augmentations


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("palm", "fundus"),
        ("rsna", "ct"),
        ("cardiac", "mr"),
        ("lung", "xray"),
        ("binary", "colour"),
    ],
)
def test_robust_is_the_set_of_the_presets_kind_of_picture(name, kind):
    plain = {"class_names": ("a",), "task": "binary", "loss": "bce"}
    cfg = make(name, augment="robust", **plain)
    assert cfg.augment == tables.AUGMENTATION_SETS[kind]
    later = make(name, **plain)
    later.augment = "robust"
    assert later == cfg == make(name, augment=kind, **plain) == cfg.replace(augment="robust")


def test_the_sets_by_name():
    for kind, members in tables.AUGMENTATION_SETS.items():
        assert make("binary", augment=kind).augment == members, kind
    for kind in ("ct", "mr"):  # organs lie on one side
        assert not {"hflip", "vflip", "rot90"} & set(tables.AUGMENTATION_SETS[kind])


def test_a_set_is_a_copy():
    cfg = make("lung", augment="xray")
    cfg.augment["affine"]["rotate"] = 99
    cfg.augment["blur"] = 0.0
    assert make("lung", augment="xray").augment == tables.AUGMENTATION_SETS["xray"]
    assert tables.AUGMENTATION_SETS["xray"]["affine"]["rotate"] != 99


def test_a_set_leaves_out_what_does_not_suit_the_config():
    sides = {"class_names": ("left_lung", "Right Lung"), "task": "multilabel"}
    whole = set(tables.AUGMENTATION_SETS["colour"])
    assert whole - set(make("binary", augment="robust", **sides).augment) == {"hflip", "vflip"}
    for name in ("left", "lung_left", "rightLung", "LungRight", "LEFT_LUNG", "right lung"):
        assert "hflip" not in make("binary", augment="robust", class_names=(name,)).augment, name
    for name in ("cleft", "leftover", "bright", "upright_lung", "BRIGHT"):
        assert "hflip" in make("binary", augment="robust", class_names=(name,)).augment, name
    assert whole - set(make("binary", augment="robust", image_size=(64, 96)).augment) == {"rot90"}
    cut = make("binary", augment="robust", image_size=(64, 96), patch_size=64)
    assert whole == set(cut.augment)
    grey = make("binary", augment="robust", in_channels=1, mean=(0.5,), std=(0.5,))
    assert whole - set(grey.augment) == {"colour"}


def test_an_unknown_set_is_refused_by_name():
    for name in ("robbust", "x-ray", "none", ""):
        with pytest.raises(ConfigError, match="augment: .* is no set of .* choose from robust, xr"):
            make(augment=name)
    with pytest.raises(ConfigError, match="did you mean 'robust'"):
        make(augment="robbust")
    with pytest.raises(ConfigError, match="augment: "):
        make(augment=["robust"])


def test_a_set_of_ones_own(monkeypatch):
    monkeypatch.setitem(tables.AUGMENTATION_SETS, "mine", {"hflip": 0.5, "gamma": 0.1})
    assert make(augment="mine").augment == {"hflip": 0.5, "gamma": 0.1}
    monkeypatch.setitem(tables.AUGMENTATION_SETS, "wrong", {"hflip": 0.5, "gama": 0.1})
    with pytest.raises(ConfigError, match="augment: unknown augmentation 'gama'.*'gamma'"):
        make(augment="wrong")
    of_mine = presets.PRESETS["binary"]._replace(picture="mine")
    monkeypatch.setitem(presets.PRESETS, "mine", of_mine)
    assert make("mine", augment="robust").augment == {"hflip": 0.5, "gamma": 0.1}
    monkeypatch.setitem(presets.PRESETS, "mine", of_mine._replace(picture=None))
    with pytest.raises(ConfigError, match="augment: the preset 'mine' has no set 'robust'"):
        make("mine", augment="robust")


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
def test_a_set_in_files_and_texts(tmp_path, suffix):
    assert config.parse("augment", "robust") == "robust"
    assert make(augment=config.parse("augment", "{'hflip': 0.5}")).augment == {"hflip": 0.5}
    with pytest.raises(ConfigError, match="augment: 'robus' is no set"):
        config.parse("augment", "robus")
    path = tmp_path / f"run{suffix}"
    text = {
        ".json": '{"preset": "lung", "augment": "robust"}',
        ".toml": 'preset = "lung"\naugment = "robust"\n',
        ".cfg": "[config]\npreset = lung\naugment = robust\n",
    }
    path.write_text(text[suffix])
    cfg = config.load(path)
    assert cfg.augment == tables.AUGMENTATION_SETS["xray"]
    assert config.load(cfg.save(path)) == cfg


@pytest.mark.parametrize(
    "name",
    ["final_model.pth", "checkpoint_epoch_3.pth", "config.json", "last.ckpt", "history.csv"]
    + ["sub/run.json", "weights", "", ".", ".."],
)
def test_a_checkpoint_name_that_another_file_has(name):
    with pytest.raises(ConfigError, match=f"checkpoint_name: '{name}' is not allowed; expected"):
        make(checkpoint_name=name)


@pytest.mark.parametrize("field", ["seed", "split_seed"])
def test_seeds_are_those_that_torch_takes(field):
    make(**{field: 2**63 - 1})
    with pytest.raises(ConfigError, match=f"{field}: .* out of range"):
        make(**{field: 2**63})


# An encoder as one field

LITE0 = "tu-tf_efficientnet_lite0"
IMAGENET = (config.IMAGENET_MEAN, config.IMAGENET_STD)


def by_argument(name, size):
    return config.preset(name, size, encoder=LITE0)


def by_assignment(name, size):
    cfg = config.preset(name, size)
    cfg.encoder = LITE0
    return cfg


def by_replacement(name, size):
    return config.preset(name, size).replace(encoder=LITE0)


def by_command_line(name, size):
    line = ["train", "--preset", name, "--size", size, "--encoder", LITE0]
    return parts.config_of(arguments.parse(line))


def by_file(name, size):
    path = Path("settings.cfg")
    path.write_text(f"[data]\npreset = {name}\nsize = {size}\n[model]\nencoder = {LITE0}\n")
    return config.load(path)


def by_saved_file(name, size):
    return config.load(config.preset(name, size).save("saved.json"), encoder=LITE0)


def by_saved_file_and_assignment(name, size):
    cfg = config.load(config.preset(name, size).save("saved.toml"))
    cfg.encoder = LITE0
    return cfg


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("size", config.choices_of("size"))
@pytest.mark.parametrize(
    "way",
    [
        *(by_argument, by_assignment, by_replacement, by_command_line),
        *(by_file, by_saved_file, by_saved_file_and_assignment),
    ],
)
def test_an_encoder_is_enough(tmp_path, monkeypatch, name, size, way):
    monkeypatch.chdir(tmp_path)
    plain, cfg = config.preset(name, size), way(name, size).validate()
    assert (cfg.architecture, cfg.encoder) == ("smp_unet", LITE0)
    assert cfg.encoder_weights == "imagenet"
    assert (cfg.mean, cfg.std) == (IMAGENET if cfg.in_channels == 3 else (plain.mean, plain.std))
    implied = {"encoder", *config.OF_ENCODER, *config.PARTS}
    values = cfg.to_dict()
    assert all(values[n] == value for n, value in plain.to_dict().items() if n not in implied)
    assert config.from_dict(cfg.to_dict()) == cfg  # as saved beside weights
    assert config.load(cfg.save("again.json")) == cfg.replace() == copy.deepcopy(cfg) == cfg


def test_the_preset_of_rsna_stays_as_published():
    plain = config.preset("rsna")
    assert config.preset("rsna", encoder=LITE0).replace(encoder=plain.encoder) == plain
    assert config.preset("rsna", "smoke").encoder_weights == "none"


def in_every_order(**changes):
    for order in itertools.permutations(changes.items()):
        cfg = config.preset("lung", "small")
        for name, value in order:
            setattr(cfg, name, value)
        yield cfg.validate()
    yield config.preset("lung", "small", **changes)
    yield config.preset("lung", "small").replace(**changes)


@pytest.mark.parametrize(
    "others",
    [
        {"encoder_weights": "none"},
        {"encoder_weights": "lite0.pth", "in_channels": 3},
        {"mean": (0.4,), "in_channels": 3},
        {"architecture": "smp_unet", "in_channels": 3},
    ],
)
def test_what_is_named_beside_the_encoder_wins_in_every_order(others):
    for cfg in in_every_order(encoder=LITE0, **others):
        assert cfg.architecture == "smp_unet"
        assert cfg.encoder_weights == others.get("encoder_weights", "imagenet")
        is_rgb = "in_channels" in others
        assert cfg.mean == others.get("mean", config.IMAGENET_MEAN if is_rgb else (0.5,))
        assert cfg.std == (config.IMAGENET_STD if is_rgb else (0.25,))


def test_an_encoder_beside_a_network_without_one_is_refused_in_every_order():
    for make in (
        lambda: next(in_every_order(encoder=LITE0, architecture="unet")),
        lambda: next(in_every_order(architecture="aspp", encoder=LITE0)),
        lambda: config.preset("lung", encoder=LITE0, architecture="unet"),
        lambda: config.preset("lung", encoder=LITE0).replace(architecture="unet"),
    ):
        with pytest.raises(ConfigError, match=f"encoder: '{LITE0}' is set, but the architecture"):
            make()


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
def test_an_encoder_written_into_a_saved_file_is_not_ignored(tmp_path, suffix):
    path = config.preset("lung", "small").save(tmp_path / f"saved{suffix}")
    text = path.read_text()
    path.write_text(text.replace(config.preset("lung").encoder, LITE0))
    with pytest.raises(ConfigError, match=f"encoder: '{LITE0}' is set, but the architecture"):
        config.load(path)
    assert config.load(path, architecture="smp_unet").encoder == LITE0
    # Another network leaves the encoder out, so that the saved file is read again.
    config.preset("lung", encoder=LITE0).save(path)
    cfg = config.load(path, architecture="unet")
    assert cfg.encoder == config.preset("lung").encoder
    assert config.load(cfg.save(path)) == cfg


def test_parts_of_the_presets_network_are_left_out_where_another_is_named(monkeypatch):
    small = {**presets.PRESETS["lung"].small, "stem": "space_to_depth", "deep_supervision": True}
    monkeypatch.setitem(presets.PRESETS, "lung", presets.PRESETS["lung"]._replace(small=small))
    for named in ({"encoder": LITE0}, {"architecture": "smp_unet"}):
        cfg = config.preset("lung", "small", **named)
        assert (cfg.stem, cfg.deep_supervision) == ("full", False)
    assert config.preset("lung", "small", architecture="aspp").stem == "space_to_depth"
    with_stem = config.preset("lung", "small", encoder=LITE0, stem="space_to_depth")
    assert with_stem.stem == "space_to_depth"  # refused where the network is built


def test_an_architecture_of_ones_own_that_takes_an_encoder_stays(monkeypatch):
    mine = tables.Architecture(lambda in_channels, n_classes, encoder: None)
    monkeypatch.setitem(tables.ARCHITECTURES, "mine", mine)
    cfg = config.preset("lung", architecture="mine")
    cfg.encoder = LITE0
    assert cfg.architecture == "mine"


# Copies


def test_replace_makes_a_checked_copy():
    cfg = make()
    other = cfg.replace(seed=1, augment={"hflip": 0.1})
    assert (other.seed, cfg.seed) == (1, 0)
    assert cfg.augment == LUNG_AUGMENT
    assert other.replace(seed=0, augment=cfg.augment) == cfg
    with pytest.raises(ConfigError, match="class_names"):
        cfg.replace(class_names=("a", "b"))


def test_replace_shares_no_dictionary():
    cfg = make()
    other = cfg.replace(seed=1)
    other.augment["hflip"] = 0.0
    other.augment["rotate"]["limit"] = 99
    other.label_map["1"] = 1
    assert cfg.augment == LUNG_AUGMENT
    assert cfg.label_map == {}


def test_presets_share_no_dictionary():
    try:
        first = make()
        first.augment["hflip"] = 0.0
        first.augment["rotate"]["limit"] = 99
        assert make().augment == LUNG_AUGMENT
        config.Config().label_map["7"] = 1
        assert config.Config().label_map == {}
        config.Config().augment["hflip"] = 1.0
        assert config.Config().augment == {}
    finally:  # a failure here must not change the preset for the other tests
        presets.PRESETS["lung"].full["augment"]["rotate"]["limit"] = 10


def test_the_callers_dictionary_is_not_kept():
    mine = {"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}}
    cfg = make(augment=mine)
    mine["hflip"] = 0.1
    mine["rotate"]["limit"] = 90
    assert cfg.augment == {"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}}


def test_configs_can_be_copied_and_pickled():
    cfg = make("rsna")
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    assert copy.deepcopy(cfg) == cfg
    assert cfg != make("rsna", seed=1)


def test_old_objects_survive_a_reload_of_the_module():
    cfg, before = make(), dict(vars(config))
    try:
        importlib.reload(config)
        cfg.epochs = 3
        assert cfg.epochs == 3
        with pytest.raises(ConfigError, match="epochs"):
            cfg.epochs = 0
        with pytest.raises(ConfigError, match="'epochs'"):
            cfg.epochz = 3
        assert cfg.validate().replace(seed=4).seed == 4
        assert cfg.to_dict()["epochs"] == 3
    finally:
        vars(config).update(before)  # other test files hold the classes of before


# Files


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_survives_a_file(tmp_path, name):
    cfg = config.preset(name)
    for suffix in SUFFIXES:
        path = cfg.save(tmp_path / "sub" / f"run{suffix}")
        assert path == tmp_path / "sub" / f"run{suffix}"
        assert config.load(path) == cfg


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_changed_values_survive_a_file(tmp_path, suffix):
    cfg = config.preset(
        "palm",
        "small",
        data_root='/data/My Drive/50% = "half" #1; C:\\new',
        image_size=(96, 64),
        slice_axis=1,
        augment={"hflip": 0.25, "affine": {"scale": [0.8, 1.25], "rotate": 30, "p": 1}},
        mask_inverted=True,
        mask_encoding={(255, 0, 0): 1, (0, 255, 0): 2},
        label_map={7: 1},
        bilinear=True,
        class_names=("a b", "it's", "größe"),
        lr=1e-7,
        test_split=3,
        percentiles=(1, 99),
    )
    assert config.load(cfg.save(tmp_path / f"run{suffix}")) == cfg
    switched_off = make("rsna", window_level=None, window_width=None)
    assert config.load(switched_off.save(tmp_path / f"off{suffix}")) == switched_off


PATHS = ["/daten/Müller/肺", "/data/\U0001fac1", "true", "3", "[1, 2]", "none.d", "a,b", "C:\\"]
PATHS += [r"C:\new\tables\x", r"\\server\share\users", "D:/data", r"C:\My Data\100%\#1; a=b"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_path_survives_a_file(tmp_path, suffix):
    for path in PATHS:
        cfg = make(data_root=path, work_dir=path)
        assert config.load(cfg.save(tmp_path / f"run{suffix}")) == cfg, path


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1)


@given(
    lr=st.floats(1e-8, 10),
    names=st.lists(NAMES.filter(lambda name: name not in config.RESERVED), min_size=2, unique=True),
    suffix=st.sampled_from(SUFFIXES),
)
def test_any_values_survive_a_file(tmp_path_factory, lr, names, suffix):
    cfg = make("palm", lr=lr, class_names=names)
    path = cfg.save(tmp_path_factory.getbasetemp() / f"any{suffix}")
    assert config.load(path) == cfg


def test_to_dict_is_plain_json():
    values = make("palm", image_size=(96, 96)).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["image_size"] == [96, 96]
    assert values["class_names"] == ["atrophy", "detachment", "disc"]
    assert list(values) == list(config.FIELDS)


SETTINGS = """
[data]
data_root = data/heart
image_size = 128
val_split = 0.25
class_names = background, a, b, c
mask_encoding = index

[training]
epochs = 3
lr = 1e-4
early_stopping = yes
augment = {"hflip": 0.5, "rotate": {"limit": 15}}
; a comment

[model]
preset = cardiac
aspp_rates = 2, 4
attention = true
init_from = none
"""


def test_settings_cfg_with_three_sections(tmp_path):
    path = tmp_path / "settings.cfg"
    path.write_text(SETTINGS, encoding="utf-8")
    cfg = config.load(path)
    expected = {
        "preset": "cardiac",
        "size": "full",
        "data_root": "data/heart",
        "image_size": 128,
        "val_split": 0.25,
        "class_names": ("background", "a", "b", "c"),
        "mask_encoding": "index",
        "epochs": 3,
        "lr": 1e-4,
        "early_stopping": True,
        "augment": {"hflip": 0.5, "rotate": {"limit": 15}},
        "aspp_rates": (2, 4),
        "attention": True,
        "init_from": None,
        "batch_size": 16,
        "loss": "cross_entropy",
        "monitor": "val_loss",
    }
    assert {field: getattr(cfg, field) for field in expected} == expected
    assert config.load(path, epochs=9).epochs == 9, "what is given beside the file wins"


def test_toml_with_and_without_sections(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('preset = "lung"\nepochs = 3\n[data]\nimage_size = 64\n[training]\nlr = 0.01\n')
    cfg = config.load(path)
    assert (cfg.preset, cfg.epochs, cfg.image_size, cfg.lr) == ("lung", 3, 64, 0.01)


def test_a_file_without_size_follows_the_variable(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text('{"preset": "lung"}')
    assert config.load(path).size == "full"
    monkeypatch.setenv("SEGLIB_SMOKE", "1")
    assert config.load(path).size == "smoke"
    path.write_text('{"preset": "lung", "size": "small"}')
    assert config.load(path).size == "small"


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.cfg", "[training]\npreset = lung\nepochs = many\n", "epochs: 'many' is not allowed"),
        ("a.cfg", "[training]\npreset = lung\nepoch = 3\n", "'epoch'; did you mean 'epochs'"),
        ("a.cfg", "[training]\nepochs = 3\n", r"a\.cfg: no 'preset'.*lung"),
        ("a.json", '{"preset": "lung", "epochs": "3"}', "epochs: '3' is not allowed"),
    ],
)
def test_files_with_wrong_settings(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        config.load(tmp_path / name)


def test_saving_under_another_suffix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.yaml"):
        make().save(tmp_path / "run.yaml")
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_an_older_version_mean_the_same():
    """Before version 0.2 there was `crop`, a share, and `seed` decided the split too."""
    saved = {"preset": "cardiac", "size": "full", "seed": 3, "image_size": [256, 128]}
    cfg = config.from_dict({**saved, "crop": 0.5})
    assert (cfg.patch_size, cfg.seed, cfg.split_seed) == ((128, 64), 3, 3)
    assert config.from_dict({**saved, "crop": 1.0}).patch_size is None
    assert config.from_dict({**saved, "split_seed": 7}).split_seed == 7


# Texts of a command line


def test_a_text_is_parsed_and_checked():
    assert config.parse("image_size", "256,128") == (256, 128)
    assert config.parse("epochs", " 20 ") == 20
    for field, text in [("epochs", "1.5"), ("epochs", ""), ("lr", "none"), ("loss", "DICE")]:
        with pytest.raises(ConfigError, match=rf"^{field}: "):
            config.parse(field, text)


@given(st.sampled_from(sorted(config.FIELDS)), st.text())
def test_parse_raises_nothing_but_config_errors(field, text):
    try:
        value = config.parse(field, text)
    except ConfigError as error:
        assert field in str(error)
    else:
        assert config.check(field, value) == value


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_saved_value_can_be_typed(name):
    cfg = config.preset(name)
    for field, value in cfg.to_dict().items():
        text = value if isinstance(value, str) else json.dumps(value)
        text = {"true": "True", "false": "False", "null": "none"}.get(text, text)
        assert config.parse(field, text) == getattr(cfg, field), field


# One list of fields


@pytest.fixture(scope="module")
def arrivals(tmp_path_factory):
    """Where new fields arrive: a copy of the package gets one for each thing that fields affect."""
    folder = tmp_path_factory.mktemp("new_fields")
    path = copy_of_the_package(folder) / "config.py"
    text = path.read_text()
    last = '    bootstrap: int = _setting(2000, "resamples of the 95 % intervals", "use", 10)\n'
    assert last in text
    new = [f'    new_{name}: int = _setting(1, "a new one", "{name}")\n' for name in config.AFFECTS]
    path.write_text(text.replace(last, last + "".join(new)))
    program = Path(__file__).with_name("new_fields.py")
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, program, *(f"new_{name}" for name in config.AFFECTS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_a_new_field_reaches_what_is_built(arrivals):
    """The script gave every new field the value 2; networks and losses name what they take."""
    assert arrivals["network"] == {"new_network": 2}
    assert arrivals["loss"] == {"new_run": 2}
    assert arrivals["stores_differ_by"] == ["new_store"]
    assert "| network | mine, new_network 2 |" in arrivals["card"]


def test_a_new_field_is_checked_when_a_run_is_resumed(arrivals):
    rules = {"new_store": "told", "new_split": "told", "new_network": "fixed", "new_run": "told"}
    rules |= {"new_updates": "told", "new_use": "free", "new_place": "free"}
    assert arrivals["resume"] == rules
    assert arrivals["resume_by_step"] == {**rules, "new_updates": "fixed"}


def test_a_new_field_is_an_option(arrivals):
    everything = [f"new_{name}" for name in config.AFFECTS]
    assert arrivals["options"] == {
        "prepare": everything,
        "train": everything,
        "evaluate": ["new_use", "new_place"],
        "predict": ["new_use", "new_place"],
    }
    # The weights know what they were trained with; the place is that of here.
    assert arrivals["as_trained"] == {"new_use": 2, "new_place": 1}
    assert arrivals["as_asked_for"] == {"new_use": 5, "new_place": 5}


def test_rules_of_single_fields():
    """What a store is made anew for, and what a resumed run refuses, takes, or tells."""
    store = """task class_names image_size resize in_channels percentiles mask_encoding
        mask_inverted label_map window_level window_width slice_axis missing_weight"""
    assert set(store.split()) <= set(config.fields_that("store"))
    split = {"val_split", "test_split", "keep_split", "split_seed"}
    assert split <= set(config.fields_that("split"))
    fixed = """preset task class_names in_channels architecture base_channels depth bilinear
        attention aspp_rates encoder optimizer lr weight_decay scheduler monitor seed split_seed
        checkpoint_name"""
    free = """work_dir local data_root num_workers device precision cudnn_benchmark compile
        checkpointing size epochs save_every patience early_stopping bootstrap init_from
        encoder_weights"""
    rules = {name: field.metadata["resume"] for name, field in config.FIELDS.items()}
    assert {rules[name] for name in fixed.split()} == {"fixed"}
    assert {rules[name] for name in free.split()} == {"free"}
    assert {rules[name] for name in ("augment", "loss", "batch_size", "val_split")} == {"told"}


def test_patches_of_a_preset_are_for_frames_that_hold_them():
    assert config.preset("rsna", "small").patch_size == 192
    assert config.preset("rsna", "small", image_size=512).patch_size == 192
    assert config.preset("rsna", "small", image_size=(128, 256)).patch_size is None
    cfg = config.preset("rsna", "small")
    cfg.image_size = 128
    assert cfg.validate().patch_size is None
    with pytest.raises(config.ConfigError, match="patch_size: 192 is larger than image_size 128"):
        config.preset("rsna", "small", image_size=128, patch_size=192)


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("binary", ("lung",), {0: "lung"}),
        ("multilabel", ("cup", "disc"), {0: "cup", 1: "disc"}),
        ("multiclass", ("background", "liver", "spleen"), {1: "liver", 2: "spleen"}),
    ],
)
def test_structures_are_the_classes_without_the_background(task, names, expected):
    assert config.preset("binary", task=task, class_names=names).structures == expected
