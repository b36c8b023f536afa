"""Circuits of several sizes at several strengths, reply by reply: what the report's explorer shows."""

from typing import Any

from emotrace.runner import Run, protocol
from emotrace.steps.circuit import SITES, EmotionCircuit, add, assemble
from emotrace.steps.components import Scores
from emotrace.steps.control import Setting, choose, tried
from emotrace.steps.directions import Differences
from emotrace.steps.evaluate import Attempt, Task, accuracy, evaluate, fluency_gap
from emotrace.steps.influence import Influence
from emotrace.trace.plan import Plan

KEPT = ("emotion", "group_id", "skeleton_id", "scenario", "event", "reply", "label", "score")


@protocol(needs=["circuit"])
def explore(
    run: Run,
    *,
    sizes: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0),
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0),
    scenarios: int = 8,
    fluency_bar: float = 0.1,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Steer validation prompts with circuits of several sizes and strengths, and keep every reply.

    `sizes` are multiples of the circuit's budgets; each is assembled from the same scores and influence. Every size,
    strength and emotion answers the same neutral prompts, one event of each of `scenarios`; strength 0 is the unsteered
    reply. For looking, not for claims: the comparison tunes and tests on more scenarios.
    """
    model, labels = run.model, run.concepts.labels
    scores = run.open("components", "scores", Scores)
    influence = run.open("influence", "influence", Influence)
    differences = run.open("directions", "differences", Differences)
    found = run.open("circuit", "circuit", EmotionCircuit)
    chosen = [scenario.groups()[i % 3] for i, scenario in enumerate(run.data.validation[:scenarios])]
    tasks = [Task(group, emotion) for group in chosen for emotion in labels]

    def replies(name: str, plans: dict[str, Plan], prompted: bool = False) -> list[Any]:
        attempts = [Attempt(task, plans[task.emotion], prompted=prompted) for task in tasks]
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_tokens": run.batch_tokens}
        return evaluate(model, name, attempts, run.concepts, run.judge, ledger=run.ledger, **options)

    nothing = dict.fromkeys(labels, Plan())
    prompted = replies("prompted", nothing, prompted=True)
    unsteered = replies("unsteered", nothing)
    grid: list[list[list[Any]]] = []
    budgets, trials = [], []
    components: dict[str, list[dict[str, Any]]] = {e: [] for e in labels}
    for b, size in enumerate(sizes):
        budget = {
            s: min(max(round(size * held), min(held, 1)), model.sizes.count(s)) for s, held in found.budgets.items()
        }
        built = assemble(model, scores, influence, differences, **budget, allocation=found.allocation)
        budgets.append({"share": size, **budget})
        for e, emotion in enumerate(labels):
            held = {site: built.components(site, emotion) for site in SITES}
            components[emotion].append(
                {s: [[layer, i, float(scores.at(s)[e, layer, i])] for layer, i in held[s]] for s in SITES}
            )
        row = [unsteered]
        for strength in strengths:
            plans = {e: add(built, e, strength=strength) for e in labels}
            row.append(replies(f"size_{b}_strength_{strength:g}", plans))
            if size == min(sizes, key=lambda value: abs(value - 1)):
                trials.append(tried("circuit", Setting(strength), row[-1], prompted, run.seed))
        grid.append(row)
    best = choose(trials, fluency_bar=fluency_bar).setting.strength
    run.write_records(
        "replies",
        [
            {"budget": b if strength else None, "strength": strength, **{key: getattr(reply, key) for key in KEPT}}
            for b, row in enumerate(grid)
            for strength, cell in zip((0.0, *strengths), row, strict=True)
            for reply in cell
            if strength or not b
        ],
    )

    def of(emotion: str, cell: list[Any]) -> list[Any]:
        return [reply for reply in cell if reply.emotion == emotion]

    shares = {e: [[accuracy(of(e, cell), run.seed) for cell in row] for row in grid] for e in labels}
    return {
        "emotions": list(labels),
        "budgets": budgets,
        "strengths": [0.0, *strengths],
        "chosen": {
            "budget": min(range(len(sizes)), key=lambda b: abs(sizes[b] - 1)),
            "strength": 1 + strengths.index(best),
        },
        "components": components,
        "accuracy": {e: [[cell.estimate for cell in row] for row in rows] for e, rows in shares.items()},
        "accuracy_ci": {e: [[[cell.low, cell.high] for cell in row] for row in rows] for e, rows in shares.items()},
        "fluency_gap_nats": {e: [[fluency_gap(of(e, cell), prompted) for cell in row] for row in grid] for e in labels},
        "scenarios": scenarios,
        "layers": model.sizes.layers,
        "heads_per_layer": model.sizes.heads,
    }
