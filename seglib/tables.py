"""What names in settings and reports mean: layouts, losses, networks, metrics, augmentations.

An addition is one entry here, plus its code; the setting's check, the error messages and the
command line's help follow. A notebook cell may add an entry of its own:
`tables.LOSSES["mine"] = tables.Loss(my_loss, ("binary",))`. The entries of this file name their
code as `"module:function"` below `seglib`, so that nothing is loaded before it is used.
"""

import importlib
import inspect
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

# Forms of files for labelling tools -> how they hold a mask: see `annotations.writers`.
ANNOTATION_FORMS = {
    "coco": "polygons",
    "coco_rle": "rle",
    "coco_uncompressed_rle": "uncompressed_rle",
    "labelme": "polygons",
}
IGNORE = 255  # value in a mask of pixels that no loss, metric or curve may count
MIN_PATIENTS = 5  # with fewer, no interval is given


class Layout(NamedTuple):
    """A form that a folder of raw data can have.

    `scan` returns the case table, see `layouts.scan`. It receives those of the following that its
    parameters name: `root` (the folder), `cfg`, every setting, and `class_name` (the first class).

    A folder has this layout if it holds every name of one of the alternatives in `markers`;
    patterns such as `patient*/*_gt.nii*` are allowed, where `.nii*` stands for all formats of
    volumes. `markers` identify it anywhere.
    `shared_markers` also occur in other layouts, so they count only below a `data_root` that the
    user set. `nested_markers` are those of a folder that holds several such trees, which `scan`
    reads together; they count there too, but only if the layout is also usual for the preset.
    """

    scan: str | Callable
    markers: tuple[tuple[str, ...], ...]
    shared_markers: tuple[tuple[str, ...], ...] = ()
    nested_markers: tuple[tuple[str, ...], ...] = ()


class Loss(NamedTuple):
    """A loss, and the tasks that it fits.

    `build` returns a callable `loss(logits, target, annotated)`; it receives the settings that its
    parameters name.
    """

    build: str | Callable
    tasks: tuple[str, ...]


class Augmentation(NamedTuple):
    """A random change of a training image and its masks, a key of `cfg.augment`.

    `build` returns a transform of albumentations. It receives what its parameters name of
    `albumentations` (the module), `p` (the probability) and the entry's own `parameters`, as far as
    `cfg.augment` gives them.

    A parameter is a number, or one of the `pairs`: two numbers, the lowest and the highest value.
    `ranges` maps a parameter to its smallest and its largest value. `channels` is the number of
    channels that an image must have, where that matters.

    `region` is for transforms that bring pixels of farther away into a patch. It receives the
    `height` and `width` of a patch and the parameters, and returns the height and width that the
    transform needs to fill it. Such transforms act first, then the patch is cut out, and all others
    change the patch alone.

    An entry with `second_image` takes pixels of another image of the same part. It comes before all
    others, and `data` does it: see `copy_paste`.
    """

    build: str | Callable
    parameters: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = {}
    pairs: Collection[str] = ()
    channels: int | None = None
    region: str | Callable | None = None
    second_image: bool = False


class Architecture(NamedTuple):
    """A network.

    `build` returns an `nn.Module`; it receives the settings that its parameters name. `poolings` is
    how often it halves an image whose sides must stay at least one pixel long: a number, or the
    name of the setting that tells it.
    """

    build: str | Callable
    poolings: int | str = 0


class Metric(NamedTuple):
    """A score of one class. Its name is the column of `per_image` and the `metric` of the summary.

    `compute` gets what `source` says:

    - "counts": tp, fp, fn and tn, float64 arrays of one shape; the result has that shape too. Such
      a metric is also averaged over volumes and pooled over pixels, and may choose a threshold;
    - "distances": the `metrics.SurfaceDistances` of two masks that are not empty;
    - "probabilities": prob, truth and valid of one image, see `metrics.bce`;
    - "histogram": the `curves.HistogramROC` of all pixels of a part of the data.

    `best` and `worst` are the ends of its range. For distances they are also the scores where both
    masks are empty and where one is; a `worst` of infinity then stands for the image's diagonal.
    A `headline` metric is among the few at the top of a report.
    """

    compute: str | Callable
    source: str
    best: float = 1.0
    worst: float = 0.0
    headline: bool = False

    @property
    def less_is_better(self) -> bool:
        return self.best < self.worst


