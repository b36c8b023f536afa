"""From a scenario group to chat messages, and from messages to the text a model sees (README, The method)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emotrace.data.concepts import NEUTRAL, ConceptSet
from emotrace.data.sev import Group
from emotrace.errors import DataError

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """One prompt of a group.

    Attributes:
        group_id: ``skeleton_id/valence``.
        skeleton_id: unique per scenario; splits, folds and clusters go by it.
        valence: positive, neutral or negative event.
        condition: the emotion asked for, or ``"neutral"``.
        messages: chat messages (system, user).
    """

    group_id: str
    skeleton_id: str
    valence: str
    condition: str
    messages: tuple[Message, ...]


def prompt(group: Group, condition: str, concepts: ConceptSet, *, instruction: str | None = None) -> Prompt:
    """The prompt of ``group`` under ``condition`` (an emotion, or ``"neutral"``).

    ``instruction`` replaces the named instruction (paraphrases, negations, situations). Raises ``DataError`` when the
    condition is unknown or an instruction is given for the neutral prompt.
    """
    if condition == NEUTRAL:
        if instruction is not None:
            raise DataError("the neutral prompt carries no emotion instruction; leave `instruction` out")
        system = concepts.length_rule
    elif condition in concepts.labels:
        system = f"{instruction or concepts.instruction.format(concept=condition)}\n{concepts.length_rule}"
    else:
        raise DataError(
            f"unknown condition {condition!r}: use {NEUTRAL!r} or one of {', '.join(concepts.labels)} ({concepts.name})"
        )
    user = f"{group.scenario.scenario}\n{group.event}"
    messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
    return Prompt(group.id, group.skeleton_id, group.valence, condition, messages)


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The chat text with the generation prompt, as the model sees it.

    A template that cannot take a system role gets the system text in front of the user's. The switches for date
    (``date_string``) and thinking (``enable_thinking``) of templates that have them are fixed. Raises
    ``DataError`` when the tokenizer has no chat template.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise DataError(
            f"tokenizer {getattr(tokenizer, 'name_or_path', '?')!r} has no chat template; set `tokenizer.chat_template`"
        )
    fixed = {"date_string": "26 Jul 2024", "enable_thinking": False}
    options = {key: value for key, value in fixed.items() if key in str(template)}
    chat = list(messages)
    if chat and chat[0]["role"] == "system" and not _takes_system(tokenizer):
        merged = {"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}
        chat = [merged, *chat[2:]]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options))


def _takes_system(tokenizer: Any) -> bool:
    """Whether the template renders the system text at all (some raise, some drop it)."""
    import jinja2

    marker = "system-role-probe"
    probe = [{"role": "system", "content": marker}, {"role": "user", "content": "x"}]
    try:
        return marker in str(tokenizer.apply_chat_template(probe, tokenize=False))
    except jinja2.exceptions.TemplateError:
        return False
