"""Check the links of built pages, and that they load nothing from a network.

python scripts/check_pages.py docs/build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"link": "href", **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio"), "src")}


class Page(HTMLParser):
    """Addresses of a page, and the names that others may link to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and names of an element."""
        found = {name: value or "" for name, value in attrs}
        self.names |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        address = found.get(LOADED.get(tag, ""), "")
        if address and found.get("rel") not in ("canonical", "author", "license"):
            self.loaded.append(address)


def problems(root: Path) -> list[str]:
    """Return what is wrong, a line each."""
    pages = {file.resolve(): Page(file) for file in sorted(root.rglob("*.html"))}
    found = [f"{file}: loads {each}" for file in root.rglob("*.css") for each in _imports(file.read_text("utf-8"))]
    for file, page in pages.items():
        shown = file.relative_to(root.resolve())
        found += [f"{shown}: loads {each}" for each in page.loaded if urlsplit(each).netloc]
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                found.append(f"{shown}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names:
                found.append(f"{shown}: {link} names no place there")
    return found


def _imports(style: str) -> list[str]:
    return [each.split(")")[0] for each in style.split("url(")[1:] if each.lstrip("'\"").startswith(("http", "//"))]


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "pages: every link leads somewhere, nothing is loaded from a network")
    sys.exit(bool(wrong))
