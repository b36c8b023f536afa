"""Half precision: edits against hooks in the same dtype, statistics against the same weights in float64."""

import pytest
import torch

import emotrace as et
from emotrace.trace.batches import pad_left
from tests.conformance import hooks
from tests.conformance.hooks import HookEdit
from tests.tiny import close, random_prompts, tiny_hf, tiny_model, tiny_tokenizer, torch_model

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
FAMILIES = ["llama", "gemma2", "gpt2", "gpt_neox", "olmo2", "mixtral"]


def edits(model, dtype):
    """A plan with an edit at four sites, and the same as hooks, values rounded to the dtype beforehand."""
    generator = torch.Generator().manual_seed(0)
    push = torch.randn(32, generator=generator).to(dtype)
    fill = torch.randn(model.sizes.head_width, generator=generator).to(dtype)
    plan = et.add({0: push}, "resid_attn", tokens="all") + et.set({(1, 2): fill}, "heads", tokens=(0, -1))
    plan = plan + et.scale(0.5, mlp_out=[1]) + et.zero(heads=[(2, 0)], tokens="last")
    reference = [
        HookEdit("add", "resid_attn", 0, value=push, tokens="all"),
        HookEdit("set", "heads", 1, 2, value=fill, tokens=(0, -1)),
        HookEdit("scale", "mlp_out", 1, value=0.5, tokens="all"),
        HookEdit("zero", "heads", 2, 0, tokens="last"),
    ]
    return plan, reference


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_edits_equal_hooks(family, dtype):
    model, prompts = tiny_model(family, dtype=dtype), random_prompts(3)
    plan, reference = edits(model, dtype)
    batch = pad_left(prompts, model.pad_token)
    with model.trace(batch.ids, attention_mask=batch.mask, use_cache=False):
        with torch.no_grad():
            et.apply(model, plan, attention_mask=batch.mask)
            logits = model.output.logits.clone().save()
    assert logits.dtype == dtype
    for row, prompt in enumerate(prompts):
        expected = hooks.forward(torch_model(model), prompt, reference)
        assert close(logits[row, -len(prompt) :], expected, TOLERANCE[dtype])
        for one in reference:  # each edit alone moves the logits by more than the tolerance
            without = hooks.forward(torch_model(model), prompt, [other for other in reference if other is not one])
            assert not close(without, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_capture_accumulates_in_float64(family, dtype):
    """Sums of many half-precision states are theirs exactly: nothing is added up in half precision."""
    model, prompts = tiny_model(family, dtype=dtype), random_prompts(1) * 40
    samples = [et.Sample(0, tuple(ids), (7, 8)) for ids in prompts]
    statistics = et.capture(model, samples, ("a",), batch_tokens=10_000)
    one = et.capture(model, samples[:1], ("a",))
    for site in ("heads", "neurons", "resid_attn", "resid_mlp", "rms"):
        assert statistics.last[site].dtype == torch.float64
        if statistics.last[site].numel():  # a mixture of experts has no neurons
            assert close(statistics.last[site], one.last[site], max(TOLERANCE[dtype], 1e-5) / 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_circuit_found_in_float32_works_in_half_precision(dtype):
    """Fingerprint, scores and generation on the same weights, rounded."""
    full = tiny_model("llama", dtype=torch.float32)
    half = et.load(tiny_hf("llama", dtype=torch.float32).to(dtype), tokenizer=tiny_tokenizer())
    full.fingerprint.check(half.fingerprint)
    samples = [et.Sample(i % 2, tuple(ids), (7, 8)) for i, ids in enumerate(random_prompts(8))]
    found = [et.capture(m, samples, ("joy", "neutral")) for m in (full, half)]
    directions = et.Directions(
        ("joy",),
        "neutral",
        "last",
        torch.nn.functional.normalize(torch.ones(1, 3, 2, 32, dtype=torch.float64), dim=-1),
        torch.ones(1, 3, 2, dtype=torch.float64),
        torch.ones(3, 2, dtype=torch.float64),
        torch.nn.functional.normalize(torch.ones(1, 32, dtype=torch.float64), dim=-1),
        (2,),
    )
    scores = [et.score_heads(m, s, directions) for m, s in zip((full, half), found, strict=True)]
    # a score sums over its head's coordinates what each may be off by, which differs between processors
    assert close(scores[1], scores[0], 2 * TOLERANCE[dtype])
    value = {(1, 2): torch.full((12,), 3.0)}
    (reply,) = et.generate_replies(half, random_prompts(1), et.add(value, "heads"), max_new_tokens=4)
    assert reply.edited == len(reply.ids) + reply.stopped
