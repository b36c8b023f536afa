"""Where each model family keeps its parts: one table row per family, and one model's sizes read through its row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

from emotrace.errors import ModelError, shown


@dataclass(frozen=True)
class NormKind:
    """How a family's norms compute ``gain * (x - centre) / sqrt(mean((x - centre)^2) + eps)``.

    Attributes:
        centred: the mean is taken off first (LayerNorm); RMSNorm does not.
        gain_offset: added to the norm's weight to give the gain (1 in Gemma).
        eps: the norm module's attribute that holds epsilon.
    """

    centred: bool = False
    gain_offset: float = 0.0
    eps: str = "variance_epsilon"


RMS = NormKind()
OFFSET_RMS = NormKind(gain_offset=1.0, eps="eps")
LAYER = NormKind(centred=True, eps="eps")


@dataclass(frozen=True)
class Architecture:
    """Module paths of one family; all but the last two are relative to a block. Attention runs before the MLP.

    Query heads are numbered as the output projection reads them, so grouped key-value heads need no entry: query head
    h shares its keys and values with the others of ``h // (H / key_value_heads)``.

    Attributes:
        name: the config's ``model_type``.
        blocks: the list of transformer blocks.
        out_proj: the attention's output projection: its input holds the heads.
        down_proj: the MLP's down projection: its input holds the neurons. None for a mixture of experts, whose experts
            are fused in one module: then the family has no neurons as a site.
        mlp: the whole MLP.
        attn_norm: the norm between ``out_proj`` and the residual stream, if any; its output is what attention adds.
        mlp_norm: the norm between the MLP and the residual stream, if any; its output is what the MLP adds.
        mid_norm: the norm that feeds the MLP, or None where the MLP reads the residual stream itself.
        parallel: attention and MLP both read the block's input, so no residual stream exists between them.
        transposed: projections keep their weights as ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
        absolute_positions: there is an embedding for each position up to the context's length, and none beyond.
        norm: how the family's norms compute.
        final_norm: the norm in front of the unembedding: its input is the last block's residual stream.
        embeddings: the token embeddings.
    """

    name: str
    blocks: str = "model.layers"
    out_proj: str = "self_attn.o_proj"
    down_proj: str | None = "mlp.down_proj"
    mlp: str = "mlp"
    attn_norm: str | None = None
    mlp_norm: str | None = None
    mid_norm: str | None = "post_attention_layernorm"
    parallel: bool = False
    transposed: bool = False
    absolute_positions: bool = False
    norm: NormKind = RMS
    final_norm: str = "model.norm"
    embeddings: str = "model.embed_tokens"

    @property
    def attn_out(self) -> str:
        """The module whose output attention adds to the residual stream."""
        return self.attn_norm or self.out_proj

    @property
    def mlp_out(self) -> str:
        """The module whose output the MLP adds to the residual stream."""
        return self.mlp_norm or self.down_proj or self.mlp

    @property
    def middle(self) -> str | None:
        """The module whose input is the residual stream after attention's add; None where there is no such tensor."""
        return None if self.parallel else self.mid_norm or self.mlp

    def paths(self) -> Iterable[tuple[str, str]]:
        """(name of the field, path) of every module inside a block."""
        named = ("out_proj", "down_proj", "mlp", "attn_norm", "mlp_norm", "mid_norm")
        return [(name, getattr(self, name)) for name in named if getattr(self, name) is not None]


Row = Architecture | Callable[[Any], Architecture]


def _gpt_neox(config: Any) -> Architecture:
    return Architecture(
        "gpt_neox",
        blocks="gpt_neox.layers",
        out_proj="attention.dense",
        down_proj="mlp.dense_4h_to_h",
        parallel=bool(config.use_parallel_residual),
        norm=LAYER,
        final_norm="gpt_neox.final_layer_norm",
        embeddings="gpt_neox.embed_in",
    )


