"""The model a study runs on: an nnsight model with its family's row, sizes, tokenizer and fingerprint."""

import hashlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch

from emotrace.data.prompts import Prompt, render
from emotrace.errors import CircuitError, ModelError
from emotrace.models.architectures import Sizes, architecture_of, sizes_of, submodule
from emotrace.models.matrix import columns_of
from emotrace.models.probe import FINGERPRINT_SLICE, Probe, probe
from emotrace.models.weights import projection_bias, projection_weight
from emotrace.remote.backend import HostedBackend
from emotrace.remote.connection import Connection, Ndif

MODULES = (
    *("blocks", "out_proj", "attn_out", "middle", "mid_norm", "down_proj", "mlp_out"),
    *("final_norm", "embeddings"),
)


@dataclass(frozen=True)
class Fingerprint:
    """What ties a result to a model.

    Attributes:
        sizes: the architecture's sizes.
        tokenizer: hash of vocabulary and chat template.
        sums: per layer, mean absolute value of a fixed slice of the output projection and of the down projection (0
            where the family has none).
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

    ``model.trace(...)``, ``model.generate(...)`` and ``model.session(...)`` are nnsight's, run where the model is:
    here, or by an NDIF server. One lock guards a model that is here, because an nnsight model is not thread-safe. Lists
    hold one nnsight module a layer.

    Attributes:
        nn: the nnsight model, as given.
        tokenizer: its tokenizer.
        architecture: the row of the architecture table.
        sizes: L, H, key-value heads, head width, D, F, vocabulary.
        identity: the name or path it was loaded from, for manifests.
        remote: whether an NDIF server runs it; no trace needs ``remote=`` for that.
        connection: the way to that server; None for a model that is here.
        counters: tokens computed so far, by kind; :meth:`count` adds to them.
        blocks: the blocks; their output is the residual stream after the MLP.
        out_proj: their input holds the heads.
        attn_out: their output is what attention adds to the residual stream.
        middle: their input is the residual stream after attention; empty in a parallel architecture.
        mid_norm: the norms that feed the MLP; empty where there is none.
        down_proj: their input holds the neurons; empty for a mixture of experts.
        mlp_out: their output is what the MLP adds to the residual stream.
        final_norm: the norm in front of the unembedding.
        embeddings: the token embeddings.
    """

    def __init__(self, nn: Any, *, identity: str, ndif: Ndif | None = None) -> None:
        self.nn = nn
        self.tokenizer = nn.tokenizer
        self.identity = identity
        self.remote = ndif is not None
        self.connection = None if ndif is None else Connection(ndif)
        self.lock: AbstractContextManager[Any] = nullcontext() if ndif else threading.RLock()
        self.counters: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.compiled: Any = None  # what emotrace.trace.apply did last, for the next step of a loop
        torch_module = nn._module
        self.architecture = row = architecture_of(torch_module, torch_module.config)
        self.sizes = sizes_of(torch_module, row, torch_module.config.get_text_config())
        blocks = submodule(nn, row.blocks)
        self.blocks = [blocks[layer] for layer in range(self.sizes.layers)]
        self.out_proj, self.attn_out = self._in_blocks(row.out_proj), self._in_blocks(row.attn_out)
        self.middle, self.mid_norm = self._in_blocks(row.middle), self._in_blocks(row.mid_norm)
        self.down_proj, self.mlp_out = self._in_blocks(row.down_proj), self._in_blocks(row.mlp_out)
        self.final_norm = submodule(nn, row.final_norm)
        self.embeddings = submodule(nn, row.embeddings)

    def _in_blocks(self, path: str | None) -> list[Any]:
        return [] if path is None else [submodule(block, path) for block in self.blocks]

    def __getattr__(self, name: str) -> Any:
        if name == "nn":
            raise AttributeError(name)
        return getattr(self.nn, name)

    @property
    def trace(self) -> Callable[..., Any]:
        """nnsight's ``trace``, run where the model is."""
        return self._routed(self.nn.trace)

    @property
    def generate(self) -> Callable[..., Any]:
        """nnsight's ``generate``, run where the model is."""
        return self._routed(self.nn.generate)

    @property
    def session(self) -> Callable[..., Any]:
        """nnsight's ``session``: traces inside it are one request to a server."""
        return self._routed(self.nn.session)

    def _routed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        # A partial, not a method of ours: nnsight looks for the `with` statement a fixed number of frames up.
        return method if self.connection is None else partial(method, backend=HostedBackend(self, self.connection))

    def __shipped__(self, model: Any) -> tuple[Any, ...]:
        """On a server: the nnsight model, with the lists of modules as attributes (``emotrace.remote.wire``)."""
        return ShippedModel, (self.nn, {name: getattr(self, name) for name in MODULES})

    def count(self, **amounts: float) -> None:
        """Add to counters; safe in threads."""
        with self._counting:
            self.counters.update(amounts)

    @property
    def spent(self) -> Mapping[str, float]:
        """Everything counted so far: tokens, and for a hosted model requests, bytes and seconds waited."""
        with self._counting:
            return {**self.counters, **(self.connection.counters if self.connection else {})}

    def __repr__(self) -> str:
        return f"Model({self.identity!r}, {self.architecture.name}, {self.sizes}, remote={self.remote})"

    @property
    def sites(self) -> tuple[str, ...]:
        """Component sites that the model has: ``heads`` and, but for a mixture of experts, ``neurons``."""
        return ("heads", "neurons") if self.down_proj else ("heads",)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the embeddings' device; the CPU for a remote model."""
        return torch.device("cpu") if self.remote else _device(self.embeddings._module)

    def device_of(self, layer: int) -> torch.device:
        """Where a layer computes; layers of one model may lie on several devices."""
        return torch.device("cpu") if self.remote else _device(self.out_proj[layer]._module)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first parameter; of a hosted model the server's, which may not be the checkpoint's."""
        return self.probed.dtype if self.remote else next(self.nn._module.parameters()).dtype

    @cached_property
    def probed(self) -> Probe:
        """What a server says of a hosted model, asked once."""
        return probe(self)

    @property
    def request_tokens(self) -> int | None:
        """Forward tokens that one request to the server may hold; None for a model that is here."""
        return self.connection.settings.request_tokens if self.connection else None

    @property
    def workers(self) -> int:
        """Batches that may be under way at a time."""
        return self.connection.settings.jobs if self.connection else 1

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

    def write_weight(self, site: str, layer: int, components: Sequence[int] | None = None) -> torch.Tensor:
        """What components write with: their columns of the projection's weight.

        Args:
            site: ``heads`` (columns of W_O) or ``neurons`` (columns of W_down).
            layer: counted from 0.
            components: K indices; all of the layer by default.

        Returns:
            float64 ``[D, K, width]`` on the CPU; a component's raw write is this times its activation. ``[D, 0, 1]``
            for the neurons of a mixture of experts.

        Raises:
            ModelError: the weights are not on this machine.
        """
        count, width = self.sizes.shape(site)
        projections = {"heads": self.out_proj, "neurons": self.down_proj}[site]
        if not projections:
            return torch.zeros(self.sizes.width, 0, width, dtype=torch.float64)
        columns = None
        if components is not None:
            columns = columns_of(components, width)
        weight = self._weight(projections[layer], columns)
        return weight.reshape(self.sizes.width, count if components is None else len(components), width)

    def write_bias(self, site: str, layer: int) -> torch.Tensor:
        """The projection's bias, float64 ``[D]`` (zero without one); it belongs to no component."""
        module = {"heads": self.out_proj, "neurons": self.down_proj}[site][layer]._module
        bias = projection_bias(module, name=self.identity)
        return torch.zeros(self.sizes.width, dtype=torch.float64) if bias is None else bias

    def _weight(self, envoy: Any, columns: torch.Tensor | slice | None, rows: slice | None = None) -> torch.Tensor:
        transposed = self.architecture.transposed
        return projection_weight(envoy._module, name=self.identity, transposed=transposed, columns=columns, rows=rows)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Sizes, tokenizer hash and slice sums of the projections, as they were when first asked for."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        text = repr(vocabulary) + str(self.tokenizer.chat_template)
        part = slice(FINGERPRINT_SLICE)
        if self.remote:
            out, *down = self.probed.slices
        else:
            out, *down = (
                [self._weight(projection, part, part).abs().mean().item() for projection in projections]
                for projections in (self.out_proj, self.down_proj)
                if projections
            )
        sums = tuple(zip(out, *down or [[0.0] * len(out)], strict=True))
        tokenizer = hashlib.sha256(text.encode()).hexdigest()
        return Fingerprint(asdict(self.sizes), tokenizer, sums)


def _device(module: Any) -> torch.device:
    """Where a module computes, also when accelerate keeps its parameters elsewhere between passes."""
    device: torch.device = next(module.parameters()).device
    if device.type != "meta":
        return device
    where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if where is None else where)


class ShippedModel:
    """What a :class:`Model` is on a server: attributes it lacks are the nnsight model's own."""

    def __init__(self, nn, modules):  # type: ignore[no-untyped-def]  # travels as source, where our types are unknown
        self.__dict__.update(modules)
        self.nn = nn
        self.remote = False

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self.nn, name)


_wrapped: "weakref.WeakValueDictionary[tuple[int, Ndif | None], Model]" = weakref.WeakValueDictionary()


def wrap(nn: Any, *, identity: str, ndif: Ndif | None = None) -> Model:
    """The :class:`Model` of an nnsight model, run here or there: while one lives, the same one, with its lock."""
    known = _wrapped.get((id(nn), ndif))
    if known is not None and known.nn is nn:
        return known
    model = Model(nn, identity=identity, ndif=ndif)
    _wrapped[id(nn), ndif] = model
    return model
