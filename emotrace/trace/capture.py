"""One pass over prompts (and their replies) that sums all four sites; only sums leave the trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from emotrace.artifacts import Artifact
from emotrace.errors import DataError
from emotrace.ledger import Ledger, MemoryLedger, Sums, added
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, pad_left, plan_batches
from emotrace.trace.inputs import check_prompts
from emotrace.trace.sites import reading

PLACES = ("last", "reply")
SITES = ("heads", "resid_attn", "neurons", "resid_mlp")


@dataclass(frozen=True)
class Sample:
    """One teacher-forced sequence: a prompt under a condition, and the reply whose tokens are averaged.

    Attributes:
        condition: index into the conditions of the capture.
        prompt: token ids of the rendered prompt, generation prompt included.
        reply: token ids of the reply without the end of turn; empty when only the last prompt token matters.
    """

    condition: int
    prompt: tuple[int, ...]
    reply: tuple[int, ...] = ()


@dataclass(frozen=True)
class Statistics(Artifact):
    """Means of activations per condition, at the last prompt token and over reply tokens.

    Attributes:
        conditions: names, the first axis of every tensor (C of them).
        count: int64 ``[C]`` samples.
        reply_count: int64 ``[C]`` samples that have a reply.
        last: means at the last prompt token: ``heads [C, L, H, d]``, ``neurons [C, L, F]``, ``resid_attn`` and
            ``resid_mlp [C, L, D]``, ``rms [C, L, 2]`` (mean of the root mean square of both residual sites), float64.
            F is 0 for a mixture of experts.
        reply: the same, each reply averaged over its tokens first.
    """

    conditions: tuple[str, ...]
    count: torch.Tensor
    reply_count: torch.Tensor
    last: Mapping[str, torch.Tensor]
    reply: Mapping[str, torch.Tensor]

    def at(self, place: str) -> Mapping[str, torch.Tensor]:
        """``last`` or ``reply``; raises ``KeyError`` for another word."""
        return {"last": self.last, "reply": self.reply}[place]


def capture(
    model: Any,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Statistics:
    """Mean activations of every condition at all four sites, in one pass.

    Memory does not grow with the number of samples: the state is sums and counts, in float64 whatever the dtype.

    >>> import emotrace as et
    >>> model = et.load("bundled")
    >>> group = et.groups(et.load_sev("sev-mini").train)[0]
    >>> asked = model.encode([et.prompt(group, c, et.PAPER_SIX) for c in ("anger", "neutral")])
    >>> found = et.capture(model, [et.Sample(i, tuple(ids)) for i, ids in enumerate(asked)], ("anger", "neutral"))
    >>> found.last["heads"].shape
    torch.Size([2, 8, 16, 16])

    Raises:
        DataError: no samples, a malformed one, a condition without any, or a sample of a condition that is not named.
    """
    wrapped = as_model(model)
    if not samples:
        raise DataError("nothing to capture: no samples were given")
    check_prompts(wrapped, [s.prompt for s in samples])
    check_prompts(wrapped, [s.reply for s in samples if s.reply])
    unnamed = [s.condition for s in samples if not 0 <= s.condition < len(conditions)]
    if unnamed:
        raise DataError(f"a sample has condition {unnamed[0]}, but only {len(conditions)} conditions were named")
    missing = [name for i, name in enumerate(conditions) if all(s.condition != i for s in samples)]
    if missing:
        raise DataError(f"no samples for {', '.join(missing)}: every condition needs at least one accepted reply")
    lengths = [len(s.prompt) + len(s.reply) for s in samples]
    batches = plan_batches(lengths, batch_tokens)

    def work(rows: tuple[int, ...]) -> Sums:
        return _batch_sums(wrapped, [samples[row] for row in rows], len(conditions))

    sums = (ledger or MemoryLedger()).fold("capture", batches, Adaptive(work, added, "capture", lengths=lengths))
    count, replies = (
        torch.bincount(torch.tensor([s.condition for s in kept], dtype=torch.int64), minlength=len(conditions))
        for kept in (samples, [s for s in samples if s.reply])
    )
    means: dict[str, dict[str, torch.Tensor]] = {}
    for place, divisor in zip(PLACES, (count, replies), strict=True):
        means[place] = {
            site: _split_heads(wrapped, site, sums[f"{place}/{site}"])
            / divisor.clamp(min=1).view(-1, *[1] * (sums[f"{place}/{site}"].ndim - 1 + (site == "heads")))
            for site in (*SITES, "rms")
        }
    return Statistics(tuple(conditions), count, replies, means["last"], means["reply"])


def _split_heads(model: Model, site: str, sums: torch.Tensor) -> torch.Tensor:
    return sums.unflatten(-1, (model.sizes.heads, model.sizes.head_width)) if site == "heads" else sums


def _batch_sums(model: Model, samples: Sequence[Sample], conditions: int) -> Sums:
    batch = pad_left([[*s.prompt, *s.reply] for s in samples], model.pad_token)
    rows, columns, weights = _selection(samples, batch.ids.shape[1], conditions)
    device = model.device
    ids, mask = batch.ids.to(device), batch.mask.to(device)
    at, weights = (rows.to(device), columns.to(device)), weights.to(device)
    readings = [reading(model, layer, SITES) for layer in range(model.sizes.layers)]
    with model.lock, model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote):
        with torch.no_grad():
            out = nnsight.save([])
            for read in readings:
                values = {site: found.double() for site, found in read.values(at).items()}
                both = (values["resid_attn"], values["resid_mlp"])
                values["rms"] = torch.stack([stream.square().mean(-1).sqrt() for stream in both], -1)
                out.append({site: weights.to(found.device) @ found for site, found in values.items()})
    model.counters["capture_tokens"] += int(batch.mask.sum())
    absent = torch.zeros(len(weights), 0, dtype=torch.float64)
    stacked = {
        site: torch.stack([layer.get(site, absent).cpu() for layer in out], 1).unflatten(0, (2, conditions))
        for site in (*SITES, "rms")
    }
    return {f"{place}/{site}": sums[i] for i, place in enumerate(PLACES) for site, sums in stacked.items()}


def _selection(
    samples: Sequence[Sample], width: int, conditions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens that count: rows ``[N]``, columns ``[N]`` and weights float64 ``[2 * C, N]`` (last, then reply)."""
    rows: list[int] = []
    columns: list[int] = []
    entries: list[tuple[int, float]] = []
    for row, sample in enumerate(samples):
        last = width - 1 - len(sample.reply)
        rows.append(row)
        columns.append(last)
        entries.append((sample.condition, 1.0))
        for step in range(len(sample.reply)):
            rows.append(row)
            columns.append(last + 1 + step)
            entries.append((conditions + sample.condition, 1.0 / len(sample.reply)))
    weights = torch.zeros(2 * conditions, len(rows), dtype=torch.float64)
    for column, (line, weight) in enumerate(entries):
        weights[line, column] = weight
    return torch.tensor(rows), torch.tensor(columns), weights


