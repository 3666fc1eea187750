"""The page: one file that ships with the package and needs nothing else."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def serve(request: Request) -> Response:
    """Send the page."""
    text, allowed = read()
    return HTMLResponse(text, headers={"content-security-policy": allowed, "referrer-policy": "no-referrer"})


@cache
def read() -> tuple[str, str]:
    """Return the page's text, and a content security policy for just its content.

    The file is read once, when the application is built: later there may be no descriptor left to open it.
    """
    text = files("lit_od.serving").joinpath("page.html").read_text(encoding="utf-8")
    return text, policy(text)


def policy(text: str) -> str:
    """Return a content security policy for just the content of a page."""
    script = _hash(text, "script") if "<script>" in text else "'none'"
    return (
        f"default-src 'none'; script-src {script}; style-src {_hash(text, 'style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str, element: str) -> str:
    """Return the policy's hash of the page's single element of this name."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
