"""Where each model family keeps its parts: one table row per family, and one model's sizes read through its row."""

from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

from emotrace.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Module paths of one family; block paths are relative to a block.

    Attributes:
        blocks: the list of transformer blocks.
        out_proj: the attention's output projection: its input holds the heads, its output is what attention adds.
        down_proj: the MLP's down projection: its input holds the neurons, its output is what the MLP adds.
        mid_norm: the norm whose input is the residual stream after attention's add.
        final_norm: the norm in front of the unembedding: its input is the last block's residual stream.
        embeddings: the token embeddings.
    """

    name: str
    blocks: str = "model.layers"
    out_proj: str = "self_attn.o_proj"
    down_proj: str = "mlp.down_proj"
    mid_norm: str = "post_attention_layernorm"
    final_norm: str = "model.norm"
    embeddings: str = "model.embed_tokens"


FAMILIES: dict[str, Family] = {name: Family(name) for name in ("llama", "mistral", "qwen2", "qwen3")}


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model: L blocks, H query heads of ``head_width``, residual width D, MLP width F, vocabulary."""

    layers: int
    heads: int
    head_width: int
    width: int
    neurons: int
    vocabulary: int

    def count(self, site: str) -> int:
        """Number of components at ``"heads"`` or ``"neurons"`` over all layers."""
        return self.layers * {"heads": self.heads, "neurons": self.neurons}[site]

    def differences(self, other: "Sizes") -> list[str]:
        """Sizes that differ, as ``name: mine, theirs``."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {mine}, {theirs}" for name, mine, theirs in pairs if mine != theirs]


def submodule(root: Any, path: str) -> Any:
    """``root`` followed along a dotted path; works on torch modules and on nnsight's envoys alike."""
    return reduce(getattr, path.split("."), root)


def family_of(model_type: str, module_names: list[str]) -> Family:
    """The family's row; raises ``ModelError`` naming the modules found and the row to add for an unknown family."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    shown = ", ".join(module_names[:12])
    raise ModelError(
        f"model family {model_type!r} is not in the table (known: {', '.join(sorted(FAMILIES))}). "
        f"Modules found: {shown}. "
        f"Add a row: emotrace.models.architectures.FAMILIES[{model_type!r}] = Family({model_type!r}, blocks=..., "
        "out_proj=..., down_proj=..., mid_norm=..., final_norm=..., embeddings=...)"
    )


def sizes_of(module: Any, family: Family, config: Any) -> Sizes:
    """Sizes of ``module`` (torch modules, also on the meta device), checked for agreement across blocks.

    The head width is the output projection's input over the number of heads, which differs from D / H in many models.
    """
    blocks = submodule(module, family.blocks)
    out_proj, down_proj = (submodule(blocks[0], path) for path in (family.out_proj, family.down_proj))
    heads = int(config.num_attention_heads)
    if out_proj.in_features % heads:
        raise ModelError(
            f"{family.name}: output projection takes {out_proj.in_features} values, not a multiple of {heads}"
        )
    return Sizes(
        layers=len(blocks),
        heads=heads,
        head_width=out_proj.in_features // heads,
        width=out_proj.out_features,
        neurons=down_proj.in_features,
        vocabulary=int(config.vocab_size),
    )
