"""Read a reply back by the grammar's templates: which style it follows, and whether it names the right things."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from emotrace.models.bundled.replies import STYLES, style
from emotrace.models.bundled.scenes import read_scene
from emotrace.models.bundled.vocabulary import table

_PERSON = "[Tt]he [a-z]+|[A-Z][a-z]+"
_NOUN = "[a-z]+"


@dataclass(frozen=True)
class Reading:
    """A reply as the grammar reads it.

    Attributes:
        label: the style whose templates all its sentences follow; None when there is none.
        problems: why it is not accepted; empty when it parses and names the right person, object and event.
    """

    label: str | None
    problems: tuple[str, ...]


def read_reply(text: str, scenario: str, event: str) -> Reading:
    """The reading of one reply to a prompt's user side (``scenario`` and ``event`` texts)."""
    text = text.strip()
    parsed = [(label, match) for label in STYLES if (match := _pattern(label).fullmatch(text))]
    if not parsed:
        return Reading(None, (_why_not(text),))
    label, match = parsed[0]
    scene = read_scene(scenario, event)
    if scene is None:
        return Reading(label, ("the scenario or event is not of this grammar, so what it names is unknown",))
    expected = {"person": scene.person, "noun": scene.noun, "verb": scene.verb, "how": scene.how}
    problems = [
        f"{slot.split('_')[0]} is {said!r}, not {expected[slot.split('_')[0]]!r}"
        for slot, said in match.groupdict().items()
        if said is not None and _plain(said) != expected[slot.split("_")[0]]
    ]
    return Reading(label, tuple(problems))


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
    hows = (how for listed in table("events")["hows"].values() for how in listed)
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
