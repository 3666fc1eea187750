"""The region of interest of a recipe: its mask, and its colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_od.fitting.shards import own_shard, own_threads
from lit_od.images.preparation import Preparation
from lit_od.images.roi_colour import colour_sums, masked, mean_colour, read_mask
from lit_od.images.sources import Source
from lit_od.recipes.schema import DataConfig
from lit_od.runtime.processes import ALONE, Group


def prepared_region(
    data: DataConfig, images: Sequence[Source], *, threads: int | None = None, group: Group = ALONE
) -> Preparation:
    """Return the preparation of a recipe's images, with its region of interest.

    What the mask leaves out takes the mean of the other pixels, which takes a pass over the images.

    Args:
        data: The recipe's `data`.
        images: The normal images that are fitted.
        threads: Threads of this process; None is one a core, or a process' part of the machine's cores.
        group: The processes that do the work together; each reads its shard.

    Raises:
        ConfigError: If the mask cannot be read, leaves nothing, or goes with no such preparation.
        DataError: If an image cannot be read, or has other proportions than the mask.
    """
    prepare = data.preparation()
    if data.mask is None:
        return prepare
    png, rows = read_mask(Path(data.mask)), own_shard(len(images), group)
    colour = (0,) * prepare.channels
    masked(prepare, png, colour)  # before the pass, not after it
    own = colour_sums(images[rows.start : rows.stop], png, prepare, threads=own_threads(threads, group))
    whole = np.zeros_like(own)
    for part in group.gather(own.tobytes()):
        whole += np.frombuffer(part, np.int64)
    sums = np.frombuffer(group.broadcast(whole.tobytes()), np.int64)
    return masked(prepare, png, mean_colour(sums))
