"""Scores by really zeroing: the check on the closed form."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError, ModelError
from emotrace.ledger import Ledger
from emotrace.models.load import as_model
from emotrace.steps.directions import Directions
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.inputs import check_prompts, check_shape
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.variants import check_readout, zeroing_falls


def causal_scores(
    model: Any,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    directions: Directions,
    site: str,
    components: Mapping[int, Sequence[int]],
    *,
    readout: str = "residual",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> dict[tuple[str, int, int], float]:
    """Scores by really zeroing, averaged over each emotion's prompts: the check on the closed form.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids per emotion.
        directions: what the fall is read along.
        site: ``heads`` or ``neurons``.
        components: indices per layer.
        readout: ``residual``, or for heads ``normed``: after the norm that feeds the MLP.
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Returns:
        score per (emotion, layer, index).
    """
    wrapped = as_model(model)
    check_readout(wrapped, readout)
    if NEUTRAL in prompts:
        raise DataError("causal scores are taken on emotion prompts")
    if site not in wrapped.sites:
        raise ModelError(f"{wrapped.architecture.name} has no {site} as a site; it has {', '.join(wrapped.sites)}")
    missing = [emotion for emotion in directions.emotions if not prompts.get(emotion)]
    if missing:
        raise DataError(f"causal scores need prompts of every emotion, and {missing[0]!r} has none")
    for emotion in directions.emotions:
        check_prompts(wrapped, prompts[emotion])
    # a plan that does nothing names the same components, so its check is theirs
    Plan(tuple(Edit(site, layer, tuple(indices)) for layer, indices in components.items())).check(wrapped)
    check_shape(wrapped, "directions", directions.vectors.shape[1:], (wrapped.sizes.layers, 2, wrapped.sizes.width))
    sublayer = 0 if site == "heads" else 1
    asked = [(e, ids) for e, emotion in enumerate(directions.emotions) for ids in prompts[emotion]]
    sums = zeroing_falls(
        wrapped,
        [ids for _, ids in asked],
        [e for e, _ in asked],
        site,
        components,
        directions.vectors[:, :, sublayer],
        readout=readout,
        batch_tokens=batch_tokens,
        ledger=ledger,
    )
    return {
        (emotion, layer, index): float(sums[layer][e, at]) / len(prompts[emotion])
        for e, emotion in enumerate(directions.emotions)
        for layer, indices in components.items()
        for at, index in enumerate(indices)
    }
