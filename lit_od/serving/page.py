"""The page: one file that ships with the package, and needs nothing from elsewhere."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def serve(request: Request) -> Response:
    """The page."""
    text, policy = _page()
    return HTMLResponse(text, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


@cache
def _page() -> tuple[str, str]:
    """Its text, and the policy that lets a browser run and load what the page itself holds, and nothing else."""
    text = files("lit_od.serving").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash(text: str, element: str) -> str:
    """The source expression of the page's one element of a kind."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
