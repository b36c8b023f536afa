"""Plans made by name: zero, scale, set, add, mean, patch.

Components are given by site: ``heads`` and ``neurons`` as (layer, index) pairs, ``attn_out``, ``resid_attn``,
``mlp_out`` and ``resid_mlp`` as layers (DESIGN's words; ``emotrace.trace.sites`` has their order of execution).
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from emotrace.errors import PlanError, shown
from emotrace.trace.capture import Statistics
from emotrace.trace.plan import Component, Edit, Plan, by_layer
from emotrace.trace.record import Activations
from emotrace.trace.sites import COMPONENT_SITES, SITES
from emotrace.trace.tokens import Tokens

Values = Mapping[Any, torch.Tensor]


def zero(
    *,
    heads: Iterable[Component] = (),
    neurons: Iterable[Component] = (),
    attn_out: Iterable[int] = (),
    resid_attn: Iterable[int] = (),
    mlp_out: Iterable[int] = (),
    resid_mlp: Iterable[int] = (),
    dims: Sequence[int] | None = None,
    tokens: Tokens = "all",
) -> Plan:
    """Set components to zero, whatever they were (a NaN too).

    Args:
        heads: (layer, head) pairs.
        neurons: (layer, neuron) pairs.
        attn_out: layers whose attention shall add nothing.
        resid_attn: layers whose residual stream after attention is meant.
        mlp_out: layers whose MLP shall add nothing.
        resid_mlp: layers whose residual stream after the MLP is meant.
        dims: only these coordinates of each component.
        tokens: where it acts.

    >>> plan = zero(heads=[(3, 1), (4, 0)]) + zero(neurons=[(3, 17)], tokens="last") + zero(mlp_out=[2])
    >>> [(edit.site, edit.layer, edit.index, edit.tokens) for edit in plan.edits]
    [('heads', 3, (1,), 'all'), ('heads', 4, (0,), 'all'), ('neurons', 3, (17,), 'last'), ('mlp_out', 2, (), 'all')]
    """
    places = _named(heads, neurons, attn_out, resid_attn, mlp_out, resid_mlp)
    return _scaled(0.0, places, dims, tokens)


def scale(
    factor: float,
    *,
    heads: Iterable[Component] = (),
    neurons: Iterable[Component] = (),
    attn_out: Iterable[int] = (),
    resid_attn: Iterable[int] = (),
    mlp_out: Iterable[int] = (),
    resid_mlp: Iterable[int] = (),
    dims: Sequence[int] | None = None,
    tokens: Tokens = "all",
) -> Plan:
    """Multiply components by ``factor``; the other arguments are those of :func:`zero`."""
    return _scaled(factor, _named(heads, neurons, attn_out, resid_attn, mlp_out, resid_mlp), dims, tokens)


def set(values: Values, site: str, *, dims: Sequence[int] | None = None, tokens: Tokens = "all") -> Plan:
    """Set components of ``site`` to given values.

    Args:
        values: by (layer, index) at ``heads`` and ``neurons``, by layer elsewhere. A value is ``[W]``, for every row
            and token; ``[P, W]``, one for each of P tokens named by index or span; or ``[B, P, W]`` (or ``[B, 1, W]``),
            one for each row of a batch. W is the component's width, or the number of ``dims``. A neuron is one number:
            its values have no last axis: ``[]``, ``[P]``, ``[B, P]``.
        site: one of ``heads``, ``attn_out``, ``resid_attn``, ``neurons``, ``mlp_out``, ``resid_mlp``.
        dims: only these coordinates of each component.
        tokens: where it acts.

    Raises:
        PlanError: an unknown site, or values whose shapes differ.

    >>> set({(3, 1): torch.zeros(16)}, "heads", tokens="last").edits[0].add.shape
    torch.Size([1, 16])
    """
    return _valued(values, site, 0.0, dims, tokens)


def add(
    values: Values,
    site: str,
    *,
    strength: float = 1.0,
    later: Values | None = None,
    dims: Sequence[int] | None = None,
    tokens: Tokens = "reply",
) -> Plan:
    """Add ``strength`` times values to components of ``site``; ``values``, ``site`` and ``dims`` as for :func:`set`.

    Args:
        values: what is added.
        site: where.
        strength: multiplies the values; 0 is no edit, bit for bit.
        later: with ``tokens="reply"`` or ``"all"``, other values for reply tokens fed back.
        dims: only these coordinates of each component.
        tokens: where it acts.
    """
    return _valued(values, site, 1.0, dims, tokens, strength=strength, later=later)


def mean(
    statistics: Statistics,
    *,
    condition: str | None = None,
    place: str = "last",
    heads: Iterable[Component] = (),
    neurons: Iterable[Component] = (),
    resid_attn: Iterable[int] = (),
    resid_mlp: Iterable[int] = (),
    tokens: Tokens = "all",
) -> Plan:
    """Set components to their captured means.

    Args:
        statistics: from :func:`emotrace.capture`.
        condition: whose mean, as ``"neutral"``; None for the mean over all samples.
        place: ``last`` prompt token, or ``reply`` tokens.
        heads: (layer, head) pairs.
        neurons: (layer, neuron) pairs.
        resid_attn: layers.
        resid_mlp: layers.
        tokens: where it acts.

    Raises:
        PlanError: an unknown condition or place, or a component outside the statistics.
    """
    if not isinstance(statistics, Statistics):
        raise PlanError(f"means are taken from emotrace.capture's Statistics, not from {shown(statistics)}")
    if condition is not None and condition not in statistics.conditions:
        raise PlanError(f"the statistics hold no {condition!r}; they hold {', '.join(statistics.conditions)}")
    if place not in ("last", "reply"):
        raise PlanError(f"means are captured at 'last' and 'reply', not {place!r}")
    counts = (statistics.count if place == "last" else statistics.reply_count).double()
    if condition is not None:
        counts = torch.tensor([name == condition for name in statistics.conditions]).double() * counts
    if not bool(counts.any()):
        raise PlanError(f"the statistics hold no {place} samples to take a mean of")
    plan = Plan()
    for site, components in _named(heads, neurons, (), resid_attn, (), resid_mlp).items():
        if not components:
            continue
        means = torch.tensordot(counts / counts.sum(), statistics.at(place)[site], dims=1)
        try:
            picked = {key: means[key] for key in components}
        except IndexError:
            raise PlanError(f"{site}: {components} lie outside the statistics of {tuple(means.shape)}") from None
        plan = plan + set(picked, site, tokens=tokens)
    return plan


def patch(
    activations: Activations,
    *,
    heads: Iterable[Component] = (),
    neurons: Iterable[Component] = (),
    attn_out: Iterable[int] = (),
    resid_attn: Iterable[int] = (),
    mlp_out: Iterable[int] = (),
    resid_mlp: Iterable[int] = (),
    dims: Sequence[int] | None = None,
    tokens: Tokens | None = None,
) -> Plan:
    """Set components to another run's activations, token by token.

    Args:
        activations: from :func:`emotrace.record`. Of one prompt, they go to every row; of several, row i takes prompt
            i's, and the batch must have as many rows.
        heads: (layer, head) pairs; all that were recorded, when nothing is named at any site.
        neurons: (layer, neuron) pairs.
        attn_out: layers.
        resid_attn: layers.
        mlp_out: layers.
        resid_mlp: layers.
        dims: only these coordinates of each component.
        tokens: as many target tokens as were recorded; by default the same ones, counted from the right.

    Raises:
        PlanError: a component that was not recorded, or no tokens named where the recorded ones differ between prompts.
    """
    if not isinstance(activations, Activations):
        raise PlanError(f"patches are made of emotrace.record's Activations, not of {shown(activations)}")
    named = _named(heads, neurons, attn_out, resid_attn, mlp_out, resid_mlp)
    wanted = named if any(named.values()) else {site: list(keys) for site, keys in activations.components.items()}
    where = activations.shared_tokens() if tokens is None else tokens
    plan = Plan()
    for site, components in wanted.items():
        if components:
            values = {component: activations.of(site, component) for component in components}
            part = _dims(dims)
            if part is not None:
                width = activations.values[site].shape[-1]
                if not all(0 <= dim < width for dim in part):
                    raise PlanError(f"patch of {site}: dims go from 0 to {width - 1}, got {part}")
                values = {key: value[..., list(part)] for key, value in values.items()}
            plan = plan + set(values, site, dims=dims, tokens=where)
    return plan


def _named(*components: Iterable[Any]) -> dict[str, list[Any]]:
    """Components by site, in the order of the arguments of :func:`zero`; layer numbers checked and made plain."""
    sites = ("heads", "neurons", "attn_out", "resid_attn", "mlp_out", "resid_mlp")
    named: dict[str, list[Any]] = {}
    for site, given in zip(sites, components, strict=True):
        layers = by_layer(given, site)
        named[site] = (
            [(layer, i) for layer, ids in layers.items() for i in ids] if site in COMPONENT_SITES else [*layers]
        )
    return named


def _scaled(factor: float, places: Mapping[str, list[Any]], dims: Sequence[int] | None, tokens: Tokens) -> Plan:
    part = _dims(dims)
    return Plan(
        tuple(
            Edit(site, layer, index, part, scale=factor, tokens=tokens)
            for site, components in places.items()
            for layer, index in by_layer(components, site).items()
        )
    )


def _valued(
    values: Values,
    site: str,
    factor: float,
    dims: Sequence[int] | None,
    tokens: Tokens,
    *,
    strength: float = 1.0,
    later: Values | None = None,
) -> Plan:
    if not isinstance(site, str) or site not in SITES:
        raise PlanError(f"unknown site {shown(site)}: choose one of {', '.join(SITES)}")
    if not isinstance(values, Mapping):
        raise PlanError(f"values at {site} are a {type(values).__name__}; give a mapping from components to tensors")
    if later is not None and {*later} != {*values}:
        raise PlanError(f"values at {site} for the prompt and for the reply name different components")
    if not isinstance(strength, int | float):
        raise PlanError(f"strength is {shown(strength)}; give one number")
    part = _dims(dims)

    def stacked(source: Values, layer: int, index: tuple[int, ...]) -> torch.Tensor:
        keys = [(layer, i) for i in index] if site in COMPONENT_SITES else [layer]
        parts = [_tensor(source[key], site, layer) for key in keys]
        if len({part.shape for part in parts}) > 1:
            raise PlanError(f"values at {site} of layer {layer} differ in shape: {[tuple(p.shape) for p in parts]}")
        return strength * torch.stack(parts, -2)

    return Plan(
        tuple(
            Edit(
                site,
                layer,
                index,
                part,
                scale=factor,
                add=stacked(values, layer, index),
                add_later=None if later is None else stacked(later, layer, index),
                tokens=tokens,
            )
            for layer, index in by_layer(values, site).items()
        )
    )


def _dims(dims: Any) -> tuple[int, ...] | None:
    if dims is None:
        return None
    try:
        return tuple(operator.index(dim) for dim in dims)
    except TypeError:
        raise PlanError(f"dims are {shown(dims)}; give whole numbers, as (0, 1)") from None


def _tensor(value: Any, site: str, layer: int) -> torch.Tensor:
    """A value as a float64 tensor on the CPU, ``[..., W]``; a neuron's number gets its width axis of one."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise PlanError(f"values at {site} of layer {layer} are a {type(value).__name__}, not a tensor") from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise PlanError(f"values at {site} of layer {layer} are {tensor.dtype}; give floating-point numbers")
    tensor = tensor.double().cpu()
    if site != "neurons":
        return tensor if tensor.ndim else tensor[None]
    return tensor if tensor.ndim == 1 and len(tensor) == 1 else tensor[..., None]
