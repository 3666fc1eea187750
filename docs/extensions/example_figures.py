"""Find the figures of examples that pyplot does not know of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def scrape(block: tuple[Any, ...], block_vars: dict[str, Any], gallery_conf: Mapping[str, Any]) -> str:
    """Save the figure that a block has left in `figure`.

    Args:
        block: The block; not read.
        block_vars: Its variables and the places of its pictures.
        gallery_conf: Configuration of the gallery.

    Returns:
        The picture in reStructuredText, or nothing.
    """
    figure = block_vars["example_globals"].get("figure")
    if not isinstance(figure, Figure) or hasattr(figure, "number"):  # pyplot numbers its own
        return ""
    block_vars["example_globals"]["figure"] = None
    path = Path(next(block_vars["image_path_iterator"]))
    figure.savefig(path)
    return str(figure_rst([str(path)], gallery_conf["src_dir"]))
