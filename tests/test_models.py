"""Networks: their size, the shapes they take, that every weight learns, and how one is added."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seglib import config, models, runs, tables
from seglib.errors import ConfigError

# One small network of each kind.
KINDS = {
    "unet": lambda: models.UNet(3, 2, base_channels=4, depth=3),
    "bilinear unet": lambda: models.UNet(3, 2, base_channels=4, depth=3, bilinear=True),
    "gated unet": lambda: models.UNet(3, 2, base_channels=4, depth=3, attention=True),
    "gated bilinear unet": lambda: models.UNet(3, 2, 4, 3, bilinear=True, attention=True),
    "aspp": lambda: models.ASPPNet(3, 2, base_channels=4, aspp_rates=(1, 2)),
    "gated aspp": lambda: models.ASPPNet(3, 2, 4, aspp_rates=(1, 2), attention=True),
    "blocks unet": lambda: models.UNet(3, 2, 4, 3, stem="space_to_depth"),
    "blocks aspp": lambda: models.ASPPNet(
        3, 2, 4, (1, 2), attention=True, checkpointing=True, stem="space_to_depth"
    ),
    "smp_unet": lambda: models.build("smp_unet", n_classes=2, encoder="tu-mobilenetv3_small_050"),
}


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.fixture(params=KINDS)
def network(request):
    return KINDS[request.param]()


def same(state, other):
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in state)


# ---- what holds for every network


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (100, 65)])
def test_size_of_the_output(network, size):
    logits = network.eval()(torch.randn(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_gradient_reaches_every_parameter(network):
    network(torch.randn(2, 3, 97, 128)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


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
    for layer in network.modules():  # so that the same input gives the same output twice
        if isinstance(layer, (nn.Dropout, nn.BatchNorm2d)):
            layer.momentum, layer.p = 0.0, 0.0
    image = torch.randn(2, 3, 64, 49)
    plain = network(image).detach()
    network = network.to(memory_format=torch.channels_last)
    last = network(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-4)


def test_bf16_autocast_is_finite_and_close(network):
    network.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        plain = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(image)
    error = (half.float() - plain).abs().max()
    assert half.isfinite().all() and error < 0.05 * plain.abs().max().clamp(min=1)


def test_state_dict_opens_with_the_default_of_torch_load(network):
    network(torch.randn(2, 3, 64, 64))  # running statistics other than their start
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert same(network.state_dict(), torch.load(file))


# ---- U-Net


def meta(**fields):
    """A network without memory, to count what it would hold."""
    with torch.device("meta"):
        return models.UNet(**fields)


def double_conv(n_in, n_out, mid=None):
    """Parameters of two 3x3 convolutions without bias, each with two vectors of a batch norm."""
    mid = mid or n_out
    return 9 * n_in * mid + 2 * mid + 9 * mid * n_out + 2 * n_out


def test_parameters_of_the_published_network():
    assert models.n_parameters(meta(in_channels=3, n_classes=1)) == 31_037_633
    assert models.n_parameters(meta(in_channels=3, n_classes=1, bilinear=True)) == 17_262_977


@pytest.mark.parametrize(("base", "depth"), [(1, 1), (4, 3), (8, 2), (64, 4), (6, 5)])
@pytest.mark.parametrize(("in_channels", "n_classes"), [(1, 1), (3, 6)])
def test_parameters_by_formula(base, depth, in_channels, n_classes):
    """Levels double the channels; each way up has a 2x2 transposed and a double convolution."""
    levels = [base * 2**level for level in range(depth + 1)]
    expected = double_conv(in_channels, base) + sum(double_conv(n, 2 * n) for n in levels[:-1])
    expected += sum(4 * 2 * n * n + n + double_conv(2 * n, n) for n in levels[:-1])
    expected += base * n_classes + n_classes
    network = meta(in_channels=in_channels, n_classes=n_classes, base_channels=base, depth=depth)
    assert models.n_parameters(network) == expected


def test_frozen_weights_are_not_counted():
    network = models.UNet(1, 1, base_channels=4, depth=2)
    frozen = sum(p.numel() for p in network.first.parameters())
    before = models.n_parameters(network)
    network.first.requires_grad_(False)
    assert models.n_parameters(network) == before - frozen


def test_depth_is_the_number_of_poolings():
    for depth in (1, 3, 5):
        network, pooled = models.UNet(1, 1, base_channels=2, depth=depth).eval(), []
        network.pool.register_forward_hook(
            lambda module, inputs, output, seen=pooled: seen.append(output.shape[-1])
        )
        network(torch.zeros(1, 1, 64, 64))
        assert pooled == [64 // 2**level for level in range(1, depth + 1)]


@settings(max_examples=25)
@given(data=st.data(), depth=st.integers(1, 5), bilinear=st.booleans(), attention=st.booleans())
def test_output_has_the_size_of_the_input(data, depth, bilinear, attention):
    height, width = (data.draw(st.integers(2**depth, 300)) for _ in range(2))
    n_classes = data.draw(st.integers(1, 4))
    options = {"base_channels": 2, "depth": depth, "bilinear": bilinear, "attention": attention}
    network = meta(in_channels=3, n_classes=n_classes, **options)
    logits = network(torch.empty(2, 3, height, width, device="meta"))
    assert logits.shape == (2, n_classes, height, width)


@pytest.mark.parametrize("bilinear", [False, True])
def test_smallest_image_is_two_to_the_depth(bilinear):
    network = models.UNet(1, 1, base_channels=2, depth=4, bilinear=bilinear).eval()
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, 15, 15))


def test_skip_connections_carry_detail():
    """A checkerboard that pooling destroys can only come back through the skip connections."""
    network = models.UNet(1, 1, base_channels=8, depth=3).eval()
    board = torch.zeros(1, 1, 32, 32)
    board[..., ::2, ::2] = 1
    with torch.inference_mode():
        network.up[-1].conv[0].weight[:, 8:] = 0  # only the skip half is left
        logits = network(board)[0, 0, 8:24, 8:24]
    white, black = logits[::2, ::2], logits[1::2, 1::2]
    assert white.std() < 1e-5 and (white - black).abs().min() > 1e-4


def test_eval_is_deterministic_and_images_do_not_touch_one_another():
    network = models.UNet(1, 1, base_channels=4, depth=3)
    network(torch.randn(4, 1, 32, 32))  # running statistics other than their start
    network.eval()
    images = torch.randn(3, 1, 32, 32)
    with torch.inference_mode():
        first = network(images)
        assert torch.equal(first, network(images))
        torch.testing.assert_close(network(images[1:2]), first[1:2], rtol=1e-4, atol=1e-5)


def test_one_seed_gives_one_network():
    states = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        states.append(models.UNet(1, 1, base_channels=2, depth=2).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


# ---- the stem space_to_depth

BLOCKS = {"stem": "space_to_depth"}


@settings(max_examples=6)
@given(data=st.data(), depth=st.integers(1, 5), bilinear=st.booleans(), attention=st.booleans())
def test_blocks_give_the_size_of_the_input(data, depth, bilinear, attention):
    height, width = (data.draw(st.integers(2 ** (depth + 1), 300)) for _ in range(2))
    options = {"base_channels": 2, "depth": depth, "bilinear": bilinear, "attention": attention}
    network = meta(in_channels=3, n_classes=2, **options, **BLOCKS)
    logits = network(torch.empty(2, 3, height, width, device="meta"))
    assert logits.shape == (2, 2, height, width)


@pytest.mark.parametrize("kind", [models.UNet, models.ASPPNet])
@pytest.mark.parametrize("sides", [(64, 96), (65, 95)])
def test_blocks_equal_the_layers_of_torch_around_the_network(kind, sides):
    blocks = kind(3, 2, 4, **BLOCKS).eval()
    plain = kind(12, 8, 4).eval()
    plain.load_state_dict(blocks.state_dict())
    reference = nn.Sequential(nn.PixelUnshuffle(2), plain, nn.PixelShuffle(2))
    image = torch.randn(2, 3, *sides)
    padded = nn.functional.pad(image, (0, sides[1] % 2, 0, sides[0] % 2), mode="replicate")
    expected = reference(padded)[..., : sides[0], : sides[1]]
    assert torch.equal(blocks(image), expected)
    assert models.n_parameters(blocks) == models.n_parameters(plain)


def test_the_full_stem_is_the_network_without_stems():
    names = models.UNet(3, 2, 4, 3).state_dict().keys()
    assert names == models.UNet(3, 2, 4, 3, **BLOCKS).state_dict().keys()
    with pytest.raises(ValueError, match="stem: 'patchify' is unknown; choose from full, space"):
        models.UNet(3, 2, stem="patchify")


def test_receptive_field_behind_blocks_counts_in_pixels_of_the_image():
    """Two 3x3 convolutions see 5x5 blocks, which are 10x10 pixels."""
    network = models.UNet(2, 3, base_channels=8, depth=1, **BLOCKS)
    assert extent(models.receptive_field(network, 64, "first")) == (10, 10)
    plain = models.receptive_field(models.UNet(2, 3, base_channels=8, depth=1), 128)
    blocks = models.receptive_field(network, (128, 130))
    assert blocks.shape == (128, 130) and extent(blocks) == tuple(2 * n for n in extent(plain))


# ---- ASPP


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
    """Two 1x1 branches (one with a bias, no batch norm), three 3x3, and the one that joins."""
    with torch.device("meta"):
        aspp, full = models.ASPP(256, 256), models.ASPPNet(1, 4)
        counts = [models.n_parameters(models.ASPPNet(1, 4, base_channels=n)) for n in (16, 32)]
        unet = models.UNet(1, 4, base_channels=32, bilinear=True)
    n = 256
    expected = (n * n + 2 * n) + 3 * (9 * n * n + 2 * n) + (n * n + n) + (5 * n * n + 2 * n)
    assert models.n_parameters(aspp) == expected == 2_231_040
    assert counts == [1_639_156, 6_548_964]
    assert models.n_parameters(full) == models.n_parameters(unet) + expected
    shared = {key for key in full.state_dict() if not key.startswith("aspp.")}
    assert set(unet.state_dict()) == shared


def test_aspp_is_its_branches():
    aspp = models.ASPP(3, 4, (2,)).eval()
    deep = torch.randn(2, 3, 9, 11)
    mean = torch.relu(aspp.pooled[0](deep.mean((2, 3), keepdim=True))) * torch.ones(1, 1, 9, 11)
    kernel = torch.zeros(4, 3, 5, 5)  # dilation spreads the kernel and fills it with zeros
    kernel[..., ::2, ::2] = aspp.local[1][0].weight.detach()
    dilated = torch.relu(aspp.local[1][1](nn.functional.conv2d(deep, kernel, padding=2)))
    joined = torch.cat([aspp.local[0](deep), dilated, mean], 1)
    torch.testing.assert_close(aspp(deep), aspp.project(joined))


def test_aspp_batch_of_one_trains_and_its_eval_agrees():
    """Batch norm over one pooled value would raise, or have a variance of 0 after a broadcast."""
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
    """At stride 16 the encoder sees 140 pixels; a 3x3 kernel of dilation r adds 16 r a side."""
    fields = {}
    for rates in ((1, 1, 1), (6, 12, 18)):
        torch.manual_seed(0)
        network = models.ASPPNet(1, 1, base_channels=2, aspp_rates=rates)
        field = fields[rates] = models.receptive_field(network, 736, "aspp.local", n=1)
        assert field.shape == (736, 736) and field.max() == 1 and field.min() == 0
        assert extent(field) == (140 + 32 * max(rates),) * 2
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


# ---- attention gates


def test_attention_parameters():
    with torch.device("meta"):
        plain, gated = (models.UNet(3, 1, attention=on) for on in (False, True))
        aspp = models.ASPPNet(1, 4, attention=True)
    assert models.n_parameters(plain) == 31_037_633
    # Skip and deep features have n channels each; the gate has half of them within.
    gates = sum(n * n // 2 + n * n // 2 + n // 2 + n // 2 + 1 for n in (64, 128, 256, 512))
    assert models.n_parameters(gated) == 31_037_633 + gates == 31_386_757
    assert models.n_parameters(aspp) == 6_636_488
    extra = set(gated.state_dict()) - set(plain.state_dict())
    assert len(extra) == 4 * 5 and all(".gate." in key for key in extra)


def test_gate_weighs_the_skip():
    gate = models.AttentionGate(3, 5)
    skip, deep = torch.randn(2, 3, 8, 9), torch.randn(2, 5, 8, 9)
    weight = gate.coefficients(skip, deep)
    assert weight.shape == (2, 1, 8, 9)
    assert 0 < weight.min() and weight.max() < 1 and weight.std() > 0
    torch.testing.assert_close(gate(skip, deep), skip * weight)
    with torch.no_grad():
        for bias, expected in ((-50.0, torch.zeros_like(skip)), (50.0, skip)):
            gate.score.bias.fill_(bias)
            torch.testing.assert_close(gate(skip, deep), expected)


# ---- deep supervision

DEEP = {"deep_supervision": True}


@pytest.mark.parametrize("stem", models.STEMS)
@pytest.mark.parametrize(
    ("kind", "depth", "fields"),
    [
        (models.UNet, 3, {"depth": 3}),
        (models.UNet, 4, {"bilinear": True, "attention": True}),
        (models.ASPPNet, 4, {"checkpointing": True}),
    ],
)
def test_levels_are_returned_in_training_and_one_tensor_in_evaluation(kind, depth, fields, stem):
    fields = dict(in_channels=1, n_classes=2, base_channels=2, stem=stem, **fields)
    network = kind(**fields, **DEEP)
    levels = network(torch.randn(2, 1, 96, 128))
    stride = models.STEMS[stem]
    sides = [(96, 128), *((96 // stride // 2**k, 128 // stride // 2**k) for k in range(1, depth))]
    assert [tuple(level.shape) for level in levels] == [(2, 2, *side) for side in sides]
    sum(level.square().mean() for level in levels).backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())

    plain = kind(**fields)
    missing, unexpected = plain.load_state_dict(network.state_dict(), strict=False)
    assert not missing and {key.split(".")[0] for key in unexpected} == {"auxiliary"}
    image = torch.randn(2, 1, 97, 131)
    assert torch.equal(network.eval()(image), plain.eval()(image))


def test_heads_on_the_levels_are_1x1_convolutions():
    plain, deep = meta(n_classes=5), meta(n_classes=5, **DEEP)
    extra = sum(5 * channels + 5 for channels in (128, 256, 512))
    assert models.n_parameters(deep) == models.n_parameters(plain) + extra
    with pytest.raises(ConfigError, match="deep_supervision: a network of depth 1 .* larger depth"):
        models.UNet(3, 2, depth=1, **DEEP)


def test_every_level_starts_with_the_shares_of_the_classes():
    shares = np.array([0.9, 0.06, np.nan])
    network = models.UNet(1, 3, base_channels=4, depth=3, **BLOCKS, **DEEP)
    before = network.auxiliary[0].bias[2].item()
    models.init_output_bias(network, shares, "multilabel")
    for head in network.auxiliary:
        assert head.bias.detach().sigmoid()[:2].numpy() == pytest.approx(shares[:2], abs=1e-6)
    assert network.auxiliary[0].bias[2].item() == before


# ---- checkpointing


def one_step(network, image):
    """Loss, gradients, state and the bytes that wait for the backward pass."""
    n_bytes = 0

    def count(tensor):
        nonlocal n_bytes
        n_bytes += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = network(image).square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return loss.item(), gradients, network.state_dict(), n_bytes


@pytest.mark.parametrize("kind", [models.UNet, models.ASPPNet])
@pytest.mark.parametrize("stem", models.STEMS)
def test_checkpointing_changes_nothing_but_memory(kind, stem):
    """Nor the running means: every block is computed twice, but its batch norms count once."""
    fields = dict(in_channels=1, n_classes=2, base_channels=4, attention=True, stem=stem)
    plain, frugal = kind(**fields), kind(**fields, checkpointing=True)
    frugal.load_state_dict(plain.state_dict())
    before = plain.first[1].running_mean.clone()
    image = torch.rand(2, 1, 64, 64)
    loss, gradients, state, n_bytes = one_step(plain, image)
    frugal_loss, frugal_gradients, frugal_state, frugal_bytes = one_step(frugal, image)
    assert loss == frugal_loss and same(gradients, frugal_gradients) and same(state, frugal_state)
    assert not torch.equal(before, state["first.1.running_mean"])
    assert frugal_bytes < n_bytes / 2
    assert torch.equal(plain.eval()(image), frugal.eval()(image))


# ---- the table of architectures


def test_build_passes_what_the_network_takes():
    torch.manual_seed(3)
    fields = dict(base_channels=4, depth=2, bilinear=True)
    built = models.build("unet", in_channels=1, n_classes=2, encoder="another's", **fields)
    torch.manual_seed(3)
    assert same(built.state_dict(), models.UNet(1, 2, **fields).state_dict())


def test_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="'vnet'.*unet, aspp, smp_unet"):
        models.build("vnet", in_channels=1, n_classes=1)


@pytest.mark.parametrize(
    ("setting", "on", "off"),
    [
        ("attention", True, False),
        ("checkpointing", True, False),
        ("deep_supervision", True, False),
        ("stem", "space_to_depth", "full"),
    ],
)
def test_a_part_that_the_network_lacks_is_refused(setting, on, off):
    message = f"{setting}: smp_unet does not have it; use the architecture unet or aspp"
    with pytest.raises(ConfigError, match=message):
        models.build("smp_unet", in_channels=1, n_classes=1, **{setting: on})
    models.build("smp_unet", in_channels=1, n_classes=1, **{setting: off}, early_stopping=True)


class Mine(nn.Module):
    """A network as a reader writes one. Its output layer has its own name, and is defined first."""

    def __init__(self, in_channels, n_classes, base_channels):
        super().__init__()
        self.to_logits = nn.Conv2d(base_channels, n_classes, 1)
        self.stem = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.middle = nn.Conv2d(base_channels, base_channels, 3, padding=1)

    def forward(self, image):
        features = self.middle(self.stem(image).relu()).relu()
        return self.to_logits(features)


def test_an_architecture_is_one_entry(monkeypatch):
    with pytest.raises(ConfigError, match="architecture: .*'mine'"):
        config.preset("cardiac", architecture="mine")
    monkeypatch.setitem(tables.ARCHITECTURES, "mine", tables.Architecture(Mine))
    cfg = config.preset("cardiac", architecture="mine", base_channels=4, class_prior=True)
    network = runs.network(cfg)
    assert isinstance(network, Mine) and network.middle.in_channels == 4
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 4, 8, 8)
    shares = np.array([0.9, 0.05, 0.03, 0.02])
    models.init_output_bias(network, shares, cfg.task)
    assert network.to_logits.bias.detach().softmax(0).numpy() == pytest.approx(shares, abs=1e-6)
    with pytest.raises(ConfigError, match="attention: mine does not have it"):
        runs.network(cfg.replace(attention=True))


# ---- the output layer, and the shares of the classes as its bias


@pytest.mark.parametrize("architecture", ["unet", "aspp", "smp_unet"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_class_starts_with_its_share(architecture, task):
    shares = np.array([0.9, 0.06, 0.04])
    model = models.build(architecture, in_channels=1, n_classes=3, base_channels=4).eval()
    models.init_output_bias(model, shares, task)
    head = model.segmentation_head[0] if architecture == "smp_unet" else model.head
    bias = head.bias.detach()
    start = bias.softmax(0) if task == "multiclass" else bias.sigmoid()
    assert start.numpy() == pytest.approx(shares, abs=1e-6)
    if task == "multiclass":
        assert model(torch.randn(2, 1, 64, 64)).softmax(1).mean((0, 2, 3))[0] > 0.6


@pytest.mark.parametrize("architecture", ["unet", "aspp"])
def test_the_four_logits_of_a_block_start_with_the_share_of_their_class(architecture):
    shares = np.array([0.9, 0.06, 0.04])
    model = models.build(architecture, in_channels=1, n_classes=3, base_channels=4, **BLOCKS).eval()
    models.init_output_bias(model, shares, "multiclass")
    with torch.no_grad():
        model.head.weight.zero_()
        prob = model(torch.randn(2, 1, 64, 64)).softmax(1)
    expected = torch.tensor(shares, dtype=torch.float32)[None, :, None, None].expand_as(prob)
    torch.testing.assert_close(prob, expected)


def test_a_class_without_masks_keeps_its_bias_and_an_empty_one_has_a_limit():
    model = models.UNet(1, 3, base_channels=4, depth=1)
    before = model.head.bias[1].item()
    models.init_output_bias(model, np.array([0.0, np.nan, 1.0]), "multilabel")
    assert model.head.bias.tolist() == pytest.approx([-9.21024, before, 9.21024], abs=1e-4)


def test_the_output_layer_is_the_last_one_that_runs():
    """Gates, branches and transposed convolutions can have as many outputs as there are classes."""
    gated = models.UNet(1, 1, base_channels=2, depth=2, attention=True)
    assert models.output_layer(gated, 1) is gated.head
    aspp = models.ASPPNet(1, 8, base_channels=1)  # defines its ASPP after its head
    assert models.output_layer(aspp, 8) is aspp.head

    class AsksForNumbers(Mine):  # cannot run without memory
        def forward(self, image):
            return super().forward(image) * float(image.sum() >= 0)

    network = nn.Sequential(AsksForNumbers(1, 4, 4), nn.Conv2d(4, 2, 1))
    assert models.output_layer(network, 2) is network[1]


@pytest.mark.parametrize(
    "last", [nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1, bias=False), nn.ReLU()], ids=repr
)
def test_a_network_without_such_an_output_is_named(last):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), last)
    with pytest.raises(ConfigError, match="class_prior: the last layer of Sequential is Conv2d"):
        models.init_output_bias(network, np.array([0.9, 0.1]), "multiclass")
