"""Sections about the circuit: curves, component scores, influence, the map."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.report import figures
from emotrace.report.blocks import Block, Cell, Drawer, Fold, Row, Table, Text
from emotrace.report.loading import RunFiles
from emotrace.report.wording import listed, number, percent, span


def curves(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Ablation and enhancement: top k against random k, with the numbers behind them."""
    blocks: list[Block] = []
    for stage, verb, label in (("ablate", "Zeroing", "{kind} zeroed"), ("enhance", "Driving", "{kind} driven")):
        if not run.has(stage):
            continue
        by_kind: Mapping[str, Any] = run.stage(stage)["curves"]
        measure = next(iter(by_kind.values()))["measure"]
        finding = " ".join(_curve_finding(verb, kind, curve) for kind, curve in by_kind.items())
        blocks.append(
            draw(
                figures.dose_curves(by_kind, measure, label),
                stage,
                alt=f"Curves of {measure} against the number of components, top k and random k. {finding}",
                caption=f"{finding} Mean over emotions; bands: 95 %.",
            )
        )
        single = tuple(
            draw(
                figures.emotion_curves(curve, kind, measure, label),
                f"{stage}_{kind}_by_emotion",
                alt=f"Curves of {measure} against the number of {kind}, a panel for each emotion.",
                caption=_emotion_finding(verb, kind, curve),
            )
            for kind, curve in by_kind.items()
            if curve["k"]
        )
        blocks.append(Fold(f"{verb}, emotion by emotion", single))
        blocks.append(Fold(f"{verb}: the numbers", tuple(_curve_table(kind, curve) for kind, curve in by_kind.items())))
    return tuple(blocks)


