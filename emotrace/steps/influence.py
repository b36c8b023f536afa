"""How much each sublayer's push along its direction moves the model's final reading of the emotion."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from emotrace.artifacts import Artifact
from emotrace.errors import DataError
from emotrace.ledger import Ledger, Sums
from emotrace.models.load import as_model
from emotrace.steps.directions import Directions
from emotrace.trace.attribute import readout_gradients
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.inputs import check_prompts, check_shape
from emotrace.trace.requests import Batches, folded
from emotrace.trace.suffix import READOUTS, injected_shifts

ALPHAS = (0.1, 0.3, 0.5, 0.7)
METHODS = ("exact", "gradient")


@dataclass(frozen=True)
class Influence(Artifact):
    """Influence of every sublayer.

    Attributes:
        emotions: E names.
        values: float64 ``[E, L, 2]``, fall or rise of the readout per unit of what was added.
        readout: ``final_norm`` or ``residual``.
        method: ``exact`` or ``gradient``.
        alphas: strengths in units of sigma (empty for the gradient method).
        prompts: number of neutral prompts averaged over.
    """

    emotions: tuple[str, ...]
    values: torch.Tensor
    readout: str
    method: str
    alphas: tuple[float, ...]
    prompts: int


def sublayer_influence(
    model: Any,
    prompts: Sequence[Sequence[int]],
    directions: Directions,
    *,
    alphas: Sequence[float] = ALPHAS,
    readout: str = "final_norm",
    method: str = "exact",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ledger: Ledger | None = None,
) -> Influence:
    """Influence ``I[e, l, p]`` on neutral prompts (README, The method; Wang et al. 2025, section 5.1).

    Exact: alpha * sigma * v is added to what the sublayer adds at the last token, and the shift of the final state
    along the reference direction is divided by alpha * sigma and averaged over prompts and alphas. Only the last token
    is recomputed, on a shared prefix cache, from the injected layer upward, all variants of a layer in one batch. With
    readout="residual" the last MLP's influence is exactly v . v_ref. Gradient: the limit of vanishing alpha.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids of neutral prompts.
        directions: directions and sigma of the same model.
        alphas: strengths.
        readout: after the final norm, or the residual stream in front of it.
        method: ``exact`` or ``gradient``.
        batch_tokens: token budget; for the exact method a prompt counts its length plus its variants.
        ledger: keeps finished batches.

    Raises:
        DataError: no prompts or malformed ones, directions of another model, an unknown readout or method, or an alpha
            that is not positive.
    """
    model, alphas = as_model(model), tuple(alphas)
    if not prompts:
        raise DataError("influence needs at least one neutral prompt")
    if readout not in READOUTS or method not in METHODS:
        raise DataError(f"choose readout from {READOUTS} and method from {METHODS}, got {readout!r} and {method!r}")
    if not alphas or not all(alpha > 0 and isfinite(alpha) for alpha in alphas):
        raise DataError(f"alphas must be positive, got {tuple(alphas)}")
    prompts = check_prompts(model, prompts)
    shape = (model.sizes.layers, 2, model.sizes.width)
    check_shape(model, "directions", directions.vectors.shape[1:], shape)
    variants = len(directions.emotions) * len(alphas) * 2
    lengths = [len(ids) + (variants if method == "exact" else 0) for ids in prompts]
    strengths = torch.tensor(alphas, dtype=torch.float64)
    sizes = strengths[:, None, None] * directions.sigma

    def work(batches: Batches) -> Sums:
        chosen = [[prompts[row] for row in rows] for rows in batches]
        if method == "gradient":
            gradients = readout_gradients(model, chosen, directions.reference, readout)
            return {"influence": (gradients * directions.vectors).sum(-1)}
        moved = injected_shifts(model, chosen, directions.vectors, sizes, directions.reference, readout)
        return {"influence": (moved / sizes.permute(1, 2, 0)[:, :, None]).mean(-1).permute(2, 0, 1)}

    sums = folded(model, f"influence_{method}_{readout}", lengths, batch_tokens, work, ledger)
    used = tuple(alphas) if method == "exact" else ()
    return Influence(directions.emotions, sums["influence"] / len(prompts), readout, method, used, len(prompts))
