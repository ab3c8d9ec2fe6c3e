"""Training through `fit`, beside the field's usual loops with the same network, data and batches,
on the CPU.

A contestant is a name in `NETWORKS` (our `fit` with that network) or in `PEERS`. Each runs in a
process of its own, so that what `fit` asks of the memory allocator does not reach a peer. All train
two epochs; the second counts, from the loading of its first batch to its last step, without
validation and saving. A peer's package is imported where it is used: monai and fastai take seconds.
"""

import importlib.metadata
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from seglib import config, data, layouts, phantoms, prepare, runs, training
from tests.benchmarks import children, limits

BATCH, EPOCHS = 4, 2
PACKAGES = ("monai", "segmentation-models-pytorch", "fastai", "lightning")


def rows(rounds: int = 3, images: int = 8, side: int = 256, base_channels: int = 64) -> list[dict]:
    """Seconds an image: `fit` beside each peer, by turns; `images` is a multiple of `BATCH`."""
    try:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install -r tests/benchmarks/requirements.txt")
    with tempfile.TemporaryDirectory() as folder:
        prepared(Path(folder), images, side, base_channels)
        timings = [about for network in NETWORKS for about in of_network(network, folder, rounds)]
    return [{**about, "peer": about["peer"].format(**versions)} for about in timings]


def prepared(folder: Path, images: int, side: int, base_channels: int) -> None:
    """Write the config of all contestants, and beside it so many phantoms to train on and one to
    validate on.
    """
    cfg = config.preset(
        "lung",
        "full",
        image_size=side,
        base_channels=base_channels,
        batch_size=BATCH,
        epochs=EPOCHS,
        test_split=0.0,
        val_split=1 / (images + 1),
        work_dir=str(folder),
        num_workers=0,
        device="cpu",
    )
    cfg.data_root = str(phantoms.write("lung", folder / "phantoms", n=images + 1))
    prepare.build(layouts.scan(cfg), cfg)
    cfg.save(folder / "config.json")


def of_network(network: str, folder: str | Path, rounds: int) -> list[dict]:
    """Our `fit` and the peers with the same network, by turns."""
    measurements: dict[str, list[dict]] = {network: []}
    measurements |= {peer: [] for peer, (its_network, _) in PEERS.items() if its_network == network}
    for _ in range(rounds):
        for contestant, measured in measurements.items():
            measured.append(
                children.call("training", "measure", contestant=contestant, folder=str(folder))
            )
    mine, side = measurements.pop(network), config.load(Path(folder) / "config.json").image_size
    precision = mine[0]["precision"]  # chosen by a rule: the same in every process
    about = {
        "task": f"training an image, {network}, {side}x{side}, batch {BATCH}, {precision}",
        "seconds": statistics.median(one["seconds"] for one in mine),
        "rounds": rounds,
        "work": mine[0]["work"],
        "limit": precision,
    }
    return [
        {
            **about,
            "peer": peer,
            "peer_seconds": statistics.median(one["seconds"] for one in measured),
        }
        for peer, measured in measurements.items()
    ]


def measure(contestant: str, folder: str | Path) -> dict:
    """Seconds an image of one contestant; of ours also the precision that `fit` chose and the work
    an image.
    """
    cfg = config.load(Path(folder) / "config.json")
    batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
    if contestant in NETWORKS:
        return ours(cfg, batches, NETWORKS[contestant])
    _, peer = PEERS[contestant]
    return {"seconds": peer(cfg, batches)}


def ours(cfg, batches: dict[str, DataLoader], build) -> dict:
    """`fit` with a network of any builder."""
    with tempfile.TemporaryDirectory(dir=cfg.work_dir) as folder:
        run = training.fit(cfg, batches, model=build(cfg), folder=folder)
    speed = run.history["images_per_second"].iloc[-1]
    return {
        "seconds": 1 / speed,
        "precision": run.info["precision"],
        "work": 3 * limits.forward_work(build(cfg), cfg),
    }


# ---- networks