def components(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """The long tail of scores, the check against really zeroing, the top components."""
    summary = run.stage("components")
    tails = summary["long_tail"]
    held = {kind: _share_of_positive(by_emotion, 0.05) for kind, by_emotion in tails.items()}
    finding = listed([f"the top 5 % of {kind} hold {percent(share, 0)}" for kind, share in held.items()])
    agreement = summary["causal_agreement"]
    exact = listed([f"{number(value)} for {kind}" for kind, value in agreement.items()])
    return (
        draw(
            figures.long_tail(tails),
            "long_tail",
            alt=f"Component scores in falling order, one line per emotion. Of the positive scores, {finding}.",
            caption=f"Of all positive scores, {finding} (mean over emotions).",
        ),
        Text(f"Analytic scores and really zeroing the component differ by at most {exact} (relative)."),
        Fold("Top components of every emotion", (_top(summary, "heads"), _top(summary, "neurons"))),
    )


def influence(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Which sublayers, given a push, move the final reading."""
    summary = run.stage("influence")
    importance, emotions = summary["importance"], summary["emotions"]
    totals = {
        (site, layer): sum(max(row[layer], 0.0) for row in table) / len(emotions)
        for site, table in importance.items()
        for layer in range(len(table[0]))
    }
    site, layer = max(totals, key=lambda place: totals[place])
    names = {"attn": "attention", "mlp": "MLP"}
    whole = sum(totals.values())
    by_site = {s: sum(value for (place, _), value in totals.items() if place == s) for s in importance}
    shares = listed([f"{names.get(s, s)} {percent(value / whole, 0)}" for s, value in by_site.items()]) if whole else ""
    agreement = summary["agreement_gradient"]
    compared = "the gradient method was left out"
    if agreement is not None:
        compared = f"agreement with the gradient method {number(agreement)}"
    return (
        draw(
            figures.influence(importance, emotions),
            "influence",
            alt=f"Heat maps of influence, emotions by layers, for attention and MLP. Largest: {names.get(site, site)} "
            f"of layer {layer}.",
            caption=f"A push at the {names.get(site, site)} of layer {layer} moves the final reading most "
            f"(mean influence {number(totals[site, layer])}); of all positive influence, {shares}. Pushes of "
            f"{listed([number(a) for a in summary['alphas']])} times the states' root mean square; {compared}.",
        ),
    )


def circuit(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Where the circuits' heads and neurons sit, their sizes, their overlap."""
    summary = run.stage("circuit")
    emotions = list(summary["heads"])
    neurons_by_layer = summary["neurons_by_layer"]
    layers = len(next(iter(neurons_by_layer.values())))
    top_head = max((head for ids in summary["head_ids"].values() for _, head in ids), default=0)
    heads = run.stage("components")["heads"] // layers if run.has("components") else top_head + 1
    overlap = summary["overlap"]
    pairs = [(overlap[i][j], a, b) for i, a in enumerate(emotions) for j, b in enumerate(emotions) if i < j]
    sizes = (
        f"Each emotion's circuit holds {span(list(summary['heads'].values()))} heads "
        f"(at most {percent(summary['heads_share'])}) and {span(list(summary['neurons'].values()))} neurons (at most "
        f"{percent(summary['neurons_share'])})"
    )
    union = ", ".join(f"{percent(value)} of {kind}" for kind, value in summary["union"].items())
    blocks: list[Block] = [
        draw(
            figures.circuit_map(summary["head_ids"], neurons_by_layer, layers, heads),
            "circuit",
            alt=f"Map of heads by layer, marked by the emotions that use them, and neuron counts by layer. {sizes}.",
            caption=f"{sizes}; together they use {union}. {_deep(neurons_by_layer, layers)}",
        )
    ]
    if pairs:
        nearest = max(pairs)
        blocks.append(
            draw(
                figures.similarity(overlap, emotions, "Components in common (Jaccard)", signed=False),
                "overlap",
                alt="Matrix of the share of components that two emotions' circuits have in common.",
                caption=f"{nearest[1].capitalize()} and {nearest[2]} have most in common, {percent(nearest[0], 0)} of "
                f"their components; mean over pairs {percent(sum(p[0] for p in pairs) / len(pairs), 0)}.",
            )
        )
    rows: tuple[Row, ...] = tuple(
        (
            emotion,
            Cell(number(summary["heads"][emotion]), "number"),
            Cell(number(summary["neurons"][emotion]), "number"),
            ", ".join(f"{layer}.{head}" for layer, head in summary["head_ids"][emotion]),
        )
        for emotion in emotions
    )
    table = Table("Sizes, and heads as layer.head.", ("emotion", "heads", "neurons", "which heads"), rows)
    return (*blocks, Fold("The circuits' sizes and heads", (table,)))


def _curve_finding(verb: str, kind: str, curve: Mapping[str, Any]) -> str:
    if not curve["k"]:
        return ""
    k = curve["k"][-1]
    low, high = curve["top_band"][-1]
    apart = next(
        (
            step
            for step, top, random in zip(curve["k"], curve["top_band"], curve["random_band"], strict=True)
            if step > 0 and (top[1] < random[0] or top[0] > random[1])
        ),
        None,
    )
    bands = f"bands part from k = {apart}" if apart is not None else "the bands never part"
    return (
        f"{verb} the top {k} {kind} takes the reading from {number(curve['baseline'])} to {number(curve['top'][-1])} "
        f"[{number(low)}, {number(high)}], {k} random {kind} to {number(curve['random'][-1])}; {bands}."
    )


def _emotion_finding(verb: str, kind: str, curve: Mapping[str, Any]) -> str:
    """Where the largest number of components moves the reading most and least."""
    moved = {e: own["top"][-1] - own["baseline"] for e, own in curve["by_emotion"].items()}
    most, least = (pick(moved, key=lambda emotion: abs(moved[emotion])) for pick in (max, min))

    def told(emotion: str) -> str:
        own = curve["by_emotion"][emotion]
        return f"{emotion} ({number(own['baseline'])} to {number(own['top'][-1])})"

    beyond = sum(abs(moved[e]) > abs(own["random"][-1] - own["baseline"]) for e, own in curve["by_emotion"].items())
    return (
        f"{verb} the top {curve['k'][-1]} {kind} moves the reading of {told(most)} most and of {told(least)} least; it "
        f"moves it further than as many random {kind} in {beyond} of {len(moved)} emotions."
    )


def _curve_table(kind: str, curve: Mapping[str, Any]) -> Table:
    rows: tuple[Row, ...] = tuple(
        (str(k), *(_number(text) for text in (number(top), _band(tb), number(rnd), _band(rb))))
        for k, top, tb, rnd, rb in zip(
            curve["k"], curve["top"], curve["top_band"], curve["random"], curve["random_band"], strict=True
        )
    )
    return Table(f"{kind.capitalize()}: {curve['measure']}.", ("k", "top k", "95 %", "random k", "95 %"), rows)


def _band(pair: Sequence[float]) -> str:
    return f"[{number(pair[0])}, {number(pair[1])}]"


def _number(text: str) -> Cell:
    return Cell(text, "number")


def _share_of_positive(by_emotion: Mapping[str, Sequence[float]], top: float) -> float:
    """Share of the sum of positive scores held by the first ``top`` of each list, mean over emotions."""
    shares = []
    for scores in by_emotion.values():
        positive = sum(max(score, 0.0) for score in scores)
        first = scores[: max(round(top * len(scores)), 1)]
        shares.append(sum(max(score, 0.0) for score in first) / positive if positive else 0.0)
    return sum(shares) / max(len(shares), 1)


def _top(summary: Mapping[str, Any], kind: str) -> Table:
    by_emotion = summary[f"top_{kind}"]
    depth = max(map(len, by_emotion.values()), default=0)
    rows: tuple[Row, ...] = tuple(
        (
            str(rank + 1),
            *(
                f"{found[rank][0]}.{found[rank][1]} ({number(float(found[rank][2]))})" if rank < len(found) else ""
                for found in by_emotion.values()
            ),
        )
        for rank in range(depth)
    )
    return Table(f"{kind.capitalize()} as layer.index (score).", ("rank", *by_emotion), rows)


def _deep(neurons_by_layer: Mapping[str, Sequence[int]], layers: int) -> str:
    totals = [sum(counts[layer] for counts in neurons_by_layer.values()) for layer in range(layers)]
    whole = sum(totals)
    half = layers // 2
    return (
        f"{percent(sum(totals[half:]) / whole, 0)} of their neurons sit in layers {half}–{layers - 1}." if whole else ""
    )
