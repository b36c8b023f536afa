"""The likelihood judge: which instruction would have made the model itself say this? It works with any model."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from emotrace.data.concepts import NEUTRAL, PAPER_SIX, ConceptSet
from emotrace.data.prompts import prompt
from emotrace.data.sev import VALENCES, Group, Scenario
from emotrace.judges.base import ABSTAIN, Reply, Verdict
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.likelihood import reply_nll

MARGIN = 0.05
"""One nat over a reply of 20 tokens: the best label then makes it 2.7 times as likely as the next one."""


@dataclass(frozen=True)
class LikelihoodJudge:
    """Forced choice among the emotions and neutral: the label whose prompt makes the reply likeliest, unsteered.

    For every label the reply is read behind the prompt of its own scenario and event with that label's instruction (the
    neutral one without). A verdict's scores are mean log-likelihoods, in nats per token; they are no probabilities of
    labels. Satisfies ``emotrace.judges.base.Judge``. It has no "incoherent": what no prompt makes likely still has a
    likeliest one, by little, and abstention is for that. It shares the model's own idea of the emotions, so that a
    circuit that fools the model may fool this judge: it is a second opinion beside one that knows no model.

    Attributes:
        model: any model that ``emotrace.load`` gives or takes; it is not changed.
        concepts: the emotions and their instructions.
        margin: nats per token that the best label must lead the next one by; under it, and for an empty reply, the
            judge abstains.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches, under a name that is the replies' own.
    """

    model: Any
    concepts: ConceptSet = PAPER_SIX
    margin: float = MARGIN
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    ledger: Ledger | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return "likelihood"

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.concepts.labels, NEUTRAL)

    def judge(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict per reply, in order; equal replies to equal prompts are read once."""
        model = as_model(self.model)
        by_scenario: dict[str, list[Reply]] = {}  # whose prompts begin alike, and are read once for all replies
        for reply in dict.fromkeys(replies):
            if reply.text.strip():
                by_scenario.setdefault(reply.scenario, []).append(reply)
        verdicts = {reply: verdict for part in by_scenario.values() for reply, verdict in self._read(model, part)}
        empty = Verdict(ABSTAIN, reasons=("an empty reply",))
        return [verdicts.get(reply, empty) for reply in replies]

    def _read(self, model: Model, replies: Sequence[Reply]) -> Iterator[tuple[Reply, Verdict]]:
        prompts = model.encode(
            [prompt(_group(reply), label, self.concepts) for reply in replies for label in self.labels]
        )
        texts = [ids for ids in model.encode([reply.text for reply in replies]) for _ in self.labels]
        name = f"likelihood_judge_{zlib.crc32(repr(replies).encode()):08x}"
        nll = reply_nll(model, prompts, texts, batch_tokens=self.batch_tokens, ledger=self.ledger, name=name)
        for number, reply in enumerate(replies):
            yield reply, self._verdict(nll[number * len(self.labels) :][: len(self.labels)])

    def _verdict(self, nll: Sequence[float | None]) -> Verdict:
        scores = {label: -value for label, value in zip(self.labels, nll, strict=True) if value is not None}
        best, second = sorted(scores, key=lambda label: -scores[label])[:2]
        lead = scores[best] - scores[second]
        if lead >= self.margin:
            return Verdict(best, scores)
        unsure = f"unsure: {best} leads {second} by {lead:.3f} nats per token, under {self.margin:g}"
        return Verdict(ABSTAIN, scores, (unsure,))


def _group(reply: Reply) -> Group:
    return Group(Scenario("", reply.scenario, dict.fromkeys(VALENCES, reply.event), ""), VALENCES[0])
