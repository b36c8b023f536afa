"""The comparison: can the circuit alone make the model speak with the emotion, and can anything else of its size?"""

from collections.abc import Sequence
from typing import Any, Literal

from emotrace.errors import DataError
from emotrace.judges.base import Reply
from emotrace.judges.fluency import words
from emotrace.judges.likelihood import LikelihoodJudge
from emotrace.runner import Run, protocol
from emotrace.steps.agreement import agreement_by_arm
from emotrace.steps.circuit import EmotionCircuit
from emotrace.steps.control import (
    ARMS,
    DESCRIPTIONS,
    Arms,
    Setting,
    Tried,
    choose,
    frontiers,
    most_accurate,
    spread_draws,
    tried,
)
from emotrace.steps.directions import Differences, emotion_directions
from emotrace.steps.evaluate import (
    JudgedReply,
    arm_summary,
    confusion,
    evaluate,
    held_out_tasks,
    paired_accuracy,
    to_records,
)
from emotrace.steps.leakage import anti_steerable, off_target
from emotrace.trace.capture import Statistics

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 4.0, 8.0)
ALPHAS = (2.0, 4.0, 8.0)
DEPTHS = ("0.15-0.40", "0.39-0.72")
PARSED = 0.5
"""Share of prompted replies that the structural judge has to accept to be one of the judges."""
RANDOM = ("random_matched", "random_matched_rescaled", "random_anywhere", "random_direction")


@protocol(needs=["circuit", "elicit", "directions"])
def control(
    run: Run,
    *,
    scenarios: int = 60,
    validation_scenarios: int = 15,
    draws: int = 10,
    full: bool = False,
    tokens: Literal["last", "generated", "reply", "all"] = "reply",
    strengths: tuple[float, ...] = STRENGTHS,
    residual_alphas: tuple[float, ...] = ALPHAS,
    residual_depths: tuple[str, ...] = DEPTHS,
    fluency_bar: float = 0.1,
    max_new_tokens: int = 64,
    agreement_scenarios: int = 10,
    frontier_limit: float = 1.0,
) -> dict[str, Any]:
    """Steer neutral prompts of held-out scenarios with every arm and let a blind judge name the emotion (Table 3).

    Every arm that has a strength is tuned on validation scenarios, on the same number of replies, for accuracy within
    `fluency_bar` nats per token of prompted replies; then each makes one reply per test scenario and emotion. Random
    arms spread these over `draws` draws; with `full` each draw makes all of them. `residual_depths` are ranges of depth
    in (0, 1]. Judges of other kinds are compared with the blind one: by structure over all replies, by likelihood over
    those to the first `agreement_scenarios` test scenarios (0: none). `frontier_limit` is the largest fluency gap, in
    nats per token, in the area under success.
    """
    built = run.open("circuit", "circuit", EmotionCircuit)
    statistics = run.open("directions", "statistics", Statistics)
    arms = Arms(
        run.model,
        built,
        run.open("directions", "differences", Differences),
        emotion_directions(statistics, contrast=built.contrast),
        emotion_directions(statistics, contrast=built.contrast, measured_at="reply"),
        tokens=tokens,
        seed=run.seed,
    )
    ranges = [_layers(depth, run.model.sizes.layers) for depth in residual_depths]
    grids = {arm: [Setting(s) for s in strengths] for arm in ("circuit", *RANDOM)}
    grids["residual"] = [Setting(alpha, layers) for layers in ranges for alpha in residual_alphas]

    def replies(arm: str, split: str, count: int, setting: Setting | None, name: str, every: bool) -> list[JudgedReply]:
        tasks = held_out_tasks(run.data.split(split), run.concepts, count)
        dealt = spread_draws(tasks, draws, full=every) if arm in RANDOM else [(task, 0) for task in tasks]
        return evaluate(
            run.model,
            name,
            [arms.attempt(arm, task, setting, draw) for task, draw in dealt],
            run.concepts,
            run.judge,
            structure=run.structure,
            max_new_tokens=max_new_tokens,
            batch_tokens=run.batch_tokens,
            ledger=run.ledger,
        )

    reference = replies("prompting", "validation", validation_scenarios, None, "validation_prompting", False)
    plain = replies("unsteered", "validation", validation_scenarios, None, "validation_unsteered", False)
    trials: list[Tried] = []
    settings: dict[str, Setting | None] = {"unsteered": None, "prompting": None}
    for arm, grid in grids.items():
        for number, setting in enumerate(grid):
            name = f"validation_{arm}_{number}"
            sample = replies(arm, "validation", validation_scenarios, setting, name, False)
            trials.append(tried(arm, setting, sample, reference, run.seed))
        settings[arm] = choose([t for t in trials if t.arm == arm], fluency_bar=fluency_bar).setting
    settings["wrong_emotion"] = settings["circuit"]

    made = {arm: replies(arm, "test", scenarios, settings[arm], arm, full) for arm in ARMS}
    run.write_records("replies", [record for arm in ARMS for record in to_records(made[arm])])
    known = made["prompting"] + made["unsteered"] + reference
    lexicon = frozenset(word for reply in known for word in words(reply.reply))
    summaries: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        chosen = settings[arm]
        steered = None if arm == "unsteered" else anti_steerable(made[arm], made["unsteered"], seed=run.seed)
        summaries[arm] = {
            **arm_summary(made[arm], made["prompting"], seed=run.seed, lexicon=lexicon),
            "off_target": off_target(made[arm], seed=run.seed),
            "anti_steerable": steered,
            "description": DESCRIPTIONS[arm],
            "strength": chosen.strength if chosen else None,
            "write_fraction_of_residual_norm": arms.write_fraction(arm, chosen),
            "without_bar": _record(most_accurate([t for t in trials if t.arm == arm])) if arm in grids else None,
            "at_grid_edge": arm in grids and chosen == max(grids[arm], key=lambda setting: setting.strength),
            "layers": list(chosen.layers) if chosen and chosen.layers else None,
        }
    wrong = made["wrong_emotion"]
    summaries["wrong_emotion"]["as_other"] = sum(r.label == arms.other(r.emotion) for r in wrong) / len(wrong)
    columns = [*run.judge.labels, "abstain"]
    paired = {
        f"circuit_minus_{arm}": paired_accuracy(made["circuit"], made[arm], seed=run.seed)
        for arm in ARMS
        if arm != "circuit"
    }
    return {
        "arms": summaries,
        "confusion": {arm: confusion(made[arm], run.concepts.labels, columns) for arm in ARMS},
        "paired": {
            name: {"difference": p.difference, "ci": [p.interval.low, p.interval.high], "p": p.p}
            for name, p in paired.items()
        },
        "agreement": _agreement(run, [r for arm in ARMS for r in made[arm]], agreement_scenarios),
        "frontier": frontiers(
            trials, {"unsteered": plain, "prompting": reference}, limit=frontier_limit, seed=run.seed
        ),
        "tuning": [{"arm": t.arm, **_record(t), "n": t.n, "chosen": t.setting == settings[t.arm]} for t in trials],
        "settings": {
            "tokens": tokens,
            "fluency_bar": fluency_bar,
            "frontier_limit_nats": frontier_limit,
            "draws": draws,
            "full": full,
            "validation_replies_per_setting": len(reference),
            "matched_shortfall": sum(arms.controls.shortfall(arms.drawn("random_matched", d)) for d in range(draws)),
        },
    }


