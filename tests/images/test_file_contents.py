"""Files that are read at once, and those that are left to their reader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.images import file_contents
from lit_od.images.file_contents import contents
from lit_od.images.preparation import open_image


def test_a_large_file_has_the_pixels_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(file)
    assert contents(file) == file.read_bytes()
    small = np.asarray(open_image(file))
    monkeypatch.setattr(file_contents, "AT_ONCE", 9)
    assert contents(file) == file
    np.testing.assert_array_equal(np.asarray(open_image(file)), small)