_NORMS_AFTER: dict[str, Any] = {"attn_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}

ARCHITECTURES: dict[str, Row] = {
    **{name: Architecture(name) for name in ("llama", "mistral", "qwen2", "qwen3", "phi3")},
    **{name: Architecture(name, down_proj=None) for name in ("mixtral", "qwen3_moe")},
    "gemma": Architecture("gemma", norm=OFFSET_RMS),
    **{
        name: Architecture(name, mid_norm="pre_feedforward_layernorm", norm=OFFSET_RMS, **_NORMS_AFTER)
        for name in ("gemma2", "gemma3_text")
    },
    "olmo2": Architecture("olmo2", mid_norm=None, **_NORMS_AFTER),
    "gpt2": Architecture(
        "gpt2",
        blocks="transformer.h",
        out_proj="attn.c_proj",
        down_proj="mlp.c_proj",
        mid_norm="ln_2",
        transposed=True,
        absolute_positions=True,
        norm=LAYER,
        final_norm="transformer.ln_f",
        embeddings="transformer.wte",
    ),
    "gpt_neox": _gpt_neox,
}
"""Rows by ``model_type``; a row may be a function of the config."""


def register_architecture(row: Row, *, name: str | None = None, replace: bool = False) -> None:
    """Add a family to the table, for models loaded from then on.

    Args:
        row: an :class:`Architecture`, or a function from a config to one (then give ``name``).
        name: the config's ``model_type``; the row's own name by default.
        replace: take the place of a row that is there.

    >>> register_architecture(Architecture("my_llama"))
    >>> ARCHITECTURES.pop("my_llama").down_proj
    'mlp.down_proj'

    Raises:
        ModelError: not a row, no name, or a row of that name is there already.
    """
    if not isinstance(row, Architecture) and not callable(row):
        raise ModelError(f"a row is an emotrace.Architecture, or a function from a config to one, not {shown(row)}")
    key = name or (row.name if isinstance(row, Architecture) else None)
    if key is None:
        raise ModelError("a row that depends on the config needs name=, the config's model_type")
    if key in ARCHITECTURES and not replace:
        raise ModelError(f"the table has a row for {key!r} already; pass replace=True to take its place")
    ARCHITECTURES[key] = row


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model: L blocks, H query heads of ``head_width``, residual width D, MLP width F, vocabulary.

    ``neurons`` is 0 where the family has none as a site.
    """

    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    width: int
    neurons: int
    vocabulary: int

    def count(self, site: str) -> int:
        """Number of components at ``"heads"`` or ``"neurons"`` over all layers."""
        return self.layers * self.shape(site)[0]

    def shape(self, site: str) -> tuple[int, int]:
        """(components, width of one) in a layer: heads ``(H, head_width)``, neurons ``(F, 1)``, others ``(1, D)``."""
        return {"heads": (self.heads, self.head_width), "neurons": (self.neurons, 1)}.get(site, (1, self.width))

    def differences(self, other: "Sizes") -> list[str]:
        """Sizes that differ, as ``name: mine, theirs``."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {mine}, {theirs}" for name, mine, theirs in pairs if mine != theirs]


def submodule(root: Any, path: str) -> Any:
    """``root`` followed along a dotted path; works on torch modules and on nnsight's envoys alike."""
    return reduce(getattr, path.split("."), root)


def architecture_of(module: Any, config: Any) -> Architecture:
    """The row of a model, checked against its modules.

    Args:
        module: the Hugging Face model (also on the meta device).
        config: its config.

    Raises:
        ModelError: an unknown family (names the modules found and the row to add), or a row that does not fit.
    """
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        raise ModelError(
            f"model family {config.model_type!r} is not in the table (known: {', '.join(sorted(ARCHITECTURES))}). "
            f"Modules found: {_found(module)}. Add its row: emotrace.register_architecture(emotrace.Architecture("
            f"{config.model_type!r}, blocks=..., out_proj=..., down_proj=..., mid_norm=..., final_norm=..., "
            "embeddings=...)), with paths inside a block but for blocks, final_norm and embeddings"
        )
    architecture = row if isinstance(row, Architecture) else row(config)
    if not isinstance(architecture, Architecture):
        raise ModelError(f"the row {config.model_type!r} made {shown(architecture)} of the config, no Architecture")
    for name in ("blocks", "final_norm", "embeddings"):
        if not _has(module, getattr(architecture, name)):
            raise ModelError(_misfit(architecture, name, getattr(architecture, name), module, "the model"))
    blocks = submodule(module, architecture.blocks)
    if not hasattr(blocks, "__len__"):
        raise ModelError(f"row {architecture.name!r}: blocks={architecture.blocks!r} is no list of blocks")
    for layer, block in enumerate(blocks):
        for name, path in architecture.paths():
            if not _has(block, path):
                raise ModelError(_misfit(architecture, name, path, block, f"block {layer}"))
    return architecture


def _has(root: Any, path: str) -> bool:
    try:
        submodule(root, path)
    except AttributeError:
        return False
    return True


def _misfit(architecture: Architecture, name: str, path: str, root: Any, place: str) -> str:
    return f"row {architecture.name!r}: {name}={path!r} is not in {place}. Modules found there: {_found(root)}"


def _found(module: Any, most: int = 24) -> str:
    """Module paths, those of repeated blocks once."""
    paths = [path for path, _ in module.named_modules() if path]
    first = [path for path in paths if all(not part.isdigit() or part == "0" for part in path.split("."))]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def sizes_of(module: Any, architecture: Architecture, config: Any) -> Sizes:
    """Sizes of ``module`` (torch modules, also on the meta device).

    The head width is the output projection's input over the number of heads, which differs from D / H in many models.
    """
    blocks = submodule(module, architecture.blocks)

    def shape(path: str) -> tuple[int, int]:
        """(out, in) of a projection."""
        rows, columns = submodule(blocks[0], path).weight.shape
        return (columns, rows) if architecture.transposed else (rows, columns)

    width, read = shape(architecture.out_proj)
    stream = submodule(module, architecture.final_norm).weight.shape[-1]
    if width != stream:
        raise ModelError(
            f"row {architecture.name!r}: out_proj gives {width} values, and the residual stream is {stream} wide; "
            f"transposed={architecture.transposed} is wrong, or the path is"
        )
    heads = int(config.num_attention_heads)
    if read % heads:
        raise ModelError(f"{architecture.name}: output projection takes {read} values, not a multiple of {heads}")
    return Sizes(
        layers=len(blocks),
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_width=read // heads,
        width=width,
        neurons=shape(architecture.down_proj)[1] if architecture.down_proj else 0,
        vocabulary=int(config.vocab_size),
    )
