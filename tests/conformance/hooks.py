"""What edits must do, written a second time with plain PyTorch hooks: one unpadded row, a full pass for every token.

Nothing here comes from the library, so that the two can be checked against each other. Where the library has a choice,
this takes the other road: a site is edited at the module next to the sum, and the residual stream between the two
sublayers by rebuilding the block's output from the edited stream.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

SITES = ("heads", "attn_out", "resid_attn", "neurons", "mlp_out", "resid_mlp")
Tokens = str | tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its sites; all paths but the first are relative to a block.

    Attributes:
        blocks: the list of blocks.
        out_proj: its input is the heads side by side.
        attn_adds: its output (the first one, where it has several) is what attention adds to the residual stream.
        mlp_reads: its input is the residual stream between the sublayers; None where the MLP reads the block's input.
        down_proj: its input is the neurons; None where experts keep theirs in one tensor.
        mlp_adds: its output is what the MLP adds to the residual stream.
    """

    blocks: str = "model.layers"
    out_proj: str = "self_attn.o_proj"
    attn_adds: str = "self_attn"
    mlp_reads: str | None = "post_attention_layernorm"
    down_proj: str | None = "mlp.down_proj"
    mlp_adds: str = "mlp"


NORMS_AFTER = Layout(attn_adds="post_attention_layernorm", mlp_adds="post_feedforward_layernorm")
SEQUENTIAL_NEOX = Layout(
    blocks="gpt_neox.layers",
    out_proj="attention.dense",
    attn_adds="post_attention_dropout",
    down_proj="mlp.dense_4h_to_h",
    mlp_adds="post_mlp_dropout",
)
LAYOUTS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), Layout()),
    **dict.fromkeys(("gemma2", "gemma3_text"), replace(NORMS_AFTER, mlp_reads="pre_feedforward_layernorm")),
    "olmo2": replace(NORMS_AFTER, mlp_reads="mlp"),
    "phi3": Layout(attn_adds="resid_attn_dropout", mlp_adds="resid_mlp_dropout"),
    **dict.fromkeys(("mixtral", "qwen3_moe"), Layout(down_proj=None)),
    "gpt2": Layout("transformer.h", "attn.c_proj", "attn", "ln_2", "mlp.c_proj", "mlp"),
    "gpt_neox": SEQUENTIAL_NEOX,
}


def layout_of(hf: Any) -> Layout:
    layout = LAYOUTS[hf.config.model_type]
    return replace(layout, mlp_reads=None) if getattr(hf.config, "use_parallel_residual", False) else layout


def module_at(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)


@dataclass(frozen=True, eq=False)
class HookEdit:
    """One edit of one component.

    Attributes:
        kind: ``zero``, ``set``, ``add`` or ``scale``.
        index: the head or neuron; None at the other sites.
        dims: coordinates of the component to edit; None for all of them.
        value: ``[W]`` for every token or ``[P, W]`` for the tokens of a tuple, W being the component's width or the
            number of ``dims``; for neurons a number or ``[P]``. For ``scale`` the factor.
        later: the value at reply tokens fed back, where it differs.
        tokens: ``last``, ``prompt``, ``generated``, ``reply``, ``all``, or indices into the prompt from either end.
    """

    kind: str
    site: str
    layer: int
    index: int | None = None
    dims: tuple[int, ...] | None = None
    value: torch.Tensor | float | None = None
    later: torch.Tensor | None = None
    tokens: Tokens = "all"


def positions(tokens: Tokens, prompt_length: int, total: int) -> list[int]:
    """The positions out of ``total`` that ``tokens`` selects when the first ``prompt_length`` are the prompt."""
    if isinstance(tokens, tuple):
        assert all(-prompt_length <= i < prompt_length for i in tokens), (tokens, prompt_length)
        return [i % prompt_length for i in tokens]
    start, end = {
        "last": (prompt_length - 1, prompt_length),
        "prompt": (0, prompt_length),
        "generated": (prompt_length, total),
        "reply": (prompt_length - 1, total),
        "all": (0, total),
    }[tokens]
    return list(range(start, end))


