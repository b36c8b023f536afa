"""Emotion directions of the residual stream, and how well they tell emotions apart over depth."""

from functools import reduce
from typing import Any, Literal

import torch

from emotrace.formulas.affect import FEWEST, affect_plane
from emotrace.runner import Run, protocol
from emotrace.steps.directions import Directions, difference_vectors, emotion_directions
from emotrace.steps.elicit import Elicitation
from emotrace.steps.separation import (
    States,
    alignment,
    cosines,
    depth_similarity,
    nearest_direction_accuracy,
)
from emotrace.trace.capture import Statistics, capture, state_coordinates


@protocol(needs=["elicit"], shards=True)
def directions(run: Run, *, contrast: Literal["neutral", "emotions"] = "neutral", sample: int = 20) -> dict[str, Any]:
    """Capture all four sites in one pass over the accepted replies; directions, difference vectors and sigma follow.

    Directions are centred on the mean over emotions (the paper's contrast). `contrast` is that of the difference
    vectors that circuits add: neutral or emotions. `sample` scenarios are kept state by state, for the separation of
    emotions by layer (nearest direction, cross-validated by scenario) and for the picture of clusters. Where the
    concepts have published ratings, the reference directions are laid on the plane of valence and arousal. On a shard
    only the statistics are captured: everything else follows when they are merged.
    """
    elicited = Elicitation.from_records(run.concepts.labels, run.records("elicit", "replies"))
    part = {"emotions": list(run.concepts.labels), "groups": len(elicited.accepted_groups)}
    if run.shard and not elicited.accepted_groups:  # other shards may have some
        return part
    samples = elicited.samples()
    if run.shards:  # one in memory at a time
        with_any = (shard for shard in run.shards if shard.summary("directions")["groups"])
        statistics = reduce(Statistics.plus, (s.open("directions", "statistics", Statistics) for s in with_any))
    else:
        statistics = capture(run.model, samples, elicited.conditions, batch_tokens=run.batch_tokens, ledger=run.ledger)
    run.save("statistics", statistics)
    if run.shard:
        return part
    found = emotion_directions(statistics)
    run.save("directions", found)
    run.save("directions_reply", emotion_directions(statistics, measured_at="reply"))
    run.save("differences", difference_vectors(statistics, contrast=contrast))

    kept = set(list(dict.fromkeys(reply.skeleton_id for reply in elicited.accepted()))[:sample])
    replies = [r for e in run.concepts.labels for r in elicited.accepted(e) if r.skeleton_id in kept]
    layers = tuple(range(run.model.sizes.layers))
    values = state_coordinates(
        run.model, [r.prompt_ids for r in replies], layers, batch_tokens=run.batch_tokens, ledger=run.ledger
    )
    labels = torch.tensor([run.concepts.index(r.condition) for r in replies])
    states = States(run.concepts.labels, layers, values, labels, tuple(r.skeleton_id for r in replies))
    run.save("states", states)
    separation = nearest_direction_accuracy(states)
    similarity = depth_similarity(found.vectors)
    return {
        **part,
        "layers": len(layers),
        "contrast": contrast,
        "separation": {"resid_attn": separation[:, 0].tolist(), "resid_mlp": separation[:, 1].tolist()},
        "cosines": cosines(found.reference),
        "reference_layers": list(found.reference_layers),
        "norms": _by_sublayer(found.norms),
        "sigma": _by_sublayer(found.sigma),
        "alignment": _by_sublayer(alignment(found.vectors, found.reference)),
        "similarity": {
            "mean": _rounded(similarity.mean(0)),
            "by_emotion": {e: _rounded(own) for e, own in zip(found.emotions, similarity, strict=True)},
        },
        "affect": _affect(found, run),
    }


def _affect(found: Directions, run: Run) -> dict[str, Any] | None:
    """The fit of the reference directions onto the concepts' ratings, None where there is nothing to fit."""
    ratings = run.concepts.ratings
    if not ratings or len(found.emotions) < FEWEST:
        return None
    rated = [ratings[e] for e in found.emotions]
    fit = affect_plane(found.reference.numpy(), rated, seed=run.seed)
    return {
        "emotions": list(found.emotions),
        "points": fit.points.tolist(),
        "ratings": [list(pair) for pair in rated],
        "source": run.concepts.ratings_source,
        "explained": fit.explained,
        "disparity": fit.disparity,
        "chance_disparity": fit.chance_disparity,
        "correlations": {"valence": fit.correlations[0], "arousal": fit.correlations[1]},
        "p": fit.p,
        "labelings": fit.labelings,
    }


def _by_sublayer(values: torch.Tensor) -> dict[str, Any]:
    return {"attn": values[..., 0].tolist(), "mlp": values[..., 1].tolist()}


def _rounded(cosine: torch.Tensor) -> list[list[float]]:
    """To four digits: a deep model has tens of thousands of these, for a picture."""
    return [[round(value, 4) for value in row] for row in cosine.tolist()]
