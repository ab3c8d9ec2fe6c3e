"""Config: the numbers of `systems.md`, checks at the line that sets a value, files, texts of a command line."""

import copy
import importlib
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglib import config, presets
from seglib.errors import ConfigError, SeglibError

PRESETS = ("palm", "rsna", "cardiac", "lung", "binary")
SIZES = ("full", "small", "smoke")
ALL = [(name, size) for name in PRESETS for size in SIZES]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Copied by hand from systems.md, never from the code.
NUMBERS = {
    "palm": {
        "task": "multilabel",
        "class_names": ("atrophy", "detachment", "disc"),
        "image_size": 256,
        "resize": "letterbox",
        "in_channels": 3,
        **IMAGENET,
        "mask_inverted": "auto",
        "augment": {"hflip": 0.5, "vflip": 0.5, "rot90": 0.5},
        "architecture": "unet",
        "base_channels": 64,
        "depth": 4,
        "bilinear": False,
        "loss": "weighted_bce",
        "missing_weight": 0.0,
        "missing_normalisation": "annotated",
        "optimizer": "adam",
        "lr": 1e-4,
        "batch_size": 16,
        "epochs": 100,
        "monitor": "val_loss",
        "checkpoint_name": "best_model.pth",
        "device": "auto",
        "keep_split": True,
        "test_split": 0.0,
    },
    "rsna": {
        "task": "multiclass",
        "class_names": ("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel"),
        "window_level": 50.0,
        "window_width": 400.0,
        "in_channels": 3,
        "image_size": 512,
        "val_split": 0.1,
        "test_split": 0.0,
        "label_map": {"5": 1, "1": 2, "3": 3, "2": 4, "18": 5, "19": 5, "20": 5},
        "architecture": "smp_unet",
        "encoder": "tu-tf_mobilenetv3_large_100",
        "encoder_weights": "imagenet",
        "loss": "dice_focal",
        "loss_weights": (0.5, 0.5),
        "focal_gamma": 2.0,
        "augment": {
            "hflip": 0.5,
            "vflip": 0.5,
            "rotate": {"limit": 45, "p": 0.5},
            "grid_distortion": 0.3,
            "coarse_dropout": 0.2,
        },
        "optimizer": "adamw",
        "lr": 1e-3,
        "scheduler": "cosine",
        "epochs": 30,
        "batch_size": 32,
        "accumulate": 16,
        "checkpoint_name": "best_model_512.pth",
        "cudnn_benchmark": True,
        "precision": "auto",
        "num_workers": 16,
    },
    "cardiac": {
        "task": "multiclass",
        "class_names": ("background", "right_ventricle", "myocardium", "left_ventricle"),
        "image_size": 256,
        "in_channels": 1,
        "percentiles": (0.5, 99.5),
        "architecture": "aspp",
        "aspp_rates": (6, 12, 18),
        "depth": 4,
        "loss": "cross_entropy",
        "optimizer": "adam",
        "lr": 1e-3,
        "batch_size": 16,
        "epochs": 50,
        "test_split": 0.2,
        "val_split": 0.25,
        "monitor": "val_loss",
        "attention": False,
        "slice_axis": None,
    },
    "lung": {
        "task": "binary",
        "class_names": ("lung",),
        "image_size": 512,
        "architecture": "unet",
        "loss": "bce",
        "optimizer": "adam",
        "lr": 1e-4,
        "batch_size": 16,
        "epochs": 50,
        "monitor": "val_dice",
        "test_split": 50.0,
        "val_split": 0.2,
        "augment": {"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}},
        "local": True,
    },
    "binary": {
        "task": "binary",
        "image_size": 256,
        "in_channels": 3,
        **IMAGENET,
        "architecture": "unet",
        "base_channels": 64,
        "depth": 4,
        "bilinear": False,
        "loss": "combined",
        "loss_weights": (0.5, 0.5),
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "batch_size": 8,
        "epochs": 50,
        "val_split": 0.2,
        "scheduler": "none",
        "early_stopping": True,
        "patience": 15,
        "monitor": "val_dice",
        "save_every": 10,
        "checkpoint_name": "best_model.pth",
        "threshold": 0.5,
        "encoder_weights": "none",
    },
}

# field -> (lowest, highest allowed); None = no limit
WHOLE_NUMBERS = {
    "image_size": (8, 8192),
    "in_channels": (1, 16),
    "slice_axis": (0, 2),
    "base_channels": (1, 512),
    "depth": (1, 8),
    "epochs": (1, 100_000),
    "batch_size": (1, 4096),
    "accumulate": (1, 4096),
    "patience": (1, None),
    "save_every": (0, None),
    "num_workers": (0, None),
    "seed": (0, None),
    "bootstrap": (10, None),
}


def make(name="lung", **changes):
    return config.preset(name, "full", **changes)


# The numbers


@pytest.mark.parametrize("name", PRESETS)
def test_the_full_size_has_the_numbers_of_the_system(name):
    cfg = config.preset(name)
    assert (cfg.preset, cfg.size) == (name, "full")
    found = {field: getattr(cfg, field) for field in NUMBERS[name]}
    assert found == NUMBERS[name]


def test_augmentations_of_the_systems_that_leave_the_strength_open():
    cardiac = make("cardiac").augment
    assert {"hflip", "vflip"} <= set(cardiac)
    assert cardiac["affine"]["rotate"] == 30
    assert tuple(cardiac["affine"]["scale"]) == (0.8, 1.2)
    binary = make("binary").augment
    assert set(binary) == {
        "hflip",
        "vflip",
        "rot90",
        "affine",
        "brightness_contrast",
        "gauss_noise",
    }
    assert {"scale", "translate", "rotate"} <= set(binary["affine"])


def test_cardiac_is_split_60_20_20():
    cfg = make("cardiac")
    test = cfg.test_split
    val = (1 - test) * cfg.val_split
    assert (1 - test - val, val, test) == pytest.approx((0.6, 0.2, 0.2))


def test_phases_of_rsna():
    first = make("rsna", **presets.RSNA_PHASES["initial"])
    found = (first.optimizer, first.lr, first.scheduler, first.epochs, first.checkpoint_name)
    assert found == ("adamw", 1e-3, "cosine", 30, "best_model_512.pth")
    assert (first.batch_size, first.accumulate, first.batch_size * first.accumulate) == (
        32,
        16,
        512,
    )
    second = make("rsna", **presets.RSNA_PHASES["refined"], init_from="best_model_512.pth")
    assert (second.lr, second.epochs, second.batch_size, second.accumulate) == (5e-5, 10, 64, 1)
    assert second.checkpoint_name == "best_mobilenet_rsna_refined.pth"
    assert second.init_from == "best_model_512.pth"
    assert make("rsna", **presets.RSNA_PHASES["base"]).checkpoint_name == "best_mobilenet.pth"


@pytest.mark.parametrize(("name", "size"), ALL)
def test_every_size_is_valid_and_changes_the_effort_only(name, size):
    cfg, full = config.preset(name, size), config.preset(name, "full")
    assert (cfg.preset, cfg.size) == (name, size)
    assert cfg.validate() is cfg
    for field in (
        "task",
        "class_names",
        "in_channels",
        "mean",
        "std",
        "label_map",
        "mask_encoding",
        "architecture",
    ):
        assert getattr(cfg, field) == getattr(full, field), field
    for field in ("val_split", "test_split", "keep_split", "monitor", "checkpoint_name"):
        assert getattr(cfg, field) == getattr(full, field), field
    assert set(cfg.augment) <= set(full.augment)


@pytest.mark.parametrize("name", PRESETS)
def test_smaller_sizes_are_smaller(name):
    full, small, smoke = (config.preset(name, size) for size in SIZES)
    for field in ("base_channels", "batch_size", "image_size"):
        assert getattr(full, field) >= getattr(small, field) >= getattr(smoke, field), field
    cost = [c.epochs * c.base_channels**2 * np.prod(c.height_width) for c in (full, small, smoke)]
    assert cost[0] > cost[1] > cost[2] and small.epochs > smoke.epochs
    assert smoke.encoder_weights == "none", "a smoke run must not need the network"


def test_smoke_variable(monkeypatch):
    assert config.preset("lung").size == "full"
    assert config.pick_size("small") == "small"
    monkeypatch.setenv("SEGLIB_SMOKE", "1")
    assert config.preset("lung").size == "smoke"
    assert config.preset("lung").image_size == config.preset("lung", "smoke").image_size == 64
    assert config.pick_size("small") == "smoke"
    assert config.preset("lung", "full").size == "full", "a size that is given wins"
    assert config.preset("lung", image_size=96, epochs=7).image_size == 96, (
        "a value that is given wins"
    )
    monkeypatch.setenv("SEGLIB_SMOKE", "0")
    assert config.preset("lung").size == "full"


def test_overrides_win_over_every_size():
    for size in SIZES:
        cfg = config.preset(
            "rsna", size, epochs=77, image_size=(64, 96), encoder_weights="weights.pth"
        )
        assert (cfg.epochs, cfg.image_size, cfg.encoder_weights) == (77, (64, 96), "weights.pth")


def test_height_width_and_n_classes():
    assert make(image_size=128).height_width == (128, 128)
    assert make(image_size=(64, 96)).height_width == (64, 96)
    assert [make(name).n_classes for name in PRESETS] == [3, 6, 4, 1, 1]


# Checks at the line that sets a value


def test_assignment_in_a_later_cell_is_checked():
    cfg = make()
    cfg.epochs = 5
    assert cfg.epochs == 5
    with pytest.raises(ConfigError, match="epochs"):
        cfg.epochs = 0
    with pytest.raises(ConfigError, match="epochs"):
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
    ("do", "meant"),
    [
        (lambda: config.preset("lnug"), "lung"),
        (lambda: config.preset("lung", "smal"), "small"),
        (lambda: make(epoch=3), "epochs"),
        (lambda: make(learning_rate=3, batchsize=4), None),
        (lambda: make(batchsize=4), "batch_size"),
        (lambda: make().replace(bach_size=4), "batch_size"),
        (lambda: make(loss="dise"), "dice"),
        (lambda: make(scheduler="plato"), "plateau"),
        (lambda: make(mask_encoding="treshold"), "threshold"),
        (lambda: make(augment={"hflp": 0.5}), "hflip"),
        (lambda: config.parse("epochz", "3"), "epochs"),
    ],
)
def test_the_nearest_name_is_offered(do, meant):
    with pytest.raises(ConfigError) as error:
        do()
    assert meant is None or f"did you mean {meant!r}?" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 5.0),
        ("epochs", "5"),
        ("epochs", True),
        ("epochs", None),
        ("epochs", [5]),
        ("lr", "fast"),
        ("lr", None),
        ("lr", True),
        ("lr", 0),
        ("lr", -1e-4),
        ("lr", math.nan),
        ("lr", math.inf),
        ("image_size", (256, 256, 3)),
        ("image_size", (256,)),
        ("image_size", 256.0),
        ("image_size", "256"),
        ("image_size", (256, 4)),
        ("image_size", 7),
        ("image_size", ()),
        ("class_names", "lung"),
        ("class_names", ()),
        ("class_names", (1, 2)),
        ("class_names", None),
        ("mean", (0.5, math.nan, 0.5)),
        ("std", (0.2, 0.0, 0.2)),
        ("std", (-0.2,)),
        ("keep_split", 1),
        ("keep_split", "yes"),
        ("local", None),
        ("mask_inverted", "yes"),
        ("mask_inverted", 1),
        ("mask_encoding", None),
        ("mask_encoding", {"255,0,0": "one"}),
        ("label_map", {"5": -1}),
        ("label_map", {"5": 1.5}),
        ("label_map", [(5, 1)]),
        ("val_split", -0.1),
        ("test_split", -1),
        ("val_split", math.nan),
        ("val_split", math.inf),
        ("loss_weights", (1.0,)),
        ("loss_weights", (0.5, 0.5, 0.5)),
        ("loss_weights", (-0.5, 0.5)),
        ("percentiles", (0.5, 101)),
        ("percentiles", (0.5,)),
        ("window_width", 0),
        ("missing_weight", 1.5),
        ("threshold", 1.01),
        ("threshold", -0.01),
        ("weight_decay", 2),
        ("focal_gamma", -1),
        ("clip", -1),
        ("precision", "fp8"),
        ("device", "gpu"),
        ("optimizer", "Adam"),
        ("task", "regression"),
        ("data_root", 5),
        ("num_workers", "all"),
        ("num_workers", 1.5),
        ("aspp_rates", (0, 6)),
        ("aspp_rates", 6),
        ("augment", {"rotate": {"angle": 10}}),
        ("augment", {"hflip": 1.5}),
        ("augment", {"hflip": -0.5}),
        ("augment", {"hflip": "often"}),
        ("augment", {"hflip": True}),
        ("augment", {"rotate": {"limit": 10, "p": 2}}),
        ("augment", ["hflip"]),
    ],
)
def test_wrong_type_or_range_is_refused_by_name(field, value):
    cfg = make("palm")
    before = getattr(cfg, field)
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        setattr(cfg, field, value)
    assert getattr(cfg, field) == before
    with pytest.raises(ConfigError, match=rf"^{field}: "):
        make("palm", **{field: value})


