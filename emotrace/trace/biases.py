"""Edits that add the same at every token, as biases of the projections that read their components."""

import torch

from emotrace.errors import PlanError
from emotrace.models.traced import Model
from emotrace.models.twin import twin, unsavable
from emotrace.trace.plan import Edit, Plan
from emotrace.trace.sites import COMPONENT_SITES


def with_biases(model: Model, plan: Plan) -> torch.nn.Module:
    """A plain Hugging Face model that computes what ``model`` does under ``plan``.

    Adding d to the input of a projection W adds W d to its output, so heads become a bias of the attention's output
    projection and neurons one of the down projection. Biases are summed in float64 and rounded once to the projection's
    dtype.

    Args:
        model: of this machine, its weights in memory.
        plan: additions at ``heads`` and ``neurons`` with ``tokens="all"``.

    Returns:
        The Hugging Face model: same class, same weights in memory (:func:`emotrace.models.twin.twin`), other biases.

    Raises:
        PlanError: another edit, or one that does not fit the model.
        CircuitError: the plan was made from a circuit of another model.
        ModelError: weights that are not in memory, or are stored quantised.
    """
    plan.check(model)
    biases: dict[tuple[str, int], torch.Tensor] = {}
    for edit in plan.edits:
        key = (edit.site, edit.layer)
        biases[key] = biases.get(key, 0) + _written(model, edit)
    original = model.nn._module
    made = twin(original, model.identity)
    paths = {id(module): path for path, module in original.named_modules()}
    for (site, layer), written in biases.items():
        envoy = {"heads": model.out_proj, "neurons": model.down_proj}[site][layer]
        projection = made.get_submodule(paths[id(envoy._module)])
        total = written + model.write_bias(site, layer)
        weight = envoy._module.weight
        projection.bias = torch.nn.Parameter(total.to(weight.device, weight.dtype), requires_grad=False)
    unsavable(
        made,
        f"save_pretrained would lose the biases that carry the circuit: no file of a {type(made).__name__} has to hold "
        "them. Save the circuit (circuit.save) and compile it again after loading",
    )
    return made


def _written(model: Model, edit: Edit) -> torch.Tensor:
    """What an edit adds to the output of its projection, float64 ``[D]``."""
    constant = edit.add is None or edit.add.ndim == 2
    if edit.site not in COMPONENT_SITES or edit.tokens != "all" or edit.scale != 1 or not constant or edit.dims:
        raise PlanError(
            f"edit of {edit.site} in layer {edit.layer} at tokens={edit.tokens!r} is no bias: only whole heads and "
            "neurons to which the same is added at all tokens compile"
        )
    if edit.add_later is not None and edit.add_later is not edit.add:
        raise PlanError(f"edit of {edit.site} in layer {edit.layer} adds something else at reply tokens: it is no bias")
    weight = model.write_weight(edit.site, edit.layer, edit.index)
    values = torch.zeros(weight.shape[1:], dtype=torch.float64) if edit.add is None else edit.add.double().cpu()
    return torch.einsum("dkw,kw->d", weight, values.expand(weight.shape[1:]))
