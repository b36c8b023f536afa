"""Every public function that runs a model, on one model: what each gives, as numbers and texts."""

from collections.abc import Callable
from typing import Any

import torch

import emotrace as et
from emotrace.steps.components import METHODS
from emotrace.trace.batches import pad_left
from emotrace.trace.capture import state_coordinates
from emotrace.trace.kept import NOTHING, Kept
from emotrace.trace.likelihood import reply_nll
from emotrace.trace.outside import ABLATIONS, PLACES, kept_readings
from emotrace.trace.projections import projections
from tests.tiny import random_prompts

SAMPLES = [et.Sample(i % 3, tuple(ids), (7, 8, 9)[: 1 + i % 3]) for i, ids in enumerate(random_prompts(9))]
CONDITIONS = ("joy", "fear", "neutral")
PROMPTS = random_prompts(5, seed=1)
ALIKE = [[9, 8, 7, 9, 8, 7, *ids] for ids in PROMPTS]  # their beginning is computed once


def functions(model: et.Model) -> dict[str, Callable[[], Any]]:
    """Calls by name; those of readings and sites that the model lacks are left out."""
    statistics = et.capture(model, SAMPLES, CONDITIONS, batch_tokens=24)
    directions, differences = et.emotion_directions(statistics), et.difference_vectors(statistics)
    options: dict[str, Any] = {"batch_tokens": 24}
    methods = [m for m in METHODS if m != "random"]

    def scores(method: str = "analytic", readout: str = "residual") -> et.Scores:
        return et.score_components(
            model,
            statistics,
            directions,
            differences,
            method=method,
            readout=readout,
            samples=SAMPLES,
            prompts=PROMPTS,
            **options,
        )

    def influence(method: str = "exact", readout: str = "final_norm") -> Any:
        return et.sublayer_influence(model, PROMPTS, directions, method=method, readout=readout, **options)

    def circuit() -> Any:
        return et.assemble(model, scores(), influence(), differences, heads=3, neurons=5 if model.down_proj else 0)

    def causal(site: str) -> list[float]:
        chosen = {0: [0, 2], 2: [1]}
        prompts = {"joy": PROMPTS[:2], "fear": PROMPTS[2:]}
        return [*et.causal_scores(model, prompts, directions, site, chosen, **options).values()]

    def replies(plan: Any = None, **sampling: Any) -> list[tuple[Any, ...]]:
        torch.manual_seed(3)
        made = et.generate_replies(model, PROMPTS, plan, max_new_tokens=6, batch_tokens=40, **sampling)
        return [(reply.ids, reply.text, reply.stopped, reply.edited) for reply in made]

    def patched() -> Any:
        seen = et.record(model, PROMPTS[:1], tokens="last", heads=[(0, 1), (2, 3)], resid_mlp=[1])
        return replies(et.patch(seen, tokens="last"))

    def own_trace() -> torch.Tensor:
        ids = torch.tensor(PROMPTS[:1])
        plan = et.zero(heads=[(1, 0)]) + et.scale(0.5, mlp_out=[2])
        with model.trace(ids):
            with torch.no_grad():
                et.apply(model, plan)
                logits = model.output.logits[:, -1].clone().save()
        return logits

    def curve() -> torch.Tensor:
        whole, some = [(0, 1), (2, 3)], [(1, 0)]
        variants = [[[]] * len(PROMPTS), [whole] * len(PROMPTS), [whole, some, whole, [], some]]
        batch = pad_left(PROMPTS, model.pad_token)
        return projections(model, batch, variants, lambda part: et.zero(heads=part), directions.reference[0])

    at_span = et.zero(heads=[(0, 0)], tokens=et.Span("w10"))
    calls: dict[str, Callable[[], Any]] = {
        "capture": lambda: statistics,
        "fingerprint": lambda: [model.fingerprint.tokenizer, *model.fingerprint.sums],
        "circuit": circuit,
        "replies": replies,
        "steered": lambda: replies([et.add(circuit(), e, strength=4.0) for e in ("joy", "fear", "joy", "fear", "joy")]),
        "mean": lambda: replies(et.mean(statistics, condition="neutral", heads=[(1, 1)])),
        "patch": patched,
        "span": lambda: et.generate(model, ["w9 w10 w11", "w12 w10"], plan=at_span),
        "own_trace": own_trace,
        "curve": curve,
        "likelihood": lambda: reply_nll(model, PROMPTS, [[8, 9], [7], [], [9, 9, 9], [11]], **options),
        "states": lambda: inner(state_coordinates(model, PROMPTS, (0, 2), **options)),
        "metric": lambda: et.gradient_scores(model, PROMPTS, differences, difference_of_logits, **options),
        "causal_heads": lambda: causal("heads"),
    }
    samples = [et.Sample(i % 3, tuple(ids), (7, 8, 9)[: i % 3]) for i, ids in enumerate(ALIKE)]
    calls |= {
        "alike_capture": lambda: et.capture(model, samples, CONDITIONS),
        "alike_states": lambda: inner(state_coordinates(model, ALIKE, (0, 2))),
        "alike_likelihood": lambda: reply_nll(model, ALIKE, [[8, 9], [7], [], [9, 9, 9], [11]]),
        "alike_influence": lambda: et.sublayer_influence(model, ALIKE, directions),
        "alike_replies": lambda: [
            reply.ids for reply in et.generate_replies(model, ALIKE, et.add(circuit(), "joy"), max_new_tokens=6)
        ],
    }
    pairs = {"joy": ALIKE, "fear": PROMPTS, "neutral": ALIKE[::-1]}
    few = {"joy": {"heads": [(0, 1), (2, 3)]}}

    def outside(ablation: str, tokens: str) -> torch.Tensor:
        groups = [[ids, [*ids[:2], 20, *ids[2:]]] for ids in PROMPTS]
        variants = [[[NOTHING, Kept({"heads": [(0, 1)]})]], [[Kept({"heads": [(2, 2)]}, outside=True), NOTHING]]]
        return kept_readings(model, groups, variants, ablation, directions.reference, tokens=tokens, batch_tokens=40)

    calls |= {
        f"outside_{ablation}_{tokens}": lambda ablation=ablation, tokens=tokens: outside(ablation, tokens)
        for ablation in ABLATIONS
        for tokens in PLACES
    }
    calls |= {
        "patch_in": lambda: et.patch_in_scores(model, pairs, directions, heads={1: [0, 2]}, neurons={}).heads.exp(),
        "integrated": lambda: et.integrated_gradient_scores(model, pairs, directions, steps=3, **options),
        "end_gradient": lambda: et.end_gradient_scores(model, pairs, directions, differences, **options),
        "confirm": lambda: et.confirm(model, few, pairs, directions).to_records(),
    }
    calls |= {f"scores_{method}": lambda method=method: scores(method) for method in methods}
    calls |= {
        f"influence_{method}_{readout}": lambda method=method, readout=readout: influence(method, readout)
        for method in ("exact", "gradient")
        for readout in ("final_norm", "residual")
    }
    if model.mid_norm and not model.architecture.parallel:
        calls["scores_normed"] = lambda: scores(readout="normed")
    if model.down_proj:
        calls["causal_neurons"] = lambda: causal("neurons")
    return calls


def difference_of_logits(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 7] - logits[:, 8]


def inner(states: torch.Tensor) -> torch.Tensor:
    """Inner products, which coordinates keep; the coordinates themselves are free to turn."""
    return torch.einsum("nlsd,mlsd->lsnm", states, states)


def flat(value: Any) -> list[Any]:
    """Numbers (tensors) and texts of a result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for name in value.__dataclass_fields__ for leaf in flat(getattr(value, name))]
    return [torch.tensor(value)] if isinstance(value, float) else [value]
