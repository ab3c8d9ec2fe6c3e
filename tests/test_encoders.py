"""smp's U-Net, and where its encoder gets its first weights from."""

import copy
import re
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn

from seglib import config, encoders, models, runs
from seglib.errors import ConfigError, DataError

MOBILENET = "tu-tf_mobilenetv3_large_100"
LITE0 = "tu-tf_efficientnet_lite0"
SMALL = "tu-mobilenetv3_small_050"


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    """No test asks the hub, so that all give the same with and without internet."""
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "no connection in a test")


@pytest.fixture
def lite0_file(test_data):
    """The EfficientNet-Lite0 weights that docs/networks.md names."""
    file = test_data.parent / "weights" / "efficientnet-lite0-57934424.pth"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is missing")
    return file


def smp_unet(encoder=SMALL, in_channels=3, n_classes=2, **settings):
    return encoders.smp_unet(in_channels, n_classes, encoder, **settings)


def same(state, other):
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in state)


# ---- smp's U-Net


def test_the_snippet_of_a_user_who_has_smp_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config.preset(
        "rsna", encoder_weights="none", checkpoint_name="best_mobilenet_rsna_refined.pth"
    )
    ours = runs.network(cfg)
    ours(torch.randn(2, 3, 64, 64))
    runs.save_weights(tmp_path / cfg.checkpoint_name, ours, cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = smp.Unet(
            encoder_name="timm-mobilenetv3_large_100",
            encoder_weights=None,
            in_channels=3,
            classes=6,
        )
    model.load_state_dict(torch.load("best_mobilenet_rsna_refined.pth"))
    assert cfg.encoder == MOBILENET
    assert models.n_parameters(ours) == models.n_parameters(model) == 6_686_550
    for size in ((64, 64), (75, 50)):
        image = torch.randn(1, 3, *size)
        with torch.inference_mode():
            logits = model.eval()(image)
            assert torch.equal(logits, ours.eval()(image))
        assert logits.argmax(1).shape == (1, *size)


def test_deprecated_names_mean_the_same_network():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(1)
        old = smp_unet("timm-mobilenetv3_large_100")
        torch.manual_seed(1)
        new = smp_unet(MOBILENET)
    assert same(old.state_dict(), new.state_dict())
    assert encoders.resolve("timm-mobilenetv3_large_100") == MOBILENET
    assert encoders.resolve("timm-regnetx_002") == "tu-regnetx_002"
    for name in ("resnet18", "tu-resnet18.a1_in1k"):
        assert encoders.resolve(name) == name


def test_encoder_that_needs_sides_divisible_by_32():
    ours = smp_unet("tu-hrnet_w18_small").eval()
    plain = smp.Unet("tu-hrnet_w18_small", encoder_weights=None, classes=2)
    plain.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 33, 47)
    with pytest.raises(RuntimeError):
        plain.eval()(image)
    with torch.inference_mode():
        padded = nn.functional.pad(image, (0, 17, 0, 31), mode="replicate")
        assert torch.equal(ours(image), plain(padded)[..., :33, :47])
        assert torch.equal(ours(padded), plain(padded))
        twin = copy.deepcopy(ours)
        nn.init.zeros_(ours.segmentation_head[0].weight)
        assert torch.equal(twin(image), plain(padded)[..., :33, :47])  # a copy has its own weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv3_large_100", "did you mean 'tu-mobilenetv3_large_100'"),
        ("resnet_18", "did you mean 'resnet18'"),
        ("tu-tf_mobilenet_v3_large_100", "did you mean 'tu-tf_mobilenetv3_large_100'"),
        ("tu-vit_tiny_patch16_224", "cannot be the encoder of a U-Net"),
    ],
)
def test_unknown_encoder(name, message):
    with pytest.raises(ConfigError, match=f"encoder: .*{name}.*{message}"):
        smp_unet(name)


def test_smp_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match="pip install segmentation-models-pytorch"):
        smp_unet()


# ---- where the weights come from


def test_random_says_so_and_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert smp_unet().encoder_origin == "random"