def basic_unet(cfg) -> nn.Module:
    """MONAI's, with its default features."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=cfg.in_channels, out_channels=cfg.n_classes)


def smp_unet(cfg) -> nn.Module:
    """The U-Net of segmentation-models-pytorch with its default encoder, untrained."""
    import segmentation_models_pytorch as smp

    return smp.Unet(
        "resnet34", encoder_weights=None, in_channels=cfg.in_channels, classes=cfg.n_classes
    )


def fastai_unet(cfg) -> nn.Module:
    """The network that `unet_learner` makes in `fastai_learner`."""
    from fastai.vision.all import create_unet_model, resnet34

    return create_unet_model(
        resnet34, cfg.n_classes, cfg.height_width, pretrained=False, n_in=cfg.in_channels
    )


# ---- peers


class Pairs(Dataset):
    """Image and mask as the usual loops take them; pixels that augmentation moved in count as
    background.
    """

    def __init__(self, dataset: data.SegmentationDataset):
        # The method alone: MONAI's loader would search the attributes of a data set for random
        # states to set.
        self.length, self.item = len(dataset), dataset.__getitem__

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.item(index)
        return item["image"], (item["mask"] == 1).float()


def loop(
    network: nn.Module,
    loader,
    loss_of,
    lr: float,
    autocast=False,
    channels_last=False,
    device="cpu",
    epochs=EPOCHS,
) -> float:
    """Seconds an image in the usual loop: Adam, the loss's value read at every step."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.train().to(device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(epochs):
        begun, total = time.perf_counter(), 0.0
        for image, mask in loader:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                loss = loss_of(network(image.to(device, memory_format=layout)), mask.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds = time.perf_counter() - begun
    return seconds / len(loader.dataset)


def textbook(cfg, batches: dict[str, DataLoader], **options) -> float:
    """The loop of the well-known public U-Net scripts; `options` are those of `loop`."""
    loader = DataLoader(Pairs(batches["train"].dataset), BATCH, shuffle=True)
    return loop(runs.network(cfg), loader, nn.BCEWithLogitsLoss(), cfg.lr, **options)


def monai_loop(cfg, batches: dict[str, DataLoader]) -> float:
    """The loop of MONAI's tutorials, with its loader and its loss."""
    import monai

    loader = monai.data.DataLoader(
        Pairs(batches["train"].dataset), batch_size=BATCH, shuffle=True, num_workers=0
    )
    return loop(basic_unet(cfg), loader, monai.losses.DiceLoss(sigmoid=True), cfg.lr)


def smp_loop(cfg, batches: dict[str, DataLoader]) -> float:
    """A plain loop with smp's loss."""
    import segmentation_models_pytorch as smp

    loader = DataLoader(Pairs(batches["train"].dataset), BATCH, shuffle=True)
    return loop(smp_unet(cfg), loader, smp.losses.DiceLoss("binary"), cfg.lr)


def lightning_trainer(cfg, batches: dict[str, DataLoader]) -> float:
    """Lightning's `Trainer` as it is, but without logger, checkpoints and progress bar."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.loss_of = runs.network(cfg), nn.BCEWithLogitsLoss()

        def training_step(self, batch, _):
            image, mask = batch
            return self.loss_of(self.network(image), mask)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=cfg.lr)

        def on_train_epoch_start(self):
            self.begun = time.perf_counter()

        def on_train_batch_end(self, *_):
            self.seconds = time.perf_counter() - self.begun  # that of the last batch stays

    loader, module = DataLoader(Pairs(batches["train"].dataset), BATCH, shuffle=True), Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=cfg.work_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return module.seconds / len(loader.dataset)


def fastai_learner(cfg, batches: dict[str, DataLoader]) -> float:
    """fastai's `unet_learner` with its optimizer and schedule, but without progress bar and log."""
    from fastai.vision.all import Callback, DataLoaders, resnet34, unet_learner

    class Clock(Callback):
        def before_train(self):
            self.begun = time.perf_counter()

        def after_train(self):
            self.seconds = time.perf_counter() - self.begun

    pairs, clock = [Pairs(batches[part].dataset) for part in ("train", "val")], Clock()
    loaders = DataLoaders.from_dsets(*pairs, bs=BATCH, num_workers=0, device=torch.device("cpu"))
    learner = unet_learner(
        loaders,
        resnet34,
        n_out=cfg.n_classes,
        pretrained=False,
        n_in=cfg.in_channels,
        loss_func=nn.BCEWithLogitsLoss(),
        cbs=clock,
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(EPOCHS, cfg.lr)
    return clock.seconds / len(pairs[0])


NETWORKS = {  # how our `fit` gets the same network as the peer
    "31 M U-Net": runs.network,
    "MONAI BasicUNet": basic_unet,
    "smp.Unet resnet34": smp_unet,
    "fastai U-Net resnet34": fastai_unet,
}
PEERS = {  # what the table calls it, with the versions of `PACKAGES`: its network and its loop
    "textbook loop, float32, NCHW": ("31 M U-Net", textbook),
    "textbook loop, bf16 autocast, NCHW": ("31 M U-Net", partial(textbook, autocast=True)),
    "textbook loop, bf16 autocast, channels-last": (
        "31 M U-Net",
        partial(textbook, autocast=True, channels_last=True),
    ),
    "Lightning {lightning} Trainer, float32": ("31 M U-Net", lightning_trainer),
    "MONAI {monai} loop, float32": ("MONAI BasicUNet", monai_loop),
    "segmentation-models-pytorch {segmentation-models-pytorch} loop, float32": (
        "smp.Unet resnet34",
        smp_loop,
    ),
    "fastai {fastai} unet_learner, float32": ("fastai U-Net resnet34", fastai_learner),
}
