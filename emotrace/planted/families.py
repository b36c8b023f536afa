"""What differs between the families that can be planted: how large queries and keys are for attention to be certain."""

from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, Qwen3Config

from emotrace.errors import ModelError

MARGIN = 40.0
"""Attention logit of the emotion's word, at least half of it at the far end of the reach; others' are near 0."""
FAMILIES: tuple[type, ...] = (LlamaConfig, Qwen3Config)


@dataclass(frozen=True)
class Certainty:
    """Sizes at a reserved coordinate of queries and keys: what the projections give, and the gain of norms behind them.

    Attributes:
        query: of a planted group's queries, positive to attend, negative to avoid.
        key: of the key at the emotion's word.
        gain: of norms on queries and keys at that coordinate; None in families without them.
    """

    query: float
    key: float
    gain: float | None


def check_family(given: Any) -> None:
    """Raise ``ModelError`` for a configuration of another family, or with parts that the construction lacks."""
    kind = type(given).__name__
    if not isinstance(given, FAMILIES):
        names = " or ".join(family.__name__ for family in FAMILIES)
        raise ModelError(f"planted models are built from a {names}, not from a {kind}")
    config: Any = given
    if config.tie_word_embeddings:
        raise ModelError(f"{kind}: a planted model needs an unembedding of its own; set tie_word_embeddings=False")
    if config.hidden_act not in ("silu", "swish"):
        raise ModelError(f"{kind}: planted neurons are computed for silu; hidden_act is {config.hidden_act!r}")
    if getattr(config, "use_sliding_window", False):
        raise ModelError(f"{kind}: planted heads look back to the instruction; set use_sliding_window=False")


def certainty(config: Any, head_width: int, ordinary: float, sharing: int) -> Certainty:
    """Sizes that give a planted head's word the logit ``MARGIN``, and minus that to words it looks past.

    Llama: query times key over the root of the head's width. Qwen3 brings each query and key to the root mean square 1
    first, whatever the projections give, so what a reserved coordinate gets is its share and the norms' gain there.
    Half of a query's square is one reserved coordinate; of the key at an emotion's name nearly all is reserved ones of
    equal size.

    Args:
        config: decides the family.
        head_width: d.
        ordinary: root mean square of ordinary queries and keys.
        sharing: the most planted heads that share keys; each has a reserved coordinate, and there is one more.
    """
    root = head_width**0.5
    if isinstance(config, LlamaConfig):
        size = (MARGIN * root) ** 0.5
        return Certainty(size, size, None)
    query, key = root / 2**0.5, root / (sharing + 1) ** 0.5
    return Certainty(ordinary * root, 8 * ordinary * root, (MARGIN * root / (query * key)) ** 0.5)