def test_offline_falls_back_to_random_in_time(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    torch.manual_seed(5)
    begun = time.perf_counter()
    with pytest.warns(UserWarning, match="RANDOM WEIGHTS.*no connection in a test"):
        network = smp_unet(encoder_weights="imagenet")
    assert time.perf_counter() - begun < 10
    assert network.encoder_origin == "random (asked for imagenet: no connection in a test)"
    from huggingface_hub import constants

    assert not constants.HF_HUB_OFFLINE
    torch.manual_seed(5)
    assert same(network.state_dict(), smp_unet().state_dict())


@pytest.mark.parametrize("name", [SMALL, "resnet18"])
def test_weights_from_the_hub(monkeypatch, name):
    torch.manual_seed(9)
    pretrained = smp.encoders.get_encoder(name, weights=None)
    asked = []

    def hub(encoder, **options):
        asked.append((encoder, options["weights"]))
        return pretrained

    plain = smp_unet(name)
    network = copy.deepcopy(plain)
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "")
    monkeypatch.setattr(smp.encoders, "get_encoder", hub)
    encoders._load_from_hub(network, name, 3)
    assert network.encoder_origin == "imagenet (hub)" and network.encoder is pretrained
    assert asked == [(name, True if name.startswith("tu-") else "imagenet")]
    assert same(network.decoder.state_dict(), plain.decoder.state_dict())


def test_download_that_breaks(monkeypatch):
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "")

    def fail(*args, **settings):
        raise OSError("disk full\nmore")

    monkeypatch.setattr(smp.encoders, "get_encoder", fail)
    with pytest.warns(UserWarning, match="disk full"):
        network = smp_unet(encoder_weights="imagenet")
    assert network.encoder_origin == "random (asked for imagenet: disk full)"


def refuse(*args, **options):
    raise ConnectionError("no such name")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (lambda *args, **options: SimpleNamespace(status_code=200), "^$"),
        (lambda *args, **options: SimpleNamespace(status_code=403), "HTTP 403"),
        (refuse, "no connection to .*no such name"),
        (lambda *args, **options: time.sleep(3), "no answer from .* within 0.2 s"),
    ],
)
def test_hub_is_asked_for_a_bounded_time(monkeypatch, head, expected):
    monkeypatch.undo()  # the real function, with a session of ours
    monkeypatch.setattr(encoders, "HUB_SECONDS", 0.2)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=head))
    begun = time.perf_counter()
    trouble = encoders._hub_trouble()
    assert time.perf_counter() - begun < 2 and re.search(expected, trouble)


def test_no_imagenet_weights_of_this_encoder():
    with pytest.raises(ConfigError, match="no 'imagenet' weights for tu-mobilenetv3_large_075"):
        smp_unet("tu-mobilenetv3_large_075", encoder_weights="imagenet")


def test_network_to_be_loaded_asks_nobody(monkeypatch):
    monkeypatch.setattr(encoders, "_load_from_hub", lambda *a: pytest.fail("the hub was asked"))
    monkeypatch.setattr(encoders, "read", lambda *a: pytest.fail("a file was read"))
    for weights in ("imagenet", "gone.pth"):
        cfg = config.preset("rsna", encoder_weights=weights, encoder=SMALL)
        assert runs.network(cfg, pretrained=False).encoder_origin == "random"


# ---- weights from a file


def timm_state(name):
    return timm.create_model(name.removeprefix("tu-")).state_dict()


def test_file_layouts_fill_the_same_encoder(tmp_path):
    """Of timm with its classifier, of smp's encoder, of an smp network, wrapped, safetensors."""
    whole = smp_unet()
    whole(torch.randn(2, 3, 64, 64))
    encoder = whole.encoder.state_dict()
    timm_layout = timm_state(SMALL)
    timm_layout |= {key.removeprefix("model."): value for key, value in encoder.items()}
    assert len(timm_layout) > len(encoder)  # the classifier
    no_counters = {key: value for key, value in timm_layout.items() if "num_batches" not in key}
    wrapped = {f"module._orig_mod.{key}": value for key, value in timm_layout.items()}
    files = {
        "timm.pth": timm_layout,
        "smp_encoder.pth": dict(encoder),
        "smp_network.pth": whole.state_dict(),
        "wrapped.bin": {"state_dict": wrapped, "epoch": 3},
        "old.pth": no_counters,
    }
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    save_file(timm_layout, tmp_path / "model.safetensors")
    for name in (*files, "model.safetensors"):
        network = smp_unet(encoder_weights=str(tmp_path / name))
        state = network.encoder.state_dict()
        assert network.encoder_origin == f"file {name}"
        for key in state:
            assert "num_batches" in key or torch.equal(state[key], encoder[key]), (name, key)


@pytest.mark.parametrize("name", ["tu-convnext_atto", "tu-resnet18", "tu-regnetx_002"])
def test_timm_layout_of_encoders_that_smp_renames(name):
    """timm's feature extractor writes stages_0 for stages.0; its features are the network's."""
    torch.manual_seed(7)
    whole = timm.create_model(name.removeprefix("tu-")).eval()
    network = smp_unet(name)
    encoders.load_state(network.encoder, whole.state_dict(), name)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        deepest = network.encoder.eval()(image)[-1]
        expected = whole.forward_features(image)
    torch.testing.assert_close(deepest, expected, rtol=1e-4, atol=1e-4)


