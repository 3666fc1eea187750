import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_od.images.augment import Augment, Change, changed
from lit_od.training.data.augmentation import Draws, apply, augment, draw, step_generator

NOTEBOOK = Augment(rotation=10, shift=0.1, zoom=0.1, shear=0.1, brightness=(0.7, 1.3))
STRONG = Augment(rotation=60, shift=0.3, zoom=0.4, shear=30, brightness=(0.2, 2.0), flip=True)


def pictures(count=12, height=28, width=28, channels=1):
    noise = np.random.default_rng(5).normal(size=(count, height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    scaled = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.rint(255 * scaled).astype(np.uint8)


def as_keras_does(image, angle, shift, shear, zoom, brightness, mirrored):
    """ImageDataGenerator's affine matrix, in (x, y) about the centre, applied by scipy to each channel."""
    height, width, _ = image.shape
    theta, phi = np.deg2rad(angle), np.deg2rad(shear)
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    moved = np.array([[1, 0, shift[0] * width], [0, 1, shift[1] * height], [0, 0, 1]])
    sheared = np.array([[1, -np.sin(phi), 0], [0, np.cos(phi), 0], [0, 0, 1]])
    zoomed = np.diag([zoom[0], zoom[1], 1])
    centre = np.array([[1, 0, width / 2 - 0.5], [0, 1, height / 2 - 0.5], [0, 0, 1]])
    matrix = centre @ rotation @ moved @ sheared @ zoomed @ np.linalg.inv(centre)
    matrix = matrix[[1, 0, 2]][:, [1, 0, 2]]  # scipy counts rows before columns
    channels = [
        ndimage.affine_transform(plane, matrix[:2, :2], matrix[:2, 2], order=1, mode="nearest")
        for plane in np.moveaxis(image.astype(np.float64), 2, 0)
    ]
    result = np.stack(channels, axis=2)
    if mirrored:
        result = result[:, ::-1]
    return np.clip(result * brightness, 0, 255)


@pytest.mark.parametrize("config", [NOTEBOOK, STRONG], ids=["notebook", "strong"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 33, 3)], ids=["square", "oblong"])
def test_every_image_is_what_keras_makes_of_it(config, shape):
    images = pictures(12, *shape)
    draws = draw(len(images), config, torch.Generator().manual_seed(1))
    changed = apply(torch.from_numpy(images), draws).numpy()
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    for row, image in enumerate(images):
        wanted = as_keras_does(
            image,
            float(draws.angle[row]),
            draws.shift[row].double().numpy(),
            float(draws.shear[row]),
            draws.zoom[row].double().numpy(),
            float(draws.brightness[row]),
            bool(draws.mirrored[row]),
        )
        assert np.abs(changed[row] - wanted).max() < 0.51  # rounding, and float32 beside it


def test_draws_fill_their_ranges_and_no_more():
    draws = draw(4000, STRONG, torch.Generator().manual_seed(2))
    for values, low, high in (
        (draws.angle, -60, 60),
        (draws.shift, -0.3, 0.3),
        (draws.shear, -30, 30),
        (draws.zoom, 0.6, 1.4),
        (draws.brightness, 0.2, 2.0),
    ):
        spread = high - low
        assert low <= values.min() < low + 0.02 * spread
        assert high - 0.02 * spread < values.max() <= high
    assert 0.45 < draws.mirrored.float().mean() < 0.55
    assert not draw(100, NOTEBOOK, torch.Generator()).mirrored.any()


def test_shear_is_in_degrees():
    assert draw(1000, NOTEBOOK, torch.Generator().manual_seed(0)).shear.abs().max() <= 0.1


def test_nothing_to_change_changes_nothing():
    images = torch.from_numpy(pictures(4, 17, 30, 3))
    torch.testing.assert_close(augment(images, Augment(), torch.Generator()), images, rtol=0, atol=0)


def test_a_mirrored_image_is_mirrored():
    images = torch.from_numpy(pictures(8, 9, 14, 1))
    generator = torch.Generator().manual_seed(3)
    mirrored = draw(8, Augment(flip=True), generator).mirrored
    assert mirrored.any()
    assert not mirrored.all()
    changed = augment(images, Augment(flip=True), torch.Generator().manual_seed(3))
    wanted = torch.where(mirrored[:, None, None, None], images.flip(2), images)
    torch.testing.assert_close(changed, wanted, rtol=0, atol=0)


def test_an_image_is_changed_by_its_own_draws_alone():
    images = torch.from_numpy(pictures(6))
    draws = draw(6, STRONG, torch.Generator().manual_seed(4))
    together = apply(images, draws)
    half = type(draws)(*(getattr(draws, name)[3:] for name in draws.__slots__))
    torch.testing.assert_close(apply(images[3:], half), together[3:], rtol=0, atol=0)


def test_a_generator_belongs_to_one_step_of_one_process():
    def first(*where):
        return torch.rand(1, generator=step_generator(*where)).item()

    assert first(0, 1, 2, 0) == first(0, 1, 2, 0)
    others = [(1, 1, 2, 0), (0, 2, 1, 0), (0, 1, 3, 0), (0, 1, 2, 1)]
    assert len({first(0, 1, 2, 0), *(first(*where) for where in others)}) == 5


def test_quarter_turns_are_exact():
    images = torch.from_numpy(pictures(16))
    turned = augment(images, Augment(turns=True), torch.Generator().manual_seed(1))
    seen = set()
    for image, after in zip(images, turned, strict=True):
        turns = [k for k in range(4) if torch.equal(torch.rot90(image, k), after)]
        assert len(turns) == 1
        seen |= set(turns)
    assert seen == {0, 1, 2, 3}


def test_views_without_a_training_are_what_a_training_draws():
    """The same changes, by numpy and by torch; shifts of whole pixels."""
    images = pictures(6, channels=3)
    rng = np.random.default_rng(0)
    for image in images:
        change = Change(
            turns=int(rng.integers(4)),
            mirrored=bool(rng.integers(2)),
            angle=float(rng.uniform(-90, 90)),
            shift=(3 / 28, -5 / 28),
            shear=float(rng.uniform(-20, 20)),
            zoom=(float(rng.uniform(0.7, 1.3)), 1.0),
            brightness=float(rng.uniform(0.5, 1.5)),
        )
        draws = Draws(
            angle=torch.tensor([change.angle + 90.0 * change.turns]),
            shift=torch.tensor([change.shift]),
            shear=torch.tensor([change.shear]),
            zoom=torch.tensor([change.zoom]),
            brightness=torch.tensor([change.brightness]),
            mirrored=torch.tensor([change.mirrored]),
        )
        wanted = apply(torch.from_numpy(image)[None], draws)[0].numpy()
        assert np.abs(changed(image, change).astype(int) - wanted).max() <= 1
