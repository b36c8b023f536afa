"""The emotions under study, as data: names, instruction wording, and the words that must not leak into scenarios."""

from collections.abc import Mapping
from dataclasses import dataclass

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

    Source: Wang et al. 2025 (arXiv 2510.11328), section 3.1 (six emotions, system prompt).
    """

    name: str
    labels: tuple[str, ...]
    instruction: str
    length_rule: str
    lexicon: Mapping[str, tuple[str, ...]]

    def index(self, label: str) -> int:
        """Position of ``label`` on the emotion axis; raises ``KeyError`` naming the labels that exist."""
        if label not in self.labels:
            raise KeyError(f"{label!r} is not a concept of {self.name!r}; choose one of {', '.join(self.labels)}")
        return self.labels.index(label)


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
)
