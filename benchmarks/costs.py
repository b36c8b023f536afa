"""What a run on a hosted model costs in traffic, from its configuration: `python -m benchmarks.costs`.

Bytes are of the numbers themselves, before compression; tests compare the formulas with what blocks really return.
"""

from collections.abc import Mapping

from emotrace.models.architectures import Sizes
from emotrace.trace.resample import resampled_bytes

HOSTED: Mapping[str, Sizes] = {
    "Llama-3.1-8B": Sizes(32, 32, 8, 128, 4096, 14336, 128256),
    "Llama-3.1-70B": Sizes(80, 64, 8, 128, 8192, 28672, 128256),
    "Llama-3.1-405B": Sizes(126, 128, 8, 128, 16384, 53248, 128256),
}
"""Sizes from each model's config.json."""
CONDITIONS, EMOTIONS, SCENARIOS = 7, 6, 20
PROMPTS, TOKENS = 1680, 100
"""Of sev-mini: 80 scenarios with three events, asked for in seven ways; about so many tokens with the reply."""
FLOAT64, FLOAT32, HALF = 8, 4, 2


def capture_bytes(sizes: Sizes, conditions: int = CONDITIONS) -> int:
    """Sums of the four sites and of the states' root mean square, at two places, in float64: each request."""
    return resampled_bytes(sizes, conditions, 0)


def states_bytes(sizes: Sizes, states: int = EMOTIONS * SCENARIOS) -> int:
    """Coordinates of both residual sites of some states, in float32."""
    return states * sizes.layers * 2 * min(states, sizes.width) * FLOAT32


def scores_bytes(sizes: Sizes, emotions: int = EMOTIONS) -> int:
    """Directions read back through every head and neuron, and the norms of what each writes, in float64."""
    columns = sizes.heads * sizes.head_width + sizes.neurons
    return (emotions + 1) * sizes.layers * columns * FLOAT64


def influence_bytes(sizes: Sizes, emotions: int = EMOTIONS, strengths: int = 4) -> int:
    """Movements of the readout for each sublayer, emotion and strength, in float64: each request."""
    return sizes.layers * 2 * emotions * strengths * FLOAT64


def downloaded_bytes(sizes: Sizes, prompts: int = PROMPTS, tokens: int = TOKENS) -> int:
    """The four sites of every token in half precision, for a client that reduces them itself."""
    width = sizes.heads * sizes.head_width + sizes.neurons + 2 * sizes.width
    return prompts * tokens * sizes.layers * width * HALF


def table() -> str:
    """Costs of the hosted models, as Markdown."""
    rows = {
        "`directions`: sums and counts, each request": capture_bytes,
        "`directions`: states for the picture of clusters": states_bytes,
        "`components`: directions read back, norms": scores_bytes,
        "`influence`: movements, each request": influence_bytes,
        "activations of the same prompts, for comparison": downloaded_bytes,
    }
    lines = ["| received by | " + " | ".join(HOSTED) + " |", "|---|" + "---:|" * len(HOSTED)]
    lines += [
        f"| {name} | " + " | ".join(readable(cost(sizes)) for sizes in HOSTED.values()) + " |"
        for name, cost in rows.items()
    ]
    return "\n".join(lines)


def readable(count: float) -> str:
    """Bytes to three digits.

    >>> readable(477_081_600), readable(1234)
    ('477 MB', '1.23 kB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


if __name__ == "__main__":
    print(table())
