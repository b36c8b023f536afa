"""What a server is sent: code that needs torch and nnsight only, found from the blocks of every trace."""

import ast
import builtins
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emotrace.models.traced import ShippedModel
from emotrace.remote.wire import ShippedPackage

ROOT = Path(__file__).parents[2]
OURS = ("emotrace", "protocols")
ALLOWED = ("torch", "nnsight")
BLOCKS = {"trace", "generate", "session"}
PLAIN = (str, int, float, bool, tuple, frozenset, dict, list, type(None))


def modules() -> Iterator[types.ModuleType]:
    for folder in OURS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "bundled" not in path.parts and path.name != "__main__.py":
                yield importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def blocks(tree: ast.AST) -> Iterator[ast.With]:
    """``with model.trace(...)`` and its like, the outermost of each."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.With) and any(_opens(item.context_expr) for item in node.items):
            yield node
        else:
            yield from blocks(node)


def _opens(call: ast.expr) -> bool:
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in BLOCKS


def globals_used(nodes: list[ast.AST], scope: dict[str, Any]) -> dict[str, Any]:
    """Global names that code loads when it runs (annotations are text), with what they are."""
    names = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        for field, child in ast.iter_fields(node):
            if field not in ("annotation", "returns"):
                todo += [c for c in (child if isinstance(child, list) else [child]) if isinstance(c, ast.AST)]
    return {name: scope[name] for name in names if name in scope}


def is_ours(value: Any) -> bool:
    return isinstance(value, types.FunctionType | type) and value.__module__.partition(".")[0] in OURS


def sent(value: Any) -> Any:
    """What travels in place of a function."""
    return getattr(value, "__dict__", {}).get("__shipped__", value) if isinstance(value, types.FunctionType) else value


def shipped() -> dict[Any, dict[str, Any]]:
    """Functions and classes that some block can reach, each with the global names that it uses."""
    found: dict[Any, dict[str, Any]] = {}
    todo: list[Any] = [ShippedModel, ShippedPackage]
    for module in modules():
        for block in blocks(ast.parse(inspect.getsource(module))):
            used = globals_used(list(block.body), vars(module))
            todo += [sent(value) for value in used.values() if is_ours(value)]
    while todo:
        value = todo.pop()
        if value in found:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
        found[value] = globals_used([tree], vars(inspect.getmodule(value)))
        todo += [sent(used) for used in found[value].values() if is_ours(used)]
    return found


SHIPPED = shipped()


def test_the_blocks_are_found():
    names = {value.__name__ for value in SHIPPED}
    assert {"weighted", "make_edits", "edit_pass", "pushes", "falls_of", "summed_gradients", "matrix_columns"} <= names
    assert len(SHIPPED) > 30


@pytest.mark.parametrize("value", SHIPPED, ids=lambda value: value.__qualname__)
def test_it_needs_torch_and_nnsight_only(value):
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Import | ast.ImportFrom), "an import: a server lacks the module"
        assert not (isinstance(node, ast.Name) and node.id == "super"), "super() does not survive"
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert not node.decorator_list or value.__module__ == "emotrace.errors", "a decorator: a cache, or a class"
    for name, used in SHIPPED[value].items():
        if isinstance(used, types.ModuleType):
            assert used.__name__ in ALLOWED, f"module {used.__name__}"
        elif not is_ours(used):
            origin = getattr(used, "__module__", "builtins").partition(".")[0]
            assert isinstance(used, PLAIN) or hasattr(builtins, name) or origin in ALLOWED, f"{name} is {used!r}"
