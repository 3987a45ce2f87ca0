"""YAML that is only data: bounded aliases, no circles, texts as keys, no key twice."""

from __future__ import annotations

from typing import Any

MAX_VALUES = 10_000
"""Values of a document with every alias written out; ten aliases of ten aliases of ... are more
than any memory holds."""


def parse_yaml(text: str) -> object:
    """The document of `text`, by YAML's safe rules.

    Raises:
        ValueError: more than `MAX_VALUES` values, an alias of what it is part of, a key that is no
            text, or one that stands twice.
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    loader: Any = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})  # before values are made: merging keys (<<) copies what it merges
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node is with every alias written out; 0 in `sizes`: not counted yet."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError("got a YAML alias of what it is part of, expected a table of settings")
        return sizes[id(node)]
    sizes[id(node)] = 0
    size = 1
    for child in _children(node):
        size += _check(child, sizes)
        if size > MAX_VALUES:
            raise ValueError(f"got more than {MAX_VALUES} values with every YAML alias written out")
    sizes[id(node)] = size
    return size


def _children(node: Any) -> list[Any]:
    if isinstance(node.value, str):
        return []
    if node.id == "sequence":
        return list(node.value)
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise ValueError(f"line {line}: got key {key.value!r}, expected a text")
        if key.value in seen:
            raise ValueError(f"line {line}: got key {key.value} twice, expected it once")
        seen.add(key.value)
    return [value for _, value in node.value]
