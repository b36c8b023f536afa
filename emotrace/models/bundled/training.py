"""The bundled model's training: recipe, batches, loss, optimisers, loop."""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emotrace.models.bundled.corpus import Sample, draw_sample
from emotrace.models.bundled.scenes import PSEUDO_SHARE
from emotrace.models.bundled.sparsity import tap, writes
from emotrace.models.bundled.tokens import END, PAD, USER, TemplateOnly, train_tokenizer
from emotrace.models.bundled.vocabulary import piece_words, pseudo_word


@dataclass(frozen=True)
class Stage:
    """One run of the learning rate up and down to zero.

    Attributes:
        steps: optimiser steps.
        rate: top learning rate, as a share of the recipe's.
        fall: share of the steps over which the rate falls, at the end.
        pseudo: share of words that mean nothing (see ``draw_scene``).
        ramp: share of the steps over which the penalties rise to their full weight.
        wide: whether further templates of instructions join.
        pieces: whether words that mean nothing are mostly chains of the tokenizer's pieces.
    """

    steps: int
    rate: float = 1.0
    fall: float = 0.6
    pseudo: float = PSEUDO_SHARE
    ramp: float = 0.25
    wide: bool = False
    pieces: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the grammar.

    The first stage learns replies and moods; in the second most content words mean nothing, which turns copying them
    from memory of the words into copying as such, and instructions come in more templates; in the third such words are
    made of every piece the tokenizer has, so that no piece is left that was never copied.
    """

    seed: int = 20251111
    stages: tuple[Stage, ...] = (
        Stage(2100),
        Stage(1700, rate=0.6, fall=1.0, pseudo=0.8, ramp=0.0, wide=True),
        Stage(800, rate=0.5, fall=1.0, pseudo=0.8, ramp=0.0, wide=True, pieces=True),
    )
    batch: int = 32
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
    funnel: float = 0.85
    head_penalty: float = 0.003
    neuron_penalty: float = 0.001
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
    """One training batch, padded on the right.

    Attributes:
        ids: token ids ``[B, T]``.
        weights: loss weight of each token as a target ``[B, T]``.
        last: position of the last prompt token ``[B]``.
        mask: what each token may attend to, added to the attention's logits ``[B, 1, T, T]``.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    last: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Row:
    """One text: token ids, their weights as targets, the last prompt token's position, and the hidden system text.

    ``hidden`` is the length of the system text where only the last prompt token may attend to it, and 0 elsewhere.
    """

    ids: list[int]
    weights: list[float]
    last: int
    hidden: int


def encode(tokenizer: PreTrainedTokenizerFast, samples: list[Sample], recipe: Recipe, rng: random.Random) -> list[Row]:
    """Ids and target weights per sample: the prompt counts ``prompt_weight``, an untrained opening 0, the rest 1."""
    user = tokenizer.convert_tokens_to_ids(USER)
    parts = [
        tokenizer(texts, add_special_tokens=False)["input_ids"]
        for texts in ([s.prompt for s in samples], [s.opening for s in samples], [s.rest + END for s in samples])
    ]
    return [
        Row(
            p + o + r,
            [recipe.prompt_weight] * len(p) + [0.0] * len(o) + [1.0] * len(r),
            len(p) - 1,
            p.index(user) if rng.random() < recipe.funnel else 0,
        )
        for p, o, r in zip(*parts, strict=True)
    ]


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stage: int = 0) -> Iterator[Batch]:
    """Endless batches of similar length; each sample is drawn once and never seen again."""
    rng = random.Random(recipe.seed + 1 + stage)
    now = recipe.stages[stage]
    coin = piece_words(tokenizer.get_vocab()) if now.pieces else pseudo_word
    pad = tokenizer.convert_tokens_to_ids(PAD)
    while True:
        drawn = [
            draw_sample(rng, tokenizer, pseudo=now.pseudo, wide=now.wide, coin=coin) for _ in range(recipe.batch * 16)
        ]
        rows = encode(tokenizer, drawn, recipe, rng)
        rows.sort(key=lambda row: len(row.ids))
        chunks = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield stack(chunk, pad)


def stack(rows: list[Row], pad: int) -> Batch:
    """Rows padded on the right to the same length, a multiple of 8."""
    length = math.ceil(max(len(row.ids) for row in rows) / 8) * 8
    return Batch(
        torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows]),
        torch.tensor([row.weights + [0.0] * (length - len(row.ids)) for row in rows]),
        torch.tensor([row.last for row in rows]),
        torch.stack([attention_mask(row, length) for row in rows])[:, None],
    )


