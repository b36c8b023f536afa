"""Score every neuron and head by what it writes along the emotion's direction."""

from typing import Any, Literal

import torch

from emotrace.data.concepts import NEUTRAL
from emotrace.runner import Run, protocol
from emotrace.steps.causal import causal_scores
from emotrace.steps.components import score_components
from emotrace.steps.directions import Differences, Directions
from emotrace.steps.elicit import Elicitation
from emotrace.trace.capture import Statistics, capture

Method = Literal["analytic", "attribution", "gradient", "activation_difference", "weight_alignment", "random"]


@protocol(needs=["directions"])
def components(
    run: Run,
    *,
    method: Method = "analytic",
    readout: Literal["residual", "normed"] = "residual",
    checked_prompts: int = 2,
    checked_neurons: int = 8,
) -> dict[str, Any]:
    """Rank neurons and heads, and check the closed form by really zeroing some of them.

    `method`: analytic, attribution, gradient, activation_difference, weight_alignment or random. `readout`: analytic
    head scores are read from the residual stream, or after the norm that feeds the MLP (normed). The check zeroes every
    head and `checked_neurons` neurons per layer on `checked_prompts` prompts per emotion, and compares with the closed
    form on the same prompts.
    """
    statistics = run.open("directions", "statistics", Statistics)
    found = run.open("directions", "directions", Directions)
    differences = run.open("directions", "differences", Differences)
    elicited = Elicitation.from_records(run.concepts.labels, run.records("elicit", "replies"))
    neutral = [r.prompt_ids for r in elicited.spread(NEUTRAL, 64)]
    options: dict[str, Any] = {"batch_tokens": run.batch_tokens}
    scores = score_components(
        run.model,
        statistics,
        found,
        differences,
        method=method,
        readout=readout if method == "analytic" else "residual",
        samples=elicited.samples(),
        prompts=neutral,
        seed=run.seed,
        ledger=run.ledger,
        **options,
    )
    run.save("scores", scores)

    sizes, sites = run.model.sizes, run.model.sites
    checked = {e: elicited.spread(e, checked_prompts) for e in run.concepts.labels}
    samples = [s for s in elicited.samples() if s.prompt in {r.prompt_ids for rs in checked.values() for r in rs}]
    few = capture(run.model, samples, run.concepts.labels, **options)
    closed = score_components(run.model, few, found, differences, readout=readout, samples=samples, **options)
    prompts = {e: [r.prompt_ids for r in replies] for e, replies in checked.items()}
    picked = torch.linspace(0, max(0, sizes.neurons - 1), checked_neurons).round().long().unique().tolist()
    agreement = {}
    for site in sites:
        layers = dict.fromkeys(range(sizes.layers), list(range(sizes.heads)) if site == "heads" else picked)
        read = readout if site == "heads" else "residual"
        causal = causal_scores(run.model, prompts, found, site, layers, readout=read, ledger=run.ledger, **options)
        values = closed.at(site)
        apart = max(
            abs(fall - float(values[run.concepts.index(e), layer, index])) for (e, layer, index), fall in causal.items()
        )
        agreement[site] = apart / max(abs(fall) for fall in causal.values())
    return {
        "method": method,
        "heads": sizes.count("heads"),
        "neurons": sizes.count("neurons"),
        "top_heads": {e: _top(scores.at("heads"), run.concepts.index(e)) for e in run.concepts.labels},
        "top_neurons": {e: _top(scores.at("neurons"), run.concepts.index(e)) for e in run.concepts.labels},
        "long_tail": {
            site: {e: _tail(scores.at(site)[run.concepts.index(e)]) for e in run.concepts.labels} for site in sites
        },
        "causal_agreement": agreement,
    }


def _top(scores: torch.Tensor, emotion: int, count: int = 20) -> list[list[float]]:
    """The best components as [layer, index, score]."""
    values, order = scores[emotion].flatten().sort(descending=True, stable=True)
    width = scores.shape[2]
    return [[n // width, n % width, v] for n, v in zip(order[:count].tolist(), values[:count].tolist(), strict=True)]


def _tail(scores: torch.Tensor, points: int = 400) -> list[float]:
    """Sorted scores, thinned to at most ``points``."""
    values = scores.flatten().sort(descending=True).values
    step = torch.linspace(0, len(values) - 1, min(points, len(values))).round().long()
    return [float(v) for v in values[step]]
