"""``emotrace steer``: one reply without and one with an emotion's circuit driven."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

import emotrace as et
from emotrace.errors import CircuitError


def as_scene(text: str) -> str:
    """A text of several sentences as the bundled model reads it: the scenario on one line, the event on the next."""
    return text if "\n" in text else text.replace(". ", ".\n", 1)


def steered_table(
    text: str,
    emotion: str,
    strength: float,
    circuit: Path | None,
    model: str,
    max_new_tokens: int,
    *,
    remote: "bool | et.Ndif" = False,
) -> Table:
    """The two replies side by side.

    Raises:
        CircuitError: the circuit is missing or made for another model, or lacks the emotion.
        ModelError: the model cannot be loaded.
    """
    source = circuit or et.BUNDLED_CIRCUIT
    if circuit is None and model != "bundled":
        raise CircuitError(f"no circuit of {model!r} is shipped; find one: emotrace run circuit --model {model}")
    if not source.is_file():
        raise CircuitError(f"{source}: no such circuit; find one: emotrace run circuit --model {model}")
    kept = et.EmotionCircuit.load(source)
    plan = et.add(kept, emotion, strength=strength)
    loaded = et.load(model, remote=remote)
    kept.check(loaded)
    if model == "bundled":
        text = as_scene(text)
    plain = et.generate(loaded, text, max_new_tokens=max_new_tokens)
    steered = et.generate(loaded, text, plan=plan, max_new_tokens=max_new_tokens)
    table = Table(show_lines=False, expand=False)
    table.add_column("unsteered", ratio=1)
    table.add_column(f"{emotion}, strength {strength:g}", ratio=1)
    table.add_row(Text(plain), Text(steered))
    return table
