"""Train the bundled model from scratch: ``python -m emotrace.models.bundled.train``."""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emotrace.models.bundled.corpus import Sample, draw_sample
from emotrace.models.bundled.tokens import END, PAD, TemplateOnly, train_tokenizer

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the grammar."""

    seed: int = 20251111
    steps: int = 1000
    batch: int = 48
    vocabulary: int = 1280
    tokenizer_texts: int = 20_000
    width: int = 128
    layers: int = 8
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 16
    mlp: int = 384
    muon_lr: float = 0.012
    adam_lr: float = 0.004
    weight_decay: float = 0.05
    warmup: int = 40
    prompt_weight: float = 0.15
    bf16: bool = True


def build(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model, float32."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    # The fused attention's backward pass takes two thirds of a step on a CPU at this head width.
    model.set_attn_implementation("eager")
    return model


@dataclass(frozen=True)
class Batch:
    """Token ids ``[B, T]`` (right-padded) and the loss weight of each as a target ``[B, T]``."""

    ids: torch.Tensor
    weights: torch.Tensor


def encode(
    tokenizer: PreTrainedTokenizerFast, samples: list[Sample], prompt_weight: float
) -> list[tuple[list[int], list[float]]]:
    """Ids and target weights per sample: the prompt counts ``prompt_weight``, an untrained opening 0, the rest 1."""
    parts = [
        tokenizer(texts, add_special_tokens=False)["input_ids"]
        for texts in ([s.prompt for s in samples], [s.opening for s in samples], [s.rest + END for s in samples])
    ]
    return [
        (p + o + r, [prompt_weight] * len(p) + [0.0] * len(o) + [1.0] * len(r)) for p, o, r in zip(*parts, strict=True)
    ]


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Endless batches of similar length; each sample is drawn once and never seen again."""
    rng = random.Random(recipe.seed + 1)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    while True:
        rows = encode(tokenizer, [draw_sample(rng, tokenizer) for _ in range(recipe.batch * 16)], recipe.prompt_weight)
        rows.sort(key=lambda row: len(row[0]))
        chunks = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(chunks)
        for chunk in chunks:
            length = math.ceil(max(len(ids) for ids, _ in chunk) / 8) * 8
            ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in chunk])
            yield Batch(ids, torch.tensor([w + [0.0] * (length - len(w)) for _, w in chunk]))


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, recipe: Recipe) -> float:
    """Share of the top learning rate: linear warm-up, flat, linear fall to zero over the last 60 %."""
    return min((step + 1) / recipe.warmup, 1.0, (recipe.steps - step) / (0.6 * recipe.steps))


def train(recipe: Recipe, out: Path, *, show_every: int = 10) -> dict[str, float]:
    """Train, save weights (float16), tokenizer and recipe to ``out``; returns last losses and the time taken."""
    began = time.time()
    rng = random.Random(recipe.seed)
    texts = (
        s.prompt + s.opening + s.rest for s in (draw_sample(rng, TemplateOnly()) for _ in range(recipe.tokenizer_texts))
    )
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    model = build(recipe, tokenizer)
    optims = optimizers(model, recipe)
    tops = [[group["lr"] for group in optim.param_groups] for optim in optims]
    source, tokens = batches(recipe, tokenizer), 0
    recent: list[float] = []
    for step in range(recipe.steps):
        batch = next(source)
        for optim, lrs in zip(optims, tops, strict=True):
            for group, lr in zip(optim.param_groups, lrs, strict=True):
                group["lr"] = lr * schedule(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        tokens += batch.ids.numel()
        recent = [*recent[-49:], loss.item()]
        if step % show_every == 0 or step + 1 == recipe.steps:
            spent = time.time() - began
            print(
                f"step {step + 1}/{recipe.steps}  loss {sum(recent) / len(recent):.3f}  {tokens / spent:.0f} tokens/s  "
                f"{spent:.0f} s, {spent / (step + 1) * (recipe.steps - step - 1):.0f} s left",
                flush=True,
            )
        if step in (recipe.steps // 4, recipe.steps // 2):
            save(model, tokenizer, out)
    save(model, tokenizer, out)
    figures = {"train_loss": sum(recent) / len(recent), "tokens": float(tokens), "seconds": time.time() - began}
    (out / "training.json").write_text(json.dumps({"recipe": asdict(recipe), **figures}, indent=1) + "\n")
    return figures


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder that ``from_pretrained`` reads, weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().clone() for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).half()
    copy.load_state_dict(state)
    copy.generation_config.pad_token_id = tokenizer.pad_token_id
    copy.generation_config.eos_token_id = tokenizer.eos_token_id
    copy.generation_config.bos_token_id = tokenizer.bos_token_id
    copy.generation_config.max_new_tokens = 64
    copy.generation_config.do_sample = False
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line: every field of ``Recipe`` is an option."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    for name, value in asdict(Recipe()).items():
        kind = (lambda text: text.lower() in ("1", "true")) if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    options = vars(parser.parse_args())
    out, threads = options.pop("out"), options.pop("threads")
    torch.set_num_threads(threads)
    print(train(Recipe(**options), out))


if __name__ == "__main__":
    main()
