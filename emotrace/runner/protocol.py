"""Protocols: functions that measure one thing on a run, found by name or in a user's file (README, The method)."""

import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from emotrace.errors import RunError
from emotrace.runner.parameters import Parameter, described, matches, supported

Function = TypeVar("Function", bound=Callable[..., Any])
SHIPPED_PACKAGE = "protocols"


@dataclass(frozen=True)
class ProtocolSpec:
    """A registered protocol.

    Attributes:
        name: the function's name; also the name of its stage in a run folder.
        function: called as ``function(run, **parameters)``; returns the stage's summary, a JSON-able dict.
        needs: names of the stages it reads, in the order given.
        parameters: its keyword-only parameters by name.
        source: the file it is written in.
        shards: whether it can be run on a share of the scenarios, and what shares give be added up.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    needs: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    source: Path
    shards: bool = False

    @property
    def help(self) -> str:
        """First paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


_registry: dict[str, ProtocolSpec] = {}


def protocol(needs: Sequence[str] = (), *, shards: bool = False) -> Callable[[Function], Function]:
    """Register a function as a protocol.

    The function takes the ``Run`` first, then keyword-only parameters, each with a type and a default of that type.

    Example::

        @protocol(needs=["elicit"])
        def lengths(run: Run, *, split: str = "train") -> dict[str, Any]:
            \"\"\"Mean length of accepted replies.\"\"\"

    With ``shards`` it can be run on a share of the scenarios: it takes them through ``run.share``, and where
    ``run.shards`` is not empty it adds up what those have left.

    Raises ``RunError`` at definition when a parameter is malformed, the docstring is missing, or the name is taken.
    """
    if isinstance(needs, str) or callable(needs):
        raise RunError('write @protocol(needs=["name", ...]), or @protocol() when nothing is needed')

    def register(function: Function) -> Function:
        spec = _spec(function, tuple(needs), shards)
        earlier = _registry.get(spec.name)
        if earlier is not None and function.__module__ != "__main__":
            raise RunError(
                f"{spec.source}: a protocol named {spec.name!r} is already defined in {earlier.source}; rename one"
            )
        _registry[spec.name] = spec
        return function

    return register


