"""Greedy and sampled replies, steered by a plan, in left-padded batches."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from emotrace.errors import DataError, EditMissed, PlanError
from emotrace.ledger import Ledger, MemoryLedger
from emotrace.models.traced import Model
from emotrace.trace.apply import apply_operations, check_fit, expected_touches
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, TokenBatch, pad_left, plan_batches
from emotrace.trace.plan import Operation, Plan, compile_rows

MAX_NEW_TOKENS = 64
PLAIN = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None}
"""Overrides what a checkpoint's own generation settings would do to every arm unseen: repetition is never blocked."""
SAMPLING = frozenset({"temperature", "top_k", "top_p", "do_sample"})


@dataclass(frozen=True)
class GeneratedReply:
    """One reply: its token ids without the end of turn, its text, and whether the model ended it itself."""

    ids: tuple[int, ...]
    text: str
    stopped: bool


def generate_replies(
    model: Model,
    prompts: Sequence[Sequence[int]],
    plan: Plan | Sequence[Plan] | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "generate",
    **sampling: Any,
) -> list[GeneratedReply]:
    """Replies to prompts given as token ids, in the order given.

    Args:
        model: any model.
        prompts: token ids, generation prompt included; lengths may differ.
        plan: edits made at every pass that their ``tokens`` select, one plan for all prompts or one for each, so that
            many variants share a batch; None generates unsteered.
        max_new_tokens: replies that have not ended by then are cut.
        batch_tokens: padded prompt tokens plus new tokens per batch, at most.
        ledger: keeps finished batches.
        name: the ledger's name for this work.
        sampling: ``do_sample``, ``temperature``, ``top_k``, ``top_p``; greedy without them.

    Raises:
        DataError: a prompt fills the model's context.
        CircuitError: a plan was made from a circuit of another model.
        PlanError: a plan does not fit, plans and prompts differ in number, or an unknown sampling option.
        EditMissed: an edit touched fewer passes than it should have.
    """
    unknown = sorted(set(sampling) - SAMPLING)
    if unknown:
        raise PlanError(f"unknown option {unknown[0]!r}: sampling takes {', '.join(sorted(SAMPLING))}")
    if plan is not None and not isinstance(plan, Plan) and not all(isinstance(p, Plan) for p in plan):
        raise PlanError(f"plan is a {type(plan).__name__}; make one with emotrace.add, zero, scale, shift or replace")
    plans = [plan or Plan()] * len(prompts) if plan is None or isinstance(plan, Plan) else list(plan)
    if len(plans) != len(prompts):
        raise PlanError(f"{len(plans)} plans for {len(prompts)} prompts: give one plan, or one for each prompt")
    for distinct in {id(p): p for p in plans}.values():
        check_fit(model, distinct)
    if not prompts:
        return []
    if max_new_tokens < 1:
        raise PlanError(f"max_new_tokens={max_new_tokens}: a reply has at least one token")
    room = getattr(model.nn._module.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(ids) for ids in prompts)
    if room is not None and longest >= room:
        raise DataError(f"a prompt of {longest} tokens leaves no room for a reply: {model.identity!r} reads {room}")
    lengths = [len(ids) + max_new_tokens for ids in prompts]

    def work(rows: tuple[int, ...]) -> list[dict[str, Any]]:
        batch = pad_left([prompts[row] for row in rows], model.pad_token, rows)
        compiled = compile_rows([plans[row] for row in rows], model.sizes)
        operations = [operation.placed(model.device, model.dtype) for operation in compiled]
        return _generate_batch(model, batch, operations, max_new_tokens, sampling)

    records = (ledger or MemoryLedger()).map(name, plan_batches(lengths, batch_tokens), work)
    replies: dict[int, GeneratedReply] = {}
    texts = model.tokenizer.batch_decode([record["ids"] for record in records], skip_special_tokens=True)
    for record, text in zip(records, texts, strict=True):
        replies[record["row"]] = GeneratedReply(tuple(record["ids"]), text.strip(), record["stopped"])
    return [replies[row] for row in range(len(prompts))]


def _generate_batch(
    model: Model, batch: TokenBatch, operations: list[Operation], max_new_tokens: int, sampling: dict[str, Any]
) -> list[dict[str, Any]]:
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    options = {**PLAIN, "do_sample": bool(sampling), "pad_token_id": model.pad_token, **sampling}
    touches: list[int] = []
    with warnings.catch_warnings(), model.lock:
        # nnsight warns when text ends before the loop does, which is what replies do
        warnings.filterwarnings("ignore", message=".*was never reached.*", category=UserWarning)
        with model.generate(max_new_tokens=max_new_tokens, remote=model.remote, **options) as tracer:
            with tracer.invoke(ids, attention_mask=mask):
                with torch.no_grad():
                    touches = nnsight.save([])
                    if operations:
                        for step in tracer.iter[:max_new_tokens]:
                            touches.append(apply_operations(model, operations, step, mask))
            with tracer.invoke():
                result = tracer.result.save()
    new = result[:, batch.ids.shape[1] :].cpu()
    missed = expected_touches(operations, new.shape[1]) - sum(touches)
    if missed > 0:
        raise EditMissed(
            f"{missed} of {expected_touches(operations, new.shape[1])} (site, step) pairs were not edited in "
            f"{new.shape[1]} generated steps; the replies are not those of this plan"
        )
    model.counters["generated_tokens"] += new.numel()
    ends = set(model.end_of_text)
    records = []
    for row, tokens in zip(batch.rows, new.tolist(), strict=True):
        length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        records.append({"row": row, "ids": tokens[:length], "stopped": length < len(tokens)})
    return records
