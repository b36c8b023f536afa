"""Emotion directions and difference vectors from captured means."""

from dataclasses import dataclass

import torch

from emotrace.artifacts import Artifact
from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError
from emotrace.formulas.directions import contrast_means, reference_direction, stable_layers, unit
from emotrace.trace.capture import PLACES, Statistics

CONTRASTS = ("emotions", "neutral")


@dataclass(frozen=True)
class Directions(Artifact):
    """Unit directions of the residual stream after each sublayer.

    Attributes:
        emotions: E names.
        contrast: ``emotions`` (centred on the group's mean over emotions) or ``neutral``.
        measured_at: ``last`` prompt token, or ``reply``.
        vectors: float64 ``[E, L, 2, D]``, unit length; sublayers are attention, MLP.
        norms: float64 ``[E, L, 2]``, lengths before normalisation.
        sigma: float64 ``[L, 2]``, mean root mean square of neutral prompts' states at the last token.
        reference: float64 ``[E, D]``, the reference directions.
        reference_layers: layers they are taken from.
    """

    emotions: tuple[str, ...]
    contrast: str
    measured_at: str
    vectors: torch.Tensor
    norms: torch.Tensor
    sigma: torch.Tensor
    reference: torch.Tensor
    reference_layers: tuple[int, ...]


@dataclass(frozen=True)
class Differences(Artifact):
    """Difference vectors of every component, not normalised, at both places.

    Attributes:
        emotions: E names.
        contrast: as in :class:`Directions`.
        last: at the last prompt token: ``heads [E, L, H, d]``, ``neurons [E, L, F]``, float64.
        reply: the same over reply tokens.
    """

    emotions: tuple[str, ...]
    contrast: str
    last: dict[str, torch.Tensor]
    reply: dict[str, torch.Tensor]


def emotion_directions(statistics: Statistics, *, contrast: str = "emotions", measured_at: str = "last") -> Directions:
    """Directions of every emotion, layer and sublayer, with sigma and the reference direction (README, The method).

    Raises ``DataError`` for an unknown contrast, or statistics without the neutral condition.
    """
    emotions, means, neutral = _split(statistics, contrast, measured_at)
    differences = contrast_means(_residual(means), _residual(neutral) if contrast == "neutral" else None)
    vectors = unit(differences)
    layers = stable_layers(vectors.shape[1])
    return Directions(
        emotions,
        contrast,
        measured_at,
        vectors,
        differences.norm(dim=-1),
        statistics.last["rms"][statistics.conditions.index(NEUTRAL)],
        reference_direction(vectors, layers),
        layers,
    )


def difference_vectors(statistics: Statistics, *, contrast: str = "neutral") -> Differences:
    """Mean within-group differences at heads and neurons, at both places of measurement."""
    places: dict[str, dict[str, torch.Tensor]] = {}
    emotions: tuple[str, ...] = ()
    for place in ("last", "reply"):
        emotions, means, neutral = _split(statistics, contrast, place)
        base = neutral if contrast == "neutral" else {}
        places[place] = {
            "heads": contrast_means(means["heads"], base.get("heads")),
            "neurons": contrast_means(means["neurons"], base.get("neurons")),
        }
    return Differences(emotions, contrast, places["last"], places["reply"])


def _split(
    statistics: Statistics, contrast: str, place: str
) -> tuple[tuple[str, ...], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Emotion names, their means by site, and the neutral condition's."""
    if contrast not in CONTRASTS:
        raise DataError(f"unknown contrast {contrast!r}: choose one of {', '.join(CONTRASTS)}")
    if NEUTRAL not in statistics.conditions:
        raise DataError(f"the statistics hold no {NEUTRAL!r} condition; capture the neutral prompts too")
    if place not in PLACES:
        raise DataError(f"unknown place {place!r}: vectors are measured at {' or '.join(PLACES)}")
    counts = statistics.count if place == "last" else statistics.reply_count
    if len(set(counts.tolist())) > 1 or not bool(counts.all()):
        held = dict(zip(statistics.conditions, counts.tolist(), strict=True))
        raise DataError(f"the means at {place} are not over the same groups: {held}")
    at = statistics.conditions.index(NEUTRAL)
    rows = [i for i in range(len(statistics.conditions)) if i != at]
    means = statistics.at(place)
    return (
        tuple(statistics.conditions[i] for i in rows),
        {site: values[rows] for site, values in means.items()},
        {site: values[at] for site, values in means.items()},
    )


def _residual(means: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([means["resid_attn"], means["resid_mlp"]], -2)
