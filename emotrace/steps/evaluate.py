"""Replies of an arm on held-out scenarios, judged blind, with their likelihood; and the summary of an arm."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emotrace.data.concepts import NEUTRAL, ConceptSet
from emotrace.data.prompts import prompt
from emotrace.data.sev import Group, Scenario
from emotrace.formulas.statistics import Interval, PairedDifference, paired_difference, proportion_interval
from emotrace.judges.base import ABSTAIN, INCOHERENT, Judge, Reply, Verdict
from emotrace.judges.fluency import measure
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.generate import MAX_NEW_TOKENS, generate_replies
from emotrace.trace.likelihood import reply_nll
from emotrace.trace.plan import Plan


@dataclass(frozen=True)
class Task:
    """One held-out reply to make: a group and the emotion asked for."""

    group: Group
    emotion: str


@dataclass(frozen=True)
class Attempt:
    """How one reply is made.

    Attributes:
        task: what is asked for.
        plan: edits on the way.
        prompted: whether the prompt asks for the emotion, or is the neutral one.
        draw: the random draw it belongs to.
        instruction: asks in place of the named instruction, where the prompt asks.
    """

    task: Task
    plan: Plan
    prompted: bool = False
    draw: int = 0
    instruction: str | None = None


@dataclass(frozen=True)
class JudgedReply:
    """One reply of one arm.

    Attributes:
        emotion: the emotion asked for; the judge never sees it.
        label: the verdict.
        structure: accepted by the structural judge, or None without one.
        nll: nats per token under the unsteered model given the emotion's prompt, or None for an empty reply.
        stopped: the model ended the reply itself.
        score: the judge's score of the emotion asked for, or None where it gives none.
        second: the structural judge's verdict, or None without one.
    """

    arm: str
    draw: int
    group_id: str
    skeleton_id: str
    valence: str
    scenario: str
    event: str
    emotion: str
    reply: str
    label: str
    structure: bool | None
    nll: float | None
    stopped: bool
    score: float | None = None
    second: str | None = None

    @property
    def correct(self) -> bool:
        """Judged as the emotion asked for; abstentions and incoherent replies are not."""
        return self.label == self.emotion

    @property
    def task(self) -> tuple[str, str]:
        """What replies of several arms to the same task have in common."""
        return self.group_id, self.emotion


def held_out_tasks(scenarios: Sequence[Scenario], concepts: ConceptSet, count: int) -> list[Task]:
    """A task per emotion and scenario over ``count`` scenarios, valences rotating so that each is met equally often.

    >>> from emotrace.data.concepts import PAPER_SIX
    >>> from emotrace.data.sev import load_sev
    >>> tasks = held_out_tasks(load_sev("sev-mini").test, PAPER_SIX, 2)
    >>> [(task.emotion, task.group.valence) for task in tasks[:3]]
    [('anger', 'positive'), ('sadness', 'neutral'), ('happiness', 'negative')]
    """
    return [
        Task(scenario.groups()[(i + e) % 3], emotion)
        for i, scenario in enumerate(scenarios[:count])
        for e, emotion in enumerate(concepts.labels)
    ]


def evaluate(
    model: Any,
    arm: str,
    attempts: Sequence[Attempt],
    concepts: ConceptSet,
    judge: Judge,
    *,
    structure: Judge | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> list[JudgedReply]:
    """Greedy replies of every attempt, in the order given, judged blind and scored under the unsteered model.

    ``structure`` is a second judge, which accepts a reply by giving no reasons against it
    (:class:`emotrace.StructureJudge`).
    """
    model = as_model(model)
    asked = [prompt(a.task.group, a.task.emotion, concepts) for a in attempts]
    used = [
        prompt(a.task.group, a.task.emotion if a.prompted else NEUTRAL, concepts, instruction=a.instruction)
        for a in attempts
    ]
    asked_ids, used_ids = model.encode(asked), model.encode(used)
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "ledger": ledger}
    replies = generate_replies(
        model, used_ids, [a.plan for a in attempts], max_new_tokens=max_new_tokens, name=f"generate_{arm}", **options
    )
    likelihoods = reply_nll(model, asked_ids, [r.ids for r in replies], name=f"likelihood_{arm}", **options)
    texts = [
        Reply(reply.text, a.task.group.scenario.scenario, a.task.group.event)
        for a, reply in zip(attempts, replies, strict=True)
    ]
    verdicts = judge.judge(texts)
    checks: Sequence[Verdict | None] = [None] * len(texts) if structure is None else structure.judge(texts)
    return [
        JudgedReply(
            arm,
            attempt.draw,
            attempt.task.group.id,
            attempt.task.group.skeleton_id,
            attempt.task.group.valence,
            text.scenario,
            text.event,
            attempt.task.emotion,
            reply.text,
            verdict.label,
            None if check is None else not check.reasons,
            nll,
            reply.stopped,
            verdict.scores.get(attempt.task.emotion),
            None if check is None else check.label,
        )
        for attempt, reply, nll, text, verdict, check in zip(
            attempts, replies, likelihoods, texts, verdicts, checks, strict=True
        )
    ]


def to_records(replies: Sequence[JudgedReply]) -> list[dict[str, Any]]:
    """Replies as JSON records."""
    return [asdict(reply) for reply in replies]


def accuracy(replies: Sequence[JudgedReply], seed: int) -> Interval:
    """Share judged as asked, with its 95 % interval over scenarios.

    Replies of several random draws are clustered by draw: what a draw happens to hold moves all of its replies at once.
    """
    return proportion_interval([r.correct for r in replies], clusters_of(replies), seed=seed)


def accuracy_second(replies: Sequence[JudgedReply], seed: int) -> Interval | None:
    """The same by the second judge; None without one."""
    checked = [r for r in replies if r.second is not None]
    if not checked:
        return None
    return proportion_interval([r.second == r.emotion for r in checked], clusters_of(checked), seed=seed)


def clusters_of(replies: Sequence[JudgedReply]) -> list[str]:
    """What is resampled: draws where there are several, else scenarios."""
    several = len({r.draw for r in replies}) > 1
    return [f"draw {r.draw}" if several else r.skeleton_id for r in replies]


def fluency_gap(replies: Sequence[JudgedReply], prompted: Sequence[JudgedReply]) -> float | None:
    """Mean nats per token of ``replies`` minus that of prompted replies to the same tasks; None when all are empty."""
    tasks = {r.task for r in replies}
    reference = [r.nll for r in prompted if r.task in tasks and r.nll is not None]
    values = [r.nll for r in replies if r.nll is not None]
    return float(np.mean(values) - np.mean(reference)) if values and reference else None


def arm_summary(
    replies: Sequence[JudgedReply],
    prompted: Sequence[JudgedReply],
    *,
    seed: int,
    lexicon: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Everything reported of an arm, as JSON: accuracy with intervals, fluency, structure, and failures."""
    text = measure([r.reply for r in replies], lexicon)
    labels = Counter(r.label for r in replies)
    checked = [r.structure for r in replies if r.structure is not None]
    whole, second = accuracy(replies, seed), accuracy_second(replies, seed)
    return {
        "accuracy": whole.estimate,
        "accuracy_ci": [whole.low, whole.high],
        "accuracy_second": second.estimate if second else None,
        "accuracy_second_ci": [second.low, second.high] if second else None,
        "by_emotion": _by(replies, "emotion", seed),
        "by_valence": _by(replies, "valence", seed),
        "fluency_gap_nats": fluency_gap(replies, prompted),
        "structure_accepted": float(np.mean(checked)) if checked else None,
        "repetition": text.repetition,
        "distinct_1": text.distinct_1,
        "distinct_2": text.distinct_2,
        "nonwords": text.nonwords,
        "length": text.length,
        "stopped": float(np.mean([r.stopped for r in replies])),
        "empty": sum(r.nll is None for r in replies),
        "abstained": labels[ABSTAIN] / len(replies),
        "incoherent": labels[INCOHERENT] / len(replies),
        "distinct_replies": len({r.reply for r in replies}),
        "n": len(replies),
        "scenarios": len({r.skeleton_id for r in replies}),
        "draws": len({r.draw for r in replies}),
    }


