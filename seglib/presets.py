"""The systems of the series, each in four sizes. `config.preset` makes a `Config` of an entry.

To add a system, add an entry to `PRESETS` and, if its data has a new layout, one to
`tables.LAYOUTS`. Help, checks and error messages follow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

FLIPS = {"hflip": 0.5, "vflip": 0.5}

# A training of seconds, to see that every step runs; its scores mean nothing.
SMOKE = {
    "image_size": 64,
    "base_channels": 4,
    "depth": 3,
    "epochs": 2,
    "batch_size": 4,
    "accumulate": 1,
    "bootstrap": 200,
    "num_workers": 0,
    "encoder_weights": "none",
}


class Preset(NamedTuple):
    """One system.

    Attributes:
        full: its published settings.
        small: what differs from `full` in a training of at most 5 minutes on two cores.
        medium: what differs from `small` in a training of at most 20 minutes on two cores.
        layouts: the names in `tables.LAYOUTS` that its data usually has.
        phantom: draws one synthetic case, see `phantoms.write`.
        smoke: what differs from `small` in a test of seconds, in addition to `SMOKE`.
        curves: the file name of the training curves.
        run_folder: the run folder of the command line, where it is not `work_dir/<preset>`.
        picture: the kind of its pictures, a key of `tables.AUGMENTATION_SETS`: what
            `augment="robust"` stands for.
    """

    full: dict[str, Any]
    small: dict[str, Any]
    layouts: tuple[str, ...]
    phantom: str | Callable
    medium: dict[str, Any] = {}
    smoke: dict[str, Any] = {}
    curves: str = "training_history.png"
    run_folder: str | None = None
    picture: str | None = None

    def settings(self, size: str) -> dict[str, Any]:
        """The fields of `Config` that the system sets in this size."""
        if size == "full":
            return dict(self.full)
        if size == "small":
            return {**self.full, **self.small}
        if size == "medium":
            return {**self.full, **self.small, **self.medium}
        return {**self.full, **self.small, **SMOKE, **self.smoke}


PRESETS: dict[str, Preset] = {
    "palm": Preset(
        full=dict(
            task="multilabel",
            class_names=("atrophy", "detachment", "disc"),
            image_size=256,
            in_channels=3,
            augment={**FLIPS, "rot90": 0.5},
            loss="weighted_bce",
            optimizer="adam",
            lr=1e-4,
            batch_size=16,
            epochs=100,
            monitor="val_loss",
        ),
        small=dict(
            stem="space_to_depth",
            base_channels=16,
            augment="robust",
            loss="combined",
            lr=2e-3,
            scheduler="onecycle",
            batch_size=4,
            epochs=200,
            clip=1.0,
        ),
        medium=dict(base_channels=32, epochs=300),
        layouts=("palm",),
        phantom="phantoms.fundus:palm_case",
        picture="fundus",
        curves="training_progress.png",
    ),
    "rsna": Preset(
        full=dict(
            task="multiclass",
            class_names=("background", "liver", "spleen", "left_kidney", "right_kidney", "bowel"),
            image_size=512,
            in_channels=3,
            window_level=50.0,
            window_width=400.0,
            val_split=0.1,
            mask_encoding="index",
            mask_inverted=False,
            label_map={"5": 1, "1": 2, "3": 3, "2": 4, "18": 5, "19": 5, "20": 5},
            augment={
                **FLIPS,
                "rotate": {"limit": 45, "p": 0.5},
                "grid_distortion": 0.3,
                "coarse_dropout": 0.2,
            },
            architecture="smp_unet",
            encoder_weights="imagenet",
            loss="dice_focal",
            optimizer="adamw",
            lr=1e-3,
            scheduler="cosine",
            epochs=30,
            batch_size=32,
            accumulate=16,
            num_workers=16,
            checkpoint_name="best_model_512.pth",
        ),
        small=dict(
            image_size=320,
            patch_size=192,  # with centres drawn class by class, small organs are seen often
            augment="robust",
            epochs=60,
            batch_size=4,
            accumulate=1,
            scheduler="linear",
            clip=1.0,
            num_workers="auto",
        ),
        medium=dict(epochs=160),
        layouts=("rsna_dicom", "slices", "ct_seg", "volume_pairs", "cases"),
        phantom="phantoms.abdomen:rsna_case",
        picture="ct",
        smoke={"patch_size": 64},
    ),
    "cardiac": Preset(
        full=dict(
            task="multiclass",
            class_names=("background", "right_ventricle", "myocardium", "left_ventricle"),
            image_size=256,
            in_channels=1,
            mean=(0.5,),
            std=(0.25,),
            percentiles=(0.5, 99.5),
            mask_encoding="index",
            mask_inverted=False,
            test_split=0.2,
            val_split=0.25,
            architecture="aspp",
            base_channels=32,
            augment={
                **FLIPS,
                "affine": {"scale": [0.8, 1.2], "translate": 0.0, "rotate": 30, "p": 0.8},
                # The coils shade every patient differently.
                "brightness_contrast": {"brightness": 0.2, "contrast": 0.4, "p": 0.7},
            },
            loss="cross_entropy",
            optimizer="adam",
            lr=1e-3,
            batch_size=16,
            epochs=50,
            monitor="val_loss",
        ),
        small=dict(
            image_size=192,
            patch_size=144,
            stem="space_to_depth",
            base_channels=16,
            aspp_rates=(1, 2, 3),
            augment="robust",
            class_prior=True,
            loss="dice_focal",
            lr=3e-3,
            scheduler="linear",
            batch_size=8,
            epochs=50,
            clip=1.0,
        ),
        medium=dict(image_size=224, patch_size=160, base_channels=32, epochs=30),
        layouts=("acdc", "train_val", "volume_pairs", "cases"),
        phantom="phantoms.heart:cardiac_case",
        picture="mr",
        smoke={"patch_size": 32},
    ),
    "lung": Preset(
        full=dict(
            task="binary",
            class_names=("lung",),
            image_size=512,
            resize="stretch",
            in_channels=1,
            mean=(0.5,),
            std=(0.25,),
            test_split=50,
            augment={"hflip": 0.5, "rotate": {"limit": 10, "p": 0.5}},
            loss="bce",
            optimizer="adam",
            lr=1e-4,
            batch_size=16,
            epochs=50,
        ),
        small=dict(
            image_size=256,
            stem="space_to_depth",
            base_channels=16,
            augment="robust",
            loss="combined",
            lr=2e-3,
            scheduler="onecycle",
            batch_size=4,
            epochs=150,
            clip=1.0,
        ),
        medium=dict(base_channels=32, epochs=250),
        layouts=("chest",),
        phantom="phantoms.chest:lung_case",
        picture="xray",
    ),
    "binary": Preset(
        full=dict(
            task="binary",
            class_names=("structure",),
            image_size=256,
            in_channels=3,
            loss="combined",
            optimizer="adam",
            lr=1e-3,
            weight_decay=1e-4,
            batch_size=8,
            epochs=50,
            early_stopping=True,
            patience=15,
            save_every=10,
            augment={
                **FLIPS,
                "rot90": 0.5,
                "affine": {"scale": [0.9, 1.1], "translate": 0.05, "rotate": 15, "p": 0.5},
                "brightness_contrast": 0.3,
                "gauss_noise": 0.2,
            },
        ),
        small=dict(
            stem="space_to_depth",
            base_channels=16,
            augment="robust",
            lr=2e-3,
            scheduler="onecycle",
            early_stopping=False,
            batch_size=4,
            epochs=150,
            clip=1.0,
        ),
        medium=dict(base_channels=32, epochs=250),
        layouts=("images_masks", "carvana", "isic", "named"),
        phantom="phantoms.skin:binary_case",
        picture="colour",
        run_folder="checkpoints",
    ),
}

# The phases of rsna: config.preset("rsna", **RSNA_PHASES["refined"], init_from=first.best)
RSNA_PHASES: dict[str, dict[str, Any]] = {
    "initial": dict(
        lr=1e-3, epochs=30, batch_size=32, accumulate=16, checkpoint_name="best_model_512.pth"
    ),
    "refined": dict(
        lr=5e-5,
        epochs=10,
        batch_size=64,
        accumulate=1,
        checkpoint_name="best_mobilenet_rsna_refined.pth",
    ),
    "base": dict(
        lr=1e-3, epochs=30, batch_size=32, accumulate=1, checkpoint_name="best_mobilenet.pth"
    ),
}
