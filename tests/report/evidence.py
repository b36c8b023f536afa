"""Summaries of the stages ``quality`` and ``stability`` with made-up but realistic numbers."""

from typing import Any

SHARES = [0.0, 0.01, 0.1, 0.5, 1.0]


def quality(emotions: tuple[str, ...]) -> dict[str, Any]:
    """One ablation is undefined at every token, so that the page has to say so."""

    def curve(best: list[float], random: list[float], circuit: float) -> dict[str, Any]:
        areas = {name: [0.7, 0.65, 0.75] for name in ("cpr", "cmd_linear", "cpr_log", "cmd_log")}
        return {
            "shares": SHARES,
            "full": 5.3,
            "empty": -1.2,
            "faithfulness": best,
            "band": [[v - 0.05, v + 0.05] for v in best],
            "random": random,
            "random_band": [[v - 0.05, v + 0.05] for v in random],
            "areas": areas,
            "random_areas": areas,
            "circuit": {"faithfulness": circuit, "ci": [circuit - 0.02, circuit + 0.02]},
            "by_emotion": {e: {"faithfulness": best, "areas": areas} for e in emotions},
        }

    def against(circuit: float, random: float, p: float) -> dict[str, Any]:
        return {
            "circuit": circuit,
            "ci": [circuit - 0.01, circuit + 0.01],
            "random_mean": random,
            "random_range": [random - 0.05, random + 0.02],
            "draws": 39,
            "p": p,
            "by_emotion": {e: {"circuit": circuit, "random_mean": random, "p": p} for e in emotions},
        }

    undefined = {"shares": SHARES, "full": 0.1, "empty": 0.0, "undefined": "the whole model's measure is 0.1 above"}
    last = {
        "zero": curve([0, 0.5, 0.6, 0.7, 1], [0, 0.0, -0.1, 0.2, 1], 0.4),
        "mean": curve([0, 0.08, 0.6, 0.63, 1], [0, 0.0, 0.02, 0.3, 1], 0.126),
    }
    judged = {
        "nothing ablated": {"accuracy": 1.0, "ci": [0.9, 1.0], "n": 60},
        "circuit removed": {"accuracy": 0.375, "ci": [0.2, 0.6], "n": 60},
    }
    single = {"site": "heads", "layer": 4, "index": 7, "drop": 0.65, "p": 0.0003}
    return {
        "scenarios": 15,
        "prompts": 90,
        "tested": "mean",
        "share": 0.025,
        "tokens": {
            "all": {"faithfulness": {"zero": undefined, "mean": curve([0, 0, 0.1, 0.2, 1], [0, 0, 0, 0.1, 1], 0.01)}}
            | _tests(against(0.01, 0.0, 0.2), against(0.3, 0.96, 0.025)),
            "last": {"faithfulness": last} | _tests(against(0.126, 0.009, 0.025), against(0.302, 0.959, 0.025)),
        },
        "minimality": {
            "zero": {e: {"undefined": "the whole model's measure is 0.1 above"} for e in emotions},
            "mean": {
                e: {
                    "heads": {"components": 4, "needed": 1, "detected": 2},
                    "neurons": {"components": 76, "needed": 4, "detected": 40},
                    "largest": [single, single | {"site": "neurons", "layer": 6, "index": 116, "drop": 0.1}],
                }
                for e in emotions
            },
        },
        "best_heads": {e: [single, single | {"layer": 7, "drop": 0.0, "p": 0.9}] for e in emotions},
        "specificity": {
            "driven": [[5.0 if i == j else -1.0 for j in range(len(emotions))] for i in range(len(emotions))],
            "removed": [
                [None if j == 5 else 0.8 if i == j else 0.7 for j in range(len(emotions))] for i in range(len(emotions))
            ],
        },
        "judged": {"replies": {"named": judged, "implied": {"nothing ablated": judged["nothing ablated"]}}},
    }


def _tests(sufficiency: dict[str, Any], necessity: dict[str, Any]) -> dict[str, Any]:
    cell = {"faithfulness": 0.3, "ci": [0.29, 0.31]}
    return {
        "sufficiency": sufficiency,
        "necessity": necessity,
        "completeness": {
            "zero": {"undefined": "the whole model's measure is 0.1 above"},
            "mean": {
                "sets": ["all heads", "half 1"],
                "circuit": [-0.08, 0.04],
                "model": [0.29, 0.56],
                "mean_gap": 0.45,
                "largest_gap": 0.52,
            },
        },
        "wordings": {
            "named": dict.fromkeys(("alone", "alone_random", "removed", "removed_random"), cell),
            "implied": {"undefined": "the whole model's measure is 0.1 above"},
        },
    }


def stability(emotions: tuple[str, ...]) -> dict[str, Any]:
    def part(jaccard: float) -> dict[str, Any]:
        each = {"by_emotion": dict.fromkeys(emotions, jaccard)}
        return {
            "chance": 0.03,
            "jaccard": {"mean": jaccard, "spread": [jaccard - 0.05, min(jaccard + 0.02, 1.0)], **each},
            "rank_correlation": {"mean": 0.95, "spread": [0.9, 0.99], **each},
        }

    return {
        "draws": 20,
        "scenarios": 80,
        "sources": {
            "scenarios": {"heads": part(1.0), "neurons": part(0.97)},
            "paraphrase": {"heads": part(0.69), "neurons": part(0.66)},
            "implied": {"heads": part(0.48), "neurons": part(0.5)},
        },
    }
