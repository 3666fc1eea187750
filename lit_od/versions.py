"""The version of lit_od, and those of the packages that a result may depend on."""

import sys
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

VERSIONED = (
    "lit-od",
    "numpy",
    "pillow",
    "faiss-cpu",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "lightning",
    "timm",
)
"""Distributions whose versions a bundle's provenance states, where they are installed."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the distributions in `VERSIONED`."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
