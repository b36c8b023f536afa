"""Parameters of a protocol: which types they may have, how ``-p name=value`` is read, and how values are checked."""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from emotrace.errors import RunError

SCALARS = (bool, int, float, str)
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter of a protocol function.

    Attributes:
        name: its name.
        annotation: ``bool``, ``int``, ``float``, ``str``, a ``Literal``, a tuple of those, or one of these ``| None``.
        default: value used when nothing is given.
    """

    name: str
    annotation: Any
    default: Any

    def __str__(self) -> str:
        return f"{self.name}: {type_name(self.annotation)} = {self.default!r}"

    def value(self, given: Any) -> Any:
        """``given`` (command line text, or a Python value) as the parameter's type; ``RunError`` if it is not."""
        try:
            if isinstance(given, str):
                return _parsed(given, self.annotation)
            return _checked(given, self.annotation)
        except ValueError as error:
            raise RunError(
                f"parameter {self.name!r}: {error}. It is declared as `{self}`; "
                f"write -p {self.name}={example(self.default)}"
            ) from error


def supported(annotation: Any) -> bool:
    """Whether a protocol parameter may be annotated so."""
    inner = _without_none(annotation)
    if get_origin(inner) is tuple:
        items = [item for item in get_args(inner) if item is not Ellipsis]
        return bool(items) and all(_is_scalar(item) for item in items)
    return _is_scalar(inner)


def matches(value: Any, annotation: Any) -> bool:
    """Whether a Python value is one of the annotated type, without any conversion of its text."""
    try:
        _checked(value, annotation)
    except ValueError:
        return False
    return True


def type_name(annotation: Any) -> str:
    """The annotation as it is written in source."""
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else _bare(annotation)


def example(value: Any) -> str:
    """``value`` as it is written after ``-p name=``."""
    if isinstance(value, tuple):
        return ",".join(example(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def described(parameters: Mapping[str, Parameter]) -> str:
    """All parameters in one line, for error messages."""
    return "; ".join(str(parameter) for parameter in parameters.values()) or "it takes none"


def _is_scalar(annotation: Any) -> bool:
    return annotation in SCALARS or get_origin(annotation) is Literal


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [item for item in get_args(annotation) if item is not type(None)]
        return kept[0] if len(kept) == 1 else None
    return annotation


def _optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def _parsed(text: str, annotation: Any) -> Any:
    if _optional(annotation):
        return None if text.strip().lower() in ("none", "null") else _parsed(text, _without_none(annotation))
    if get_origin(annotation) is tuple:
        items = [item.strip() for item in text.strip().strip("()[]").split(",") if item.strip()]
        return tuple(_parsed(item, kind) for item, kind in zip(items, _kinds(annotation, len(items)), strict=True))
    if get_origin(annotation) is Literal:
        for choice in get_args(annotation):
            if text == str(choice):
                return choice
        raise ValueError(f"{text!r} is not one of {', '.join(map(str, get_args(annotation)))}")
    if annotation is bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in TRUE
    if annotation is str:
        return text
    try:
        return annotation(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not of type {type_name(annotation)}") from error


def _checked(value: Any, annotation: Any) -> Any:
    if _optional(annotation):
        return None if value is None else _checked(value, _without_none(annotation))
    if get_origin(annotation) is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{value!r} is not a tuple")
        return tuple(_checked(item, kind) for item, kind in zip(value, _kinds(annotation, len(value)), strict=True))
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise ValueError(f"{value!r} is not one of {', '.join(map(str, get_args(annotation)))}")
        return value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not annotation:
        raise ValueError(f"{value!r} is not of type {type_name(annotation)}")
    return value


def _kinds(annotation: Any, count: int) -> list[Any]:
    """The type of each of ``count`` items of a tuple annotation."""
    items = get_args(annotation)
    if len(items) == 2 and items[1] is Ellipsis:
        return [items[0]] * count
    if len(items) != count:
        raise ValueError(f"{count} values given where {len(items)} are needed")
    return list(items)


def _bare(annotation: Any) -> str:
    return str(annotation).replace("typing.", "")
