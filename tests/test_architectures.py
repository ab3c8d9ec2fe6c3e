"""The ASPP network, attention gates, smp's U-Net, and where an encoder's first weights come from."""

import copy
import io
import re
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seglib import config, encoders, models, runs
from seglib.errors import ConfigError, DataError

smp = pytest.importorskip("segmentation_models_pytorch")
MOBILENET, LITE0, SMALL = (
    "tu-tf_mobilenetv3_large_100",
    "tu-tf_efficientnet_lite0",
    "tu-mobilenetv3_small_050",
)


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    """No test asks the hub, so that all give the same with and without internet."""
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "no connection in a test")


@pytest.fixture
def lite0(test_data):
    """The state dict of the EfficientNet-Lite0 file."""
    file = test_data.parent / "weights" / "efficientnet-lite0-57934424.pth"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is missing")
    return encoders.read(file), file


def smp_unet(encoder=SMALL, **fields):
    return models.build(
        "smp_unet", **{"in_channels": 3, "n_classes": 2, "encoder": encoder, **fields}
    )


def every_kind():
    """(name, function) of one small network of each kind."""
    return {
        "aspp": lambda: models.ASPPNet(3, 2, base_channels=4, aspp_rates=(1, 2)),
        "aspp, gated": lambda: models.ASPPNet(
            3, 2, base_channels=4, aspp_rates=(1, 2), attention=True
        ),
        "unet, gated": lambda: models.UNet(3, 2, base_channels=4, depth=3, attention=True),
        "bilinear unet, gated": lambda: models.UNet(
            3, 2, base_channels=4, depth=3, bilinear=True, attention=True
        ),
        "smp_unet": smp_unet,
    }


@pytest.fixture(params=every_kind())
def network(request):
    return every_kind()[request.param]()


def same(state, other):
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in state)


# --- what holds for every network ---


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (100, 65)])
def test_size_of_the_output(network, size):
    logits = network.eval()(torch.randn(2, 3, *size))
    assert (
        logits.shape == (2, 2, *size) and logits.dtype == torch.float32 and logits.isfinite().all()
    )


def test_gradient_reaches_every_parameter(network):
    network(torch.randn(2, 3, 97, 128)).square().mean().backward()
    still = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert still == []


def test_one_step_changes_every_parameter(network):
    before = copy.deepcopy(dict(network.named_parameters()))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    image, target = torch.randn(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64))
    nn.functional.cross_entropy(network(image), target).backward()
    optimizer.step()
    assert [name for name, p in network.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("train", [False, True])
def test_channels_last_equals_contiguous(network, train):
    network.train(train)
    for (
        part
    ) in network.modules():  # the same numbers twice: without chance, and without a moving mean
        if isinstance(part, (nn.Dropout, nn.BatchNorm2d)):
            part.momentum, part.p = 0.0, 0.0
    image = torch.randn(2, 3, 64, 49)
    plain = network(image).detach()
    last = network.to(memory_format=torch.channels_last)(
        image.contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-4)


def test_bf16_autocast_is_finite_and_close(network):
    network.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        plain = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image)
    assert half.isfinite().all() and (
        half.float() - plain
    ).abs().max() < 0.05 * plain.abs().max().clamp(min=1)


def test_state_dict_opens_with_the_default_of_torch_load(network):
    network(torch.randn(2, 3, 64, 64))  # running statistics other than their start
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert same(network.state_dict(), torch.load(file))


def test_unknown_architecture_names_the_three():
    with pytest.raises(ValueError, match="'vnet'.*unet, aspp, smp_unet"):
        models.build("vnet", in_channels=1, n_classes=1)


# --- ASPP ---


@settings(max_examples=12)
@given(
    st.integers(16, 300),
    st.integers(16, 300),
    st.sampled_from([(6, 12, 18), (1,), (2, 4)]),
    st.booleans(),
)
def test_aspp_output_has_the_size_of_the_input(height, width, rates, attention):
    with torch.device("meta"):
        network = models.ASPPNet(1, 4, base_channels=2, aspp_rates=rates, attention=attention)
        assert network(torch.empty(2, 1, height, width)).shape == (2, 4, height, width)