def confusion(replies: Sequence[JudgedReply], emotions: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """Counts of verdicts (columns) by emotion asked for (rows)."""
    counts = Counter((r.emotion, r.label) for r in replies)
    return {
        "rows": list(emotions),
        "columns": list(columns),
        "counts": [[counts[row, column] for column in columns] for row in emotions],
    }


def paired_accuracy(a: Sequence[JudgedReply], b: Sequence[JudgedReply], *, seed: int) -> PairedDifference:
    """Accuracy of ``a`` minus that of ``b``, paired by task; clustered by scenario, or by draw where ``b`` has several.

    ``a`` holds one reply per task; each reply of ``b`` is paired with the one to its task.
    """
    mine = {r.task: r.correct for r in a}
    theirs = [r for r in b if r.task in mine]
    return paired_difference(
        [mine[r.task] for r in theirs], [r.correct for r in theirs], clusters_of(theirs), seed=seed
    )


def _by(replies: Sequence[JudgedReply], field: str, seed: int) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for value in dict.fromkeys(getattr(r, field) for r in replies):
        members = [r for r in replies if getattr(r, field) == value]
        interval = accuracy(members, seed)
        parts[value] = {
            "accuracy": interval.estimate,
            "accuracy_ci": [interval.low, interval.high],
            "n": len(members),
        }
    return parts
