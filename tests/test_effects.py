"""Options that cannot act are refused or told; every option of every command is accounted for."""

import pytest

from seglib import config, effects
from seglib.commands.arguments import parse
from seglib.commands.table import COMMANDS
from seglib.errors import ConfigError

# Options that act in every line in which they may stand, and why no rule is needed. Fields of
# `Config` are listed where a command takes them.
ALWAYS = {
    "phantoms": {"name", "output", "n", "seed", "hospital"},
    "stores": {"prune", "work_dir", "local"},
    "zoo": {"name"},
    "compare": {"first", "second", "metric"},
    "export": {"model_path", "output_dir", "kaggle"},
    "prepare": {"source_images"},
    "train": {"checkpoint_dir", "resume", "folds"},
    "evaluate": {"model_path", "output_dir"},
    "predict": {"model_path", "image_path", "image_dir", "output_dir", "table"},
}
# Options of a predictor: `tta` is told by `inference.NO_FLIPS`, the others change masks.
PREDICTOR = {"tta", "tta_rotation", "min_component_size", "keep_largest_component", "fill_holes"}
# Settings that always act on their command.
SETTINGS = {
    "evaluate": {
        *("preset", "data_root", "layout", "work_dir", "local", "mask_encoding", "batch_size"),
        *("num_workers", "precision", "device", "bootstrap", "patient_pattern", "patient_table"),
    },
    "predict": {"preset", "precision", "device"},
    "prepare": effects.PREPARE | effects.CONVERT,
    "train": set(config.FIELDS),
}


def options_of(command):
    names = {option.split()[0].lstrip("-") for option in command.options}
    return names | set(command.fields)


def ruled(command):
    """The options of a command that a rule of `effects` is about."""
    names = {n for rule in effects.REFUSED if rule.command == command for n in rule.options}
    return names | {
        n for rule in effects.WITHOUT_EFFECT if command in rule.commands for n in rule.options
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.function.__name__)
def test_every_option_of_every_command_acts_or_has_a_rule(command):
    name = command.function.__name__
    accounted = ALWAYS[name] | ruled(name) | SETTINGS.get(name, set())
    if name in ("evaluate", "predict"):
        accounted |= PREDICTOR
    assert options_of(command) <= accounted
    assert ruled(name) <= options_of(command), "a rule about an option that does not exist"


def refused(line):
    args = parse(line.split())
    with pytest.raises(ConfigError) as error:
        effects.refuse(args.function.__name__, args.given, args)
    return str(error.value)


@pytest.mark.parametrize(
    "line, words",
    [
        ("predict --image_path a.nii --annotations coco", "annotations: acts on pictures"),
        ("predict --image_path a.png --outline_tolerance 1", "give --annotations coco or labelme"),
        ("prepare --form labelme", "form: says in which form --export DIR is written"),
        (
            "prepare --export a --form coco_rle --outline_tolerance 1",
            "give --export DIR and --form coco or labelme",
        ),
        ("predict --image_path a.nii.gz --tiled", "tiled: acts on pictures"),
        ("predict --image_path a.nii --save_overlay", "save_overlay: acts on pictures"),
        ("predict --image_path a.nii --show_probability", "show_probability: acts on pictures"),
        ("predict --image_path a.nii --mask_path b.nii", "mask_path: the truth of one picture"),
        ("predict --image_dir . --mask_path b.png", "mask_path: the truth of one picture"),
        ("predict --image_path a.nii --table t.csv --pixel_mm 1", "pixel_mm: acts on pictures"),
        ("predict --image_path a.png --objects", "objects: acts on the table"),
        ("predict --image_path a.png --pixel_mm 0.2", "pixel_mm: acts on the table"),
        ("predict --image_path a.png --table t.csv --neck 0.5", "neck: says which objects"),
        ("predict --image_path a.png --dicom_seg", "dicom_seg: give the folder"),
        ("predict --image_dir . --dicom_seg", "dicom_seg: give the folder"),
        ("predict --image_path a.png --slice_axis 1", "slice_axis: cuts volumes"),
        ("predict --image_dir . --tiff_pages volume", "tiff_pages: is of one file"),
        ("predict --image_path a.tif --mask_path b.tif --tiff_pages volume", "without --mask_path"),
        ("predict --image_path a.png --label_map {'5':1}", "label_map: says how"),
        ("predict --image_path a.png --mask_inverted", "mask_inverted: says how"),
        ("predict --image_path a.png --model_path w.pth --work_dir x", "work_dir: says where"),
        ("predict --image_path a.png --min_component_size 1", "expected 2 or more"),
        ("evaluate --min_component_size -5", "expected 2 or more"),
        ("evaluate --tta_rotation nan", "expected up to 180"),
        ("evaluate --tta_rotation 400", "expected up to 180"),
        ("prepare --output x", "output: converts"),
        ("prepare --mask_suffix _m", "mask_suffix: converts"),
        ("prepare --source_images a --output b --export c", "export: writes the resized"),
        ("prepare --source_images a --output b --image_size 64", "image_size: has no effect"),
        ("train --seeds 0,1", "seeds: trains the folds"),
        ("train --folds 5 --seed 1", "seed: the folds of --folds"),
        ("train --folds 5 --test_split 9", "test_split: with --folds"),
        ("export --title Lungs", "title: goes into"),
        ("export --report evaluation", "report: goes into"),
    ],
)
def test_what_cannot_act_in_a_line_is_refused(line, words):
    assert words in refused(line)


