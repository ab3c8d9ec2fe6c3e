"""Batches to probabilities: flips, rotations, and halves where the memory is too small."""

import warnings

import pytest
import torch

from seglib.errors import DataError
from seglib.inference import Predictor, views
from tests.predictors import predictor


@pytest.mark.parametrize(
    ("augment", "flips"),
    [
        ({"hflip": 0.5}, [(3,)]),
        ({"hflip": 0.5, "vflip": 0.5}, [(3,), (2,), (2, 3)]),
        ({"vflip": 1}, [(2,)]),
        ({}, []),
    ],
)
def test_tta_is_the_mean_over_the_flips_of_training(augment, flips):
    model = predictor(augment=augment)
    batch = torch.rand(2, 1, 24, 32)
    plain = model.probabilities(batch)
    expected = torch.stack(
        [plain, *(model.probabilities(batch.flip(axes)).flip(axes) for axes in flips)]
    ).mean(dim=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.tta = True
    assert ["tta has no effect" in str(warning.message) for warning in caught] == [True] * (
        not flips
    )
    torch.testing.assert_close(model.probabilities(batch), expected)
    assert bool(flips) != torch.equal(expected, plain)


@pytest.mark.parametrize("shape", [(33, 33), (24, 40), (40, 25)])
def test_rotated_views_come_back_to_their_places(shape):
    """A network of single pixels gives the same for every view, but for interpolation."""
    model = predictor("cardiac", reach=0)
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    # A smooth image: interpolation changes next to nothing.
    batch = torch.stack([rows + columns, rows - columns])[:, None]
    plain = model.probabilities(batch)
    black = model.table[:, 0].tolist()
    rotated, coverage = views.rotated(model.probabilities, batch, 30, black)
    everywhere = coverage > 0.999
    assert 0.5 < everywhere.float().mean() < 1 and not coverage[..., 0, 0].any()
    inside = everywhere.expand_as(plain).clone()
    for axis in (2, 3):  # at the edge itself the interpolation mixes in what lies outside
        for end in (slice(0, 2), slice(-2, None)):
            inside.movedim(axis, 0)[end] = False
    torch.testing.assert_close(rotated[inside], plain[inside], atol=0.02, rtol=0)
    model.tta_rotation = 30
    torch.testing.assert_close(model.probabilities(batch).sum(dim=1), torch.ones(2, *shape))


def test_a_quarter_turn_is_exact_and_counts_with_the_flips():
    model = predictor(augment={"hflip": 0.5})
    batch = torch.rand(2, 1, 32, 32)

    def alone(images):
        return model.probabilities(images)

    quarter = [alone(batch.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in (1, 3)]
    expected = torch.stack([alone(batch), alone(batch.flip(3)).flip(3), *quarter]).mean(dim=0)
    model.tta, model.tta_rotation = True, 90
    torch.testing.assert_close(model.probabilities(batch), expected, atol=1e-5, rtol=0)


def test_what_a_turn_brings_in_is_black():
    model, seen = predictor(), []
    model.logits = lambda images: (
        seen.append(images) or torch.zeros(len(images), 1, *images.shape[2:])
    )
    model.tta_rotation = 45
    model.probabilities(torch.ones(1, 1, 16, 16))
    black = (0 - model.config.mean[0]) / model.config.std[0]
    assert [float(images[0, 0, 0, 0]) for images in seen] == pytest.approx([1, black, black])


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model = predictor()
    batch = torch.rand(7, 1, 16, 16)
    whole, known, seen = model.probabilities(batch), Predictor.logits, []

    def small(self, images):
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return known(self, images)

    monkeypatch.setattr(Predictor, "logits", small)
    torch.testing.assert_close(model.probabilities(batch), whole)
    assert seen[0] == 7 and max(n for n in seen if n <= 2) == 2
    monkeypatch.setattr(
        Predictor,
        "logits",
        lambda self, images: (_ for _ in ()).throw(torch.OutOfMemoryError("no")),
    )
    with pytest.raises(DataError, match="out of memory with one image of 16x16 pixels; end what"):
        model.probabilities(batch[:1])
