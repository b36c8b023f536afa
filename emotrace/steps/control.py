"""The comparison: every way of making the model speak with an emotion, tuned alike on validation, read on test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotrace.errors import DataError
from emotrace.formulas.frontier import area_within, on_frontier
from emotrace.models.traced import Model
from emotrace.steps.circuit import EmotionCircuit, add
from emotrace.steps.directions import Differences, Directions
from emotrace.steps.evaluate import Attempt, JudgedReply, Task, accuracy, fluency_gap
from emotrace.steps.random_circuits import Controls
from emotrace.trace import edits
from emotrace.trace.plan import Plan
from emotrace.trace.tokens import Tokens

ARMS = (
    "unsteered",
    "prompting",
    "residual",
    "circuit",
    "random_matched",
    "random_matched_rescaled",
    "random_anywhere",
    "random_direction",
    "wrong_emotion",
)
DESCRIPTIONS = {
    "unsteered": "the neutral prompt, no edit",
    "prompting": "the emotion named in the prompt, no edit",
    "residual": "the emotion's direction added to the residual stream over a range of layers",
    "circuit": "the circuit's components, each pushed by its difference vector",
    "random_matched": "random components outside the circuit, as many in every sublayer, their own difference vectors",
    "random_matched_rescaled": "the same, scaled so that each sublayer's summed write has the circuit's norm",
    "random_anywhere": "as many random components in any layer, their own difference vectors",
    "random_direction": "the circuit's components, pushed in random directions of the circuit's write norms",
    "wrong_emotion": "another emotion's circuit at the circuit's strength",
}


@dataclass(frozen=True)
class Setting:
    """One choice that tuning tries.

    Attributes:
        strength: multiplies difference vectors; for residual steering alpha, in units of the states' RMS.
        layers: first and last layer of residual steering.
    """

    strength: float
    layers: tuple[int, int] | None = None

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {"strength": self.strength, **({"layers": list(self.layers)} if self.layers else {})}


def residual_plan(directions: Directions, reply: Directions, emotion: str, setting: Setting, tokens: Tokens) -> Plan:
    """Residual steering: ``alpha * sigma * v`` added to what the MLP of every layer in the range adds.

    The last prompt token takes the directions measured there, reply tokens the ones measured over replies.
    """
    if setting.layers is None:
        raise DataError("residual steering needs a range of layers")
    e = directions.emotions.index(emotion)
    plan = Plan()
    for layer in range(setting.layers[0], setting.layers[1] + 1):
        size = setting.strength * directions.sigma[layer, 1]
        first, later = (size * d.vectors[e, layer, 1] for d in (directions, reply))
        at_prompt = later if tokens in ("all", "generated") else first
        after = {layer: later} if tokens in ("reply", "all") else None
        plan = plan + edits.add({layer: at_prompt}, "mlp_out", later=after, tokens=tokens)
    return plan


class Arms:
    """Plans of every arm for a setting and a draw; each distinct plan is built once.

    Args:
        model: the model.
        circuit: the circuit under test.
        differences: difference vectors of every component.
        directions: unit directions at the last token.
        reply: unit directions over reply tokens.
        tokens: where every arm acts.
        seed: start of the random draws.
    """

    def __init__(
        self,
        model: Model,
        circuit: EmotionCircuit,
        differences: Differences,
        directions: Directions,
        reply: Directions,
        *,
        tokens: Tokens,
        seed: int,
    ) -> None:
        self.circuit, self.directions, self.reply, self.tokens, self.seed = circuit, directions, reply, tokens, seed
        circuit.check(model)
        self.controls = Controls(model, circuit, differences)
        self._circuits: dict[tuple[str, int], EmotionCircuit] = {}
        self._plans: dict[tuple[str, Setting | None, int, str], Plan] = {}

    def drawn(self, arm: str, draw: int) -> EmotionCircuit:
        """The circuit that ``arm`` uses in one draw."""
        key = (arm, draw)
        if key not in self._circuits:
            seed = self.seed + 7919 * (draw + 1)
            make: Mapping[str, Callable[[], EmotionCircuit]] = {
                "circuit": lambda: self.circuit,
                "wrong_emotion": lambda: self.circuit,
                "random_matched": lambda: self.controls.matched(seed),
                "random_matched_rescaled": lambda: self.controls.rescaled(self.drawn("random_matched", draw)),
                "random_anywhere": lambda: self.controls.anywhere(seed),
                "random_direction": lambda: self.controls.random_direction(seed),
            }
            self._circuits[key] = make[arm]()
        return self._circuits[key]

    def other(self, emotion: str) -> str:
        """The emotion whose circuit ``wrong_emotion`` uses when ``emotion`` is asked for: the next one."""
        emotions = self.circuit.emotions
        return emotions[(emotions.index(emotion) + 1) % len(emotions)]

    def attempt(self, arm: str, task: Task, setting: Setting | None, draw: int = 0) -> Attempt:
        """How ``arm`` makes the reply to ``task``."""
        key = (arm, setting, draw, task.emotion)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        return Attempt(task, self._plans[key], prompted=arm == "prompting", draw=draw)

    def write_fraction(self, arm: str, setting: Setting | None) -> float | None:
        """The arm's largest push at the last token as a fraction of the residual stream's norm; None without a push."""
        if setting is None:
            return None
        if arm == "residual":
            return setting.strength / self.directions.vectors.shape[-1] ** 0.5
        drawn = [circuit for (name, _), circuit in self._circuits.items() if name == arm] or [self.drawn(arm, 0)]
        fractions = [self.controls.write_fraction(circuit, self.directions.sigma) for circuit in drawn]
        return setting.strength * sum(fractions) / len(fractions)

    def _plan(self, arm: str, setting: Setting | None, draw: int, emotion: str) -> Plan:
        if arm in ("unsteered", "prompting"):
            return Plan()
        if setting is None:
            raise DataError(f"arm {arm!r} needs a setting")
        if arm == "residual":
            return residual_plan(self.directions, self.reply, emotion, setting, self.tokens)
        source = self.other(emotion) if arm == "wrong_emotion" else emotion
        return add(self.drawn(arm, draw), source, strength=setting.strength, tokens=self.tokens)


@dataclass(frozen=True)
class Tried:
    """What one setting gave on validation."""

    arm: str
    setting: Setting
    accuracy: float
    fluency_gap_nats: float | None
    n: int


def choose(tried: Sequence[Tried], *, fluency_bar: float) -> Tried:
    """The most accurate setting within the fluency bar, ties to the smaller strength.

    Where none is within the bar the one nearest to it is taken. What such an arm reaches without the bar is reported
    beside it (:func:`most_accurate`), so that the bar hides no control's success.
    """
    within = [t for t in tried if _distance(t) <= fluency_bar]
    return most_accurate(within) if within else min(tried, key=lambda t: (_distance(t), -t.accuracy))


def most_accurate(tried: Sequence[Tried]) -> Tried:
    """The most accurate setting whatever its fluency, ties to the smaller strength."""
    return max(tried, key=lambda t: (t.accuracy, -t.setting.strength))


def _distance(tried: Tried) -> float:
    return float("inf") if tried.fluency_gap_nats is None else abs(tried.fluency_gap_nats)


def spread_draws(tasks: Sequence[Task], draws: int, *, full: bool) -> list[tuple[Task, int]]:
    """Tasks with the draw that makes each: every draw makes all of them, or scenarios are dealt out in turn."""
    if full:
        return [(task, draw) for draw in range(draws) for task in tasks]
    order = {identifier: i for i, identifier in enumerate(dict.fromkeys(t.group.skeleton_id for t in tasks))}
    return [(task, order[task.group.skeleton_id] % draws) for task in tasks]


def tried(
    arm: str, setting: Setting, replies: Sequence[JudgedReply], prompted: Sequence[JudgedReply], seed: int
) -> Tried:
    """Validation replies of one setting, summed up."""
    return Tried(arm, setting, accuracy(replies, seed).estimate, fluency_gap(replies, prompted), len(replies))


def frontiers(
    tried: Sequence[Tried], fixed: Mapping[str, Sequence[JudgedReply]], *, limit: float, seed: int
) -> dict[str, dict[str, Any]]:
    """Per arm, its settings' accuracy against fluency gap on validation, as JSON.

    ``on_frontier`` marks settings of an arm that none of its others beats; ``area`` is the best accuracy within an
    allowed gap, averaged over allowed gaps from 0 to ``limit`` nats per token (:mod:`emotrace.formulas.frontier`).
    ``fixed`` are validation replies of the arms without a setting, "prompting" among them, which is the reference.
    """
    arms: dict[str, list[tuple[dict[str, Any], float, float | None]]] = {
        arm: [({"strength": None}, accuracy(replies, seed).estimate, fluency_gap(replies, fixed["prompting"]))]
        for arm, replies in fixed.items()
    }
    for trial in tried:
        arms.setdefault(trial.arm, []).append((trial.setting.to_record(), trial.accuracy, trial.fluency_gap_nats))
    return {arm: _frontier(points, limit) for arm, points in arms.items()}


def _frontier(points: Sequence[tuple[dict[str, Any], float, float | None]], limit: float) -> dict[str, Any]:
    accuracies, gaps = [accuracy for _, accuracy, _ in points], [gap for _, _, gap in points]
    marks = on_frontier(accuracies, gaps)
    return {
        "points": [
            {**setting, "accuracy": accuracy, "gap": gap, "on_frontier": mark}
            for (setting, accuracy, gap), mark in zip(points, marks, strict=True)
        ],
        "area": area_within(accuracies, gaps, limit=limit),
    }