# Name of a folder -> the part of the split that it holds.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
# Names of two folders whose images and masks have equal names; imagesTr and labelsTr are those of
# nnU-Net and of the Decathlon, img and label those of Synapse (BTCV), img and msk those of copies
# of AMOS, JPEGImages and SegmentationClass those of Pascal VOC, which CVAT writes.
PAIRS_OF_FOLDERS = (
    ("images", "masks"),
    ("images", "labels"),
    ("imagesTr", "labelsTr"),
    ("img", "label"),
    ("img", "labels"),
    ("img", "msk"),
    ("JPEGImages", "SegmentationClass"),
)
# Three layouts read such folders, each in its own way.
_IMAGES_AND_MASKS = (
    *PAIRS_OF_FOLDERS,
    ("train/images", "train/masks"),
    ("train/images", "train/labels"),
    ("train/img", "train/label"),
    ("train/img", "train/msk"),
)

LAYOUTS: dict[str, Layout] = {
    "chest": Layout(
        "layouts.pictures:scan_chest",
        markers=(
            ("MontgomerySet/CXR_png",),
            ("CXR_png", "ManualMask"),
            ("img/CHNCXR_*", "mask"),
            ("CXR_png/CHNCXR_*",),
            ("CXR_png", "masks"),
            ("images", "leftMask", "rightMask"),
        ),
    ),
    "palm": Layout(
        "layouts.pictures:scan_palm",
        markers=(
            ("Training/Images", "Training/* Masks"),
            ("PALM/Training/Images", "PALM/Training/* Masks"),
        ),
    ),
    "carvana": Layout("layouts.pictures:scan_carvana", markers=(("train", "train_masks"),)),
    "isic": Layout("layouts.pictures:scan_isic", markers=(("ISIC*_Input", "ISIC*_GroundTruth"),)),
    "images_masks": Layout(
        "layouts.folders:scan_images_masks",
        markers=(("images", "masks"), ("train/images", "train/masks")),
        shared_markers=_IMAGES_AND_MASKS,
    ),
    "train_val": Layout(
        "layouts.folders:scan_images_masks",
        markers=(("train/images", "train/masks"),),
        shared_markers=_IMAGES_AND_MASKS,
    ),
    "slices": Layout(
        "layouts.folders:scan_slices",
        markers=(("images", "labels"),),
        shared_markers=_IMAGES_AND_MASKS,
        nested_markers=(("*/images", "*/masks"), ("*/images", "*/labels")),
    ),
    "named": Layout(
        "layouts.named:scan_named",
        markers=(("train/_classes.csv",),),
        # Other trees of this layout have no marks: `layouts.scan` tries it where no other one fits.
    ),
    "rsna_dicom": Layout(
        "layouts.volumes:scan_rsna_dicom", markers=(("train_images", "segmentations"),)
    ),
    "ct_seg": Layout(
        "layouts.volumes:scan_ct_seg",
        markers=(),
        shared_markers=(
            ("*_seg.nii*",),
            ("*_seg_*.nii*",),
            ("*_ct*", "*_seg"),
            ("ct.nii*", "seg*"),
            ("ct", "seg*"),
            ("*/ct.nii*", "*/seg*"),
            ("*/ct", "*/seg*"),
        ),
        nested_markers=(
            ("*/*_seg.nii*",),
            ("*/*_ct*", "*/*_seg"),
            ("*/*/ct.nii*", "*/*/seg*"),
        ),
    ),
    "volume_pairs": Layout(
        "layouts.folders:scan_volume_pairs",
        markers=(),
        shared_markers=(
            ("im*g*.nii*", "label*.nii*"),
            ("im*g*.nii*", "mask*.nii*"),
            ("im*g*.nii*", "seg*.nii*"),
            ("vol*.nii*", "seg*.nii*"),
            ("*_im*g*.nii*", "*_label*.nii*"),
            ("*_im*g*.nii*", "*_mask*.nii*"),
            ("*_im*g*.nii*", "*_gt*.nii*"),
        ),
    ),
    "cases": Layout(
        "layouts.cases:scan_cases",
        markers=(),
        shared_markers=(
            ("*/image.nii*", "*/label.nii*"),
            ("*/image.nii*", "*/mask.nii*"),
            ("*/image.nii*", "*/seg*.nii*"),
            ("*/*.nii*", "*/segmentation.nii*"),
            ("*/*_flair.nii*", "*/*_seg.nii*"),
            ("*/*-t2f.nii*", "*/*-seg.nii*"),
        ),
    ),
    "dicom": Layout(
        "layouts.dicom:scan_dicom",
        markers=(),
        shared_markers=(("*.dcm",), ("*/*.dcm",), ("*/*/*.dcm",), ("*/*/*/*.dcm",)),
    ),
    "acdc": Layout(
        "layouts.volumes:scan_acdc",
        markers=(("patient*/*_gt.nii*",), ("training/patient*/*_gt.nii*",)),
    ),
}