def test_aspp_smallest_image():
    network = models.ASPPNet(1, 2, base_channels=2).eval()
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, 15, 16))


def test_aspp_parameters():
    """Two 1x1 branches (one without batch norm, with a bias), a 3x3 branch a rate, and the joining convolution."""
    with torch.device("meta"):
        aspp, full = models.ASPP(256, 256), models.ASPPNet(1, 4)
        counts = [models.n_parameters(models.ASPPNet(1, 4, base_channels=n)) for n in (16, 32)]
        unet = models.UNet(1, 4, base_channels=32, bilinear=True)
    n = 256
    expected = (n * n + 2 * n) + 3 * (9 * n * n + 2 * n) + (n * n + n) + (5 * n * n + 2 * n)
    assert models.n_parameters(aspp) == expected == 2_231_040
    assert counts == [1_639_156, 6_548_964]
    assert models.n_parameters(full) == models.n_parameters(unet) + expected
    assert set(unet.state_dict()) == {
        key for key in full.state_dict() if not key.startswith("aspp.")
    }


def test_aspp_is_its_branches():
    aspp = models.ASPP(3, 4, (2,)).eval()
    deep = torch.randn(2, 3, 9, 11)
    mean = torch.relu(aspp.pooled[0](deep.mean((2, 3), keepdim=True))) * torch.ones(1, 1, 9, 11)
    kernel = torch.zeros(4, 3, 5, 5)
    kernel[..., ::2, ::2] = aspp.local[1][
        0
    ].weight.detach()  # dilation spreads the kernel and fills it with zeros
    dilated = torch.relu(aspp.local[1][1](nn.functional.conv2d(deep, kernel, padding=2)))
    torch.testing.assert_close(
        aspp(deep), aspp.project(torch.cat([aspp.local[0](deep), dilated, mean], 1))
    )


def test_aspp_batch_of_one_trains_and_its_eval_agrees():
    """Batch norm over one pooled value would raise; after a broadcast its variance of 0 would blow up eval."""
    network = models.ASPPNet(1, 2, base_channels=4)
    image, target = torch.randn(1, 1, 64, 64), torch.randint(0, 2, (1, 64, 64))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
    assert network.aspp.pooled[0].weight.grad.abs().sum() > 0
    with torch.inference_mode():
        after = nn.functional.cross_entropy(network.eval()(image), target)
    assert after == pytest.approx(loss.item(), abs=0.05)


def extent(field):
    """(rows, columns) of the box around all pixels that the gradient reaches."""
    return tuple(int(np.ptp(np.flatnonzero(field.any(axis=axis)))) + 1 for axis in (1, 0))


def test_dilation_widens_the_receptive_field():
    """At stride 16 the encoder sees 140 pixels; a 3x3 kernel of dilation r adds r positions of 16 pixels a side."""
    fields = {}
    for rates in ((1, 1, 1), (6, 12, 18)):
        torch.manual_seed(0)
        network = models.ASPPNet(1, 1, base_channels=2, aspp_rates=rates)
        fields[rates] = models.receptive_field(network, 736, "aspp.local", n=1)
        assert (
            fields[rates].shape == (736, 736)
            and fields[rates].max() == 1
            and fields[rates].min() == 0
        )
        assert extent(fields[rates]) == (140 + 32 * max(rates),) * 2
    assert (fields[6, 12, 18] > 0).sum() > 5 * (fields[1, 1, 1] > 0).sum()


def test_image_mean_sees_everything():
    network = models.ASPPNet(1, 1, base_channels=4, aspp_rates=(1,))
    whole, local = (
        models.receptive_field(network, (256, 320), layer, n=2) for layer in ("aspp", "aspp.local")
    )
    assert whole.shape == (256, 320) and extent(whole) == (256, 320) and extent(local) == (172, 172)


