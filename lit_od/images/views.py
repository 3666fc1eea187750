"""Views of normal images, which fit a detector in place of the images alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, overload

from lit_od.errors import ConfigError
from lit_od.images.augment import Augment, drawn
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source, View


@dataclass(frozen=True, slots=True, eq=False)
class Views(Sequence[Source]):
    """The views of images, image by image; the first of each is the image itself.

    A slice is the same views of the same images.

    Attributes:
        images: The images.
        augment: Changes that make the views.
        seed: Seed of the changes.
        rows: Numbers of these views among all.
        first: Number of the first image among all that fit.
    """

    images: Sequence[Source]
    augment: Augment
    seed: int
    rows: range
    first: int = 0

    @classmethod
    def of(cls, images: Sequence[Source], augment: Augment, *, seed: int, first: int = 0) -> Self:
        """Return all views of images.

        Args:
            images: The images.
            augment: Changes that make the views.
            seed: Seed of the changes.
            first: Number of the first image among all that fit.

        Raises:
            ConfigError: If nothing changes.
        """
        return cls(images, augment, seed, range(len(images) * augment.count), first)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Source: ...

    @overload
    def __getitem__(self, row: slice) -> "Views": ...

    def __getitem__(self, row: int | slice) -> "Source | Views":
        rows = self.rows[row]
        if isinstance(rows, range):
            return replace(self, rows=rows)
        image, view = divmod(rows, self.augment.count)
        source = self.images[image]
        if view == 0:
            return source
        return View(source, drawn(self.augment, seed=self.seed, image=self.first + image, view=view))


def require_views(augment: Augment, preparation: Preparation) -> None:
    """Check that prepared images have views.

    Raises:
        ConfigError: If nothing changes, images are not square and turn, or there are tiles or a region of interest.
    """
    if preparation.has_tiles:
        raise ConfigError("data.augment makes views of whole images, and data.tile divides them: give one of the two")
    if preparation.region is not None:
        raise ConfigError("data.augment moves images, and with them what data.mask leaves out: give one of the two")
    if augment.count and augment.turns:
        require_square(preparation)


def require_square(preparation: Preparation) -> None:
    """Raise ConfigError unless prepared images can be turned."""
    height, width = preparation.size
    if height != width:
        raise ConfigError(f"data.augment.turns takes square images, and data.prepare.size is [{height}, {width}]")
