"""Manifests whose hashes are put right, so that another check than that of hashes meets what is wrong."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_od.bundle.folder import MANIFEST


def signed(tree: Any) -> bytes:
    """Return a manifest with its own hash: of its canonical JSON without the key, as the format says."""
    if not isinstance(tree, dict):
        return json.dumps(tree).encode()
    rest = {key: value for key, value in tree.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return json.dumps({**rest, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}).encode()


def seal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda tree: None) -> None:
    """Write a bundle's manifest anew, with the hashes of its files as they are now, and changes."""
    tree = json.loads((folder / MANIFEST).read_bytes())
    for name in tree["files"]:
        data = (folder / name).read_bytes()
        tree["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    change(tree)
    (folder / MANIFEST).write_bytes(signed(tree))
