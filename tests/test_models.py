"""The U-Net: its size, the shapes it takes, and that every weight learns."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglib import models, tables
from seglib.errors import ConfigError


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def meta(**fields):
    """A network without memory, to count what it would hold."""
    with torch.device("meta"):
        return models.UNet(**fields)


def double_conv(n_in, n_out, mid=None):
    """Parameters of two 3x3 convolutions without bias, each with the two vectors of a batch norm."""
    mid = mid or n_out
    return 9 * n_in * mid + 2 * mid + 9 * mid * n_out + 2 * n_out


def test_parameters_of_the_published_network():
    assert models.n_parameters(meta(in_channels=3, n_classes=1)) == 31_037_633
    assert round(models.n_parameters(meta(in_channels=3, n_classes=1)) / 1e6, 1) == 31.0
    assert models.n_parameters(meta(in_channels=3, n_classes=1, bilinear=True)) == 17_262_977


@pytest.mark.parametrize(("base", "depth"), [(1, 1), (4, 3), (8, 2), (64, 4), (6, 5)])
@pytest.mark.parametrize(("in_channels", "n_classes"), [(1, 1), (3, 6)])
def test_parameters_by_formula(base, depth, in_channels, n_classes):
    """Every level doubles the channels; each way up is a 2x2 transposed convolution and a double convolution."""
    levels = [base * 2**level for level in range(depth + 1)]
    expected = double_conv(in_channels, base) + sum(double_conv(n, 2 * n) for n in levels[:-1])
    expected += (
        sum(4 * 2 * n * n + n + double_conv(2 * n, n) for n in levels[:-1])
        + base * n_classes
        + n_classes
    )
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
    assert network(torch.empty(2, 3, height, width, device="meta")).shape == (
        2,
        n_classes,
        height,
        width,
    )


@pytest.mark.parametrize("size", [(33, 47), (40, 31), (32, 32)])
def test_odd_sizes_give_numbers(size):
    network = models.UNet(1, 2, base_channels=2, depth=3).eval()
    logits = network(torch.randn(1, 1, *size))
    assert (
        logits.shape == (1, 2, *size) and logits.dtype == torch.float32 and logits.isfinite().all()
    )


@pytest.mark.parametrize("bilinear", [False, True])
def test_smallest_image_is_two_to_the_depth(bilinear):
    network = models.UNet(1, 1, base_channels=2, depth=4, bilinear=bilinear).eval()
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, 15, 15))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("bilinear", [False, True])
def test_gradient_reaches_every_parameter(bilinear, attention):
    network = models.UNet(3, 2, base_channels=4, depth=3, bilinear=bilinear, attention=attention)
    network(torch.randn(2, 3, 37, 50)).square().mean().backward()
    still = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert still == []


def test_skip_connections_carry_detail():
    """Without skips a pooled-away checkerboard could not come back: neighbours that differ by one pixel get equal
    logits only if the first features did not reach the head."""
    network = models.UNet(1, 1, base_channels=8, depth=3).eval()
    board = torch.zeros(1, 1, 32, 32)
    board[..., ::2, ::2] = 1
    with torch.inference_mode():
        network.up[-1].conv[0].weight[:, 8:] = 0  # only the skip half is left
        logits = network(board)[0, 0, 8:24, 8:24]
    assert (
        logits[::2, ::2].std() < 1e-5 and (logits[::2, ::2] - logits[1::2, 1::2]).abs().min() > 1e-4
    )


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_channels_last_equals_contiguous(bilinear, train):
    network = models.UNet(3, 2, base_channels=4, depth=3, bilinear=bilinear).train(train)
    image = torch.randn(2, 3, 40, 33)
    plain = network(image).detach()
    network = network.to(memory_format=torch.channels_last)
    last = network(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


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


def test_state_dict_opens_with_the_default_of_torch_load():
    network = models.UNet(1, 3, base_channels=4, depth=2)
    network(torch.randn(2, 1, 16, 16))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = models.UNet(1, 3, base_channels=4, depth=2)
    other.load_state_dict(torch.load(file))
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(network.eval()(image), other.eval()(image))


def test_build_passes_what_it_is_given():
    torch.manual_seed(3)
    built = models.build(
        "unet", in_channels=1, n_classes=2, base_channels=4, depth=2, bilinear=True, encoder="other"
    )
    torch.manual_seed(3)
    direct = models.UNet(1, 2, base_channels=4, depth=2, bilinear=True)
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in direct.state_dict().items()
    }
    assert all(
        torch.equal(a, b) for a, b in zip(built.state_dict().values(), direct.state_dict().values())
    )


def test_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="'vnet'.*unet"):
        models.build("vnet", in_channels=1, n_classes=1)


# ---- checkpointing


def one_step(network, image):
    """Loss, gradients and state of a step, and the bytes that wait for the backward pass."""
    held = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        loss = network(image).square().mean()
    loss.backward()
    return loss.item(), [p.grad for p in network.parameters()], network.state_dict(), sum(held)


@pytest.mark.parametrize("kind", [models.UNet, models.ASPPNet])
def test_checkpointing_changes_nothing_but_memory(kind):
    """Gradients, and the running means that batch norm counts once though every block is computed twice."""
    fields = dict(in_channels=1, n_classes=2, base_channels=4, attention=True)
    plain, frugal = kind(**fields), kind(**fields, checkpointing=True)
    frugal.load_state_dict(plain.state_dict())
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    image = torch.rand(2, 1, 64, 64)
    (loss, gradients, state, held), (other, others, other_state, less) = (
        one_step(plain, image),
        one_step(frugal, image),
    )
    assert loss == other and all(torch.equal(a, b) for a, b in zip(gradients, others))
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    assert not torch.equal(before["first.1.running_mean"], state["first.1.running_mean"])
    assert less < held / 2
    assert torch.equal(plain.eval()(image), frugal.eval()(image))


def test_encoders_of_others_have_no_checkpointing():
    with pytest.raises(ConfigError, match="checkpointing: smp_unet does not have it"):
        models.build("smp_unet", in_channels=1, n_classes=1, checkpointing=True)


# ---- the shares of the classes as a start


@pytest.mark.parametrize("architecture", tables.ARCHITECTURES)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_set_prior_gives_every_class_its_share(architecture, task):
    shares = np.array([0.9, 0.06, 0.04])
    model = models.build(architecture, in_channels=1, n_classes=3, base_channels=4).eval()
    before = model(torch.randn(2, 1, 64, 64))
    models.init_output_bias(model, shares, task)
    head = model.head if architecture != "smp_unet" else model.segmentation_head[0]
    bias = head.bias.detach()
    found = bias.softmax(0) if task == "multiclass" else bias.sigmoid()
    assert found.numpy() == pytest.approx(shares, abs=1e-6)
    torch.manual_seed(1)
    image = torch.randn(2, 1, 64, 64)
    assert model(image).shape == before.shape
    if task == "multiclass":
        assert model(image).softmax(1).mean((0, 2, 3))[0] > 0.6


def test_set_prior_leaves_a_class_without_masks_and_takes_empty_ones():
    model = models.UNet(1, 3, base_channels=4, depth=1)
    kept = model.head.bias[1].item()
    models.init_output_bias(model, np.array([0.0, np.nan, 1.0]), "multilabel")
    assert model.head.bias.detach().tolist() == pytest.approx([-9.21024, kept, 9.21024], abs=1e-4)
