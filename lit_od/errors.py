"""What can go wrong.

    LitODError
    ├── ConfigError    (ValueError)    an option, a recipe or a command line that cannot be carried out
    ├── DataError      (ValueError)    images, features or scores that cannot serve
    │   └── ImageError                 one image that cannot be read; the others go on
    ├── BundleError    (ValueError)    a bundle that is damaged, foreign or not a bundle
    ├── BackboneError  (RuntimeError)  an ONNX graph that does not do what a backbone must
    │   └── ExportError                the exported graph differs from the torch module
    └── MissingExtra   (ImportError)   a package that another installation extra brings

Each message says what was wanted, what came, and the mend, in one line.
"""

from typing import NoReturn


class LitODError(Exception):
    """Root of all errors that lit_od raises on purpose."""


class ConfigError(LitODError, ValueError):
    """An option, a recipe or a command line that cannot be carried out."""


class DataError(LitODError, ValueError):
    """Images, features or scores that cannot serve."""


class ImageError(DataError):
    """One image that cannot be read."""


class BundleError(LitODError, ValueError):
    """A bundle that is damaged, foreign or not a bundle."""


class BackboneError(LitODError, RuntimeError):
    """An ONNX graph that does not do what a backbone must."""


class ExportError(BackboneError):
    """The exported graph does not compute what the torch module computes."""


class MissingExtra(LitODError, ImportError):
    """A package that another installation extra brings."""


def missing_extra(package: str, extras: str) -> NoReturn:
    """Raise MissingExtra with the pip command that mends it."""
    raise MissingExtra(f'this needs {package}, which is not installed. Run: pip install "lit-od[{extras}]"')
