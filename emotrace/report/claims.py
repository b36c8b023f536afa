"""The targets that a run's comparison is held to, and what the run shows against each: met or not, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emotrace.report.loading import RunFiles
from emotrace.report.wording import interval, listed, number, p_value, percent, share_with_interval, signed, span

MOST_OF_A_KIND = 0.05
MOST_IN_UNION = 0.20
FLUENCY_BAR = 0.1


@dataclass(frozen=True)
class Claim:
    """One target: what is claimed, the measured value in words, whether it is met."""

    claim: str
    measured: str
    met: bool


def claims(run: RunFiles) -> tuple[Claim, ...]:
    """Every target that the stages in the folder allow to check, in the order of the argument."""
    found: list[Claim] = []
    if run.has("control"):
        found += _control_claims(run.stage("control"))
    if run.has("circuit"):
        circuit = run.stage("circuit")
        largest = max(circuit["heads_share"], circuit["neurons_share"])
        found.append(
            Claim(
                f"A circuit holds at most {percent(MOST_OF_A_KIND, 0)} of the heads and of the neurons",
                f"{percent(circuit['heads_share'])} of heads, {percent(circuit['neurons_share'])} of neurons",
                largest <= MOST_OF_A_KIND,
            )
        )
        found.append(
            Claim(
                f"All emotions' circuits together hold at most {percent(MOST_IN_UNION, 0)}",
                percent(circuit["union_share"]),
                circuit["union_share"] <= MOST_IN_UNION,
            )
        )
    if run.has("quality"):
        found += _quality_claims(run.stage("quality"))
    return tuple(found)


def _control_claims(control: Mapping[str, Any]) -> list[Claim]:
    arms = control["arms"]
    found: list[Claim] = []
    if "circuit" in arms:
        circuit = arms["circuit"]
        found.append(
            Claim(
                "Circuit replies judged as asked: at least 99 %",
                share_with_interval(circuit),
                circuit["accuracy"] >= 0.99,
            )
        )
        shares = {emotion: part["accuracy"] for emotion, part in circuit["by_emotion"].items()}
        worst = min(shares, key=lambda emotion: shares[emotion])
        found.append(
            Claim(
                "… and at least 97 % in every emotion",
                f"lowest: {worst}, {percent(shares[worst])}",
                shares[worst] >= 0.97,
            )
        )
        gap = circuit["fluency_gap_nats"]
        found.append(
            Claim(
                f"Fluency within {FLUENCY_BAR:g} nats per token of prompted replies",
                signed(gap),
                abs(gap) <= FLUENCY_BAR,
            )
        )
        if "prompting" in arms:
            difference = circuit["structure_accepted"] - arms["prompting"]["structure_accepted"]
            found.append(
                Claim(
                    "Structure accepted within 2 points of prompting",
                    f"{signed(100 * difference, 1)} points",
                    abs(difference) <= 0.02 + 1e-9,
                )
            )
    for name, words in (("random_matched", "the same sublayers"), ("random_anywhere", "any sublayer")):
        if name in arms:
            arm = arms[name]
            found.append(
                Claim(
                    f"As many random components from {words}: at most 30 %",
                    f"{share_with_interval(arm)}, {arm['draws']} draws",
                    arm["accuracy"] <= 0.30,
                )
            )
    paired = control["paired"].get("circuit_minus_random_matched_rescaled")
    if paired is not None:
        found.append(
            Claim(
                "Ahead of random components rescaled to the same write norm by at least 50 points (95 % lower bound)",
                f"{signed(100 * paired['difference'], 1)} points {interval(paired['ci'])}",
                paired["ci"][0] >= 0.50,
            )
        )
    return found


def _quality_claims(quality: Mapping[str, Any]) -> list[Claim]:
    """Necessity and sufficiency at the last prompt token, against random circuits."""
    found = []
    for key, claim in (
        ("necessity", "Without the circuit the reading falls further than without random components (p at most 0.05)"),
        ("sufficiency", "The circuit alone keeps more of the reading than random components (p at most 0.05)"),
    ):
        part = quality["tokens"]["last"][key]
        if "undefined" in part:
            found.append(Claim(claim, part["undefined"], False))
            continue
        values = f"{number(round(part['circuit'], 3))} against {number(round(part['random_mean'], 3))}"
        found.append(Claim(claim, f"f {values}, {p_value(part['p'])}", part["p"] <= 0.05))
    return found


def findings(run: RunFiles) -> tuple[str, ...]:
    """The first screen's sentences: what was found and how sure it is."""
    sentences: list[str] = []
    if run.has("control") and "circuit" in run.stage("control")["arms"]:
        sentences += _steering(run)
    if run.has("quality"):
        sentences.append(_evidence(run.stage("quality")))
    if run.has("ablate"):
        sentences.append(_necessity(run.stage("ablate")["curves"]))
    if run.has("directions"):
        sentences.append(_depth(run.stage("directions"), len(run.emotions)))
    return tuple(sentence for sentence in sentences if sentence)