LOSSES: dict[str, Loss] = {
    "bce": Loss("losses:bce", ("binary", "multilabel")),
    "weighted_bce": Loss("losses:weighted_bce", ("binary", "multilabel")),
    "dice": Loss("losses:DiceLoss", ("binary", "multilabel")),
    "combined": Loss("losses:combined", ("binary", "multilabel")),
    "cross_entropy": Loss("losses:CrossEntropy", ("multiclass",)),
    "dice_focal": Loss("losses:dice_focal", ("multiclass",)),
}

AUGMENTATIONS: dict[str, Augmentation] = {
    # Geometry: image and masks change together.
    "hflip": Augmentation("augmentations:hflip"),
    "vflip": Augmentation("augmentations:vflip"),
    "rot90": Augmentation("augmentations:rot90", region="patches:square"),
    "rotate": Augmentation(
        "augmentations:rotate", ("limit",), {"limit": (0, 360)}, region="patches:rotated"
    ),
    "affine": Augmentation(
        "augmentations:affine",
        ("scale", "translate", "rotate"),
        {"scale": (0.01, 100), "translate": (0, 1), "rotate": (0, 360)},
        pairs=("scale",),
        region="patches:moved",
    ),
    "grid_distortion": Augmentation(
        "augmentations:grid_distortion", ("limit",), {"limit": (-1, 1)}
    ),
    "copy_paste": Augmentation(
        "copy_paste:CopyPaste",
        ("structures", "softness"),
        {"structures": (1, 50), "softness": (0, 20)},
        second_image=True,
    ),
    "elastic": Augmentation(
        "augmentations:elastic",
        ("strength", "points"),
        {"strength": (0, 0.2), "points": (2, 32)},
        region="patches:warped",
    ),
    # Intensities: the masks are not changed.
    "shading": Augmentation(
        "augmentations:shading",
        ("strength", "points"),
        {"strength": (0, 4), "points": (2, 32)},
    ),
    "blur": Augmentation("augmentations:blur", ("sigma",), {"sigma": (0.1, 20)}, pairs=("sigma",)),
    "low_resolution": Augmentation(
        "augmentations:low_resolution", ("scale",), {"scale": (0.01, 1)}, pairs=("scale",)
    ),
    "gauss_noise": Augmentation("augmentations:gauss_noise", ("std",), {"std": (0, 1)}),
    "brightness_contrast": Augmentation(
        "augmentations:brightness_contrast",
        ("brightness", "contrast"),
        {"brightness": (0, 1), "contrast": (0, 1)},
    ),
    "gamma": Augmentation(
        "augmentations:gamma", ("exponent",), {"exponent": (0.1, 10)}, pairs=("exponent",)
    ),
    "intensity_curve": Augmentation(
        "augmentations:intensity_curve",
        ("strength", "per_channel"),
        {"strength": (0, 2), "per_channel": (0, 2)},
    ),
    "colour": Augmentation(
        "augmentations:colour",
        ("hue", "saturation"),
        {"hue": (0, 0.5), "saturation": (0, 1)},
        channels=3,
    ),
    "sharpness": Augmentation(
        "augmentations:sharpness", ("amount",), {"amount": (0, 10)}, pairs=("amount",)
    ),
    "jpeg": Augmentation(
        "augmentations:jpeg", ("quality",), {"quality": (1, 100)}, pairs=("quality",)
    ),
    "coarse_dropout": Augmentation(
        "augmentations:coarse_dropout",
        ("holes", "size", "fill"),
        {"holes": (1, math.inf), "size": (0, 1)},
    ),
}

