"""One pass over prompts (and their replies) that sums all four sites; only sums leave the trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from emotrace.artifacts import Artifact
from emotrace.errors import DataError
from emotrace.ledger import Ledger, MemoryLedger, Sums
from emotrace.models.load import as_model
from emotrace.models.traced import Model
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS, plan_batches
from emotrace.trace.inputs import check_prompts
from emotrace.trace.prefixes import continued, split
from emotrace.trace.reduce import accumulated, both_streams, by_site, isometric, weighted
from emotrace.trace.requests import Batches, folded
from emotrace.trace.sites import reading, values_at

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

    def plus(self, other: Statistics) -> Statistics:
        """Statistics over the samples of both.

        Raises:
            DataError: they are of other conditions.
        """
        if other.conditions != self.conditions:
            raise DataError(f"statistics of {', '.join(self.conditions)} plus those of {', '.join(other.conditions)}")
        counts, replies = self.count + other.count, self.reply_count + other.reply_count
        means: dict[str, dict[str, torch.Tensor]] = {}
        for place, part, both in (("last", other.count, counts), ("reply", other.reply_count, replies)):
            share = part.double() / both.clamp(min=1)
            theirs = other.at(place)
            means[place] = {
                site: torch.lerp(mean, theirs[site], share.view(-1, *[1] * (mean.ndim - 1)))
                for site, mean in self.at(place).items()
            }
        return Statistics(self.conditions, counts, replies, means["last"], means["reply"])


def capture(
    model: Any,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
    name: str = "capture",
) -> Statistics:
    """Mean activations of every condition at all four sites, in one pass.

    Memory does not grow with the number of samples: the state is sums and counts, in float64 whatever the dtype.
    ``name`` is the ledger's for this work.

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
    check_samples(wrapped, samples, conditions)
    (found,) = captured(wrapped, samples, conditions, torch.ones(1, len(samples)), name, batch_tokens, ledger)
    return found


def check_samples(model: Model, samples: Sequence[Sample], conditions: Sequence[str]) -> None:
    """Raise ``DataError`` as :func:`capture` says."""
    if not samples:
        raise DataError("nothing to capture: no samples were given")
    check_prompts(model, [s.prompt for s in samples])
    check_prompts(model, [s.reply for s in samples if s.reply])
    unnamed = [s.condition for s in samples if not 0 <= s.condition < len(conditions)]
    if unnamed:
        raise DataError(f"a sample has condition {unnamed[0]}, but only {len(conditions)} conditions were named")
    missing = [name for i, name in enumerate(conditions) if all(s.condition != i for s in samples)]
    if missing:
        raise DataError(f"no samples for {', '.join(missing)}: every condition needs at least one accepted reply")


def captured(
    model: Model,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    times: torch.Tensor,
    name: str,
    batch_tokens: int,
    ledger: Ledger | None,
) -> list[Statistics]:
    """Statistics of W selections of the samples, from one pass: selection w holds sample n ``times[w, n]`` times."""
    lengths = [len(s.prompt) + len(s.reply) for s in samples]
    selections, groups = len(times), len(conditions)

    def work(batches: Batches) -> Sums:
        chosen = [[samples[row] for row in rows] for rows in batches]
        return _sums(model, chosen, [times[:, rows] for rows in batches], groups)

    sums = folded(model, name, lengths, batch_tokens, work, ledger)
    member = torch.nn.functional.one_hot(torch.tensor([s.condition for s in samples]), groups).double()
    replied = torch.tensor([float(bool(s.reply)) for s in samples], dtype=torch.float64)
    counts = {"last": times.double() @ member, "reply": (times.double() * replied) @ member}
    found = []
    for at in range(selections):
        means: dict[str, dict[str, torch.Tensor]] = {}
        for place in PLACES:
            means[place] = {}
            for site in (*SITES, "rms"):
                total = _split_heads(model, site, sums[f"{place}/{site}"][at])
                divisor = counts[place][at].clamp(min=1)
                means[place][site] = total / divisor.view(-1, *[1] * (total.ndim - 1))
        count, replies = (counts[place][at].round().long() for place in PLACES)
        found.append(Statistics(tuple(conditions), count, replies, means["last"], means["reply"]))
    return found