def _steering(run: RunFiles) -> list[str]:
    control = run.stage("control")
    arms = control["arms"]
    circuit = arms["circuit"]
    size = ""
    if run.has("circuit"):
        parts = run.stage("circuit")
        size = (
            f" with {span(list(parts['heads'].values()))} heads ({percent(parts['heads_share'])}) and"
            f" {span(list(parts['neurons'].values()))} neurons ({percent(parts['neurons_share'])}) per emotion"
        )
    first = (
        f"Circuit modulation makes {share_with_interval(circuit)} of {circuit['n']:,} held-out replies express the "
        f"requested emotion{size}"
    )
    beside = [f"{label} {percent(arms[name]['accuracy'])}" for name, label in _BESIDE.items() if name in arms]
    first += f"; {listed(beside)}." if beside else "."
    second = []
    paired = control["paired"].get("circuit_minus_random_matched_rescaled")
    if paired is not None:
        second.append(
            f"On the same scenarios it is {signed(100 * paired['difference'], 1)} points {interval(paired['ci'])} "
            "ahead of random components rescaled to its write norm and tuned alike."
        )
    gap = circuit["fluency_gap_nats"]
    second.append(
        f"Its replies are {number(abs(round(gap, 3)))} nats per token {'less' if gap > 0 else 'more'} likely to the "
        "unsteered model than prompted ones."
    )
    if "wrong_emotion" in arms and arms["wrong_emotion"].get("as_other") is not None:
        wrong = arms["wrong_emotion"]
        second.append(
            f"Driven with another emotion's circuit, {percent(wrong['accuracy'])} still express the requested emotion "
            f"and {percent(wrong['as_other'])} the other."
        )
    return [first, " ".join(second)]


_BESIDE = {
    "random_matched": "matched random circuits of the same size:",
    "prompting": "prompting:",
    "residual": "residual steering:",
    "unsteered": "no steering:",
}


def _necessity(curves: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [
        f"the top {curve['k'][-1]} {kind} takes the emotion reading from {number(curve['baseline'])} to "
        f"{number(curve['top'][-1])}, zeroing {curve['k'][-1]} random ones to {number(curve['random'][-1])}"
        for kind, curve in curves.items()
        if curve["k"]
    ]
    return f"Zeroing {'; zeroing '.join(parts)}." if parts else ""


def _depth(directions: Mapping[str, Any], emotions: int) -> str:
    values = directions["separation"]["resid_mlp"]
    return (
        f"Emotions separate with depth: a state's emotion is named rightly {percent(values[0], 0)} of the time after "
        f"the first layer and {percent(values[-1], 0)} after the last (chance {percent(1 / emotions, 0)})."
    )


def _evidence(summary: Mapping[str, Any]) -> str:
    """What the circuit is worth by ablation, beside random ones."""
    last = summary["tokens"]["last"]
    alone, removed = last["sufficiency"], last["necessity"]
    if "undefined" in alone or "undefined" in removed:
        return ""
    return (
        f"Without its circuit an emotion's reading keeps {percent(removed['circuit'], 0)} of its strength, without "
        f"random components of that number {percent(removed['random_mean'], 0)} ({p_value(removed['p'])}, "
        f"{removed['draws']} draws); the circuit alone carries {percent(alone['circuit'], 0)} of it at the last prompt "
        f"token, random ones {percent(alone['random_mean'], 0)} ({p_value(alone['p'])})" + _worth(alone, removed)
    )


def _worth(alone: Mapping[str, Any], removed: Mapping[str, Any]) -> str:
    """What the two tests together say."""
    if removed["p"] > 0.05:
        return "; that it is needed more than random components is not shown."
    return (
        ", so it is needed, but far from all that is."
        if alone["circuit"] < 0.5
        else ", so it is most of what is needed."
    )
