"""How likely a reply is under the unsteered model, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import nnsight
import torch

from emotrace.ledger import Ledger, Record
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.prefixes import continued, split
from emotrace.trace.requests import Batches, mapped

if TYPE_CHECKING:
    from emotrace.models.traced import Model


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

    def work(batches: Batches) -> list[Record]:
        chosen = [filled[row] for rows in batches for row in rows]
        inputs, tokens = [], 0
        for rows in batches:
            lengths = [len(replies[filled[row]]) for row in rows]
            texts = [[*prompts[filled[row]], *replies[filled[row]]] for row in rows]
            # the padded width of the longest reply, and the token that predicts its first, are read in every row
            batch = split(model, texts, max(lengths) + 1)
            weights = torch.zeros(len(rows), max(lengths))
            for line, length in enumerate(lengths):
                weights[line, -length:] = 1.0 / length
            inputs.append((*batch.inputs(model.device), weights.to(model.device)))
            tokens += batch.tokens
        with model.lock, model.session():
            found = []
            for head, pick, ids, given, weights in inputs:
                width = weights.shape[1]
                given = continued(model, head, pick, given)
                with model.trace(ids, **given, logits_to_keep=width + 1):
                    with torch.no_grad():
                        logits = model.output.logits[:, -width - 1 : -1].float()
                        chosen_logits = logits.gather(-1, ids[:, -width:, None].to(logits.device))[..., 0]
                        nll = ((logits.logsumexp(-1) - chosen_logits) * weights.to(logits.device)).sum(-1).cpu()
                found.append(nll)
            values = nnsight.save(torch.cat(found))
        model.count(likelihood_tokens=tokens)
        return [{"row": row, "nll": value} for row, value in zip(chosen, values.tolist(), strict=True)]

    lengths = [len(prompts[row]) + len(replies[row]) for row in filled]
    values: list[float | None] = [None] * len(replies)
    for record in mapped(model, name, lengths, batch_tokens, work, ledger):
        values[record["row"]] = record["nll"]
    return values