def test_receptive_field_of_logits_and_of_a_pixel():
    network = models.UNet(2, 3, base_channels=2, depth=1).train()
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        middle = models.receptive_field(network, 64)
    corner = models.receptive_field(network, 64, pixel=(0, 0))
    assert middle[32, 32] > 0 and middle[0, 0] == 0 and corner[0, 0] > 0 and corner[32, 32] == 0
    assert network.training and same(before, network.state_dict())
    assert all(p.grad is None for p in network.parameters()) and not network._forward_hooks
    with pytest.raises(ValueError, match="'nothing'.*first, down, pool"):
        models.receptive_field(network, 64, "nothing")


# --- attention gates ---


def test_attention_parameters():
    with torch.device("meta"):
        plain, gated = (models.UNet(3, 1, attention=on) for on in (False, True))
        aspp = models.ASPPNet(1, 4, attention=True)
    assert models.n_parameters(plain) == 31_037_633
    skips = (
        64,
        128,
        256,
        512,
    )  # skip and deep features have equal channels; each gate has half of them within
    gates = sum(n * n // 2 + n * n // 2 + n // 2 + n // 2 + 1 for n in skips)
    assert models.n_parameters(gated) == 31_037_633 + gates == 31_386_757
    assert models.n_parameters(aspp) == 6_636_488
    extra = set(gated.state_dict()) - set(plain.state_dict())
    assert len(extra) == 4 * 5 and all(".gate." in key for key in extra)


def test_gate_weighs_the_skip():
    gate = models.AttentionGate(3, 5)
    skip, deep = torch.randn(2, 3, 8, 9), torch.randn(2, 5, 8, 9)
    weight = gate.coefficients(skip, deep)
    assert (
        weight.shape == (2, 1, 8, 9) and 0 < weight.min() and weight.max() < 1 and weight.std() > 0
    )
    torch.testing.assert_close(gate(skip, deep), skip * weight)
    with torch.no_grad():
        for bias, expected in ((-50.0, torch.zeros_like(skip)), (50.0, skip)):
            gate.score.bias.fill_(bias)
            torch.testing.assert_close(gate(skip, deep), expected)


def test_smp_has_no_gates():
    with pytest.raises(ConfigError, match="attention: smp_unet"):
        smp_unet(attention=True)


# --- smp's U-Net ---


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
    assert (
        cfg.encoder == MOBILENET
        and models.n_parameters(ours) == models.n_parameters(model) == 6_686_550
    )
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
    assert [
        encoders.resolve(name) for name in ("timm-regnetx_002", "resnet18", "tu-resnet18.a1_in1k")
    ] == [
        "tu-regnetx_002",
        "resnet18",
        "tu-resnet18.a1_in1k",
    ]


def test_encoder_that_needs_sides_divisible_by_32():
    ours, plain = (
        smp_unet("tu-hrnet_w18_small").eval(),
        smp.Unet("tu-hrnet_w18_small", encoder_weights=None, classes=2),
    )
    plain.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 33, 47)
    with pytest.raises(RuntimeError):
        plain.eval()(image)
    with torch.inference_mode():
        padded = nn.functional.pad(image, (0, 17, 0, 31), mode="replicate")
        assert torch.equal(ours(image), plain(padded)[..., :33, :47]) and torch.equal(
            ours(padded), plain(padded)
        )
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


# --- where the weights come from ---


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
    encoders._from_hub(network, name, 3)
    assert network.encoder_origin == "imagenet (hub)" and network.encoder is pretrained
    assert asked == [(name, True if name.startswith("tu-") else "imagenet")]
    assert same(network.decoder.state_dict(), plain.decoder.state_dict())


def test_download_that_breaks(monkeypatch):
    monkeypatch.setattr(encoders, "_hub_trouble", lambda: "")
    monkeypatch.setattr(
        smp.encoders,
        "get_encoder",
        lambda *a, **k: (_ for _ in ()).throw(OSError("disk full\nmore")),
    )
    with pytest.warns(UserWarning, match="disk full"):
        network = smp_unet(encoder_weights="imagenet")
    assert network.encoder_origin == "random (asked for imagenet: disk full)"


