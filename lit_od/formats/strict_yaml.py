"""YAML as recipes and command lines write it: PyYAML's safe loader, where it reads otherwise than YAML means it."""

import re
from typing import Any

import yaml

YAMLError = yaml.YAMLError

_MERGE = "tag:yaml.org,2002:merge"


def parse(text: str) -> Any:
    """What a text says in plain Python values. Raises YAMLError where it is not YAML, or gives a key twice."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """The safe loader, and three things that PyYAML reads otherwise.

    1e-3 is a number: YAML 1.1, which PyYAML reads, wants 1.0e-3 and takes it for a word. A key that is
    given twice is refused, as YAML has it: PyYAML would let the last one win. Of keys that merge keys
    bring in, a mapping's own wins, then that of the earlier mapping: PyYAML 6.0.4 loses the own one of
    a mapping that is merged in its turn if its name has one letter, and takes the later if it has more.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before merge keys bring in others that it may override."""
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
        """Put in place of a merge key what it brings in."""
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
    """What tells a key of a mapping from the others."""
    return key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)
