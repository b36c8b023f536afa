"""The structural judge: parses a reply by the corpus grammar of the bundled model and checks what it names.

A reply parses when its sentences follow the templates of one style (an emotion, or neutral). It is accepted when it
also names the scenario's person and object and what happened. The verdict's label is the style; whether the reply is
accepted does not depend on which style that is. DESIGN section 4, Evaluation: structural acceptance.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache

from emotrace.judges.base import INCOHERENT, Reply, Verdict
from emotrace.models.bundled.replies import STYLES, style
from emotrace.models.bundled.scenes import read_scene
from emotrace.models.bundled.vocabulary import table

_PERSON = "[Tt]he [a-z]+|[A-Z][a-z]+"
_NOUN = "[a-z]+"


class StructureJudge:
    """A strict parser of replies in the bundled model's domain; satisfies ``emotrace.judges.base.Judge``."""

    @property
    def name(self) -> str:
        return "structure"

    @property
    def labels(self) -> tuple[str, ...]:
        return (*STYLES, INCOHERENT)

    def judge(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict per reply, in order; ``reasons`` is empty exactly when the reply is accepted."""
        return [_judge(reply) for reply in replies]

    def accepts(self, reply: Reply) -> bool:
        """Whether the reply parses under one style and names the right person, object and event."""
        return not _judge(reply).reasons


def _judge(reply: Reply) -> Verdict:
    parsed = [(label, match) for label in STYLES if (match := _pattern(label).fullmatch(reply.text.strip()))]
    if not parsed:
        return Verdict(INCOHERENT, reasons=(_why_not(reply.text.strip()),))
    label, match = parsed[0]
    scene = read_scene(reply.scenario, reply.event)
    if scene is None:
        return Verdict(label, reasons=("the scenario or event is not of this grammar, so what it names is unknown",))
    expected = {"person": scene.person, "noun": scene.noun, "verb": scene.verb, "how": scene.how}
    reasons = [
        f"{slot.split('_')[0]} is {said!r}, not {expected[slot.split('_')[0]]!r}"
        for slot, said in match.groupdict().items()
        if said is not None and _plain(said) != expected[slot.split("_")[0]]
    ]
    return Verdict(label, reasons=tuple(reasons))


def _why_not(text: str) -> str:
    first = [label for label in STYLES if re.match(_first(label), text)]
    if not first:
        return "the first sentence follows no style's template"
    return f"the first sentence is {first[0]}, the rest does not follow its templates"


def _plain(text: str) -> str:
    return text[0].lower() + text[1:] if text.startswith("The ") else text


@cache
def _pattern(label: str) -> re.Pattern[str]:
    return re.compile(f"{_first(label)}(?: {_second(label)})?")


@cache
def _first(label: str) -> str:
    words = style(label)
    start = (
        f"(?:(?:{_any(words['interjections'])}), (?:{_any(words['leads'])})|(?:{_any(map(_capital, words['leads']))}))"
    )
    hows = (how for valence in table("events")["hows"].values() for split in valence.values() for how in split)
    return (
        rf"{start} (?P<person>{_PERSON})(?: (?:{_any(words['adverbs'])}))? (?P<verb>[a-z]+)"
        rf" (?:the|{_any(words['determiners'])}) (?P<noun>{_NOUN})"
        rf"(?: (?:{_any(words['tails'])})| (?P<how>{_any(hows)}))?(?:{_any(words['ends'])})"
    )


@cache
def _second(label: str) -> str:
    words = style(label)
    slots = {
        "act": f"(?:{_any(words['acts'])})",
        "vow": f"(?:{_any(words['vows'])})",
        "body": f"(?:{_any(words['bodies'])})",
    }
    options = (
        template.format(**slots, person=f"(?P<person_{index}>{_PERSON})", noun=f"(?P<noun_{index}>{_NOUN})")
        for index, template in enumerate(words["seconds"])
    )
    return f"(?:{'|'.join(options)})(?:{_any(words['ends'])})"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _any(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
