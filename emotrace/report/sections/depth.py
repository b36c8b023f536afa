"""The section about emotions by depth: states, separation, the directions' length, turn and likeness, affect."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emotrace.report import figures
from emotrace.report.blocks import Block, Drawer, Fold
from emotrace.report.loading import RunFiles, load_states
from emotrace.report.wording import absent, listed, number, p_value, percent
from emotrace.steps.separation import States, nearest_neighbours

SHARP = 0.9
"""Share of states named rightly from which a layer counts as one that separates emotions."""

_PANELS = 5
_NAMES = {"attn": "attention", "mlp": "MLP"}


def directions(run: RunFiles, draw: Drawer) -> tuple[Block, ...]:
    """Clusters of states by depth, separation, length and turn of directions, their likeness, the plane of affect."""
    summary = run.stage("directions")
    states = load_states(run)
    return (
        *(_clusters(summary, states, draw) if states is not None else ()),
        _separation(summary, draw),
        *_depth(run, summary, draw),
        *_cosines(summary, draw),
        *_affect(run, summary, draw),
    )


def chosen_layers(layers: Sequence[int], sharp: int | None) -> list[int]:
    """Positions in ``layers`` of up to five spread over depth; the first and last are in it, and ``sharp`` if given.

    >>> chosen_layers(range(28), 9), chosen_layers(range(8), None), chosen_layers((0, 3), None)
    ([0, 9, 14, 20, 27], [0, 2, 4, 5, 7], [0, 1])
    """
    found = sorted({round(place) for place in np.linspace(0, len(layers) - 1, min(_PANELS, len(layers)))})
    if sharp is not None and sharp in layers and (place := list(layers).index(sharp)) not in found:
        inner = found[1:-1] or found
        found[found.index(min(inner, key=lambda other: abs(other - place)))] = place
    return sorted(found)


def _clusters(summary: Mapping[str, Any], states: States, draw: Drawer) -> tuple[Block, ...]:
    after_mlp = summary["separation"]["resid_mlp"]
    sharp = next((layer for layer, share in enumerate(after_mlp) if share >= SHARP), None)
    places = chosen_layers(states.layers, sharp)
    shown = [states.layers[place] for place in places]
    values, labels = states.states[:, :, 1].numpy(), states.label_index.numpy()
    named = [
        f"{percent(after_mlp[layer], 0)} at layer {layer}"
        for layer in dict.fromkeys((shown[0], sharp, shown[-1]))
        if layer is not None
    ]
    by_emotion, by_scenario = (shares[:, 1].tolist() for shares in nearest_neighbours(states))
    listed_layers = listed([str(layer) for layer in shown])
    everything = len(places) == len(states.layers)

    def drawn(name: str, method: figures.Method, at: Sequence[int], caption: str) -> Block:
        layers = [states.layers[place] for place in at]
        means = {"pca": "the first two principal components of each layer", "tsne": "a t-SNE map of each layer"}
        return draw(
            figures.clusters(values[:, list(at)], labels, states.emotions, layers, method=method),
            name,
            alt=f"Scatter plots of last-token states at layers {listed([str(k) for k in layers])}, coloured by "
            f"emotion, on {means[method]}.",
            caption=caption,
        )

    whole = range(len(states.layers))
    cannot = "Distances between clusters, their sizes and their places mean nothing in such a map."
    return (
        drawn(
            "clusters",
            "pca",
            places,
            f"States of {len(values):,} elicited prompts after the MLP of layers {listed_layers}, on each layer's "
            f"first two principal components: the nearest direction names {listed(named)} rightly.",
        ),
        drawn(
            "clusters_tsne",
            "tsne",
            places,
            "The same states by t-SNE, which draws near states near each other. The nearest other state has the same "
            f"emotion for {percent(by_emotion[places[0]], 0)} of them at layer {shown[0]} and "
            f"{percent(by_emotion[places[-1]], 0)} at layer {shown[-1]}, the same scenario for "
            f"{percent(by_scenario[places[0]], 0)} and {percent(by_scenario[places[-1]], 0)}. {cannot}",
        ),
        *(
            ()
            if everything
            else (
                Fold(
                    f"All {len(states.layers)} layers",
                    (
                        drawn("clusters_all", "pca", whole, "Every layer on its first two principal components."),
                        drawn("clusters_tsne_all", "tsne", whole, f"Every layer by t-SNE. {cannot}"),
                    ),
                ),
            )
        ),
    )


def _separation(summary: Mapping[str, Any], draw: Drawer) -> Block:
    after_mlp = summary["separation"]["resid_mlp"]
    sharp = next((layer for layer, share in enumerate(after_mlp) if share >= SHARP), None)
    where = f"first above 90 % after layer {sharp}" if sharp is not None else "never above 90 %"
    emotions = len(summary["emotions"])
    return draw(
        figures.separation(summary["separation"], emotions, summary["reference_layers"]),
        "separation",
        alt="Cross-validated share of states named rightly, by layer, after attention and after the MLP.",
        caption=f"Directions name {percent(after_mlp[0], 0)} of held-out states rightly after the first layer and "
        f"{percent(after_mlp[-1], 0)} after the last, {where} (chance {percent(1 / emotions, 0)}; cross-validated).",
    )


def _depth(run: RunFiles, summary: Mapping[str, Any], draw: Drawer) -> tuple[Block, ...]:
    if "alignment" not in summary:
        return (absent(run, "directions", "length and turn of the directions by layer"),)
    emotions: Sequence[str] = summary["emotions"]
    norms, sigma, alignment = (summary[key] for key in ("norms", "sigma", "alignment"))
    length = np.mean(norms["mlp"], axis=0) / np.asarray(sigma["mlp"])
    turn = np.stack([np.mean(alignment[site], axis=0) for site in _NAMES], axis=1).ravel()
    aligned = np.flatnonzero(turn >= 0.5)
    where = f"reaches 0.5 first after the {_place(int(aligned[0]))}" if len(aligned) else "never reaches 0.5"
    similarity = summary["similarity"]
    mean = np.asarray(similarity["mean"])
    steps = np.diagonal(mean, offset=1)
    turns = int(np.argmin(steps))
    return (
        draw(
            figures.direction_depth(norms, sigma, alignment, emotions, summary["reference_layers"]),
            "direction_depth",
            alt="Lines by layer, one per emotion: length of the mean difference over sigma, and cosine with the "
            "reference direction, after attention and after the MLP.",
            caption=f"After the first layer the emotions' mean differences are {number(float(length[0]))} sigma long, "
            f"after the last {number(float(length[-1]))} (mean over emotions; longest after layer "
            f"{int(np.argmax(length))}). Their mean cosine with the reference direction {where}; shaded layers make up "
            "the reference, and are like it by construction.",
        ),
        draw(
            figures.depth_similarity({"mean over emotions": similarity["mean"]}),
            "depth_similarity",
            alt="Heat map of cosines between the directions after every two sublayers, mean over emotions.",
            caption=f"From one sublayer to the next the direction keeps a cosine of {number(float(np.median(steps)))} "
            f"(median); it turns most between {_place(turns)} and {_place(turns + 1)} (cosine "
            f"{number(float(steps[turns]))}). First and last sublayer: {number(float(mean[0, -1]))}. Each layer is two "
            "cells, attention first.",
        ),
        Fold(
            "Likeness of directions over depth, emotion by emotion",
            (
                draw(
                    figures.depth_similarity(similarity["by_emotion"]),
                    "depth_similarity_by_emotion",
                    alt="The same heat map for each emotion.",
                    caption=_turns_by_emotion(similarity["by_emotion"]),
                ),
            ),
        ),
    )


def _place(index: int) -> str:
    """A sublayer by its place in the model: 0 is layer 0's attention, 1 its MLP."""
    return f"{_NAMES['mlp' if index % 2 else 'attn']} of layer {index // 2}"


