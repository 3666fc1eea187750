"""Batches of a LightningDataModule that a recipe names."""

from collections.abc import Collection

from lightning import LightningDataModule

from lit_od.errors import ConfigError
from lit_od.import_paths import accepted, check_accepted, imported, require_trusted
from lit_od.training.data.image_data import ImageData

IMAGES = "images"
"""Argument of such a class that gets the recipe's own images, divided."""


def batches_of(data: ImageData, trust: Collection[str]) -> LightningDataModule:
    """Return the recipe's own LightningDataModule, else its images.

    Args:
        data: The recipe's images.
        trust: Import paths that may be followed.

    Raises:
        ConfigError: If the class is not trusted, cannot be imported, or refuses an argument.
    """
    path, init_args = data.config.class_path, data.config.init_args
    if path is None:
        return data
    require_trusted(path, trust, "data.class_path")
    kind = imported(path, LightningDataModule, "data.class_path")
    check_accepted(kind, init_args, "data.init_args")
    known = {IMAGES: data} if IMAGES in accepted(kind)[0] else {}
    try:
        return kind(**known | init_args)
    except TypeError as error:
        raise ConfigError(f"data.init_args: {kind.__name__}: {' '.join(str(error).split())}") from error
