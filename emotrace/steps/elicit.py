"""Elicit replies under every emotion and the neutral prompt, judge them blind, and keep the groups that worked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from emotrace.data.concepts import NEUTRAL, ConceptSet
from emotrace.data.prompts import prompt
from emotrace.data.sev import Group
from emotrace.errors import DataError
from emotrace.judges.base import Judge, Reply
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.capture import Sample
from emotrace.trace.generate import MAX_NEW_TOKENS, generate_replies


@dataclass(frozen=True)
class ElicitedReply:
    """One reply of the unsteered model to one prompt of one group.

    Attributes:
        condition: the emotion asked for, or ``"neutral"``.
        prompt_ids: token ids of the rendered prompt.
        reply_ids: token ids of the reply, end of turn excluded.
        label: the judge's verdict.
        accepted: the verdict is the condition.
        structure: the structural judge accepts the reply, or None where there is none.
    """

    group_id: str
    skeleton_id: str
    valence: str
    scenario: str
    event: str
    condition: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    reply: str
    label: str
    accepted: bool
    structure: bool | None


@dataclass(frozen=True)
class Elicitation:
    """Every reply, and which groups are used: those in which every emotion was accepted."""

    emotions: tuple[str, ...]
    replies: tuple[ElicitedReply, ...]

    @property
    def conditions(self) -> tuple[str, ...]:
        """The emotions, then neutral: the first axis of captured statistics."""
        return (*self.emotions, NEUTRAL)

    @property
    def accepted_groups(self) -> tuple[str, ...]:
        """Ids of groups with replies accepted under every emotion and a neutral reply, in the order given."""
        failed = {r.group_id for r in self.replies if not (r.accepted or (r.condition == NEUTRAL and r.reply_ids))}
        return tuple(dict.fromkeys(r.group_id for r in self.replies if r.group_id not in failed))

    @property
    def dropped_groups(self) -> tuple[str, ...]:
        """Ids of the other groups."""
        kept = set(self.accepted_groups)
        return tuple(dict.fromkeys(r.group_id for r in self.replies if r.group_id not in kept))

    def acceptance(self) -> dict[str, float]:
        """Share of accepted replies per condition."""
        shares = {}
        for condition in self.conditions:
            flags = [r.accepted for r in self.replies if r.condition == condition]
            shares[condition] = sum(flags) / len(flags)
        return shares

    def accepted(self, condition: str | None = None) -> list[ElicitedReply]:
        """Replies of accepted groups, of one condition or of all."""
        kept = set(self.accepted_groups)
        return [r for r in self.replies if r.group_id in kept and condition in (None, r.condition)]

    def spread(self, condition: str, count: int) -> list[ElicitedReply]:
        """At most ``count`` accepted replies of one condition, a fixed random choice over scenarios and valences."""
        members = self.accepted(condition)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:count].sort().values
        return [members[i] for i in order.tolist()]

    def samples(self) -> list[Sample]:
        """Accepted groups as samples of a capture over ``conditions``.

        Raises ``DataError`` when there is no accepted group, with what was accepted per condition.
        """
        if not self.accepted_groups:
            shares = ", ".join(f"{condition} {share:.0%}" for condition, share in self.acceptance().items())
            raise DataError(
                f"no group was accepted in every emotion; replies accepted per condition: {shares}. "
                "Read the replies, or give another judge"
            )
        order = {condition: i for i, condition in enumerate(self.conditions)}
        return [Sample(order[r.condition], r.prompt_ids, r.reply_ids) for r in self.accepted()]

    def to_records(self) -> list[dict[str, Any]]:
        """Replies as JSON records."""
        return [asdict(reply) for reply in self.replies]

    @classmethod
    def from_records(cls, emotions: Sequence[str], records: Sequence[Mapping[str, Any]]) -> "Elicitation":
        """What ``to_records`` gave."""
        replies = []
        for record in records:
            values: dict[str, Any] = dict(record)
            values |= {key: tuple(values[key]) for key in ("prompt_ids", "reply_ids")}
            replies.append(ElicitedReply(**values))
        return cls(tuple(emotions), tuple(replies))


def elicit(
    model: Any,
    groups: Sequence[Group],
    concepts: ConceptSet,
    judge: Judge,
    *,
    structure: Any = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Elicitation:
    """Greedy replies of ``model`` to every prompt of every group, judged blind (README, The method).

    ``structure`` is a judge with ``accepts(reply)``, a second opinion that is recorded and decides nothing.
    """
    model = as_model(model)
    if not groups or not all(isinstance(group, Group) for group in groups):
        raise DataError("elicit takes one or more groups: emotrace.groups(scenarios) makes them")
    prompts = [(group, prompt(group, c, concepts)) for group in groups for c in (*concepts.labels, NEUTRAL)]
    ids = model.encode([p for _, p in prompts])
    generated = generate_replies(
        model, ids, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, ledger=ledger, name="elicit"
    )
    texts = [
        Reply(g.text, group.scenario.scenario, group.event) for g, (group, _) in zip(generated, prompts, strict=True)
    ]
    verdicts = judge.judge(texts)
    replies = [
        ElicitedReply(
            group.id,
            group.skeleton_id,
            group.valence,
            group.scenario.scenario,
            group.event,
            made.condition,
            tuple(prompt_ids),
            reply.ids,
            reply.text,
            verdict.label,
            verdict.label == made.condition and bool(reply.ids),
            None if structure is None else bool(structure.accepts(text)),
        )
        for (group, made), prompt_ids, reply, text, verdict in zip(
            prompts, ids, generated, texts, verdicts, strict=True
        )
    ]
    return Elicitation(concepts.labels, tuple(replies))