def shipped() -> tuple[str, ...]:
    """Names of the protocols that come with emotrace (files of the package ``protocols``), sorted."""
    folder = shipped_folder()
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def shipped_folder() -> Path:
    """Where the shipped protocol files are; raises ``RunError`` when the installation lacks them."""
    found = importlib.util.find_spec(SHIPPED_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RunError(f"the package {SHIPPED_PACKAGE!r} is not installed; reinstall emotrace")
    return Path(next(iter(found.submodule_search_locations))).resolve()


def load_protocol(name_or_file: str | Path) -> ProtocolSpec:
    """A shipped protocol by name, or the protocol of a user's ``.py`` file.

    A file with several protocols is asked for the one named like the file. Raises ``RunError`` listing the shipped
    names when nothing is found.
    """
    text = str(name_or_file)
    if text.endswith(".py"):
        return _from_file(Path(text))
    if text in _registry:
        return _registry[text]
    if text not in shipped():
        raise RunError(
            f"no protocol named {text!r}; shipped: {', '.join(shipped()) or 'none'}. "
            "For a protocol of your own give the path of its .py file"
        )
    importlib.import_module(f"{SHIPPED_PACKAGE}.{text}")
    if text not in _registry:
        raise RunError(f"{shipped_folder() / text}.py defines no protocol named {text!r}")
    return _registry[text]


def plan(asked: ProtocolSpec) -> tuple[ProtocolSpec, ...]:
    """``asked`` and everything it needs, in an order in which each comes after its needs; ``RunError`` on a circle."""
    order: dict[str, ProtocolSpec] = {}

    def visit(spec: ProtocolSpec, path: tuple[str, ...]) -> None:
        if spec.name in path:
            raise RunError(f"protocols need each other in a circle: {' -> '.join((*path, spec.name))}")
        if spec.name in order:
            return
        for need in spec.needs:
            visit(load_protocol(need), (*path, spec.name))
        order[spec.name] = spec

    visit(asked, ())
    return tuple(order.values())


def assign(stages: Sequence[ProtocolSpec], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of every stage: defaults, overridden by ``given``.

    ``name`` addresses the last stage (the one asked for), ``stage.name`` any of them. Raises ``RunError`` naming what
    exists when a stage or a parameter does not, and the expected type when a value does not fit.
    """
    values = {spec.name: {p.name: p.default for p in spec.parameters.values()} for spec in stages}
    by_name = {spec.name: spec for spec in stages}
    for key, value in given.items():
        stage, _, name = key.rpartition(".")
        spec = by_name.get(stage) if stage else stages[-1]
        if spec is None:
            raise RunError(f"parameter {key!r}: no stage {stage!r} in this run; stages: {', '.join(by_name)}")
        if name not in spec.parameters:
            owners = [s.name for s in stages if name in s.parameters and s is not spec]
            hint = f". Did you mean {' or '.join(f'{owner}.{name}' for owner in owners)}?" if owners else ""
            raise RunError(f"{spec.name} has no parameter {name!r}: {described(spec.parameters)}{hint}")
        values[spec.name][name] = spec.parameters[name].value(value)
    return values


def _from_file(path: Path) -> ProtocolSpec:
    source = path.resolve()
    if not source.is_file():
        raise RunError(f"{path}: no such file")
    if source.parent == shipped_folder():
        return load_protocol(source.stem)
    _forget(source)
    module_spec = importlib.util.spec_from_file_location(f"emotrace_user_{source.stem}", source)
    if module_spec is None or module_spec.loader is None:
        raise RunError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    sys.path.insert(0, str(source.parent))
    try:
        module_spec.loader.exec_module(module)
        found = [spec for spec in _registry.values() if spec.source == source]
        taken = sorted({spec.name for spec in found} & set(shipped()))
        if taken:
            raise RunError(f"{path}: {', '.join(taken)} is the name of a shipped protocol; rename yours")
        return _chosen(found, path)
    except BaseException:
        _forget(source)
        raise
    finally:
        sys.path.remove(str(source.parent))


def _forget(source: Path) -> None:
    """Drop the protocols of a file, so that it can be loaded again."""
    for name in [name for name, spec in _registry.items() if spec.source == source]:
        del _registry[name]


def _chosen(found: Iterable[ProtocolSpec], path: Path) -> ProtocolSpec:
    specs = {spec.name: spec for spec in found}
    if len(specs) == 1:
        return next(iter(specs.values()))
    if path.stem in specs:
        return specs[path.stem]
    if not specs:
        raise RunError(f"{path}: no function decorated with @protocol(...) (from emotrace.runner import protocol)")
    raise RunError(f"{path}: protocols {', '.join(specs)}; name one of them {path.stem!r} so that it is the one to run")


def _spec(function: Callable[..., Any], needs: tuple[str, ...], shards: bool) -> ProtocolSpec:
    source = Path(inspect.getsourcefile(function) or "<unknown>").resolve()
    where = f"{source}:{function.__code__.co_firstlineno}: protocol {function.__name__!r}"
    if not inspect.getdoc(function):
        raise RunError(f"{where} has no docstring; say what it measures, the text is its help")
    hints = typing.get_type_hints(function)
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise RunError(f"{where} must take the Run first: def {function.__name__}(run: Run, *, ...)")
    parameters: dict[str, Parameter] = {}
    for item in arguments[1:]:
        if item.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise RunError(f"{where}: parameter {item.name!r} must be keyword-only; put it behind `*,`")
        if item.name not in hints or not supported(hints[item.name]):
            raise RunError(
                f"{where}: parameter {item.name!r} needs a type: bool, int, float, str, Literal[...], "
                "tuple[int, ...] and the like, or one of these | None"
            )
        if item.default is inspect.Parameter.empty:
            raise RunError(f"{where}: parameter {item.name!r} needs a default")
        if not matches(item.default, hints[item.name]):
            raise RunError(f"{where}: default {item.default!r} of {item.name!r} is not of its type")
        parameters[item.name] = Parameter(item.name, hints[item.name], item.default)
    return ProtocolSpec(function.__name__, function, needs, parameters, source, shards)