@pytest.mark.parametrize(
    "augment",
    [
        {"rotate": {"limit": "ten", "p": 0.5}},
        {"affine": {"scale": 0.9, "p": 0.5}},
        {"affine": {"scale": ["small", "large"]}},
        {"coarse_dropout": {"holes": None}},
    ],
)
def test_parameters_of_augmentations_are_checked_too(augment):
    with pytest.raises(ConfigError, match=f"^augment: .*{next(iter(augment))}"):
        make(augment=augment)


@pytest.mark.parametrize(
    "table",
    [
        {"red": 1},
        {"255,0": 1},
        {"255,0,0,255": 1},
        {"256,0,0": 1},
        {"255,0,0": 300},
        {"255,0,0": -1},
    ],
)
def test_a_colour_table_is_checked_at_once(table):
    with pytest.raises(ConfigError, match="^mask_encoding: "):
        make(mask_encoding=table)


@pytest.mark.parametrize("table", [{"liver": 1}, {"1.5": 1}])
def test_a_label_map_is_checked_at_once(table):
    with pytest.raises(ConfigError, match="^label_map: "):
        make("cardiac", label_map=table)


def test_what_is_allowed_gets_its_standard_form():
    cfg = make("palm")
    cfg.lr = 1
    assert (cfg.lr, type(cfg.lr)) == (1.0, float)
    cfg.image_size = [64, 96]
    assert cfg.image_size == (64, 96)
    cfg.epochs = np.int64(3)
    assert (cfg.epochs, type(cfg.epochs)) == (3, int)
    cfg.lr = np.float32(0.5)
    assert type(cfg.lr) is float
    cfg.class_names = ["a", "b", "c"]
    assert cfg.class_names == ("a", "b", "c")
    cfg.mask_encoding = {(255, 0, 0): 1}
    assert cfg.mask_encoding == {"255,0,0": 1}
    cfg.label_map = {5: 1}
    assert cfg.label_map == {"5": 1}
    cfg.mask_inverted = True
    assert cfg.mask_inverted is True
    cfg.augment = {"hflip": 1, "rotate": {"limit": 5}}
    assert cfg.augment == {"hflip": 1, "rotate": {"limit": 5}}
    cfg.data_root = Path("some") / "where"
    assert cfg.data_root == str(Path("some/where"))


