"""A planted model: what it is made of, and what is known of it beforehand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError
from emotrace.planted.layout import CLASSES, Layout, Place
from emotrace.planted.readings import logit_difference

SITES = ("heads", "neurons")
INCOHERENT = "incoherent"


@dataclass(frozen=True)
class Planted:
    """A constructed model whose emotion components are known.

    Every emotion owns its components: no head or neuron belongs to two emotions, so that the true size of an emotion's
    circuit, and precision and recall at that size, are well defined for each emotion. Components that are planted for
    another emotion count as wrong.

    Attributes:
        model: the Hugging Face model, float32, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        emotions: names, in the order of ``PAPER_SIX``.
        truth: ``truth[emotion][kind][site]``: (layer, index) of the components of a class (``"true"``, ``"inert"``,
            ``"cancelling"``, ``"backup"``) at ``heads`` or ``neurons``.
        partners: by site, for members of cancelling pairs the other one, for backups what they stand in for and for
            those their backup.
        words: for each emotion and ``"neutral"``, the words of the reply, in order.
        word_ids: their token ids.
        predicted: ``predicted[emotion][site][place]``: fall of the reading when this planted component of the emotion
            is zeroed at every token of the emotion's prompt, in closed form; see :meth:`reading`.
        reach: tokens that the emotion's name may lie before the last one.
        leak: of identity into the ordinary embeddings of emotion words.
        seed: of everything random.
    """

    model: Any
    tokenizer: Any
    emotions: tuple[str, ...]
    truth: Mapping[str, Mapping[str, Mapping[str, tuple[Place, ...]]]]
    partners: Mapping[str, Mapping[Place, Place]]
    words: Mapping[str, tuple[str, ...]]
    word_ids: Mapping[str, tuple[int, ...]]
    predicted: Mapping[str, Mapping[str, Mapping[Place, float]]]
    reach: int
    leak: float
    seed: int
    layout: Layout = field(repr=False)

    def components(self, emotion: str, site: str, kind: str = "true") -> tuple[Place, ...]:
        """(layer, index) of an emotion's components of one class; raises ``DataError`` for an unknown word."""
        if emotion not in self.emotions or site not in SITES or kind not in CLASSES:
            raise DataError(
                f"no {kind!r} {site} of {emotion!r}: choose one of {', '.join(self.emotions)}, {' or '.join(SITES)}, "
                f"and one of {', '.join(CLASSES)}"
            )
        return self.truth[emotion][kind][site]

    def kind(self, emotion: str, site: str, place: Place) -> str | None:
        """Class of a component for an emotion; None for ordinary ones and those of other emotions."""
        return next((kind for kind in CLASSES if place in self.components(emotion, site, kind)), None)

    def reading(
        self, emotion: str, *, asked: str | None = None, heads: Iterable[Place] = (), neurons: Iterable[Place] = ()
    ) -> float:
        """The stated reading, in closed form: what the logits at the last prompt token are known to be.

        It is the mean logit of the emotion's words minus that of all other emotions' words.

        Args:
            emotion: whose words are read.
            asked: the emotion that the prompt asks for, or ``"neutral"``; ``emotion`` by default.
            heads: planted heads that are zeroed at every token.
            neurons: planted neurons that are zeroed.
        """
        asked = emotion if asked is None else asked
        removed = {("heads", place) for place in heads} | {("neurons", place) for place in neurons}
        return logit_difference(
            self.layout,
            len(self.emotions),
            None if asked == NEUTRAL else self.emotions.index(asked),
            self.emotions.index(emotion),
            removed,
        )

    def label(self, reply: str) -> str:
        """The emotion of a reply: the one whose words it says, ``"neutral"``, or ``"incoherent"`` for anything else."""
        said = reply.split()
        return next((name for name, own in self.words.items() if said and set(said) <= set(own)), INCOHERENT)
