"""The emotions under study, as data: names, instruction wording, and the words that must not leak into scenarios."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NEUTRAL = "neutral"


@dataclass(frozen=True)
class ConceptSet:
    """A set of concepts that a study compares.

    Attributes:
        name: short identifier, kept in manifests.
        labels: the concepts, in the order of every tensor's first axis.
        instruction: first sentence of the system text; ``{concept}`` is replaced by the label.
        length_rule: second sentence of the system text; alone, it is the neutral prompt's system text.
        lexicon: for each label, words that give the concept away and must not occur in a scenario or event.
        wordings: further ways to ask, kind -> label -> instructions in place of ``instruction``: ``paraphrase`` names
            the concept in other words, ``implied`` tells a situation that never names it.
        ratings: for every label, how pleasant and how aroused people who feel it say they are, each in [-1, 1]; empty
            where nobody rated the set.
        ratings_source: where the ratings were published.

    Source: Wang et al. 2025 (arXiv 2510.11328), section 3.1 (six emotions, system prompt).
    """

    name: str
    labels: tuple[str, ...]
    instruction: str
    length_rule: str
    lexicon: Mapping[str, tuple[str, ...]]
    wordings: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    ratings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ratings_source: str = ""

    def index(self, label: str) -> int:
        """Position of ``label`` on the emotion axis; raises ``KeyError`` naming the labels that exist."""
        if label not in self.labels:
            raise KeyError(f"{label!r} is not a concept of {self.name!r}; choose one of {', '.join(self.labels)}")
        return self.labels.index(label)


_WORDINGS = {
    "paraphrase": {
        "anger": (
            "Sound furious in your reply.",
            "Let rage fill every word.",
            "Your reply is full of wrath.",
            "Always sound like someone angry.",
        ),
        "sadness": (
            "Sound heartbroken in your reply.",
            "Let sorrow fill every word.",
            "Your reply is full of grief.",
            "Always sound like someone miserable.",
        ),
        "happiness": (
            "Sound joyful in your reply.",
            "Let delight fill every word.",
            "Your reply is full of joy.",
            "Always sound like someone cheerful.",
        ),
        "fear": (
            "Sound terrified in your reply.",
            "Let dread fill every word.",
            "Your reply is full of panic.",
            "Always sound like someone scared.",
        ),
        "surprise": (
            "Sound astonished in your reply.",
            "Let amazement fill every word.",
            "Your reply is full of wonder.",
            "Always sound like someone stunned.",
        ),
        "disgust": (
            "Sound revolted in your reply.",
            "Let revulsion fill every word.",
            "Your reply is full of loathing.",
            "Always sound like someone nauseated.",
        ),
    },
    "implied": {
        "anger": (
            "Because you have been cheated, you slam the door.",
            "You were lied to, so now you bang the table.",
            "You demand justice as if you have been robbed.",
            "Because you were insulted, you will not stay quiet.",
        ),
        "sadness": (
            "Because you have lost a friend, you wipe away tears.",
            "You were left alone, so now you hang your head.",
            "You stare at the rain as if you were forgotten.",
            "Because you were told goodbye, you can hardly speak.",
        ),
        "happiness": (
            "Because you have won a prize, you jump around.",
            "You have great news, so now you smile at everyone.",
            "You hum a merry tune as if you were given a party.",
            "Because you were hugged by a friend, you laugh out loud.",
        ),
        "fear": (
            "Because you were chased by wolves, you look for the exit.",
            "You were followed in the dark, so now you lock the door.",
            "You turn pale as if you have seen a ghost.",
            "Because you have heard steps behind you, you want to hide.",
        ),
        "surprise": (
            "Because you were caught off guard, you drop your jaw.",
            "You have found a hidden door, so now you rub your eyes.",
            "You blink twice as if you have just seen a miracle.",
            "Because you were told the impossible, you stand there speechless.",
        ),
        "disgust": (
            "Because you have bitten into a worm, you want to spit.",
            "You have smelled a sewer, so now you hold your nose.",
            "You wash your hands as if you were splashed with slime.",
            "Because you were served rotten meat, you push the plate away.",
        ),
    },
}

PAPER_SIX = ConceptSet(
    name="paper-six",
    labels=("anger", "sadness", "happiness", "fear", "surprise", "disgust"),
    instruction="Always reply in {concept}.",
    length_rule="Keep the reply to at most two sentences.",
    lexicon={
        "anger": ("anger", "angry", "angrily", "furious", "fury", "rage", "enraged", "outraged", "irritated", "mad"),
        "sadness": ("sadness", "sad", "sadly", "sorrow", "grief", "heartbroken", "miserable", "gloomy", "depressed"),
        "happiness": ("happiness", "happy", "happily", "joy", "joyful", "delighted", "cheerful", "glad", "thrilled"),
        "fear": ("fear", "afraid", "scared", "frightened", "terrified", "terror", "dread", "fearful", "anxious"),
        "surprise": ("surprise", "surprised", "astonished", "amazed", "stunned", "shocked", "startled", "astounded"),
        "disgust": ("disgust", "disgusted", "disgusting", "revolted", "revolting", "gross", "nauseated", "repulsed"),
    },
    wordings=_WORDINGS,
    ratings={
        "anger": (-0.51, 0.59),
        "sadness": (-0.63, -0.27),
        "happiness": (0.76, 0.48),  # rated as "joy"
        "fear": (-0.64, 0.60),
        "surprise": (0.40, 0.67),
        "disgust": (-0.60, 0.35),
    },
    ratings_source="Russell & Mehrabian 1977, J. Research in Personality 11, 273-294, means of pleasure and arousal",
)
