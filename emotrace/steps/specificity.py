"""Does a circuit carry its own emotion, or any: what it does to the readings of the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emotrace.formulas.faithfulness import faithfulness
from emotrace.models.load import as_model
from emotrace.steps.circuit import EmotionCircuit
from emotrace.steps.quality import Bench, parts
from emotrace.trace.batches import pad_left
from emotrace.trace.inputs import check_prompts
from emotrace.trace.kept import Kept
from emotrace.trace.plan import Plan
from emotrace.trace.projections import plan_readings


def driven_readings(
    model: Any, prompts: Sequence[Sequence[int]], plans: Sequence[Plan], reference: torch.Tensor
) -> torch.Tensor:
    """Rise of every emotion's reading when a plan acts on neutral prompts, float64 ``[plans, R]``, mean over prompts.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids of neutral prompts.
        plans: P of them, as a circuit driven for each emotion.
        reference: ``[R, D]`` unit directions the final state (after the final norm) is read along.
    """
    wrapped = as_model(model)
    batch = pad_left(check_prompts(wrapped, prompts), wrapped.pad_token)
    found = plan_readings(wrapped, batch, [Plan(), *plans], reference)
    return (found[1:] - found[:1]).mean(1)


def removed_readings(bench: Bench, circuit: EmotionCircuit) -> torch.Tensor:
    """Share of each emotion's own reading that is lost when the circuit of one is ablated.

    Returns:
        float64 ``[E, E]``: rows are the circuit ablated, columns the emotion of the prompts; 1 means that the reading
        falls as far as with everything ablated, NaN that faithfulness is undefined for the emotion.
    """
    emotions = bench.emotions
    variants = {e: [[Kept(parts(circuit, e), outside=True)] * len(emotions)] for e in emotions}
    m = bench.read(variants, "specificity")
    kept = [
        faithfulness(np.stack([m[name][:, e] for name in emotions]), m["empty"][:, e], m["full"][:, e], seed=0).values
        for e in range(len(emotions))
    ]
    return torch.from_numpy(1 - np.stack(kept, 1))