class Session:
    """In place of the hub's HTTP session."""

    def __init__(self, act):
        self.act = act

    def head(self, address, timeout):
        return self.act()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: type("Answer", (), {"status_code": 200}), ""),
        (lambda: type("Answer", (), {"status_code": 403}), "HTTP 403"),
        (
            lambda: (_ for _ in ()).throw(ConnectionError("no such name")),
            "no connection to .*no such name",
        ),
        (lambda: time.sleep(3), "no answer from .* within 0.2 s"),
    ],
)
def test_hub_is_asked_for_a_bounded_time(monkeypatch, act, expected):
    monkeypatch.undo()  # the real question, to a session of ours
    monkeypatch.setattr(encoders, "HUB_SECONDS", 0.2)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: Session(act))
    begun = time.perf_counter()
    found = encoders._hub_trouble()
    assert time.perf_counter() - begun < 2
    assert found == "" if expected == "" else re.search(expected, found)


def test_no_imagenet_weights_of_this_encoder():
    with pytest.raises(ConfigError, match="no 'imagenet' weights for tu-mobilenetv3_large_075"):
        smp_unet("tu-mobilenetv3_large_075", encoder_weights="imagenet")


def test_network_to_be_loaded_asks_nobody(monkeypatch):
    monkeypatch.setattr(encoders, "_from_hub", lambda *a: pytest.fail("the hub was asked"))
    monkeypatch.setattr(encoders, "read", lambda *a: pytest.fail("a file was read"))
    for weights in ("imagenet", "gone.pth"):
        cfg = config.preset("rsna", encoder_weights=weights, encoder=SMALL)
        assert runs.network(cfg, pretrained=False).encoder_origin == "random"
    assert not hasattr(
        runs.network(config.preset("lung", "smoke"), pretrained=False), "encoder_origin"
    )
    assert type(runs.network(config.preset("cardiac", "smoke"))).__name__ == "ASPPNet"


# --- weights from a file ---


def timm_state(name):
    import timm

    return timm.create_model(name.removeprefix("tu-")).state_dict()


def test_file_layouts_fill_the_same_encoder(tmp_path):
    """timm's file with its classifier, smp's encoder, a whole smp network, wrapped, and as safetensors."""
    from safetensors.torch import save_file

    whole = smp_unet()
    whole(torch.randn(2, 3, 64, 64))
    encoder = whole.encoder.state_dict()
    timm_layout = {
        **timm_state(SMALL),
        **{key.removeprefix("model."): value for key, value in encoder.items()},
    }
    assert len(timm_layout) > len(encoder)  # the classifier
    no_counters = {key: value for key, value in timm_layout.items() if "num_batches" not in key}
    files = {
        "timm.pth": timm_layout,
        "smp_encoder.pth": dict(encoder),
        "smp_network.pth": whole.state_dict(),
        "wrapped.bin": {
            "state_dict": {f"module.{key}": value for key, value in timm_layout.items()},
            "epoch": 3,
        },
        "old.pth": no_counters,
    }
    for name, state in files.items():
        torch.save(state, tmp_path / name)
    save_file(timm_layout, tmp_path / "model.safetensors")
    for name in (*files, "model.safetensors"):
        network = smp_unet(encoder_weights=str(tmp_path / name))
        state = network.encoder.state_dict()
        assert network.encoder_origin == f"file {name}"
        assert all(
            torch.equal(state[key], encoder[key]) for key in state if "num_batches" not in key
        ), name


@pytest.mark.parametrize("name", ["tu-convnext_atto", "tu-resnet18", "tu-regnetx_002"])
def test_timm_layout_of_encoders_that_smp_renames(name):
    """timm's feature extractor writes stages_0 for stages.0; the features are those of the whole timm network."""
    import timm

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
        ("tu-resnet18", SMALL, "missing .model.conv_stem.weight.*begins with conv1.weight"),
        ("tu-mobilenetv3_small_075", SMALL, "of other shapes .*is .*the encoder has"),
        (
            "tu-tf_efficientnet_b1",
            "tu-tf_efficientnet_b0",
            "148 unknown .blocks.0.1",
        ),  # fits, but has more blocks
    ],
)
def test_file_of_another_architecture(tmp_path, of, into, message):
    torch.save(timm_state(of), tmp_path / "other.pth")
    with pytest.raises(
        DataError, match=f"other.pth: the weights of another encoder than {into}.*{message}"
    ):
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


