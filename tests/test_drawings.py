"""Drawings: every number in them is that of the network, the case table or the masks at hand."""

import importlib
import inspect
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from seglib import drawings, encoders, models

SETTINGS = {
    "plain": (models.UNet, dict(in_channels=1, n_classes=1, base_channels=4), (64, 64)),
    "deep": (models.UNet, dict(in_channels=3, n_classes=3, base_channels=2, depth=6), (128, 192)),
    "bilinear": (models.UNet, dict(base_channels=4, depth=3, bilinear=True, attention=True), 40),
    "stem": (models.UNet, dict(n_classes=2, base_channels=4, stem="space_to_depth"), (66, 75)),
    "levels": (models.UNet, dict(base_channels=4, deep_supervision=True, n_classes=5), (48, 48)),
    "aspp": (models.ASPPNet, dict(base_channels=2, aspp_rates=(2, 5)), (64, 96)),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(params=SETTINGS)
def network(request):
    build, settings, size = SETTINGS[request.param]
    return build(**settings).eval(), (size, size) if isinstance(size, int) else size


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_table_holds_the_shapes_of_a_real_image(network):
    model, size = network
    table = drawings.shape_table(model, size).set_index("part")
    assert tuple(table.loc["image", ["channels", "height", "width"]]) == (model.in_channels, *size)
    names = [name for name in table.index[1:-1] if not name.startswith("auxiliary")]
    shapes = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: output.shape[1:]})
        )
    with torch.no_grad():
        logits = model(torch.zeros(1, model.in_channels, *size))
    for name, shape in {**shapes, "logits": logits.shape[1:]}.items():
        assert tuple(table.loc[name, ["channels", "height", "width"]]) == tuple(shape), name
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    encoder = ["first", *(f"down.{level}" for level in range(len(model.down)))]
    skips = table.loc[table["skip"] > 0, "skip"].tolist()
    assert skips == [shapes[name][0] for name in reversed(encoder[:-1])]


def test_the_u_shows_every_channel_and_size_of_the_table(network):
    model, size = network
    table = drawings.shape_table(model, size)
    shown = texts(drawings.unet(model, size))
    for row in table[table["part"].str.match("first|down|up")].itertuples():
        assert str(row.channels) in shown, row
        assert f"{row.height} × {row.width}" in shown, row
    for row in table[table["skip"] > 0].itertuples():
        assert any(re.fullmatch(rf"{row.skip} \+ \d+", text) for text in shown), row
    parameters = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    assert any(parameters in text for text in shown)
    sides = " × ".join(map(str, size))
    assert f"image\n{model.in_channels} × {sides}" in shown
    assert f"logits\n{table.iloc[-1].channels} × {sides}" in shown
    assert sum("gate" == text for text in shown) == sum(up.gate is not None for up in model.up)


def test_what_the_u_is_made_of_comes_from_the_layers():
    learned = texts(drawings.unet(models.UNet(1, 1, 4, depth=2), 32))
    bilinear = texts(drawings.unet(models.UNet(1, 1, 4, depth=2, bilinear=True), 32))
    assert "2 × 2 transposed convolution" in learned
    assert "bilinear upsampling by 2" in bilinear
    stem = texts(drawings.unet(models.UNet(3, 2, 4, depth=2, stem="space_to_depth"), 32))
    assert any("12 × 16 × 16" in text for text in stem), "the channels after the stem"
    assert any("8 × 16 × 16" in text for text in stem), "four logits a class before they go back"


def test_deep_supervision_shows_a_head_a_coarser_level():
    def green(figure):
        return texts(figure).count("5")

    supervised = models.UNet(1, 5, 4, depth=4, deep_supervision=True)
    plain = models.UNet(1, 5, 4, depth=4)
    assert green(drawings.unet(supervised, 64)) == green(drawings.unet(plain, 64)) + 3