@pytest.mark.parametrize("field", WHOLE_NUMBERS)
@given(data=st.data())
def test_whole_numbers_in_range_are_taken(field, data):
    low, high = WHOLE_NUMBERS[field]
    value = data.draw(st.integers(low, high))
    assert config.check(field, value) == value
    cfg = make()
    setattr(cfg, field, value)
    assert getattr(cfg, field) == value


@pytest.mark.parametrize("field", WHOLE_NUMBERS)
@given(data=st.data())
def test_whole_numbers_out_of_range_are_refused(field, data):
    low, high = WHOLE_NUMBERS[field]
    outside = st.integers(max_value=low - 1)
    if high is not None:
        outside |= st.integers(min_value=high + 1)
    value = data.draw(outside)
    with pytest.raises(ConfigError, match=rf"^{field}: {value} is out of range"):
        config.check(field, value)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("missing_weight", 0, 1), ("threshold", 0, 1), ("lr", 1e-8, 10), ("weight_decay", 0, 1)],
)
@given(data=st.data())
def test_numbers_in_and_out_of_range(field, low, high, data):
    inside = data.draw(st.floats(low, high))
    assert config.check(field, inside) == inside
    outside = data.draw(
        st.floats(max_value=low, exclude_max=True) | st.floats(min_value=high, exclude_min=True)
    )
    with pytest.raises(ConfigError, match=field):
        config.check(field, outside)


