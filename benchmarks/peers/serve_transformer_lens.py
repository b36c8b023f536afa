"""TransformerLens 4: `TransformerBridge` over the model that transformers loads, with its raw weights.

The bridge is used as booted, without `enable_compatibility_mode`: nothing is folded or centred, so that numbers equal
the plain model's. It computes attention itself, in three separate projections and with eager scores, even where
nobody asks for them; that is part of its price and cannot be switched off. Rows padded on the left are right: positions
follow the attention mask.
"""

import torch
from serving import Result, Server, add_last, read_vector, serve, timed
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

NAMES = {
    "heads": "attn.o.hook_in",
    "resid_attn": "ln2.hook_in",
    "neurons": "mlp.out.hook_in",
    "resid_mlp": "hook_out",
}


class TransformerLens(Server):
    """Hooks by name, cached or edited in one run."""

    package = "transformer-lens"
    notes = (
        "Raw weights, no compatibility mode. The bridge replaces fused attention by eager attention with separate "
        "query, key and value projections. Its generate() computes logits of every prompt token."
    )

    def prepare(self) -> None:
        # The bridge insists on a tokenizer; ids go in as they are, so a stand-in of one word is enough. It has no token
        # for the beginning: the bridge would look for a folder to load it from again.
        words = Tokenizer(WordLevel({"<end>": 0}, unk_token="<end>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
        self.bridge = TransformerBridge.boot_transformers(self.folder, device="cpu", tokenizer=tokenizer)
        self.bridge.eval()
        self.options = {"attention_mask": self.mask, "logits_to_keep": 1, "use_cache": False}

    def capture(self) -> Result:
        layers = range(self.model.config.n_layer)
        names = {site: [f"blocks.{layer}.{name}" for layer in layers] for site, name in NAMES.items()}

        def work() -> dict[str, Tensor]:
            _, cache = self.bridge.run_with_cache(
                self.ids,
                names_filter=[name for some in names.values() for name in some],
                # A slice, because the position that a plain number picks loses its dimension.
                pos_slice=(-1, None),
                return_type=None,
                return_cache_object=False,
                **self.options,
            )
            return {
                site: torch.stack([cache[name][:, -1].mean(0).flatten() for name in some])
                for site, some in names.items()
            }

        seconds, tensors = timed(work)
        return Result(seconds, tensors)

    def edit(self, layer: int, vector_file: str) -> Result:
        vector = read_vector(vector_file)

        def hook(states: Tensor, hook: object) -> Tensor:
            return add_last(states, vector)

        return self._hooked(f"blocks.{layer}.hook_out", hook)

    def ablations(self, layer: int) -> Result:
        rows = torch.arange(len(self.ids))
        heads = rows % self.model.config.n_head

        def hook(z: Tensor, hook: object) -> Tensor:
            # The bridge hands it over as [B, T, H, width of a head].
            z[rows, :, heads] = 0
            return z

        return self._hooked(f"blocks.{layer}.attn.o.hook_in", hook)

    def _hooked(self, name: str, hook: object) -> Result:
        seconds, logits = timed(lambda: self.bridge.run_with_hooks(self.ids, fwd_hooks=[(name, hook)], **self.options))
        return Result(seconds, {"logits": logits[:, -1]})

    def generate(self, layer: int, vector_file: str, new_tokens: int) -> Result:
        vector = read_vector(vector_file)

        def hook(states: Tensor, hook: object) -> Tensor:
            return states + vector

        def work() -> Tensor:
            with self.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_out", hook)]):
                return self.bridge.generate(
                    self.ids,
                    attention_mask=self.mask,
                    max_new_tokens=new_tokens,
                    stop_at_eos=False,
                    do_sample=False,
                    use_past_kv_cache=True,
                    return_type="tokens",
                    verbose=False,
                )

        seconds, ids = timed(work)
        return Result(seconds, {"ids": ids[:, self.ids.shape[1] :]})


if __name__ == "__main__":
    serve(TransformerLens())
