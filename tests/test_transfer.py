"""Weights to start from: other classes, names and channels; every other difference is refused."""

import pytest
import torch
from timm.models import adapt_input_conv

from seglib import config, models, runs, training, transfer
from seglib.errors import DataError
from tests.helpers import same_weights

pytestmark = pytest.mark.usefixtures("without_figures")

SMALL = {"base_channels": 4, "depth": 2, "stem": "full"}
ENCODER = {"encoder": "tu-mobilenetv3_small_050", "encoder_weights": "none"}


def cfg_of(preset="lung", **changes):
    return config.preset(preset, "smoke", **SMALL | changes)


def saved(folder, cfg, seed=1):
    """A weights file of a network with random weights, and its state."""
    torch.manual_seed(seed)
    network = runs.network(cfg)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01 * torch.rand_like(value))
    return runs.save_weights(folder / "best_model.pth", network, cfg), network.state_dict()


def started(path, cfg):
    """What `start_from` returns, the state before and after it."""
    torch.manual_seed(2)
    network = runs.network(cfg)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    return transfer.start_from(path, network, cfg), before, network.state_dict()


def changed(first, second):
    """The layers in which two states differ."""
    return {key.rpartition(".")[0] for key in first if not torch.equal(first[key], second[key])}


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "head"),
        ({"stem": "space_to_depth"}, "head"),
        ({"architecture": "aspp", "attention": True}, "head"),
        (ENCODER, "segmentation_head.0"),
    ],
)
def test_other_classes_get_a_new_head(tmp_path, fields, head):
    """From a preset of one class and grey images to one of four classes."""
    path, state = saved(tmp_path, cfg_of(**fields))
    cfg = cfg_of("cardiac", **({} if "encoder" in fields else {"architecture": "unet"}) | fields)
    start, before, after = started(path, cfg)
    assert start.new_layers == [head] and start.has_new_output
    taken = {key: value for key, value in after.items() if not key.startswith(head)}
    assert all(torch.equal(value, state[key]) for key, value in taken.items())
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith(head))
    text = str(start)
    assert f"all layers are taken, but new: {head}" in text
    assert "class_names were lung, here background, right_ventricle" in text
    assert "task was binary, here multiclass" in text


def test_other_names_take_all_weights_and_are_said(tmp_path):
    path, state = saved(tmp_path, cfg_of())
    start, _, after = started(path, cfg_of(class_names=["heart"], mean=[0.4]))
    assert start.new_layers == [] and same_weights(after, state)
    notes = ["class_names were lung, here heart", "mean was 0.5, here 0.4"]
    assert start.notes == notes and "all layers are taken; class_names were" in str(start)


def test_the_same_classes_take_all_weights_without_a_note(tmp_path):
    path, state = saved(tmp_path, cfg_of())
    start, _, after = started(path, cfg_of())
    assert (start.new_layers, start.notes) == ([], []) and same_weights(after, state)


def test_weights_without_a_description_are_taken(tmp_path):
    path, state = saved(tmp_path, cfg_of())
    path.with_suffix(".json").unlink()
    start, _, after = started(path, cfg_of())
    assert same_weights(after, state)
    assert start.notes == [
        "the classes of these weights are unknown, as no description lies beside them"
    ]


@pytest.mark.parametrize("fields", [{}, {"stem": "space_to_depth"}, ENCODER])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1)])
def test_grey_and_rgb_are_adapted(tmp_path, fields, channels):
    """The network answers to a grey picture as before; the sum for grey is timm's."""
    before, now = channels
    path, state = saved(tmp_path, cfg_of(in_channels=before, **fields, mean=[0.5], std=[0.25]))
    cfg = cfg_of(in_channels=now, **fields, mean=[0.5], std=[0.25])
    torch.manual_seed(2)
    network = runs.network(cfg).eval()
    start = transfer.start_from(path, network, cfg)
    assert start.new_layers == []
    assert any(f"adapted from {before} to {now} input channels" in note for note in start.notes)
    trained = runs.network(cfg.replace(in_channels=before)).eval()
    trained.load_state_dict(state)
    grey = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        expected = trained(grey.expand(-1, before, -1, -1))
        actual = network(grey.expand(-1, now, -1, -1))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    if channels == (3, 1) and not fields:
        weight = network.state_dict()["first.0.weight"]
        torch.testing.assert_close(weight, adapt_input_conv(1, state["first.0.weight"]))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"base_channels": 8}),
        ({}, {"depth": 3}),
        ({}, {"attention": True}),
        ({}, {"stem": "space_to_depth"}),
        ({}, {"bilinear": True}),
        ({}, {"in_channels": 2}),
        ({}, ENCODER),
        ({"architecture": "aspp"}, {}),
        ({"class_names": ["a", "b"], "task": "multilabel"}, {"base_channels": 8}),
        (ENCODER, {"encoder": "resnet18", "encoder_weights": "none"}),
    ],
)
def test_any_other_difference_is_refused(tmp_path, before, now):
    path, _ = saved(tmp_path, cfg_of(**before))
    with pytest.raises(DataError, match="best_model.pth: weights of another network: "):
        started(path, cfg_of(**now))


def test_deep_supervision_may_be_switched_on_and_off(tmp_path):
    deep = cfg_of(depth=3, deep_supervision=True)
    path, state = saved(tmp_path, deep)
    start, _, after = started(path, deep.replace(deep_supervision=False))
    assert start.notes == ["the heads of deep supervision are left out"]
    assert all(torch.equal(value, state[key]) for key, value in after.items())

    path, _ = saved(tmp_path, deep.replace(deep_supervision=False))
    start, before, after = started(path, deep)
    assert start.new_layers == ["auxiliary.0", "auxiliary.1"]
    assert not start.has_new_output
    assert changed(before, after).isdisjoint(start.new_layers)


def test_a_network_of_ones_own_gets_a_new_head_too(tmp_path):
    def own(n_classes):
        return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, n_classes, 1))

    torch.save(own(1).state_dict(), tmp_path / "own.pth")
    cfg = cfg_of("cardiac")
    network = own(4)
    assert transfer.start_from(tmp_path / "own.pth", network, cfg).new_layers == ["1"]
    torch.save(models.UNet(1, 1, 4, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match="weights of another network"):
        transfer.start_from(tmp_path / "other.pth", network, cfg)


def test_a_run_says_what_is_new_and_starts_its_new_head_at_the_shares(tiny, tmp_path, capsys):
    palm = config.preset("palm", "smoke", base_channels=2, depth=2, stem="full")
    path, _ = saved(tmp_path, palm)
    cfg, batches = tiny(init_from=str(path), class_prior=True, epochs=1, lr=1e-8)
    run = training.fit(cfg, batches)
    line = run.info["start"][0]
    assert capsys.readouterr().out.count(line) == 1 and "but new: head" in line
    assert runs.Run.load(run.folder).info["init_from"]["new_layers"] == ["head"]
    assert "first.0.weight was adapted from 3 to 1 input channels" in line
    shares = batches["train"].dataset.class_shares()
    bias = torch.load(run.best)["head.bias"]
    assert bias.sigmoid().numpy() == pytest.approx(shares, abs=1e-3)
