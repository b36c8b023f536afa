"""Statistics of resampled scenarios, accumulated in the pass that captures them all."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emotrace.errors import DataError, shown
from emotrace.ledger import Ledger
from emotrace.models.architectures import Sizes
from emotrace.models.load import as_model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.capture import Sample, Statistics, captured, check_samples

MOST_BYTES = 2**31
FLOAT64 = 8


def capture_resampled(
    model: Any,
    samples: Sequence[Sample],
    conditions: Sequence[str],
    clusters: Sequence[str],
    *,
    resamples: int = 20,
    seed: int = 0,
    most_bytes: int = MOST_BYTES,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> list[Statistics]:
    """Statistics of all samples, and of ``resamples`` Poisson bootstrap draws of their clusters, in one pass.

    In every draw a cluster (a scenario) counts as often as a Poisson number of mean 1 says, which its name and the seed
    decide: so the draws of shards are the same draws, and add up (:meth:`Statistics.plus`).

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        samples: as for :func:`emotrace.capture`.
        conditions: their names.
        clusters: each sample's cluster, ``skeleton_id`` of its scenario.
        resamples: draws.
        seed: of the draws.
        most_bytes: what the statistics may take together (:func:`resampled_bytes`).
        batch_tokens: token budget of a batch.
        ledger: keeps finished batches.

    Returns:
        Statistics of all samples, then of each draw. A condition that a draw leaves empty has count 0.

    Raises:
        DataError: as :func:`emotrace.capture`, as many clusters as samples are not given, or they take too much memory.
    """
    wrapped = as_model(model)
    check_samples(wrapped, samples, conditions)
    if len(clusters) != len(samples):
        raise DataError(f"{len(clusters)} clusters for {len(samples)} samples: give one for each")
    if type(resamples) is not int or resamples < 1:
        raise DataError(f"resamples is {shown(resamples)}: give a whole number from 1")
    needed, each = (resampled_bytes(wrapped.sizes, len(conditions), n) for n in (resamples, 0))
    if needed > most_bytes:
        fitting = max(0, most_bytes // each - 1)
        raise DataError(
            f"statistics of {resamples} resamples take {needed / 1e9:.2f} GB, more than the {most_bytes / 1e9:.2f} GB "
            f"allowed: ask for {fitting} at most, or raise most_bytes"
        )
    drawn = {name: poisson_draws(name, resamples, seed) for name in dict.fromkeys(clusters)}
    times = torch.stack([drawn[name] for name in clusters], 1)
    whole = torch.ones(1, len(samples), dtype=times.dtype)
    name = f"capture_resampled_{resamples}_{seed}"
    return captured(wrapped, samples, conditions, torch.cat([whole, times]), name, batch_tokens, ledger)


def poisson_draws(cluster: str, resamples: int, seed: int) -> torch.Tensor:
    """How often a cluster is in each draw, int64 ``[resamples]``; more draws begin with the same ones."""
    digest = hashlib.sha256(f"{seed} {cluster}".encode()).digest()
    return torch.from_numpy(np.random.default_rng(int.from_bytes(digest[:8], "big")).poisson(1.0, resamples))


def resampled_bytes(sizes: Sizes, conditions: int, resamples: int) -> int:
    """Bytes of the accumulators: float64 sums at two places, for all samples and each draw."""
    width = sizes.heads * sizes.head_width + sizes.neurons + 2 * sizes.width + 2
    return (1 + resamples) * 2 * conditions * sizes.layers * width * FLOAT64