def _turns_by_emotion(matrices: Mapping[str, Any]) -> str:
    steps = {emotion: np.diagonal(np.asarray(matrix), offset=1) for emotion, matrix in matrices.items()}
    told = [
        f"{emotion} between {_place(int(np.argmin(own)))} and {_place(int(np.argmin(own)) + 1)} "
        f"({number(float(own.min()))})"
        for emotion, own in steps.items()
    ]
    return f"Where each emotion's direction turns most: {listed(told)}."


def _cosines(summary: Mapping[str, Any], draw: Drawer) -> tuple[Block, ...]:
    cosines, emotions = summary["cosines"], summary["emotions"]
    pairs = [(cosines[i][j], a, b) for i, a in enumerate(emotions) for j, b in enumerate(emotions) if i < j]
    if not pairs:
        return ()
    nearest, farthest = max(pairs), min(pairs)
    return (
        draw(
            figures.similarity(cosines, emotions, "Cosine between directions", signed=True),
            "cosines",
            alt="Matrix of cosines between the emotions' reference directions.",
            caption=f"{nearest[1].capitalize()} and {nearest[2]} point most alike (cosine {number(nearest[0])}), "
            f"{farthest[1]} and {farthest[2]} least ({number(farthest[0])}).",
        ),
    )


def _affect(run: RunFiles, summary: Mapping[str, Any], draw: Drawer) -> tuple[Block, ...]:
    if "affect" not in summary:
        return (absent(run, "directions", "the directions on the plane of valence and arousal"),)
    fit = summary["affect"]
    if fit is None:
        return ()
    better = "is better than" if fit["p"] < 0.05 else "is not better than"
    along = fit["correlations"]
    count = len(fit["emotions"])
    return (
        draw(
            figures.affect_plane(fit),
            "affect",
            alt="The emotions' directions on the plane of valence and arousal, each joined to people's rating of it.",
            caption=f"The first two principal components of the {count} reference directions "
            f"({percent(fit['explained'], 0)} of their variance), moved, turned, mirrored and scaled onto people's "
            f"ratings ({fit['source']}). The fit {better} chance labelings: disparity {number(fit['disparity'])}, "
            f"{number(fit['chance_disparity'])} on average when ratings are handed to other emotions "
            f"({p_value(fit['p'])}, {fit['labelings']:,} labelings). Correlation with rated valence "
            f"{number(along['valence'])}, with arousal {number(along['arousal'])}, both helped by the fit itself. "
            f"{_FEW.get(count, str(count)).capitalize()} points are few: the fit has four free numbers.",
        ),
    )


_FEW = {4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
