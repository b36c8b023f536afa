"""What every judge is: replies in, verdicts out, with no access to the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

INCOHERENT = "incoherent"
ABSTAIN = "abstain"


@dataclass(frozen=True)
class Verdict:
    """One reply as a judge sees it.

    Attributes:
        label: an emotion, ``"neutral"``, ``"incoherent"`` or ``"abstain"``.
        scores: the judge's score per label, where it has any; they need not sum to one.
        reasons: why a reply was not accepted, for people.
    """

    label: str
    scores: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A reply and the prompt's user side, which structural judges need. It never holds the emotion asked for."""

    text: str
    scenario: str = ""
    event: str = ""


class Judge(Protocol):
    """A blind forced choice among ``labels`` (the emotions, neutral, incoherent), with abstention."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def judge(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict per reply, in order."""
        ...
