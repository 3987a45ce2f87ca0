"""No module of the package waits for one that waits for it, imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import clipguide

PACKAGE = Path(clipguide.__file__).parent
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(source: str) -> Iterator[str]:
    """Modules that a source imports anywhere but for annotations (`if TYPE_CHECKING`)."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # a module of a package, or a name in a module
                both = f"{node.module}.{alias.name}"
                yield both if both in MODULES else node.module
        waiting += ast.iter_child_nodes(node)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every module that reaches itself, by the shortest way."""
    found: list[list[str]] = []
    for start in sorted(graph):
        ways = [[start]]
        reached: set[str] = set()
        while ways:
            way = ways.pop(0)
            if start in graph[way[-1]]:
                found.append([*way, start])
                break
            ways += [[*way, one] for one in sorted(graph[way[-1]] - reached)]
            reached |= graph[way[-1]]
    return found


def test_a_circle_is_found_also_where_it_is_lazy() -> None:
    lazy = "def f():\n    from clipguide.files import write_text\n"
    assert [*imported(lazy)] == ["clipguide.files"]
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set[str]()}
    assert circles(graph) == [["b", "c", "b"], ["c", "b", "c"]]
    assert [*imported("if TYPE_CHECKING:\n    import clipguide.files\nelse:\n    import os")] == [
        "os"
    ]


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        name: {one for one in imported(file.read_text(encoding="utf-8")) if one in MODULES}
        for name, file in MODULES.items()
    }
    assert len(graph) > 200
    assert sum(map(len, graph.values())) > 500
    graph["clipguide"] = set()  # its names are loaded when they are asked for, see `_EXPORTS`
    assert circles(graph) == []