def changed(x: torch.Tensor, edits: Sequence[HookEdit], heads: int, prompt_length: int) -> torch.Tensor:
    """``x [1, T, S]``, a site's tensor, after ``edits`` in their order; ``x`` itself stays as it is."""
    x = x.clone()
    for edit in edits:
        part = {"heads": x.shape[-1] // heads, "neurons": 1}.get(edit.site, x.shape[-1])
        start = part * (edit.index or 0)
        columns = [start + i for i in (range(part) if edit.dims is None else edit.dims)]
        for turn, position in enumerate(positions(edit.tokens, prompt_length, x.shape[1])):
            value = edit.later if edit.later is not None and position >= prompt_length else edit.value
            if value is not None:
                value = torch.as_tensor(value, device=x.device, dtype=x.dtype)
                if isinstance(edit.tokens, tuple) and value.dim() > (0 if edit.site == "neurons" else 1):
                    value = value[turn]
            old = x[0, position, columns]
            x[0, position, columns] = {
                "zero": lambda old, value: torch.zeros_like(old),
                "set": lambda old, value: value.expand_as(old),
                "add": lambda old, value: old + value,
                "scale": lambda old, value: old * value,
            }[edit.kind](old, value)
    return x


def check(hf: Any, layout: Layout, edit: HookEdit) -> None:
    """Refuse what the model has no place for, which would otherwise pass for an edit without effect."""
    assert edit.site in SITES, edit.site
    assert 0 <= edit.layer < hf.config.num_hidden_layers, edit.layer
    assert (edit.index is not None) == (edit.site in ("heads", "neurons")), edit
    assert edit.site != "neurons" or layout.down_proj is not None, "experts have no neurons that a hook could reach"
    if edit.site == "resid_attn" and layout.mlp_reads is None:
        assert edit.kind == "add", "with a parallel residual there is no stream between the sublayers to replace"


class Hooks:
    """Hooks on one model, for one pass after another, removed together."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def before(self, module: torch.nn.Module, change: Callable) -> None:
        """``change(input) -> input``, or None to leave it."""

        def hook(_: Any, args: tuple) -> tuple | None:
            new = change(args[0])
            return None if new is None else (new, *args[1:])

        self.handles.append(module.register_forward_pre_hook(hook))

    def after(self, module: torch.nn.Module, change: Callable) -> None:
        """``change(output) -> output``, or None to leave it; of a tuple, its first member."""

        def hook(_: Any, args: tuple, output: Any) -> Any:
            several = isinstance(output, tuple)
            new = change(output[0] if several else output)
            return None if new is None else ((new, *output[1:]) if several else new)

        self.handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def edited(hf: Any, edits: Sequence[HookEdit], prompt_length: int) -> Iterator[None]:
    """Within the block, passes of one row whose prompt has ``prompt_length`` tokens are edited."""
    layout, hooks = layout_of(hf), Hooks()
    groups: dict[int, dict[str, list[HookEdit]]] = {}
    for edit in edits:
        check(hf, layout, edit)
        groups.setdefault(edit.layer, {}).setdefault(edit.site, []).append(edit)
    try:
        for layer, by_site in groups.items():
            block = module_at(hf, layout.blocks)[layer]
            _edit_block(hooks, block, layout, by_site, hf.config.num_attention_heads, prompt_length)
        yield
    finally:
        hooks.remove()


def _edit_block(hooks: Hooks, block: Any, layout: Layout, by_site: dict, heads: int, prompt_length: int) -> None:
    def change(site: str) -> Callable:
        return lambda x: changed(x, by_site[site], heads, prompt_length)

    if "heads" in by_site:
        hooks.before(module_at(block, layout.out_proj), change("heads"))
    if "attn_out" in by_site:
        hooks.after(module_at(block, layout.attn_adds), change("attn_out"))
    if "neurons" in by_site:
        hooks.before(module_at(block, layout.down_proj), change("neurons"))
    if "mlp_out" in by_site:
        hooks.after(module_at(block, layout.mlp_adds), change("mlp_out"))
    if "resid_attn" in by_site and layout.mlp_reads is None:
        hooks.after(block, change("resid_attn"))  # an addition to one term of the sum is one to the sum
    elif "resid_attn" in by_site:
        parts: dict[str, torch.Tensor] = {}

        def read(x: torch.Tensor) -> torch.Tensor:
            parts["stream"] = change("resid_attn")(x)
            return parts["stream"]

        # The new input reaches the MLP alone: the block's own sum still holds the old stream, so it is made anew.
        hooks.before(module_at(block, layout.mlp_reads), read)
        hooks.after(module_at(block, layout.mlp_adds), lambda x: parts.update(mlp=x))  # last: it sees mlp_out's edits
        hooks.after(block, lambda _: parts["stream"] + parts["mlp"])
    if "resid_mlp" in by_site:
        hooks.after(block, change("resid_mlp"))


def forward(
    hf: Any, ids: Sequence[int], edits: Sequence[HookEdit] = (), *, prompt_length: int | None = None
) -> torch.Tensor:
    """Logits ``[T, V]`` of one row; tokens from ``prompt_length`` on are reply tokens fed back."""
    with edited(hf, edits, len(ids) if prompt_length is None else prompt_length), torch.no_grad():
        return hf(torch.tensor([list(ids)], device=hf.device), use_cache=False).logits[0]


def greedy(
    hf: Any, ids: Sequence[int], edits: Sequence[HookEdit] = (), steps: int = 8, ends: Collection[int] = ()
) -> list[int]:
    """New token ids, the one that ends the text included.

    Every token is computed by a pass over all tokens before it. The edits are made again in every pass, so each
    position is edited as a cached pass edits it once.
    """
    new: list[int] = []
    while len(new) < steps and not (new and new[-1] in ends):
        logits = forward(hf, [*ids, *new], edits, prompt_length=len(ids))
        new.append(int(logits[-1].argmax()))
    return new


def activations(hf: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Every site of one row: heads ``[L, T, H, d]``, neurons ``[L, T, F]`` (not with experts), others ``[L, T, D]``."""
    layout, hooks = layout_of(hf), Hooks()
    found: dict[str, list[torch.Tensor]] = {site: [] for site in SITES}
    entering: list[torch.Tensor] = []

    def keep(values: list[torch.Tensor]) -> Callable:
        return lambda x: values.append(x[0].clone())

    try:
        for block in module_at(hf, layout.blocks):
            hooks.before(block, keep(entering))
            hooks.before(module_at(block, layout.out_proj), keep(found["heads"]))
            hooks.after(module_at(block, layout.attn_adds), keep(found["attn_out"]))
            if layout.mlp_reads is not None:
                hooks.before(module_at(block, layout.mlp_reads), keep(found["resid_attn"]))
            if layout.down_proj is not None:
                hooks.before(module_at(block, layout.down_proj), keep(found["neurons"]))
            hooks.after(module_at(block, layout.mlp_adds), keep(found["mlp_out"]))
            hooks.after(block, keep(found["resid_mlp"]))
        forward(hf, ids)
    finally:
        hooks.remove()
    if layout.mlp_reads is None:
        found["resid_attn"] = [x + added for x, added in zip(entering, found["attn_out"], strict=True)]
    sites = {site: torch.stack(values) for site, values in found.items() if values}
    sites["heads"] = sites["heads"].unflatten(-1, (hf.config.num_attention_heads, -1))
    return sites


def projections(hf: Any, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the output and the down projection give ``[L, T, D]``, before any norm; experts: the whole MLP."""
    layout, hooks = layout_of(hf), Hooks()
    out, down = [], []
    try:
        for block in module_at(hf, layout.blocks):
            hooks.after(module_at(block, layout.out_proj), lambda x: out.append(x[0].clone()))
            hooks.after(module_at(block, layout.down_proj or layout.mlp_adds), lambda x: down.append(x[0].clone()))
        forward(hf, ids)
    finally:
        hooks.remove()
    return torch.stack(out), torch.stack(down)
