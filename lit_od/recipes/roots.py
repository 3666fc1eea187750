"""The data root: the folder that a recipe's PATHs start from."""

import os
from importlib import resources
from pathlib import Path

from lit_od.errors import DataError

VARIABLE = "LIT_OD_DATA"
"""Environment variable that names the data root where nothing else does."""


def data_root(config_root: str | None) -> Path:
    """Return the folder that relative PATHs start from.

    Args:
        config_root: A folder; "lit_od:assets" for the images that ship with the package; None takes
            LIT_OD_DATA, and without that the working folder.

    Raises:
        DataError: If the folder does not exist.
    """
    if config_root == PACKAGED_DATA:
        return Path(str(resources.files("lit_od") / "assets"))
    named, by = (config_root, "data.root") if config_root else (os.environ.get(VARIABLE), VARIABLE)
    if not named:
        return Path()
    root = Path(named).expanduser()
    if not root.is_dir():
        raise DataError(f"{by} {named} is not a folder: give the folder that holds the images")
    return root


PACKAGED_DATA = "lit_od:assets"
"""The data root that stands for the images which ship with the package."""
