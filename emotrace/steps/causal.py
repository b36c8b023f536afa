"""Scores by really zeroing: the check on the closed form."""

from collections.abc import Mapping, Sequence
from typing import Any

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import DataError, ModelError
from emotrace.ledger import Ledger, MemoryLedger, Record
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
        ledger: keeps finished batches (one per emotion and prompt).

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
    batches = [(emotion, tuple(ids)) for emotion in directions.emotions for ids in prompts[emotion]]

    def work(batch: tuple[str, tuple[int, ...]]) -> list[Record]:
        emotion, ids = batch
        vectors = directions.vectors[directions.emotions.index(emotion), :, sublayer]
        falls = {
            layer: zeroing_falls(
                wrapped, ids, site, layer, indices, vectors[layer], readout=readout, batch_tokens=batch_tokens
            ).tolist()
            for layer, indices in components.items()
        }
        return [
            {"emotion": emotion, "layer": layer, "index": index, "fall": fall}
            for layer, indices in components.items()
            for index, fall in zip(indices, falls[layer], strict=True)
        ]

    totals: dict[tuple[str, int, int], float] = {}
    for record in (ledger or MemoryLedger()).map(f"causal_{site}", batches, work):
        key = (record["emotion"], record["layer"], record["index"])
        totals[key] = totals.get(key, 0.0) + record["fall"]
    return {key: total / len(prompts[key[0]]) for key, total in totals.items()}