# Checks of several fields together


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("lung", {"class_names": ("left", "right")}, "class_names"),
        ("palm", {"class_names": ("disc",)}, "class_names"),
        ("palm", {"class_names": ("disc", "disc", "cup")}, "class_names"),
        ("lung", {"class_names": ("image",)}, "class_names"),
        ("lung", {"mean": (0.5, 0.5)}, "mean"),
        ("palm", {"std": (0.5, 0.5)}, "std"),
        ("palm", {"in_channels": 1}, "mean"),
        ("rsna", {"window_width": None}, "window_level and window_width"),
        ("lung", {"window_level": 50}, "window_level and window_width"),
        ("lung", {"loss": "cross_entropy"}, "loss"),
        ("rsna", {"loss": "bce"}, "loss"),
        ("palm", {"image_size": (256, 128)}, "rot90"),
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
    assert make(mean=(0.5,), std=(0.25,), in_channels=3).mean == (0.5,), (
        "one value serves all channels"
    )
    assert make("lung", val_split=0.2, test_split=1).test_split == 1, "a share of 1: all"
    assert make("palm", image_size=(256, 128), augment={"hflip": 0.5}).height_width == (256, 128)


@pytest.mark.parametrize("entry", [("hflpi", 0.5), ("hflip", 7)])
def test_a_change_inside_augment_is_caught_by_validate(entry):
    cfg = make()
    cfg.augment[entry[0]] = entry[1]
    with pytest.raises(ConfigError, match="augment"):
        cfg.validate()