def last_token_states(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> torch.Tensor:
    """Residual stream after both sublayers at the last prompt token, float32 ``[N, len(layers), 2, D]``.

    Keeps every prompt's states; for figures and checks on samples, not for discovery.
    """
    batches = plan_batches([len(ids) for ids in prompts], batch_tokens)

    def work(rows: tuple[int, ...]) -> list[dict[str, object]]:
        batch = pad_left([prompts[row] for row in rows], model.pad_token)
        ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
        at = (
            torch.arange(len(rows), device=model.device),
            torch.full((len(rows),), ids.shape[1] - 1, device=model.device),
        )
        readings = [reading(model, layer, ("resid_attn", "resid_mlp")) for layer in sorted(set(layers))]
        with model.lock, model.trace(ids, attention_mask=mask, use_cache=False, logits_to_keep=1, remote=model.remote):
            with torch.no_grad():
                out = nnsight.save([])
                for read in readings:
                    out.append([state.float() for state in read.values(at).values()])
        model.counters["capture_tokens"] += int(batch.mask.sum())
        states = torch.stack([torch.stack(pair, 1).cpu() for pair in out], 1)
        return [{"row": row, "states": state.tolist()} for row, state in zip(rows, states, strict=True)]

    records = sorted((ledger or MemoryLedger()).map("states", batches, work), key=lambda record: record["row"])
    order = [sorted(set(layers)).index(layer) for layer in layers]
    return torch.tensor([record["states"] for record in records], dtype=torch.float32)[:, order]
