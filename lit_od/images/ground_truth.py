"""Ground truth of defects: masks in files, read with their images.

A mask has the size of its image, upright, and is brought to the prepared size by the same crop and resize, by the
nearest pixel. A pixel is defective where it is not 0, in a JPEG file, whose values are not exact, where it is over 127.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError, ImageError
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation, open_image, prepare_mask
from lit_od.images.sources import ImageFile, Source

SUFFIX = "_mask"
"""End of a mask's stem that its image's need not have."""

Place: TypeAlias = tuple[str, ...]
"""Folders below the folder of images or masks, and a stem."""

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Endings of masks whose values are not exact."""


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """Saturation of one kind of defect, an entry of LOCO's defects_config.json.

    Attributes:
        defect_name: Name of the defect.
        pixel_value: Value of the pixels of its masks, 1 to 255.
        saturation_threshold: Area that counts as the whole when it is found: in pixels of the image, or a share.
        relative_saturation: True if the threshold is a share of the defect's area, in (0, 1].
    """

    defect_name: str
    pixel_value: int
    saturation_threshold: float
    relative_saturation: bool

    def share(self, area: int) -> float:
        """Return the share of a defect's pixels that counts as the whole, in (0, 1]."""
        pixels = self.saturation_threshold * (area if self.relative_saturation else 1)
        return min(max(pixels, 1.0) / area, 1.0)


def read_saturations(file: Path) -> dict[int, Saturation]:
    """Read LOCO's defects_config.json: saturations by the value of the masks' pixels.

    Raises:
        DataError: If it is no such file.
    """
    try:
        entries = msgspec.json.decode(file.read_bytes(), type=list[Saturation])
    except (msgspec.DecodeError, OSError) as error:
        raise DataError(f"{file} is no list of defects with their saturation: {error}") from None
    return {each.pixel_value: each for each in entries}


@dataclass(frozen=True, slots=True, eq=False)
class DefectMask:
    """One mask of an image at the prepared size.

    Attributes:
        pixels: True where the image is defective, shape (h, w).
        saturation: Share of it that counts as the whole, in (0, 1]; 1 but for LOCO.
    """

    pixels: NDArray[np.bool_]
    saturation: float


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Masks of defective images.

    Attributes:
        files: Mask files by the name of their image; an image that is not named here is free of defects.
        saturations: LOCO's saturations by pixel value: each file is then one defect. None elsewhere: each connected
            set of pixels is one.
    """

    files: Mapping[str, Sequence[Path]]
    saturations: Mapping[int, Saturation] | None = None

    def masks(self, image: Source, preparation: Preparation) -> list[DefectMask]:
        """Read the masks of an image.

        Args:
            image: The image.
            preparation: Preparation of the image; its masks are cropped and resized alike.

        Returns:
            The masks; none for an image free of defects, and none for a file without a defective pixel.

        Raises:
            DataError: If a mask cannot be read, has another size than its image, or a value that is no defect's.
        """
        files = self.files.get(image.name, ())
        if not files:
            return []
        try:
            wide, high = image.decode().size
        except ImageError as error:
            raise DataError(f"{image.name}: {error}") from error
        found = [(file, _values(file)) for file in files]
        for file, values in found:
            if values.shape != (high, wide):
                raise DataError(
                    f"the mask {file} has {values.shape[1]}x{values.shape[0]} pixels, its image {image.name} "
                    f"{wide}x{high}: give a mask of the image's size"
                )
        return [
            DefectMask(prepare_mask(values > 0, preparation), self._saturation(file, values))
            for file, values in found
            if values.any()
        ]

    def _saturation(self, file: Path, values: NDArray[np.uint8]) -> float:
        if self.saturations is None:
            return 1.0
        value = int(values.max())
        if value not in self.saturations:
            known = ", ".join(str(each) for each in sorted(self.saturations))
            raise DataError(
                f"the mask {file} has pixels of {value}, which is no defect of defects_config.json: {known}"
            )
        return self.saturations[value].share(int(np.count_nonzero(values)))


def _values(file: Path) -> NDArray[np.uint8]:
    """Read the largest value of each pixel over its colours, (h, w)."""
    try:
        image = open_image(file)
    except ImageError as error:
        raise DataError(f"the mask {file} cannot be read: {error}") from error
    if image.mode in ("P", "PA", "CMYK", "LAB", "YCbCr", "HSV"):
        image = image.convert("RGB")
    values: NDArray[Any] = np.asarray(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        values = values[..., :-1]  # the last channel is opacity
    values = values.max(axis=2) if values.ndim == 3 else values
    if file.suffix.lower() in LOSSY:
        values = np.where(values > 127, values, 0)
    if values.dtype != np.uint8:  # of one bit, or of more than eight
        values = (values > 0) * np.uint8(255)
    return values.astype(np.uint8)


def has_defect(file: Path) -> bool:
    """Return True if a mask is not empty. Raises DataError where it cannot be read."""
    return bool(_values(file).any())


def match_masks(images: Iterable[Source], masks: Path) -> tuple[dict[str, list[Path]], list[Source]]:
    """Match images with the masks of a folder by their stems.

    A mask has its image's stem, also with `_mask` behind it, and lies in folders that are called as those of the image,
    or in none. A folder that is called by the image's stem holds several masks of one image.

    Args:
        images: Images.
        masks: Folder of masks.

    Returns:
        Mask files by the name of their image, and the images without one.

    Raises:
        DataError: If the folder holds no image file, or a mask could be that of several images.
    """
    by_place: dict[Place, list[Path]] = {}
    for mask in find([masks]):
        path = mask.path if isinstance(mask, ImageFile) else Path(mask.name)
        folders = path.relative_to(masks).parts[:-1]
        by_place.setdefault((*folders, path.stem.removesuffix(SUFFIX)), []).append(path)
        if folders:
            by_place.setdefault(folders, []).append(path)
    deepest = max(map(len, by_place))
    found: dict[str, list[Path]] = {}
    without: list[Source] = []
    owners: dict[Place, str] = {}
    for image in images:
        path = image.path.absolute() if isinstance(image, ImageFile) else Path(image.name)
        parts = (*path.parts[:-1], path.stem)
        place = next((parts[-depth:] for depth in range(deepest, 0, -1) if parts[-depth:] in by_place), None)
        if place is None:
            without.append(image)
        elif (owner := owners.setdefault(place, image.name)) != image.name:
            raise DataError(
                f"{by_place[place][0]} could be the mask of {owner} or of {image.name}: put masks into folders below "
                f"{masks} that are called as those of the images"
            )
        else:
            found[image.name] = by_place[place]
    return found, without