# Copies


def test_replace_makes_a_checked_copy():
    cfg = make()
    other = cfg.replace(seed=1, augment={"hflip": 0.1})
    assert (other.seed, cfg.seed) == (1, 0)
    assert cfg.augment == NUMBERS["lung"]["augment"]
    assert other.replace(seed=0, augment=cfg.augment) == cfg
    with pytest.raises(ConfigError, match="class_names"):
        cfg.replace(class_names=("a", "b"))


def test_replace_shares_no_dictionary():
    cfg = make()
    other = cfg.replace(seed=1)
    other.augment["hflip"] = 0.0
    other.augment["rotate"]["limit"] = 99
    other.label_map["1"] = 1
    assert cfg.augment == NUMBERS["lung"]["augment"]
    assert cfg.label_map == {}


def test_presets_share_no_dictionary():
    try:
        first = make()
        first.augment["hflip"] = 0.0
        first.augment["rotate"]["limit"] = 99
        assert make().augment == NUMBERS["lung"]["augment"]
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


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
@pytest.mark.parametrize(("name", "size"), ALL)
def test_every_preset_survives_a_file(tmp_path, name, size, suffix):
    cfg = config.preset(name, size)
    path = cfg.save(tmp_path / "sub" / f"run{suffix}")
    assert path == tmp_path / "sub" / f"run{suffix}"
    assert config.load(path) == cfg


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
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
        num_workers="auto",
        bilinear=True,
        class_names=("a b", "it's", "größe"),
        lr=1e-7,
        test_split=3,
        percentiles=(1, 99),
    )
    assert config.load(cfg.save(tmp_path / f"run{suffix}")) == cfg


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
@pytest.mark.parametrize(
    "text",
    ["/daten/Müller/肺", "/data/\U0001fac1", "true", "3", "[1, 2]", "none.d", "a,b"]
    + [r"C:\new\tables\x", r"\\server\share\users", "D:/data", "C:\\", r"C:\My Data\100%\#1; a=b"],
)
def test_any_path_survives_a_file(tmp_path, suffix, text):
    cfg = make(data_root=text, work_dir=text)
    assert config.load(cfg.save(tmp_path / f"run{suffix}")) == cfg


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
def test_a_setting_that_was_switched_off_stays_off(tmp_path, suffix):
    cfg = make("rsna", window_level=None, window_width=None)
    assert config.load(cfg.save(tmp_path / f"run{suffix}")) == cfg
    cfg = make("cardiac", percentiles=None)
    assert config.load(cfg.save(tmp_path / f"run{suffix}")).percentiles is None


NAMES = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1)


@given(
    epochs=st.integers(1, 100_000),
    lr=st.floats(1e-8, 10),
    names=st.lists(NAMES.filter(lambda name: name not in config.RESERVED), min_size=2, unique=True),
    suffix=st.sampled_from([".json", ".toml", ".cfg"]),
)
def test_any_values_survive_a_file(tmp_path_factory, epochs, lr, names, suffix):
    cfg = make("palm", epochs=epochs, lr=lr, class_names=names)
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
    ("name", "text", "words"),
    [
        (
            "a.cfg",
            "[optimizer]\nlr = 1\n",
            r"a\.cfg: unknown section \[optimizer\]; expected \[data\]",
        ),
        ("a.cfg", "lr = 1\n", r"a\.cfg: not readable as a config"),
        ("a.cfg", "[data]\nlr = 1\nlr = 2\n", r"a\.cfg: not readable as a config"),
        ("a.cfg", "[training]\npreset = lung\nepochs = many\n", "epochs: 'many' is not allowed"),
        ("a.cfg", "[training]\npreset = lung\nepoch = 3\n", "'epoch'; did you mean 'epochs'"),
        ("a.cfg", "[training]\nepochs = 3\n", r"a\.cfg: no 'preset'.*lung"),
        ("a.json", "{broken", r"a\.json: not readable as a config"),
        ("a.json", "[1, 2]", r"a\.json: found a list"),
        ("a.json", '{"preset": "lung", "epochs": "3"}', "epochs"),
        ("a.toml", "preset = lung", r"a\.toml: not readable as a config"),
        ("a.yaml", "preset: lung", r"a\.yaml: a config is a \.json, \.toml or \.cfg file"),
    ],
)
def test_broken_files_say_which_and_what(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        config.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".json", ".toml", ".cfg"])
def test_files_that_are_no_text_or_missing(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    with pytest.raises(ConfigError, match=f"run{suffix}: no such config file"):
        config.load(path)
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=f"run{suffix}: not readable"):
        config.load(path)


