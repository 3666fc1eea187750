"""Brightness, sharpness and saturation, against plain loops and known images."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lit_od.images.statistics import STATISTICS, image_statistics


def plain(image: np.ndarray) -> tuple[float, float, float]:
    """The same of one image, pixel by pixel."""
    height, width, channels = image.shape
    colours = [[[*(image[y, x] / 255.0)] * (3 if channels == 1 else 1) for x in range(width)] for y in range(height)]
    luma = np.array([[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in colours])
    bends = [
        luma[y - 1, x] + luma[y + 1, x] + luma[y, x - 1] + luma[y, x + 1] - 4 * luma[y, x]
        for y in range(1, height - 1)
        for x in range(1, width - 1)
    ]
    saturation = np.mean([colorsys.rgb_to_hsv(*pixel)[1] for row in colours for pixel in row])
    return luma.mean(), float(np.sqrt(np.mean(np.square(bends)))) if bends else 0.0, float(saturation)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (3, 3), (2, 8), (1, 1)])
def test_statistics_are_those_of_plain_loops(channels: int, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *size, channels), dtype=np.uint8)
    images[0] = 0
    found = image_statistics(images)
    assert found.shape == (4, len(STATISTICS))
    np.testing.assert_allclose(found, [plain(image) for image in images], atol=1e-6)


def test_known_images() -> None:
    grey = np.full((8, 8, 1), 255, np.uint8)
    np.testing.assert_allclose(image_statistics(grey[None]), [[1, 0, 0]], atol=1e-6)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(image_statistics(red[None]), [[0.299, 0, 1]], atol=1e-6)
    assert image_statistics(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 3)


def test_blur_lowers_sharpness_and_darkness_brightness() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5)))
    bright, sharp, _ = image_statistics(np.stack([pixels, blurred, pixels // 2])).T
    assert sharp[1] < 0.3 * sharp[0]
    assert bright[2] == pytest.approx(bright[0] / 2, rel=0.02)
