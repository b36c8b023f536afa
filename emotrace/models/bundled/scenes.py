"""Scenarios and events of the bundled model's domain: drawn from parts, and read back from their text."""

import random
import re
from dataclasses import dataclass
from functools import cache

from emotrace.models.bundled.vocabulary import SPLITS, Coin, pseudo_word, table

VALENCES = ("positive", "neutral", "negative")
PSEUDO_SHARE = 0.35


@dataclass(frozen=True)
class Scene:
    """A scenario with one event, as parts and as text.

    Attributes:
        theme: the theme whose place and object it uses.
        valence: positive, neutral or negative event.
        person: as written, ``"Anna"`` or ``"the baker"``.
        noun: the object, one lower-case word.
        place: where it happens.
        frame: index of the scenario's template in ``FRAMES``.
        time: the event's opening phrase.
        verb: what the person did, past tense.
        how: the event's closing phrase.
        scenario: the scenario's text.
        event: the event's text.
    """

    theme: str
    valence: str
    person: str
    noun: str
    place: str
    frame: int
    time: str
    verb: str
    how: str
    scenario: str
    event: str


def frames(split: str) -> list[str]:
    """Scenario templates of one split."""
    return list(table("scenes")["frames"][split])


@cache
def all_frames() -> tuple[str, ...]:
    """Every scenario template; ``Scene.frame`` indexes this tuple."""
    return tuple(frame for split in ("train", "validation", "test") for frame in frames(split))


def draw_scene(
    rng: random.Random,
    split: str,
    *,
    valence: str | None = None,
    like: Scene | None = None,
    pseudo: float = 0.0,
    coin: Coin = pseudo_word,
) -> Scene:
    """One scene of a split; ``like`` keeps that scene's scenario and draws only another event.

    ``pseudo`` is the chance, for object, person and verb each, of a word that means nothing; half of it, for a
    word of ``time`` and of ``how``; ``coin`` draws such words.
    """
    scenes, events = table("scenes"), table("events")
    valence = valence or rng.choice(VALENCES)
    if like is None:
        theme = rng.choice(sorted(scenes["themes"]))
        words = scenes["themes"][theme]
        place = rng.choice(words["places"])
        noun = coin(rng) if rng.random() < pseudo else rng.choice(words["nouns" if split == "train" else split])
        person = _person(rng, split, pseudo, coin)
        frame = rng.choice(frames(split))
    else:
        theme, place, noun, person, frame = like.theme, like.place, like.noun, like.person, all_frames()[like.frame]
    verb = rng.choice(events["verbs"][valence][split])
    if rng.random() < pseudo:
        verb = coin(rng) + "ed"
    how = rng.choice(events["hows"][valence])
    if rng.random() < pseudo / 2:
        how = f"{how.rsplit(' ', 1)[0]} {coin(rng)}"
    time = rng.choice(events["times"][split])
    if rng.random() < pseudo / 2:
        time = rng.choice(events["times"]["pseudo"]).format(word=_name(rng, coin) if rng.random() < 0.5 else coin(rng))
    event = rng.choice(events["templates"]).format(time=time, person=person, verb=verb, noun=noun, how=how)
    scenario = _article(frame.format(noun=noun, person=person, place=place), noun)
    return Scene(theme, valence, person, noun, place, all_frames().index(frame), time, verb, how, scenario, event)


def _name(rng: random.Random, coin: Coin) -> str:
    return coin(rng).capitalize()


def _person(rng: random.Random, split: str, pseudo: float, coin: Coin) -> str:
    if rng.random() < pseudo:
        return _name(rng, coin) if rng.random() < 0.6 else f"the {coin(rng)}"
    kind = "names" if rng.random() < 0.6 else "roles"
    return str(rng.choice(table("scenes")[kind][split]))


def _article(text: str, noun: str) -> str:
    return text.replace(f"a {noun}", f"an {noun}") if noun[0] in "aeiou" else text


@cache
def _patterns() -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    scenes, events = table("scenes"), table("events")
    places = "|".join(place for words in scenes["themes"].values() for place in words["places"])
    slots = {
        "noun": "(?P<noun>[a-z]+)",
        "person": "(?P<person>the [a-z]+|[A-Z][a-z]+)",
        "place": f"(?P<place>{places})",
    }
    every = [re.compile(_escape(frame).replace(" a {noun}", " an? {noun}").format(**slots)) for frame in all_frames()]
    times = "|".join(time for split in SPLITS for time in events["times"][split])
    hows = "|".join(sorted((how for listed in events["hows"].values() for how in listed), key=len, reverse=True))
    slots |= {"time": f"(?P<time>{times})", "verb": "(?P<verb>[a-z]+)", "how": f"(?P<how>{hows})"}
    return every, [re.compile(_escape(text).format(**slots)) for text in events["templates"]]


def _escape(text: str) -> str:
    return text.replace(".", r"\.")


@cache
def _theme_of() -> dict[str, str]:
    return {place: theme for theme, words in table("scenes")["themes"].items() for place in words["places"]}


def read_scene(scenario: str, event: str) -> Scene | None:
    """The parts of a scenario and event written by this grammar; None when the texts are not of this grammar."""
    frame_patterns, event_patterns = _patterns()
    found = [(i, m) for i, pattern in enumerate(frame_patterns) if (m := pattern.fullmatch(scenario))]
    happened = [m for pattern in event_patterns if (m := pattern.fullmatch(event))]
    if not found or not happened:
        return None
    (frame, first), second = found[0], happened[0]
    if first["person"] != second["person"] or second.groupdict().get("noun", first["noun"]) != first["noun"]:
        return None
    hows = table("events")["hows"]
    valence = next(v for v in VALENCES if second["how"] in hows[v])
    return Scene(
        _theme_of()[first["place"]],
        valence,
        first["person"],
        first["noun"],
        first["place"],
        frame,
        second["time"],
        second["verb"],
        second["how"],
        scenario,
        event,
    )
