"""Elements of offline pages: templates, pictures as data URIs, figures as SVG."""

import base64
import io
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lit_od.evaluation.plots.style import drawing
from lit_od.formats.text import one_line
from lit_od.types import Images

THUMBNAIL = 112
"""Longer side of a neighbour on the page in pixels; smaller ones keep their size and are enlarged in the browser."""

QUALITY = 85
"""JPEG quality; images of at most `EXACT` pixels a side are kept as PNG, without loss."""

EXACT = 40


def template(name: str, **filters: Callable[..., Any]) -> Any:
    """Return a template of this package; text that goes in is escaped and printable.

    Args:
        name: Its file.
        filters: Its own filters by name, besides `uri`.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=printable_text
    )
    environment.filters.update(uri=data_uri, **filters)
    return environment.from_string(packaged(name))


def printable_text(value: Any) -> Any:
    """Make text printable; return other values unchanged.

    Names of files and sets need not be Unicode.
    """
    return one_line(value, len(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def packaged(name: str) -> Markup:
    """Return the text of a file of this package."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))  # ships with the package


def svg_element(figure: Figure, number: int, title: str) -> Markup:
    """Convert a figure to an element of the page.

    Args:
        figure: The figure.
        number: Its number on the page: names within it get a prefix, since all figures share the page.
        title: Its title, for those who cannot see it.
    """
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    prefix = f"f{number}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = Markup.escape(title)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # Matplotlib escapes


def data_uri(pixels: Images | NDArray[np.bool_], limit: int = THUMBNAIL) -> str:
    """Encode a picture, or a mask, as a data URI; it is reduced to the limit."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    exact = max(picture.size) <= EXACT or picture.mode == "1"
    picture.thumbnail((limit, limit), Image.Resampling.NEAREST if picture.mode == "1" else Image.Resampling.BICUBIC)
    file = io.BytesIO()
    kind = "PNG" if exact else "JPEG"
    picture.save(file, kind, **({"optimize": True} if exact else {"quality": QUALITY}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