def _agreement(run: Run, replies: Sequence[JudgedReply], scenarios: int) -> dict[str, Any] | None:
    """How far the judges agree; the one by likelihood, which costs passes, judges the first test scenarios only.

    The structural judge is left out where prompted replies are not of its grammar: it would only say so.
    """
    first = {scenario.skeleton_id for scenario in run.data.test[:scenarios]}
    rows = [row for row, reply in enumerate(replies) if reply.skeleton_id in first]
    judge = LikelihoodJudge(run.model, run.concepts, batch_tokens=run.batch_tokens, ledger=run.ledger)
    read = judge.judge([Reply(replies[row].reply, replies[row].scenario, replies[row].event) for row in rows])
    verdicts = dict(zip(rows, read, strict=True))
    labels: dict[str, list[str | None]] = {}
    prompted = [reply.structure for reply in replies if reply.arm == "prompting"]
    if sum(map(bool, prompted)) >= PARSED * len(prompted):
        labels[run.structure.name] = [reply.second for reply in replies]
    if verdicts:
        labels[judge.name] = [verdicts[row].label if row in verdicts else None for row in range(len(replies))]
    labels[run.judge.name] = [reply.label for reply in replies]  # of the same name as another: not compared with itself
    run.write_records(
        judge.name,
        [
            {"row": row, "arm": replies[row].arm, "label": verdict.label, "scores": dict(verdict.scores)}
            for row, verdict in verdicts.items()
        ],
    )
    return agreement_by_arm(replies, labels, seed=run.seed) if len(labels) > 1 else None


def _record(trial: Tried) -> dict[str, Any]:
    """A setting and what it gave on validation."""
    return {**trial.setting.to_record(), "accuracy": trial.accuracy, "fluency_gap_nats": trial.fluency_gap_nats}


def _layers(depth: str, layers: int) -> tuple[int, int]:
    """First and last layer whose relative depth (l + 1) / L lies in ``"low-high"``."""
    try:
        low, high = (float(part) for part in depth.split("-"))
    except ValueError as error:
        raise DataError(f"residual_depths: {depth!r} is not a range like 0.4-0.7") from error
    inside = [layer for layer in range(layers) if low <= (layer + 1) / layers <= high]
    if not inside:
        raise DataError(f"residual_depths: no layer of {layers} lies in {depth}; give other ranges with -p")
    return inside[0], inside[-1]