# What `cfg.augment = "xray"` stands for: values of `augment` for a kind of picture, in the order in
# which an image comes about: patient, device, display. "robust" is the set of the preset's kind.
AUGMENTATION_SETS: dict[str, dict[str, Any]] = {
    "xray": {
        "hflip": 0.5,
        "affine": {"scale": [0.75, 1.25], "translate": 0.08, "rotate": 15, "p": 0.9},
        "shading": {"strength": 0.3, "p": 0.2},
        "blur": 0.15,
        "low_resolution": 0.15,
        "gauss_noise": 0.2,
        "brightness_contrast": {"brightness": 0.3, "contrast": 0.5, "p": 0.9},
        "gamma": 0.3,
        "intensity_curve": 0.2,
    },
    # Any direction may be up; lamps, cameras and eyes differ in colour.
    "fundus": {
        "hflip": 0.5,
        "vflip": 0.5,
        "rot90": 0.5,
        "affine": {"scale": [0.8, 1.25], "translate": 0.05, "rotate": 30, "p": 0.7},
        "shading": {"strength": 0.3, "p": 0.3},
        "blur": 0.15,
        "low_resolution": 0.1,
        "gauss_noise": {"std": 0.03, "p": 0.15},
        "brightness_contrast": {"brightness": 0.2, "contrast": 0.3, "p": 0.7},
        "gamma": 0.3,
        "colour": 0.5,
        "sharpness": 0.1,
        "jpeg": 0.1,
    },
    # No flips: organs lie on one side. Hounsfield units hardly vary between scanners.
    "ct": {
        "affine": {"scale": [0.8, 1.2], "translate": 0.05, "rotate": 15, "p": 0.8},
        "elastic": 0.2,
        "blur": {"sigma": [0.25, 1.0], "p": 0.15},
        "low_resolution": 0.2,
        "gauss_noise": 0.3,
        "brightness_contrast": {"brightness": 0.15, "contrast": 0.2, "p": 0.5},
        "gamma": 0.2,
        "sharpness": 0.1,
    },
    # No flips: heart and liver lie on one side. Coils shade, and sequences differ in contrast.
    "mr": {
        "affine": {"scale": [0.75, 1.3], "translate": 0.05, "rotate": 30, "p": 0.9},
        "elastic": 0.2,
        "shading": {"strength": 0.5, "p": 0.4},
        "blur": 0.15,
        "low_resolution": 0.2,
        "gauss_noise": 0.2,
        "brightness_contrast": {"brightness": 0.3, "contrast": 0.5, "p": 0.9},
        "gamma": 0.3,
        "intensity_curve": 0.3,
    },
    # Skin, cells, tissue: any direction may be up; stains, lamps and cameras differ in colour.
    "colour": {
        "hflip": 0.5,
        "vflip": 0.5,
        "rot90": 0.5,
        "affine": {"scale": [0.75, 1.25], "translate": 0.05, "rotate": 30, "p": 0.7},
        "elastic": 0.1,
        "shading": {"strength": 0.2, "p": 0.15},
        "blur": 0.15,
        "low_resolution": 0.1,
        "gauss_noise": 0.15,
        "brightness_contrast": {"brightness": 0.2, "contrast": 0.3, "p": 0.7},
        "gamma": 0.2,
        "colour": 0.5,
        "jpeg": 0.1,
    },
    # The probe is above; its gain differs by depth and by examiner.
    "ultrasound": {
        "hflip": 0.5,
        "affine": {"scale": [0.8, 1.25], "translate": 0.08, "rotate": 10, "p": 0.9},
        "elastic": 0.1,
        "shading": {"strength": 0.4, "p": 0.3},
        "blur": 0.2,
        "low_resolution": 0.2,
        "gauss_noise": 0.2,
        "brightness_contrast": {"brightness": 0.2, "contrast": 0.4, "p": 0.8},
        "gamma": 0.3,
        "intensity_curve": 0.2,
    },
}

ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture("models:UNet", poolings="depth"),
    "aspp": Architecture("models:ASPPNet", poolings=4),
    "smp_unet": Architecture("encoders:smp_unet"),
}

