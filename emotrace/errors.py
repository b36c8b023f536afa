"""Errors a user can act on: each says what was wrong, where, and what to do next."""


class EmotraceError(Exception):
    """Base of every error that emotrace raises on purpose."""


class DataError(EmotraceError):
    """A record, split or file of scenarios is malformed; the message names file, line and field."""


class ModelError(EmotraceError):
    """A model cannot be loaded, or its family lacks what was asked; the message names the model and what would work."""


class PlanError(EmotraceError):
    """An edit does not fit the model; the message names the edit, the layer, the shape and what would fit."""


class EditMissed(EmotraceError):
    """An edit touched fewer (row, step) pairs than it declared, so its result cannot be trusted."""


class CircuitError(EmotraceError):
    """A circuit cannot be assembled, or does not belong to the model it is used on."""


class ArtifactError(EmotraceError):
    """A saved result cannot be read: not safetensors, wrong kind, wrong schema version, or missing fields."""


class RunError(EmotraceError):
    """A protocol or a run folder is unusable; the message names the protocol, parameter or file."""


class HostedError(EmotraceError):
    """A hosted model cannot be used: the server is down, refuses, or cannot run what it was sent; says what to do."""


class Refused(HostedError):
    """A server has not taken a request, and would not take the same one later."""


class TimeLimitExceeded(HostedError):
    """One request ran longer than the server allows; less work a request fits."""


class Stopped(EmotraceError):
    """Work in another thread was given up because the whole was: an error elsewhere, or an interrupt."""


def shown(value: object, most: int = 60) -> str:
    """A value as a message names it: its ``repr``, cut, or what kind of container of numbers it is."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 0:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, dict | list | tuple | set) and len(repr(value)) > most:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value).replace("\n", " ")
    return text if len(text) <= most else text[: most - 3] + "..."