@pytest.mark.parametrize(
    "line",
    [
        "predict --image_path a.png --mask_path b.png --mask_inverted --tiled --save_overlay",
        "predict --image_dir . --tiled --save_overlay --show_probability --slice_axis 1",
        "predict --image_path a.nii.gz --slice_axis 1 --threshold 0.4 --tta",
        "predict --image_path a.png --table t.csv --objects --neck 0.5 --pixel_mm 0.2,0.3",
        "predict --image_path . --dicom_seg",
        "prepare --preset lung --size smoke --export c --image_size 64",
        "prepare --source_images a --output b --mask_inverted --preset lung",
        "train --folds 5 --seeds 0,1",
        "export --kaggle me --title Lungs",
    ],
)
def test_what_can_act_is_not_refused(line):
    args = parse(line.split())
    effects.refuse(args.function.__name__, args.given, args)


def told(line, preset="binary", pictures=True, volumes=False, **changes):
    args = parse(line.split())
    now = effects.Situation(config.preset(preset, "smoke", **changes), pictures, volumes)
    lines = effects.without_effect(args.function.__name__, args.given, now)
    return [text.split(" ")[0].removeprefix("--") for text in lines]


@pytest.mark.parametrize(
    "line, preset, options",
    [
        ("train --threshold 0.4", "cardiac", ["threshold"]),
        ("train --threshold 0.4", "binary", []),
        ("train --encoder tu-resnet18 --base_channels 8", "binary", ["encoder"]),
        ("train --aspp_rates 2,4 --bilinear", "binary", ["aspp_rates"]),
        ("train --aspp_rates 2,4 --bilinear", "cardiac", ["bilinear"]),
        ("train --base_channels 8", "rsna", ["base_channels"]),
        ("train --encoder_weights imagenet", "lung", ["encoder_weights"]),
        ("train --focal_gamma 3", "binary", ["focal_gamma"]),
        ("train --focal_gamma 3 --class_names background,a", "rsna", []),
        ("train --loss_weights 0.2,0.8", "binary", []),
        ("train --cudnn_benchmark no --device cpu", "binary", ["cudnn_benchmark"]),
        ("train --window_level 40 --window_width 400", "rsna", ["window_level", "window_width"]),
        ("prepare --epochs 3 --image_size 64", "binary", ["epochs"]),
        ("evaluate --mask_inverted", "cardiac", ["mask_inverted"]),
        ("evaluate --label_map {'5':1}", "binary", []),
        ("evaluate --label_map {'5':1}", "cardiac", []),
        ("predict --image_dir . --slice_axis 1 --tiled", "binary", ["slice_axis"]),
    ],
)
def test_what_has_no_effect_with_a_config_is_told(line, preset, options):
    assert told(line, preset, device="cpu") == options


def test_what_acts_on_volumes_and_on_pictures():
    assert told("evaluate --slice_axis 1", pictures=False, volumes=True) == []
    line = "predict --image_dir . --tiled --save_overlay"
    assert told(line, pictures=False, volumes=True) == ["tiled", "save_overlay"]
    assert told("train --patience 3", early_stopping=False) == ["patience"]
    assert told("train --patience 3", early_stopping=True) == []


def test_label_map_acts_unless_mask_encoding_decides():
    line = "evaluate --label_map {'5':1}"
    assert told(line, mask_encoding="threshold") == ["label_map"]
    assert told(line, mask_encoding="threshold", volumes=True) == []
    assert told(line, "cardiac", mask_encoding={"255,0,0": 1}, volumes=True) == ["label_map"]


def test_an_option_with_its_default_value_counts_as_not_given():
    assert parse(["predict", "--tta_rotation", "0", "--image_path", "a.png"]).given == [
        "image_path"
    ]