METRICS: dict[str, Metric] = {
    "dice": Metric("metrics:dice", "counts", headline=True),
    "iou": Metric("metrics:iou", "counts", headline=True),
    "precision": Metric("metrics:precision", "counts"),
    "recall": Metric("metrics:recall", "counts"),
    "f1": Metric("metrics:dice", "counts"),  # F1 and Dice are the same number
    "specificity": Metric("metrics:specificity", "counts"),
    "accuracy": Metric("metrics:accuracy", "counts"),
    "bce": Metric("metrics:bce", "probabilities", best=0.0, worst=math.inf),
    "hd95": Metric("metrics:hd95", "distances", best=0.0, worst=math.inf, headline=True),
    "assd": Metric("metrics:assd", "distances", best=0.0, worst=math.inf),
    "nsd": Metric("metrics:nsd", "distances", headline=True),
    "auc": Metric("curves:HistogramROC.auc", "histogram", headline=True),
    "average_precision": Metric("curves:HistogramROC.average_precision", "histogram"),
    "brier": Metric("curves:HistogramROC.brier", "histogram", best=0.0, worst=1.0),
    "log_loss": Metric("curves:HistogramROC.log_loss", "histogram", best=0.0, worst=math.inf),
    "ece": Metric("curves:HistogramROC.ece", "histogram", best=0.0, worst=1.0),
}


def load(code: str | Callable) -> Callable:
    """The function or class of an entry: `code` itself, or `seglib.module.name` for a text
    `"module:name"`."""
    if callable(code):
        return code
    module, _, name = code.partition(":")
    return operator.attrgetter(name)(importlib.import_module(f"{__package__}.{module}"))


def parameters(code: str | Callable) -> tuple[str, ...]:
    """The names of the settings that an entry's code takes."""
    return tuple(inspect.signature(load(code)).parameters)


def call(code: str | Callable, settings: Mapping[str, Any]) -> Any:
    """Call an entry's code with those of the settings that its parameters name."""
    arguments = {name: settings[name] for name in parameters(code) if name in settings}
    return load(code)(**arguments)


def scores(source: str, *measured: Any) -> dict[str, Any]:
    """The value of every metric of one source, in the order of `METRICS`."""
    return {
        name: load(metric.compute)(*measured)
        for name, metric in METRICS.items()
        if metric.source == source
    }


def name_of(code: Any) -> str:
    """The name under which a run records a network or a loss: a function's own name, or the name of
    an object's class."""
    return getattr(code, "__name__", type(code).__name__)