@pytest.mark.parametrize("size", [(64, 96), (128, 128)])
def test_the_mobilenet_u_shows_what_the_encoder_hands_over(size):
    model = encoders.smp_unet(in_channels=3, n_classes=6).eval()
    with torch.no_grad():
        features = model.encoder(torch.zeros(1, 3, *size))
    table = drawings.shape_table(model, size)
    stages = table[table["part"].str.startswith("encoder")]
    shapes = stages[["channels", "height", "width"]].to_numpy().tolist()
    assert shapes == [list(feature.shape[1:]) for feature in features[1:]]
    assert table["parameters"].sum() == models.n_parameters(model)
    in_encoder = sum(p.numel() for p in model.encoder.parameters())
    assert stages["parameters"].sum() == in_encoder and (stages["parameters"] > 0).all()
    shown = texts(drawings.mobilenet_unet(model, size))
    for channels, height, width in shapes:
        assert str(channels) in shown and f"{height} × {width}" in shown
    for feature, skip in zip(features[-2:0:-1], table.loc[table["skip"] > 0, "skip"]):
        assert feature.shape[1] == skip
        assert any(text.startswith(f"{skip} + ") for text in shown)
    assert any(f"{in_encoder:,} in the encoder" in text for text in shown)


def test_the_receptive_field_is_the_one_that_gradients_show():
    """Average instead of maximum pooling and positive values, so that no path is cut."""
    model = models.ASPPNet(1, 2, base_channels=2, aspp_rates=(1, 3)).eval()
    model.pool = nn.AvgPool2d(2)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0.1, 1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 1000)

    def side(layer, size):
        rows, columns = np.nonzero(models.receptive_field(model, size, layer, n=1))
        assert np.ptp(rows) == np.ptp(columns)
        return np.ptp(rows) + 1

    field, stride = drawings.receptive_field_of_encoder(model)
    assert side("down.3", 320) == field and stride == 16
    narrow, wide = drawings.branches(model, 320)[1:3]
    assert side("aspp.local.1", 320) == narrow.pixels
    assert side("aspp.local.2", 320) == wide.pixels == field + 6 * 16


