"""The structural judge: parses a reply by the corpus grammar of the bundled model and checks what it names.

A reply parses when its sentences follow the templates of one style (an emotion, or neutral). It is accepted when it
also names the scenario's person and object and what happened. The verdict's label is the style; whether the reply is
accepted does not depend on which style that is. README, The method.
"""

from collections.abc import Sequence

from emotrace.judges.base import INCOHERENT, Reply, Verdict
from emotrace.models.bundled.reading import read_reply
from emotrace.models.bundled.replies import STYLES


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
        readings = [read_reply(reply.text, reply.scenario, reply.event) for reply in replies]
        return [Verdict(reading.label or INCOHERENT, reasons=reading.problems) for reading in readings]

    def accepts(self, reply: Reply) -> bool:
        """Whether the reply parses under one style and names the right person, object and event."""
        return not read_reply(reply.text, reply.scenario, reply.event).problems