def test_grey_images_get_the_sum_of_the_rgb_weights():
    state = timm_state(SMALL)
    network = smp_unet(in_channels=1)
    encoders.load_state(network.encoder, state, SMALL)
    stem = network.encoder.state_dict()["model.conv_stem.weight"]
    torch.testing.assert_close(stem, state["conv_stem.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("of", "into", "message"),
    [
        ("tu-resnet18", SMALL, "202 missing .model.*begins with conv1.weight"),
        (
            "tu-mobilenetv3_small_075",
            SMALL,
            "model.blocks.0.0.conv_pw.weight is .*, the network has",
        ),
        # Every shape fits, but the file has more blocks.
        ("tu-tf_efficientnet_b1", "tu-tf_efficientnet_b0", "148 unknown .blocks.0.1"),
    ],
)
def test_file_of_another_architecture(tmp_path, of, into, message):
    torch.save(timm_state(of), tmp_path / "other.pth")
    expected = f"other.pth: the weights of another encoder than {into}.*{message}"
    with pytest.raises(DataError, match=expected):
        smp_unet(into, encoder_weights=str(tmp_path / "other.pth"))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a weights file ran')",))


def test_unusable_files(tmp_path):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({}, tmp_path / "empty.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "list.pth").read_bytes()[:100])
    (tmp_path / "torn.safetensors").write_bytes(b"12345678")
    for name, message in (
        ("evil.pth", "refused to load.*could run code"),
        ("list.pth", "no state_dict"),
        ("empty.pth", "no state_dict"),
        ("torn.pth", "refused to load"),
        ("torn.safetensors", "refused to load"),
        ("gone.pth", "no such weights file"),
    ):
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            smp_unet(encoder_weights=str(tmp_path / name))
    with pytest.raises(ConfigError, match="'imagnet'; did you mean 'imagenet'"):
        smp_unet(encoder_weights="imagnet")


# ---- the EfficientNet-Lite0 file


def test_lite0_names():
    """Old names made from timm's by rule, block by block; the test needs no file."""
    model = timm.create_model("tf_efficientnet_lite0")
    assert tuple(len(stage) for stage in model.blocks) == encoders.LITE0_REPEATS
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    names["classifier"] = "_fc"
    numbers = iter(range(16))
    for s, stage in enumerate(model.blocks):
        for b, block in enumerate(stage):
            number = next(numbers)
            layers = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            if number:
                layers = ["_expand_conv", "_bn0", *layers]
            own = [name for name, layer in block.named_children() if list(layer.parameters())]
            for name, old in zip(own, layers, strict=True):
                names[f"blocks.{s}.{b}.{name}"] = f"_blocks.{number}.{old}"
    state = model.state_dict()
    old = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        old[f"{names[layer]}.{parameter}"] = value
    assert len(old) == 296 and same(encoders.convert_efficientnet_lite0(old), state)
    with pytest.raises(DataError, match="_blocks.16._bn0.weight: EfficientNet-Lite0 has no such"):
        encoders.convert_efficientnet_lite0({"_blocks.16._bn0.weight": torch.zeros(1)})


def timms_lite0(file):
    """timm's whole classification network with the weights of the file."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(encoders.convert_efficientnet_lite0(encoders.read(file)))
    return network


def test_lite0_file_is_timms_network(lite0_file):
    whole = timms_lite0(lite0_file)
    network = smp_unet(LITE0, encoder_weights=str(lite0_file)).eval()
    assert network.encoder_origin == f"file {lite0_file.name}"
    own = whole.state_dict()
    filled = network.encoder.state_dict()
    assert len(filled) == 288
    assert all(torch.equal(own[key.removeprefix("model.")], value) for key, value in filled.items())
    image = torch.randn(2, 3, 96, 65)
    outputs = []
    for stage in (0, 1, 2, 4, 6):
        whole.blocks[stage].register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
    with torch.inference_mode():
        whole(image)
        features = network.encoder(image)[1:]
    for theirs, ours in zip(outputs, features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_lite0_file_knows_a_flower(lite0_file):
    """The conversion is of use only if the network still classifies: 698 is palace, 985 daisy."""
    images = np.stack(load_sample_images().images)  # a temple and a flower, (2, 427, 640, 3)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()[..., 106:533]
    batch = nn.functional.interpolate(batch, (224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        logits = timms_lite0(lite0_file)((batch - 127) / 128)
    assert logits.argmax(1).tolist() == [698, 985]


def test_lite0_file_in_another_encoder(lite0_file):
    message = f"another encoder than {MOBILENET}.*begins with _conv_stem.weight"
    with pytest.raises(DataError, match=message):
        smp_unet(MOBILENET, encoder_weights=str(lite0_file))
