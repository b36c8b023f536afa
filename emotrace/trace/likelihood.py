"""How likely a reply is under the unsteered model, teacher-forced."""

import operator
from collections.abc import Sequence
from typing import Any

import torch

from emotrace.ledger import Ledger, MemoryLedger
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left, plan_batches


def reply_nll(
    model: Model,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "likelihood",
) -> list[float | None]:
    """Mean negative log-likelihood of each reply given its prompt, in nats per token; None for an empty reply."""
    filled = [row for row, reply in enumerate(replies) if reply]
    lengths = [len(prompts[row]) + len(replies[row]) for row in filled]
    batches = plan_batches(lengths, batch_tokens)

    def work(rows: tuple[int, ...]) -> list[dict[str, Any]]:
        chosen = [filled[row] for row in rows]
        batch = pad_left([[*prompts[row], *replies[row]] for row in chosen], model.pad_token)
        width = max(len(replies[row]) for row in chosen)
        weights = torch.zeros(len(chosen), width)
        for line, row in enumerate(chosen):
            weights[line, width - len(replies[row]) :] = 1.0 / len(replies[row])
        ids, mask, weights = batch.ids.to(model.device), batch.mask.to(model.device), weights.to(model.device)
        with (
            model.lock,
            model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=width + 1, remote=model.remote),
        ):
            with torch.no_grad():
                logits = model.output.logits[:, -width - 1 : -1].float()
                chosen_logits = logits.gather(-1, ids[:, -width:, None])[..., 0]
                nll = ((logits.logsumexp(-1) - chosen_logits) * weights).sum(-1).save()
        model.counters["likelihood_tokens"] += int(batch.mask.sum())
        return [{"row": row, "nll": value} for row, value in zip(chosen, nll.cpu().tolist(), strict=True)]

    values: list[float | None] = [None] * len(replies)
    adaptive = Adaptive(work, operator.add, name, lengths=lengths)
    for record in (ledger or MemoryLedger()).map(name, batches, adaptive):
        values[record["row"]] = record["nll"]
    return values