def _split_heads(model: Model, site: str, sums: torch.Tensor) -> torch.Tensor:
    return sums.unflatten(-1, (model.sizes.heads, model.sizes.head_width)) if site == "heads" else sums


def _sums(model: Model, batches: Sequence[Sequence[Sample]], times: Sequence[torch.Tensor], conditions: int) -> Sums:
    """``place/site`` to ``[W, C, L, width]``, summed over the samples of all batches, each ``times [W, B]``."""
    readings = [reading(model, layer, SITES) for layer in range(model.sizes.layers)]
    inputs, tokens = [], 0
    for samples, selected in zip(batches, times, strict=True):
        batch = split(model, [[*s.prompt, *s.reply] for s in samples], [1 + len(s.reply) for s in samples])
        rows, columns, once = _selection(samples, batch.ids.shape[1], conditions)
        weights = (selected.double()[:, None, rows] * once).flatten(0, 1)
        at = (rows.to(model.device), columns.to(model.device))
        inputs.append((*batch.inputs(model.device), at, weights.to(model.device)))
        tokens += batch.tokens
    layers: list[dict[str, torch.Tensor]] = []
    with model.lock, model.session():
        for head, pick, ids, given, at, weights in inputs:
            given = continued(model, head, pick, given)
            with model.trace(ids, **given, logits_to_keep=1):
                with torch.no_grad():
                    found = []
                    for read in readings:
                        found.append(weighted(read, at, weights))
            layers = accumulated(layers, found)
        sums = nnsight.save(by_site(layers))
    model.count(capture_tokens=tokens)
    lines = len(times[0]) * 2 * conditions
    absent = torch.zeros(lines, model.sizes.layers, 0, dtype=torch.float64)
    halves = {site: sums.get(site, absent).unflatten(0, (-1, 2, conditions)) for site in (*SITES, "rms")}
    return {f"{place}/{site}": half[:, i] for i, place in enumerate(PLACES) for site, half in halves.items()}


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


def state_coordinates(
    model: Model,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> torch.Tensor:
    """Residual stream after both sublayers at the last prompt token, in coordinates of its own.

    For figures and checks on samples, not for discovery: it keeps every prompt. N states span at most N dimensions, so
    the D numbers of each are replaced by N that keep all inner products within a layer and sublayer, where N < D.

    Returns:
        float32 ``[N, len(layers), 2, min(N, D)]``.
    """
    order = sorted(set(layers))
    batches = plan_batches([len(ids) for ids in prompts], batch_tokens)

    def some(chosen: tuple[int, ...]) -> torch.Tensor:
        """States after some layers: all prompts are needed to choose coordinates, layers stand each for itself."""
        readings = [reading(model, layer, ("resid_attn", "resid_mlp")) for layer in chosen]
        inputs, tokens = [], 0
        for rows in batches:
            batch = split(model, [prompts[row] for row in rows])
            at = (torch.arange(len(rows)), torch.full((len(rows),), batch.ids.shape[1] - 1))
            inputs.append((*batch.inputs(model.device), at))
            tokens += batch.tokens
        with model.lock, model.session():
            parts = []
            for head, pick, ids, given, at in inputs:
                given = continued(model, head, pick, given)
                with model.trace(ids, **given, logits_to_keep=1):
                    with torch.no_grad():
                        found = []
                        for read in readings:
                            found.append(both_streams(values_at(read, at)))
                parts.append(torch.stack(found, 1))
            states = nnsight.save(isometric(torch.cat(parts)))
        model.count(capture_tokens=tokens)
        in_order: torch.Tensor = states[torch.tensor([row for rows in batches for row in rows]).argsort()]
        return in_order

    def work(chosen: tuple[int, ...]) -> Sums:
        adaptive = Adaptive(some, lambda one, other: torch.cat([one, other], 1), "states", hosted=model.remote)
        return {"states": adaptive(chosen)}

    states = (ledger or MemoryLedger()).fold("states", [tuple(order)], work)["states"]
    return states[:, [order.index(layer) for layer in layers]]
