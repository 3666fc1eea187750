"""Parse YAML of recipes and command lines, more strictly than PyYAML does."""

import re
from typing import Any

import yaml

YAMLError = yaml.YAMLError

_MERGE = "tag:yaml.org,2002:merge"


def parse(text: str) -> Any:
    """Parse a YAML text into plain Python values.

    Raises:
        YAMLError: If the text is not YAML, or gives a key twice.
    """
    return yaml.load(text, Loader=_Loader)


def parse_strings(text: str) -> Any:
    """Parse a YAML text whose values are all strings, such as `[0, no, "a b"]`.

    Raises:
        YAMLError: If the text is not YAML.
    """
    return yaml.load(text, Loader=yaml.BaseLoader)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with three corrections.

    1e-3 is a number: YAML 1.1, which PyYAML implements, wants 1.0e-3 and reads 1e-3 as a string. A repeated
    key is refused, as YAML demands: PyYAML lets the last one win. With merge keys, a mapping's own key wins,
    then that of the earlier mapping: PyYAML 6.0.4 loses the own key of a merged mapping that merges others
    itself if its name has one letter, and takes the later mapping's if it has more.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping before merging, and refuse repeated keys."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = _identity(key)
            if name in lines:
                raise YAMLError(
                    f"the key {key.value!r} is given twice, in lines {lines[name]} and {line}: leave one out"
                )
            lines[name] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace merge keys by the keys of the mappings that they name."""
        own = {_identity(key): (key, value) for key, value in node.value if key.tag != _MERGE}
        merges = [pair for pair in node.value if pair[0].tag == _MERGE]
        node.value = list(own.values())  # without the merge keys: a mapping may name itself
        for key, value in merges:
            for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(mapping, yaml.MappingNode):
                    raise YAMLError(f"<< in line {key.start_mark.line + 1} needs a mapping or a list of them")
                self.flatten_mapping(mapping)
                own = {_identity(name): (name, its) for name, its in mapping.value} | own
        node.value = list(own.values())


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _identity(key: yaml.Node) -> object:
    """Return a value that is equal for equal keys of a mapping."""
    return key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)
