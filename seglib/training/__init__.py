"""`fit`: the training loop on Accelerate, with checkpoints, resume and history. Taught in
`04_lung_segmentation`.

`fit` names the steps of a training in their order; each is a file of this folder:

- `checks`: what is refused before anything is written;
- `setup`: network, `optimizer` and loaders on this `machine`, and the `info` that a run records;
- `loop`: the epochs and updates, with the `epoch_loss`;
- `validation`: scores, and which epoch is the best;
- `saving`: the files of a run, and how it is resumed.

All of them work on one `Training`, which `state` defines.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import memory, tables, updates
from ..runs import Run
from . import checks, loop, machine, saving, setup
from .machine import processes, seed_everything

__all__ = ["cross_validate", "fit", "processes", "seed_everything"]


def fit(
    cfg,
    batches: dict[str, DataLoader],
    model: nn.Module | None = None,
    loss: Callable[..., Tensor] | None = None,
    resume: bool = False,
    folder: str | Path | None = None,
) -> Run:
    """Train a network on `batches["train"]`, choose the best weights on `batches["val"]`.

    Writes into the run folder: the best weights (`cfg.checkpoint_name`), `final_model.pth`,
    `checkpoint_epoch_N.pth` every `save_every` epochs, `history.csv`, `config.json`, `run.json`,
    `training_history.png` (palm: `training_progress.png`), `sample_predictions.png`, and
    `last.ckpt` to resume from. An old run there is renamed aside.

    Args:
        model: a network of your own: images (N, C, H, W) float32 -> logits (N, n_classes, H, W).
            In training mode it may return a list of logits instead, the finest first, as `UNet`
            does with `deep_supervision`. It is trained in place, starts with the weights that it
            has (or those of `cfg.init_from`) and ends with the best ones. By default the one that
            `cfg` describes.
        loss: a loss of your own, `loss(logits, target, annotated)` -> scalar tensor, in place of
            `cfg.loss`; `losses` describes target and annotated. A loss derived from
            `losses.MaskedLoss` works with all settings; any other callable only with
            `accumulate=1`, one process, and batches that fit into the memory.
        resume: continue the run in that folder after its last finished epoch; on a CPU the weights
            are bit-identical to those of an uninterrupted run. Starts anew where there is no run.
            Pass `model` and `loss` again.
        folder: the run folder, `work_dir/<preset>` by default.

    Raises:
        DataError: no training images.
        ConfigError: the run to resume was begun with settings that this config contradicts, or with
            another network; the network's output has another shape; the loss does not allow
            several micro-batches or processes.
        TrainingError: the loss became NaN or infinite (names the cases), or has no gradient.
    """
    checks.check_arguments(model, loss)
    cfg = cfg.replace()  # a copy: edits of the caller's config during training change nothing
    cfg = checks.with_channels(cfg, batches["train"].dataset)
    checks.check_images(cfg, batches)
    with memory.keep_freed_memory(), machine.restoring_cudnn(), machine.restoring_forward(model):
        training = setup.set_up(cfg, batches, model, loss, resume, folder)
        device, precision = training.run.info["device"], training.run.info["precision"]
        with updates.depthwise_in_float32(training.network, device, precision):
            loop.run_epochs(training)
        return saving.finish(training)


def cross_validate(
    cfg,
    store,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    resume: bool = True,
):
    """Train on all folds but one, in turn, and score each patient by networks that never saw them.

    Args:
        store: of `prepare.build`; its pixels serve all folds, its split is not used.
        folds: their number; they are drawn by patient, with the same share of each finding.
        seeds: every fold is trained with each of them, and scored by the mean of its networks.
        folder: by default `work_dir/<preset>_folds`.
        resume: go on with what is there, if settings and cases are the same; False begins anew and
            renames the old folder aside.

    Returns:
        A `folds.CrossValidation`: `runs`, `table` (a row a fold and seed), `report` on all cases
        out-of-fold, and `predictor`, the mean of all networks.

    Raises:
        ConfigError: a cross-validation with other settings or cases is in the folder.
        DataError: fewer than two folds, or more than patients.
    """
    code = tables.load("folds:cross_validate")  # of a module that itself uses this one
    return code(cfg, store, folds, seeds, folder, resume)