def test_saving_under_another_suffix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.yaml"):
        make().save(tmp_path / "run.yaml")
    assert list(tmp_path.iterdir()) == []


# Texts of a command line


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "20", 20),
        ("epochs", " 20 ", 20),
        ("lr", "1e-4", 1e-4),
        ("lr", "0.001", 0.001),
        ("lr", "1", 1.0),
        ("image_size", "256", 256),
        ("image_size", "256,128", (256, 128)),
        ("image_size", "(256, 128)", (256, 128)),
        ("image_size", "[256, 128]", (256, 128)),
        ("class_names", "lung", ("lung",)),
        ("class_names", "a,b", ("a", "b")),
        ("class_names", "a, b", ("a", "b")),
        ("class_names", '["a b", "c"]', ("a b", "c")),
        ("mean", "0.5", (0.5,)),
        ("mean", "0.5,0.4,0.3", (0.5, 0.4, 0.3)),
        ("aspp_rates", "6", (6,)),
        ("bilinear", "true", True),
        ("bilinear", "True", True),
        ("bilinear", "no", False),
        ("bilinear", "off", False),
        ("mask_inverted", "auto", "auto"),
        ("mask_inverted", "yes", True),
        ("mask_inverted", "false", False),
        ("scheduler", "none", "none"),
        ("encoder_weights", "none", "none"),
        ("data_root", "none", None),
        ("data_root", "", None),
        ("data_root", "123", "123"),
        ("data_root", "true", "true"),
        ("work_dir", "5", "5"),
        ("slice_axis", "none", None),
        ("slice_axis", "2", 2),
        ("window_level", "None", None),
        ("window_level", "-50", -50.0),
        ("num_workers", "auto", "auto"),
        ("num_workers", "4", 4),
        ("mask_encoding", "index", "index"),
        ("mask_encoding", '{"255,0,0": 1}', {"255,0,0": 1}),
        ("mask_encoding", "{(255, 0, 0): 1}", {"255,0,0": 1}),
        ("label_map", '{"5": 1}', {"5": 1}),
        ("label_map", "{5: 1}", {"5": 1}),
        ("augment", "{}", {}),
        (
            "augment",
            '{"hflip": 0.5, "rotate": {"limit": 10}}',
            {"hflip": 0.5, "rotate": {"limit": 10}},
        ),
        ("percentiles", "0.5, 99.5", (0.5, 99.5)),
        ("percentiles", "none", None),
        ("test_split", "50", 50.0),
    ],
)
def test_parse(field, text, value):
    found = config.parse(field, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("epochs", "many"),
        ("epochs", "1.5"),
        ("epochs", ""),
        ("epochs", "0"),
        ("lr", "fast"),
        ("lr", "none"),
        ("bilinear", "maybe"),
        ("image_size", "256x128"),
        ("image_size", "1,2,3"),
        ("loss", "DICE"),
        ("percentiles", "1"),
        ("augment", "hflip"),
        ("label_map", "5"),
        ("epochs", "__import__('os')"),
    ],
)
def test_parse_refuses(field, text):
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


@pytest.mark.parametrize(("name", "size"), ALL)
def test_every_saved_value_can_be_typed(name, size):
    cfg = config.preset(name, size)
    for field, value in cfg.to_dict().items():
        text = (
            value if isinstance(value, str) else json.dumps(value) if value is not None else "none"
        )
        typed = text.capitalize() if text in ("true", "false") else text
        assert config.parse(field, typed) == getattr(cfg, field), field
