"""How good are the circuits: alone, taken out, beside random ones, in other words, and for other emotions."""

from functools import cache
from math import isnan
from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.data.prompts import prompt
from emotrace.data.sev import groups
from emotrace.runner import Run, protocol
from emotrace.steps.circuit import EmotionCircuit, add
from emotrace.steps.components import Scores
from emotrace.steps.directions import Differences, Directions
from emotrace.steps.evaluate import Attempt, Task, accuracy, evaluate, held_out_tasks
from emotrace.steps.necessity import against_random, best_heads, completeness, in_words, minimality
from emotrace.steps.quality import SHARES, Bench, faithfulness_curve
from emotrace.steps.quality_records import (
    against_record,
    completeness_record,
    curve_record,
    needed_record,
    singles_records,
    values_record,
)
from emotrace.steps.random_circuits import Controls
from emotrace.steps.specificity import driven_readings, removed_readings
from emotrace.trace.capture import Statistics
from emotrace.trace.edits import mean
from emotrace.trace.outside import ABLATIONS, PLACES
from emotrace.trace.plan import Plan

JUDGED = (
    "nothing ablated",
    "circuit alone",
    "random alone",
    "circuit removed",
    "random removed",
    "everything ablated",
)


@protocol(needs=["circuit"])
def quality(
    run: Run,
    *,
    scenarios: int = 15,
    ablations: tuple[str, ...] = ABLATIONS,
    tested: str = "mean",
    shares: tuple[float, ...] = SHARES,
    draws: int = 39,
    subsets: int = 4,
    singles: int = 100,
    heads: int = 16,
    judged_scenarios: int = 15,
) -> dict[str, Any]:
    """Faithfulness over budgets, completeness, minimality; sufficiency and necessity beside random circuits.

    The measure is the projection of the last token's final state on the emotion's reference direction, on test
    scenarios, one event each; nothing was chosen on them. What lies outside a circuit is ablated at all tokens, and
    again at the last prompt token alone. `ablations`: zero, mean (over the same scenario's prompts of all emotions),
    resample (from another emotion's prompt of the scenario); what compares with random circuits uses `tested`. These
    have the circuit's counts in every sublayer, `draws` of them, from all of its components. At most `singles`
    components of a circuit are tested one at a time, and `heads` of the best heads removed one at a time. The
    same circuits are read on instructions that paraphrase or only imply the emotion, on other emotions, and by the
    judge, on replies to `judged_scenarios` (0: none).
    """
    labels, reference = run.concepts.labels, run.open("directions", "directions", Directions).reference
    circuit = run.open("circuit", "circuit", EmotionCircuit)
    scores = run.open("components", "scores", Scores)
    controls = Controls(run.model, circuit, run.open("directions", "differences", Differences))
    drawn = [controls.matched(run.seed + 104729 * (d + 1), outside=False) for d in range(draws)]
    chosen = [g for i, g in enumerate(groups(run.data.test[:scenarios])) if i % 3 == (i // 3) % 3]

    def bench(tokens: str, ablation: str = tested, wording: str = "named") -> Bench:
        """Prompts that ask by the named instruction, or in other words, which groups take in turn."""
        words = run.concepts.wordings.get(wording)
        asked = [
            [prompt(g, e, run.concepts, instruction=words[e][i % len(words[e])] if words else None) for e in labels]
            for i, g in enumerate(chosen)
        ]
        encoded = [run.model.encode(row) for row in asked]
        options: dict[str, Any] = {"batch_tokens": run.batch_tokens, "ledger": run.ledger, "name": wording}
        return Bench(run.model, labels, encoded, reference, ablation, tokens, **options)

    by_tokens: dict[str, dict[str, Any]] = {}
    for tokens in PLACES:
        curves = {
            ablation: faithfulness_curve(bench(tokens, ablation), circuit, scores, shares=shares, seed=run.seed)
            for ablation in ablations
        }
        complete = {
            ablation: completeness(bench(tokens, ablation), circuit, subsets=subsets, seed=run.seed)
            for ablation in ablations
        }
        named = bench(tokens)
        by_tokens[tokens] = {
            "faithfulness": {ablation: curve_record(curve) for ablation, curve in curves.items()},
            "sufficiency": against_record(against_random(named, circuit, drawn, seed=run.seed)),
            "necessity": against_record(against_random(named, circuit, drawn, removed=True, seed=run.seed)),
            "completeness": {ablation: completeness_record(found) for ablation, found in complete.items()},
            "wordings": {
                kind: values_record(*in_words(bench(tokens, wording=kind), circuit, drawn, run.seed))
                for kind in ("named", *run.concepts.wordings)
            },
        }

    last = bench("last")
    spared = {
        ablation: minimality(bench("last", ablation), circuit, scores, tested=singles, seed=run.seed)
        for ablation in ablations
    }
    best = {e: scores.top("heads", e, heads) for e in labels}
    singly = best_heads(last, best, seed=run.seed) if heads else {}
    neutral = run.model.encode([prompt(g, NEUTRAL, run.concepts) for g in chosen])
    plans = [add(circuit, e, tokens="last") for e in labels]
    members = sum(circuit.budgets.values())
    return {
        "scenarios": len(chosen),
        "prompts": len(chosen) * len(labels),
        "tested": tested,
        "share": members / (run.model.sizes.count("heads") + run.model.sizes.count("neurons")),
        "tokens": by_tokens,
        "minimality": {a: {e: needed_record(part) for e, part in found.items()} for a, found in spared.items()},
        "best_heads": {e: singles_records(part) for e, part in singly.items()},
        "specificity": {
            "driven": driven_readings(run.model, neutral, plans, reference).tolist(),
            "removed": [[None if isnan(v) else v for v in row] for row in removed_readings(last, circuit).tolist()],
        },
        "judged": _judged(run, circuit, drawn, judged_scenarios) if judged_scenarios else {},
    }


def _judged(run: Run, circuit: EmotionCircuit, drawn: list[EmotionCircuit], scenarios: int) -> dict[str, Any]:
    """What the judge hears when components are set to their mean over all conditions at the last prompt token."""
    statistics = run.open("directions", "statistics", Statistics)
    tasks = held_out_tasks(run.data.test, run.concepts, scenarios)
    turn = {name: n for n, name in enumerate(dict.fromkeys(task.group.skeleton_id for task in tasks))}
    layers, shape = range(run.model.sizes.layers), run.model.sizes.shape
    everything = {s: [(layer, i) for layer in layers for i in range(shape(s)[0])] for s in run.model.sites}

    @cache
    def averaged(which: int | None, emotion: str, outside: bool) -> Plan:
        """The circuit (0), a random one (its draw from 1) or nothing (None) set to means; or everything outside it."""
        source = None if which is None else [circuit, *drawn][which]
        held = {s: set(source.components(s, emotion)) if source else set() for s in everything}
        named = {s: [c for c in listed if (c in held[s]) != outside] for s, listed in everything.items()}
        return mean(statistics, heads=named["heads"], neurons=named.get("neurons", ()), tokens="last")

    def plan(which: str, task: Task) -> Plan:
        draw = 1 + turn[task.group.skeleton_id] % len(drawn)
        return {
            "nothing ablated": Plan,
            "circuit alone": lambda: averaged(0, task.emotion, True),
            "random alone": lambda: averaged(draw, task.emotion, True),
            "circuit removed": lambda: averaged(0, task.emotion, False),
            "random removed": lambda: averaged(draw, task.emotion, False),
            "everything ablated": lambda: averaged(None, task.emotion, True),
        }[which]()

    found: dict[str, Any] = {}
    for kind in ("named", *run.concepts.wordings):
        words = run.concepts.wordings.get(kind)
        for which in JUDGED if kind == "named" else ("nothing ablated", "circuit removed", "random removed"):
            attempts = [
                Attempt(
                    task,
                    plan(which, task),
                    prompted=True,
                    instruction=words[task.emotion][turn[task.group.skeleton_id] % len(words[task.emotion])]
                    if words
                    else None,
                )
                for task in tasks
            ]
            options: dict[str, Any] = {"batch_tokens": run.batch_tokens, "ledger": run.ledger}
            name = f"{kind}_{which}".replace(" ", "_")
            replies = evaluate(run.model, name, attempts, run.concepts, run.judge, **options)
            share = accuracy(replies, run.seed)
            found.setdefault(kind, {})[which] = {
                "accuracy": share.estimate,
                "ci": [share.low, share.high],
                "n": len(replies),
            }
    named = {which: part["accuracy"] for which, part in found["named"].items()}
    top, bottom = named["nothing ablated"], named["everything ablated"]
    rises = {which: (value - bottom) / (top - bottom) for which, value in named.items()} if top > bottom else None
    return {"replies": found, "faithfulness": rises}
