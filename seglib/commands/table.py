"""The table of all commands with their options."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import config, effects, presets, tables
from . import parts
from .data import phantoms, prepare, stores
from .networks import export, zoo
from .prediction import predict
from .training import compare, evaluate, train


class Command(NamedTuple):
    """One command; its name and its help are those of `function`.

    `options`: the names of an option, separated by spaces, -> arguments of `add_argument`.
    `fields`: the settings of `Config` that are options as well.
    """

    function: Callable[[argparse.Namespace], None]
    options: dict[str, dict[str, Any]]
    fields: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _value(metavar: str, text: str, default: Any = None) -> dict[str, Any]:
    """An option with a value, of the type of its default; the help text ends with the default."""
    if default is None:
        return {"metavar": metavar, "help": text}
    text += f" (default {default})"
    return {"metavar": metavar, "help": text, "default": default, "type": type(default)}


def _choice(metavar: str, choices: Iterable[str], text: str, default: Any = None) -> dict[str, Any]:
    """An option with one of several values."""
    return {**_value(metavar, text, default), "choices": list(choices)}


def _flag(text: str) -> dict[str, Any]:
    """An option without a value."""
    return {"action": "store_true", "help": text}


WEIGHTS = {
    "--model_path --model": {
        "metavar": "FILE|NAME",
        "nargs": "+",
        "help": "weights, or a network of the zoo such as lung (default the newest best ones); "
        "several, or the folder of train --folds: the mean of these networks",
    }
}

TIFF_PAGES = {
    "metavar": "MEANING",
    "choices": ("volume", "pictures"),
    "help": "the pages of a multi-page TIFF are slices of a volume, or pictures of their own "
    "(default: such files are refused)",
}

PREDICTION = {  # the options of a predictor, `inference.OPTIONS`
    "--tta": {
        "metavar": "FLIPS",
        "nargs": "?",
        "const": True,
        "default": False,
        "help": "mean over flipped views: alone, the flips that the network was trained with; "
        "or hflip, vflip or hflip,vflip, where a mirrored image of your data is as plausible",
    },
    "--tta_rotation": _value("DEGREES", "mean with two views turned by so much", 0.0),
    "--min_component_size": _value("N", "remove connected components of fewer pixels or voxels", 0),
    "--keep_largest_component": _flag("keep the largest connected component of each class"),
    "--fill_holes": _flag("fill what a class encloses"),
}

OUTLINE_TOLERANCE = _value(
    "PIXELS", "by which outlines may move for fewer corners; up to 0.1 no pixel changes", 0.1
)

COMMANDS = (
    Command(
        phantoms,
        options={
            "name": _value("NAME", f"a preset: {', '.join(presets.PRESETS)}"),
            "--output": _value("DIR", "receives the tree (default data/phantoms/NAME)"),
            "--n": _value("N", "number of images", 24),
            "--seed": _value("N", "seed of the images", 0),
            "--hospital": _value("NAME", "first, or second: other patients and devices", "first"),
        },
    ),
    Command(
        prepare,
        options={
            "--source_images": _value("DIR", "images, or folders NAME/images + NAME/masks"),
            "--source_masks": _value("DIR", "masks (default in the folder of the images)"),
            "--annotations": _value(
                "PATH",
                "annotation file, or a folder of them: LabelMe, COCO, CVAT, VIA, YOLO, Roboflow, "
                "GeoJSON, ImageJ (default those beside the images)",
            ),
            "--tiff_pages": TIFF_PAGES,
            "--nested": {
                "metavar": "MEANING",
                "choices": ("holes", "filled"),
                "help": "with --annotations of COCO: a polygon inside another one of its "
                "annotation is one of its holes, or filled (default what their area says)",
            },
            "--class_attribute": _value(
                "NAME", "with --annotations of VIA: the attribute that holds the class"
            ),
            "--output": _value("DIR", "receives images/ and masks/"),
            "--image_suffix": _value("TEXT", "ending of image names, such as _image or .jpg"),
            "--mask_suffix": _value("TEXT", "ending of mask names, as _mask (default detected)"),
            "--export": _value("DIR", "without --source_images: receives the data, see --form"),
            "--export_nnunet": _value(
                "DIR", "nnUNet_raw: receives the data and its split as a data set of nnU-Net"
            ),
            "--folds": {
                "metavar": "N",
                "type": int,
                "help": "of --export_nnunet: the split of train --folds N, not train and val alone",
            },
            "--form": _choice(
                "FORM",
                ("png", *tables.ANNOTATION_FORMS),
                "of --export: png, resized images and masks; or the masks at their own size for "
                "labelling tools: labelme, coco (outlines), coco_rle, coco_uncompressed_rle",
                "png",
            ),
            "--outline_tolerance": OUTLINE_TOLERANCE,
        },
        fields=tuple(config.FIELDS),
    ),
    Command(
        stores,
        options={
            "--prune": _flag(
                "remove those of older versions, broken or unfinished ones, and "
                "those whose images are gone"
            ),
        },
        fields=("work_dir", "local"),
    ),
    Command(
        train,
        options={
            "--checkpoint_dir": _value(
                "DIR", "run folder (default checkpoints for binary, else work_dir/PRESET)"
            ),
            "--resume": _flag("go on after the last finished epoch"),
            "--folds": {
                "metavar": "N",
                "type": int,
                "help": "cross-validation: N trainings, each scored on the patients that it never "
                "saw (default run folder checkpoints_folds for binary, else work_dir/PRESET_folds)",
            },
            "--seeds": _value("N,N", "with --folds: train every fold with each seed", "0"),
        },
        fields=tuple(config.FIELDS),
    ),
    Command(
        evaluate,
        options={
            **WEIGHTS,
            "--output_dir": _value("DIR", "receives the report", "evaluation_results"),
            **PREDICTION,
        },
        fields=("preset", *parts.USE),
    ),
    Command(
        predict,
        aliases=("inference", "synthesize"),
        options={
            **WEIGHTS,
            "--image_path --input_image": _value(
                "FILE",
                "one image, a volume (NIfTI, NRRD, MetaImage), or the folder of a DICOM series",
            ),
            "--image_dir": _value("DIR", "a folder of images or volumes"),
            "--tiff_pages": TIFF_PAGES,
            "--mask_path": _value("FILE", "the truth of the one picture: prints Dice and IoU"),
            "--output_dir": _value("DIR", "receives the masks", "predictions"),
            "--save_overlay": _flag("of pictures also NAME_overlay.png"),
            "--dicom_seg": _flag("of a DICOM series also NAME_mask.dcm, a Segmentation"),
            "--tiled": _flag("pictures at their own resolution, in tiles of the trained size"),
            "--show_probability": _flag("the probabilities in NAME_visualization.png of pictures"),
            "--annotations": _choice(
                "FORM",
                tables.ANNOTATION_FORMS,
                "of pictures also outlines that LabelMe (labelme, a file a picture) or COCO tools "
                "(coco, one file; coco_rle and coco_uncompressed_rle: masks) open for correction",
            ),
            "--outline_tolerance": OUTLINE_TOLERANCE,
            "--table": _value(
                "FILE.csv", "measures of each image and class: area, volume, place, mean intensity"
            ),
            "--objects": _flag(
                "in the table one row an object (nuclei, lesions): those that touch are split at "
                "the neck between them, by a watershed of the distance from the outside"
            ),
            "--neck": _value(
                "SHARE",
                "with --objects: split where the neck is narrower than this share of the narrower "
                "object; 0 splits only what does not touch",
                0.8,
            ),
            "--pixel_mm": _value(
                "MM", "of pictures in the table: height,width of a pixel, or one number for both"
            ),
            **PREDICTION,
        },
        fields=effects.PREDICT,
    ),
    Command(
        zoo,
        options={
            "name": {"metavar": "NAME", "nargs": "?", "help": "a network: prints its model card"},
        },
    ),
    Command(
        export,
        options={
            **WEIGHTS,
            "--output_dir": _value("DIR", "receives the files", "exported"),
            "--kaggle": _value("NAME", "your Kaggle user name: also DIR/kaggle, to be published"),
            "--title": _value("TEXT", "of the Kaggle data set, 6 to 50 letters"),
            "--report": _value(
                "DIR",
                "output folder of evaluate, for the scores on the model card (default: evaluation "
                "or evaluation_results, beside the weights or here, if of these weights)",
            ),
        },
    ),
    Command(
        compare,
        options={
            "first": _value("FIRST", "output folder of evaluate, or its evaluation_report.json"),
            "second": _value("SECOND", "another one, of the same images"),
            "--metric": _value("NAME", "dice, iou, hd95, ...", "dice"),
        },
    ),
)
