"""Results of circuit quality as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotrace.formulas.faithfulness import Ratio
from emotrace.steps.necessity import AgainstRandom, Completeness, Singles
from emotrace.steps.quality import FaithfulnessCurve


def values_record(names: Sequence[str], ratio: Ratio) -> dict[str, Any]:
    """Faithfulness with its interval by name, or why it is undefined."""
    if ratio.undefined:
        return {"undefined": ratio.undefined}
    rows = zip(names, ratio.values.tolist(), ratio.low.tolist(), ratio.high.tolist(), strict=True)
    return {name: {"faithfulness": value, "ci": [low, high]} for name, value, low, high in rows}


def curve_record(curve: FaithfulnessCurve) -> dict[str, Any]:
    """A curve with its bands and areas; without them, where faithfulness is undefined, the reason."""
    summary: dict[str, Any] = {"shares": list(curve.shares), "full": curve.full, "empty": curve.empty}
    if curve.best.undefined:
        return summary | {"undefined": curve.best.undefined}
    return summary | {
        "faithfulness": curve.best.values.tolist(),
        "band": _band(curve.best),
        "random": curve.random.values.tolist(),
        "random_band": _band(curve.random),
        "areas": _areas(curve.best),
        "random_areas": _areas(curve.random),
        "circuit": values_record(("circuit",), curve.circuit)["circuit"],
        "by_emotion": {
            emotion: {"undefined": ratio.undefined}
            if ratio.undefined
            else {"faithfulness": ratio.values.tolist(), "areas": _areas(ratio)}
            for emotion, ratio in curve.by_emotion.items()
        },
    }


def against_record(found: AgainstRandom) -> dict[str, Any]:
    """The circuit beside random ones, over all emotions and emotion by emotion."""
    if found.circuit.undefined:
        return {"undefined": found.circuit.undefined}
    return {
        "circuit": float(found.circuit.values[0]),
        "ci": [float(found.circuit.low[0]), float(found.circuit.high[0])],
        "random_mean": float(found.random.mean()),
        "random_range": [float(found.random.min()), float(found.random.max())],
        "draws": len(found.random),
        "p": found.p,
        "by_emotion": {
            emotion: {"circuit": own, "random_mean": other, "p": p}
            for emotion, (own, other, p) in found.by_emotion.items()
            if np.isfinite(p)
        },
    }


def completeness_record(found: Completeness) -> dict[str, Any]:
    """f without the same components, of circuit and model, and the gaps; without values the reason."""
    if found.undefined:
        return {"undefined": found.undefined}
    return {
        "sets": list(found.names),
        "circuit": found.circuit.tolist(),
        "model": found.model.tolist(),
        "mean_gap": float(found.gaps.mean()),
        "largest_gap": float(found.gaps.max()),
    }


def singles_records(found: Singles) -> list[dict[str, Any]]:
    """One record per component; none where f is undefined."""
    if found.undefined:
        return []
    return [
        {"site": site, "layer": layer, "index": index, "drop": float(drop), "p": float(p)}
        for (site, layer, index), drop, p in zip(found.components, found.drops, found.p, strict=True)
    ]


def needed_record(found: Singles, largest: int = 10) -> dict[str, Any]:
    """How many components of each kind the circuit needs, and what costs most; or why that is not known."""
    if found.undefined:
        return {"undefined": found.undefined}
    sites = [site for site, _, _ in found.components]
    counts = {
        site: {
            "components": sites.count(site),
            **{
                name: sum(bool(n) for s, n in zip(sites, values, strict=True) if s == site)
                for name, values in (("needed", found.needed), ("detected", found.detected))
            },
        }
        for site in dict.fromkeys(sites)
    }
    return {**counts, "largest": sorted(singles_records(found), key=lambda record: -record["drop"])[:largest]}


def _band(ratio: Ratio) -> list[list[float]]:
    band: list[list[float]] = np.stack([ratio.low, ratio.high], -1).tolist()
    return band


def _areas(ratio: Ratio) -> dict[str, list[float]]:
    return {name: list(triple) for name, triple in ratio.areas.items()}
