"""The OpenAPI document of the interface, and a page that is made from it."""

import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from lit_od.formats.strict_yaml import parse
from lit_od.serving.page import policy
from lit_od.versions import __version__


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    found: dict[str, Any] = parse(files("lit_od.serving").joinpath("openapi.yaml").read_text(encoding="utf-8"))
    found["info"]["version"] = __version__
    return found


@cache
def _encoded() -> bytes:
    return json.dumps(document(), indent=1).encode()


async def serve_document(request: Request) -> Response:
    """Send the document."""
    return Response(_encoded(), media_type="application/json")


async def serve_page(request: Request) -> Response:
    """Send the page."""
    text = page()
    return HTMLResponse(text, headers={"content-security-policy": policy(text), "referrer-policy": "no-referrer"})


@cache
def page() -> str:
    """Return the page of the interface: one file that needs nothing else."""
    found = document()
    head = files("lit_od.serving").joinpath("docs.html").read_text(encoding="utf-8")
    sections: dict[str, list[str]] = {tag["name"]: [] for tag in found["tags"]}
    for path, methods in found["paths"].items():
        shared = methods.get("parameters", [])
        for method, about in methods.items():
            if method != "parameters":
                sections[about["tags"][0]].append(_operation(method, path, about, shared))
    parts = []
    for tag in found["tags"]:
        told = _text(tag["description"])
        parts.append(f"<section><h2>{_escaped(tag['name'])}</h2>{told}{''.join(sections[tag['name']])}</section>")
    intro = f"<h1>{_escaped(found['info']['title'])} <small>{_escaped(__version__)}</small></h1>"
    body = intro + _text(found["info"]["description"]) + "".join(parts)
    return head.replace("<!-- content -->", body)


def _operation(method: str, path: str, about: dict[str, Any], shared: list[dict[str, Any]]) -> str:
    """Format one operation."""
    lines = [
        f'<article><h3><span class="method">{method.upper()}</span> <code>{_escaped(path)}</code></h3>',
        f"<p>{_escaped(about['summary'])}.</p>{_text(about.get('description', ''))}",
    ]
    parameters = [_followed(each) for each in [*shared, *about.get("parameters", [])]]
    rows = [
        [f"<code>{_escaped(each['name'])}</code>", each["in"], _escaped(each["description"])] for each in parameters
    ]
    lines.append(_table(["parameter", "in", ""], rows))
    body = _followed(about.get("requestBody", {})).get("content", {})
    lines.append(_table(["body", ""], [[f"<code>{_escaped(kind)}</code>", _told(each)] for kind, each in body.items()]))
    answers = []
    for status, each in about["responses"].items():
        answer = _followed(each)
        kinds = ", ".join(f"<code>{_escaped(kind)}</code>" for kind in answer.get("content", {}))
        answers.append([f"<b>{_escaped(status)}</b>", _escaped(answer["description"]), kinds])
    lines.append(_table(["answer", "", ""], answers))
    return "".join([*lines, "</article>"])


def _told(media: dict[str, Any]) -> str:
    """Describe a body by its schema's words."""
    schema = _followed(media.get("schema", {}))
    return _escaped(schema.get("description", ""))


def _followed(part: dict[str, Any]) -> dict[str, Any]:
    """Return what a part of the document is or refers to."""
    reference = part.get("$ref")
    if reference is None:
        return part
    found: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _text(words: str) -> str:
    """Format paragraphs; lines that begin with four spaces are commands."""
    parts = []
    for paragraph in filter(None, words.strip("\n").split("\n\n")):
        lines = paragraph.split("\n")
        if all(line.startswith("    ") for line in lines):
            parts.append(f"<pre>{_escaped(chr(10).join(line[4:] for line in lines))}</pre>")
        else:
            parts.append(f"<p>{_escaped(' '.join(lines))}</p>")
    return "".join(parts)


def _escaped(text: object) -> str:
    return html.escape(str(text))
