"""The exceptions that lit_od raises on purpose.

    LitODError
    ├── ConfigError    (ValueError)    an invalid option, recipe or command line
    ├── DataError      (ValueError)    unusable images, features or scores
    │   └── ImageError                 one unreadable image; the others go on
    ├── BundleError    (ValueError)    a damaged or foreign bundle, or no bundle
    ├── BackboneError  (RuntimeError)  an ONNX graph that does not do what a backbone must
    │   └── ExportError                the exported graph differs from the torch module
    └── MissingExtra   (ImportError)   a package that another installation extra brings

Each message says in one line what was wanted, what was found, and the remedy. None repeats the credentials of a URL.
"""

import re
from typing import NoReturn

_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^/\s:@]+:(?!\d+/)[^\s@]*|[^/\s@]+)(?=@)"  # a secret may hold slashes; a port is none
    r"|(?<=://)[^/\s:@]+:(?!\d+\b)[^/\s@'\"]+"  # a URL that a message cuts off
    r"|(?<=[?&])(?P<name>[\w-]*(?:key|secret|token|password|signature|credential|sig)[\w-]*=)[^&\s'\"]+",
    re.IGNORECASE,
)


class LitODError(Exception):
    """Root of all errors that lit_od raises on purpose."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(without_credentials(each) if isinstance(each, str) else each for each in words))


class LitODWarning(UserWarning):
    """A warning that the command line prints as one line."""


class ConfigError(LitODError, ValueError):
    """An invalid option, recipe or command line."""


class DataError(LitODError, ValueError):
    """Unusable images, features or scores."""


class ImageError(DataError):
    """One unreadable image."""


class BundleError(LitODError, ValueError):
    """A damaged or foreign bundle, or a folder that is no bundle."""


class BackboneError(LitODError, RuntimeError):
    """An ONNX graph that does not do what a backbone must."""


class ExportError(BackboneError):
    """The exported graph does not compute what the torch module computes."""


class MissingExtra(LitODError, ImportError):
    """A package that another installation extra brings."""


def without_credentials(text: str) -> str:
    """Replace the credentials of URLs in a text by ***.

    They are what stands before an @, and parameters named like secrets.
    """
    return _CREDENTIALS.sub(lambda found: f"{found['name'] or ''}***", text)


def first_line(error: Exception) -> str:
    """Return the first line of an error's words, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def missing_extra(package: str, extras: str) -> NoReturn:
    """Raise MissingExtra with the pip command that installs the package."""
    raise MissingExtra(f'this needs {package}, which is not installed. Run: pip install "lit-od[{extras}]"')