# --- the EfficientNet-Lite0 file ---


def test_lite0_names():
    """Old names made from the new ones by rule, block by block; the test needs no file."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0")
    flat = [(s, b) for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    assert tuple(len(stage) for stage in model.blocks) == encoders.LITE0_REPEATS
    top = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    inner = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inner |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    old = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "blocks":
            number = flat.index((int(parts[1]), int(parts[2])))
            block = {
                "conv_pw": "_project_conv",
                "bn1": "_bn1",
                "conv_dw": "_depthwise_conv",
                "bn2": "_bn2",
            }
            old[f"_blocks.{number}.{(inner if number else block)[parts[3]]}.{parts[4]}"] = value
        else:
            old[f"{top[parts[0]]}.{parts[1]}"] = value
    converted = encoders.convert_efficientnet_lite0(old)
    assert len(old) == len(converted) == 296
    assert all(torch.equal(converted[key], value) for key, value in model.state_dict().items())
    with pytest.raises(
        DataError, match="_blocks.16._bn0.weight: EfficientNet-Lite0 has no such layer"
    ):
        encoders.convert_efficientnet_lite0({"_blocks.16._bn0.weight": torch.zeros(1)})


def test_lite0_file_is_timms_network(lite0):
    """Converted weights in our encoder, against timm's whole classification network with the same ones."""
    import timm

    state, file = lite0
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(
        encoders.convert_efficientnet_lite0(state)
    )  # strict: all 296 filled, none left
    network = smp_unet(LITE0, encoder_weights=str(file)).eval()
    assert network.encoder_origin == f"file {file.name}"
    own = whole.state_dict()
    filled = network.encoder.state_dict()
    assert len(filled) == 288
    assert all(torch.equal(own[key.removeprefix("model.")], value) for key, value in filled.items())
    image = torch.randn(2, 3, 96, 65)
    taps = {stage: [] for stage in (0, 1, 2, 4, 6)}
    for stage, seen in taps.items():
        whole.blocks[stage].register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output)
        )
    with torch.inference_mode():
        whole(image)
        features = network.encoder(image)[1:]
    for (stage, seen), ours in zip(taps.items(), features, strict=True):
        torch.testing.assert_close(ours, seen[0], rtol=1e-4, atol=1e-4, msg=f"stage {stage}")


def photos():
    """scikit-learn's temple and flower, (2, 3, 224, 224), as the file's authors fed them."""
    from sklearn.datasets import load_sample_images

    images = (
        torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float()
    )  # (2, 3, 427, 640)
    return (
        nn.functional.interpolate(images[..., 106:533], (224, 224), mode="bilinear", antialias=True)
        - 127
    ) / 128


def test_lite0_file_knows_a_flower(lite0):
    """The conversion is of use only if the network still classifies: 698 is palace, 985 daisy."""
    import timm

    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(encoders.convert_efficientnet_lite0(lite0[0]))
    with torch.inference_mode():
        assert whole(photos()).argmax(1).tolist() == [698, 985]


def test_lite0_file_expects_the_activations_it_gets(lite0):
    """On photographs the channel means of each layer are those that its batch norm kept from ImageNet."""
    agreement = {}
    for file in ("none", str(lite0[1])):
        network, found = smp_unet(LITE0, encoder_weights=file).encoder.eval(), []
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.register_forward_pre_hook(
                    lambda module, inputs, seen=found: seen.append(
                        (inputs[0].mean((0, 2, 3)), module.running_mean)
                    )
                )
        with torch.inference_mode():
            network(photos())
        distance = [((mean - kept).norm() / mean.norm()).item() for mean, kept in found]
        agreement[file != "none"] = float(np.median(distance))
    assert agreement[True] < 0.4 and agreement[False] == pytest.approx(
        1
    )  # a random encoder's kept means are 0


def test_lite0_file_in_another_encoder(lite0):
    with pytest.raises(
        DataError, match=f"another encoder than {MOBILENET}.*begins with _conv_stem.weight"
    ):
        smp_unet(MOBILENET, encoder_weights=str(lite0[1]))