def test_taps_inside_are_those_that_a_convolution_of_ones_counts():
    model = models.ASPPNet(1, 2, base_channels=2, aspp_rates=(2, 5, 9))
    for branch in drawings.branches(model, (128, 96))[:-1]:
        ones = torch.ones(1, 1, branch.side, branch.side)
        image = torch.ones(1, 1, 8, 6)
        padding = branch.rate * (branch.side // 2)
        counted = nn.functional.conv2d(image, ones, padding=padding, dilation=branch.rate)
        assert branch.inside == pytest.approx(float(counted.mean()))


@pytest.mark.parametrize("rates", [(6, 12, 18), (2, 4), (1, 2, 3, 4)])
def test_aspp_shows_rates_fields_and_channels(rates):
    model = models.ASPPNet(1, 4, base_channels=4, aspp_rates=rates)
    shown = "\n".join(texts(drawings.aspp(model, (128, 128))))
    for rate in rates:
        assert f"3 × 3, rate {rate}\n" in shown
        assert f"spans {2 * rate + 1} × {2 * rate + 1} cells" in shown
    n = len(rates) + 2
    assert f"= {32 * n} channels" in shown and "32 × 8 × 8" in shown
    assert f"{32 * 32 * 9 + 2 * 32:,} parameters" in shown


def test_other_networks_are_refused_and_still_have_a_table():
    own = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    for draw in (drawings.unet, drawings.mobilenet_unet, drawings.aspp):
        with pytest.raises(ValueError, match="Sequential"):
            draw(own)
    table = drawings.shape_table(own, 10)
    assert table["part"].tolist() == ["image", "0", "2", "logits"]
    assert table["height"].tolist() == [10, 8, 8, 8] and table["parameters"].sum() == 57 + 4
    with pytest.raises(ValueError, match="4 x 4"):
        drawings.unet(models.UNet(1, 1, 2, depth=4), 4)


def test_a_network_is_left_as_it_was():
    model = models.UNet(1, 1, 4, depth=2, deep_supervision=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawings.unet(model, 32)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_seven_calls_exist_with_these_arguments():
    shown = " ".join(texts(drawings.data_flow())).replace("\n", "")
    assert len(drawings.CALLS) == 7
    for call, result, _ in drawings.CALLS:
        call = call.replace("\n", "")
        assert call in shown and result in shown
        path, arguments = re.fullmatch(r"([\w.]+)\((.*)\)", call).groups()
        module, *names = path.split(".")
        target = importlib.import_module(f"seglib.{module}")
        for name in names:
            target = getattr(target, name)
        inspect.signature(target).bind(*arguments.split(","))


@pytest.fixture
def cases():
    patients = [f"p{number // 2}" for number in range(31)]
    parts = ["test" if number < 6 else "val" if number < 10 else "train" for number in range(31)]
    return pd.DataFrame({"patient": patients, "split": parts})


def test_the_split_counts_patients_and_images(cases):
    shown = texts(drawings.split(cases))
    assert "training part: 11 patients, 21 images" in shown
    assert "validation part: 2 patients, 4 images" in shown
    assert "test part: 3 patients, 6 images" in shown
    assert "Split by patient: 16 patients, 31 images, nobody in two parts" in shown


def test_a_patient_in_two_parts_is_shown_as_a_leak(cases):
    cases.loc[1, "split"] = "train"
    assert "16 patients, 31 images: 1 patient is in two parts" in texts(drawings.split(cases))


@pytest.mark.parametrize("columns", [["patient"], ["split"], []])
def test_a_table_without_parts_is_refused(cases, columns):
    with pytest.raises(ValueError, match="patient and split"):
        drawings.split(cases[columns])
    with pytest.raises(ValueError, match="patient and split"):
        drawings.split(cases.assign(split=""))


def test_the_confusion_areas_are_counted_in_the_masks():
    random = np.random.default_rng(0)
    truth, pred = random.random((2, 20, 30)) < 0.4
    shown = texts(drawings.confusion_areas(truth, pred))
    expected = {
        "TP": (truth & pred).sum(),
        "FP": (~truth & pred).sum(),
        "FN": (truth & ~pred).sum(),
        "TN": (~truth & ~pred).sum(),
    }
    for name, count in expected.items():
        assert f"{name}\n{count}" in shown
        assert any(text.startswith(f"{name} = {count} pixels") for text in shown)
    dice = 2 * expected["TP"] / (truth.sum() + pred.sum())
    iou = expected["TP"] / (truth | pred).sum()
    for name, value in {"Dice": dice, "IoU": iou}.items():
        assert any(text.startswith(name) and text.endswith(f"= {value:.3f}") for text in shown)
    with pytest.raises(ValueError):
        drawings.confusion_areas(truth)
    with pytest.raises(ValueError):
        drawings.confusion_areas(truth, pred[:, :-1])


def test_drawings_are_white_wide_and_inside_their_page(cases):
    figures = [drawings.data_flow(), drawings.split(cases), drawings.confusion_areas()]
    for build, settings, size in SETTINGS.values():
        figures.append(drawings.unet(build(**settings), size))
    figures.append(drawings.aspp(models.ASPPNet(1, 4, 4, aspp_rates=(6, 12, 18)), 128))
    figures.append(drawings.mobilenet_unet(encoders.smp_unet(), 64))
    for figure in figures:
        assert figure.get_figwidth() * figure.dpi >= 900
        assert figure.get_facecolor() == (1, 1, 1, 1)
        renderer = figure.canvas.get_renderer()
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible() and text.get_alpha() != 0:
                box = text.get_window_extent(renderer)
                assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
                assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text.get_text()
                assert text.get_fontsize() >= 8, text.get_text()
