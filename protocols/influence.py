"""Which sublayers move the model's final reading of an emotion."""

from typing import Any, Literal

from emotrace.data.concepts import NEUTRAL
from emotrace.runner import Run, protocol
from emotrace.steps.directions import Directions
from emotrace.steps.elicit import Elicitation
from emotrace.steps.influence import ALPHAS, sublayer_influence


@protocol(needs=["directions"])
def influence(
    run: Run,
    *,
    prompts: int = 40,
    alphas: tuple[float, ...] = ALPHAS,
    readout: Literal["final_norm", "residual"] = "final_norm",
    gradient: bool = True,
) -> dict[str, Any]:
    """Push each sublayer along its direction on neutral prompts and watch the final state (Wang et al., section 5.1).

    Exact, on a shared prefix cache; the gradient, its limit for small pushes, is computed beside it and compared.
    `gradient=false` leaves it out: some servers have none.
    """
    found = run.open("directions", "directions", Directions)
    elicited = Elicitation.from_records(run.concepts.labels, run.records("elicit", "replies"))
    chosen = [r.prompt_ids for r in elicited.spread(NEUTRAL, prompts)]
    options: dict[str, Any] = {"readout": readout, "batch_tokens": run.batch_tokens, "ledger": run.ledger}
    exact = sublayer_influence(run.model, chosen, found, alphas=alphas, **options)
    run.save("influence", exact)
    agreement = None
    if gradient:
        limit = sublayer_influence(run.model, chosen, found, method="gradient", **options)
        both = [values.flatten() - values.mean() for values in (exact.values, limit.values)]
        agreement = float((both[0] @ both[1]) / (both[0].norm() * both[1].norm()))
    return {
        "emotions": list(found.emotions),
        "importance": {"attn": exact.values[:, :, 0].tolist(), "mlp": exact.values[:, :, 1].tolist()},
        "reference_layers": list(found.reference_layers),
        "alphas": list(alphas),
        "readout": readout,
        "prompts": len(chosen),
        "agreement_gradient": agreement,
    }