def attention_mask(row: Row, length: int) -> torch.Tensor:
    """Causal mask ``[length, length]``, 0 or a large negative number.

    The first token stays in view of all; the rest of a hidden system text is seen by itself and the last prompt token.
    """
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    if row.hidden:
        keep = seen[row.last].clone()
        seen[row.hidden :, 1 : row.hidden] = False
        seen[row.last] = keep
    return torch.zeros(length, length).masked_fill(~seen, -1e9)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token."""
    return cross_entropy(model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits, batch)


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token, from logits ``[B, T, V]``."""
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
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


def schedule(step: int, stage: Stage, warmup: int) -> float:
    """Share of the recipe's top learning rate: linear warm-up, flat, linear fall to zero at the stage's end."""
    return stage.rate * min((step + 1) / warmup, 1.0, (stage.steps - step) / (stage.fall * stage.steps))


def train(recipe: Recipe, out: Path, *, first_stage: int = 0) -> dict[str, Any]:
    """Train stage after stage and save weights (float16), tokenizer and ``training.json`` to ``out``.

    Each later stage starts from the float16 weights that the one before saved, so a run broken off between stages goes
    on with ``first_stage``. Returns the content of ``training.json``: recipe, figures per stage, tokens and seconds.
    """
    done: list[dict[str, float]] = []
    if first_stage:
        done = json.loads((out / "training.json").read_text(encoding="utf-8"))["stages"][:first_stage]
    record: dict[str, Any] = {}
    for index in range(first_stage, len(recipe.stages)):
        began = time.time()
        if index:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(out, local_files_only=True)
            model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, local_files_only=True)
            model.set_attn_implementation("eager")
        else:
            tokenizer = make_tokenizer(recipe)
            model = build(recipe, tokenizer)
        loss, tokens = run_stage(recipe, index, model, tokenizer, out)
        done.append({"train_loss": loss, "tokens": tokens, "seconds": time.time() - began})
        totals = {key: sum(stage[key] for stage in done) for key in ("tokens", "seconds")}
        record = {"recipe": asdict(recipe), "stages": done, **totals}
        (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on corpus texts.

    Only words that mean nothing fill the slots there, so that the pieces of real ones, held out or not, are alike and
    copying a word never depends on having seen it.
    """
    rng = random.Random(recipe.seed)
    drawn = (draw_sample(rng, TemplateOnly(), pseudo=1.0) for _ in range(recipe.tokenizer_texts))
    return train_tokenizer((s.prompt + s.opening + s.rest for s in drawn), recipe.vocabulary)


def run_stage(
    recipe: Recipe, index: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path
) -> tuple[float, int]:
    """Train ``model`` for one stage, saving on the way; returns the mean loss of the last 50 steps and tokens seen."""
    stage = recipe.stages[index]
    tap(model)
    optims = optimizers(model, recipe)
    tops = [[group["lr"] for group in optim.param_groups] for optim in optims]
    source, tokens, began = batches(recipe, tokenizer, index), 0, time.time()
    recent: list[float] = []
    for step in range(stage.steps):
        batch = next(source)
        for optim, lrs in zip(optims, tops, strict=True):
            for group, lr in zip(optim.param_groups, lrs, strict=True):
                group["lr"] = lr * schedule(step, stage, recipe.warmup)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            result = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, output_hidden_states=True)
            loss = cross_entropy(result.logits, batch)
        heads, neurons = writes(model, result.hidden_states, batch.last)
        share = min(step / (stage.ramp * stage.steps), 1.0) if stage.ramp else 1.0
        (loss + share * (recipe.head_penalty * heads + recipe.neuron_penalty * neurons)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        tokens += batch.ids.numel()
        recent = [*recent[-49:], loss.item()]
        if step % 10 == 0 or step + 1 == stage.steps:
            spent = time.time() - began
            print(
                f"stage {index + 1}, step {step + 1}/{stage.steps}  loss {sum(recent) / len(recent):.3f}  "
                f"writes {heads.item():.2f} {neurons.item():.2f}  {tokens / spent:.0f} tokens/s  "
                f"{spent:.0f} s, {spent / (step + 1) * (stage.steps - step - 1):.0f} s left",
                flush=True,
            )
        if step and step % 250 == 0:
            save(model, tokenizer, out)
    save(model, tokenizer, out)
    return sum(recent) / len(recent), tokens


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
