"""The model a study runs on: an nnsight model with its family's row, sizes, tokenizer and fingerprint."""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from emotrace.data.prompts import Prompt, render
from emotrace.errors import CircuitError, ModelError
from emotrace.models.architectures import Sizes, family_of, sizes_of, submodule

FINGERPRINT_SLICE = 16


@dataclass(frozen=True)
class Fingerprint:
    """What ties a result to a model.

    Attributes:
        sizes: the architecture's sizes.
        tokenizer: hash of vocabulary and chat template.
        sums: per layer, mean absolute value of a fixed slice of the output and of the down projection.
    """

    sizes: dict[str, int]
    tokenizer: str
    sums: tuple[tuple[float, float], ...]

    def check(self, other: "Fingerprint", *, allow_other_weights: bool = False) -> None:
        """Raise ``CircuitError`` when ``other`` is not the same model.

        Sizes and tokenizer must be equal. Slices agree to 1e-2 relative, so that a result found in float32 is usable on
        the same model in bfloat16; ``allow_other_weights`` waives the slices only (fine-tunes).
        """
        mine, theirs = Sizes(**self.sizes), Sizes(**other.sizes)
        if mine != theirs:
            raise CircuitError(f"made for a model of other sizes ({'; '.join(mine.differences(theirs))})")
        if self.tokenizer != other.tokenizer:
            raise CircuitError("made with another tokenizer or chat template; discover again on this model")
        ours, others = torch.tensor(self.sums), torch.tensor(other.sums)
        apart = ((ours - others).abs() / ours.abs().clamp(min=1e-12)).amax().item()
        if apart > 1e-2 and not allow_other_weights:
            raise CircuitError(
                f"made for other weights (slices of the projections differ by {apart:.1%}); "
                "pass allow_other_weights=True when that is meant, as for a fine-tune"
            )


class Model:
    """An nnsight model and what emotrace knows of it. Attributes it lacks are the nnsight model's own.

    ``model.trace(...)``, ``model.generate(...)`` and ``model.session(...)`` are nnsight's; one lock per model guards
    them, because an nnsight model is not thread-safe.

    Attributes:
        nn: the nnsight model, as given.
        tokenizer: its tokenizer.
        family: the row of the architecture table.
        sizes: L, H, head width, D, F, vocabulary.
        identity: the name or path it was loaded from, for manifests.
        remote: passed to nnsight's ``remote=``.
        counters: tokens computed so far, by kind.
    """

    def __init__(self, nn: Any, *, identity: str, remote: bool = False) -> None:
        self.nn = nn
        self.tokenizer = nn.tokenizer
        self.identity = identity
        self.remote = remote
        self.lock = threading.RLock()
        self.counters: Counter[str] = Counter()
        torch_module = nn._module
        config = torch_module.config.get_text_config()
        self.family = family_of(config.model_type, [name for name, _ in torch_module.named_modules() if name])
        self.sizes = sizes_of(torch_module, self.family, config)
        blocks = submodule(nn, self.family.blocks)
        self.blocks = [blocks[layer] for layer in range(self.sizes.layers)]
        self.out_proj = [submodule(block, self.family.out_proj) for block in self.blocks]
        self.down_proj = [submodule(block, self.family.down_proj) for block in self.blocks]
        self.mid_norm = [submodule(block, self.family.mid_norm) for block in self.blocks]
        self.final_norm = submodule(nn, self.family.final_norm)
        self.embeddings = submodule(nn, self.family.embeddings)

    def __getattr__(self, name: str) -> Any:
        if name == "nn":
            raise AttributeError(name)
        return getattr(self.nn, name)

    def __repr__(self) -> str:
        return f"Model({self.identity!r}, {self.family.name}, {self.sizes}, remote={self.remote})"

    @property
    def device(self) -> torch.device:
        """Device of the first parameter; for a remote model, where token ids are made."""
        if self.remote:
            return torch.device("cpu")
        return next(self.nn._module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first parameter."""
        return next(self.nn._module.parameters()).dtype

    @cached_property
    def end_of_text(self) -> tuple[int, ...]:
        """Token ids that end a reply."""
        ids = self.nn._module.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        if ids is None:
            raise ModelError(f"{self.identity!r} names no end of text; set tokenizer.eos_token")
        return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)

    @property
    def pad_token(self) -> int:
        """Token id of padding (nnsight sets one where the tokenizer has none)."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, prompts: Sequence[Prompt | str]) -> list[list[int]]:
        """Token ids of rendered prompts; a string is text that is rendered already."""
        texts = [p if isinstance(p, str) else render(self.tokenizer, p.messages) for p in prompts]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def out_proj_weight(self) -> torch.Tensor:
        """W_O of every layer as ``[L, D, H, head_width]``, float64, on the CPU."""
        shape = (self.sizes.width, self.sizes.heads, self.sizes.head_width)
        return torch.stack([weight.reshape(shape) for weight in self._weights(self.out_proj)])

    def down_proj_weight(self) -> torch.Tensor:
        """W_down of every layer as ``[L, D, F]``, float64, on the CPU."""
        return torch.stack(self._weights(self.down_proj))

    def _weights(self, projections: list[Any]) -> list[torch.Tensor]:
        self._need_weights()
        return [projection._module.weight.detach().double().cpu() for projection in projections]

    def _need_weights(self) -> None:
        if next(self.nn._module.parameters()).is_meta:
            raise ModelError(
                f"the weights of {self.identity!r} are not on this machine; scores need them: load it locally"
            )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Sizes, tokenizer hash and slice sums of the projections."""
        self._need_weights()
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        text = repr(vocabulary) + str(self.tokenizer.chat_template)
        n = FINGERPRINT_SLICE
        sums = tuple(
            tuple(p._module.weight[:n, :n].detach().double().abs().mean().item() for p in pair)
            for pair in zip(self.out_proj, self.down_proj, strict=True)
        )
        tokenizer = hashlib.sha256(text.encode()).hexdigest()
        return Fingerprint(asdict(self.sizes), tokenizer, sums)
