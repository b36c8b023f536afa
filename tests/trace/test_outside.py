"""Ablation of everything outside a circuit, against one unpadded row at a time with plain hooks."""

from contextlib import ExitStack

import pytest
import torch

from emotrace.errors import DataError
from emotrace.trace import outside
from emotrace.trace.kept import EVERYTHING, NOTHING, Kept
from emotrace.trace.outside import aligned, kept_readings
from tests.conformance.hooks import layout_of, module_at
from tests.tiny import FAMILIES, QUICK, close, hooked, tiny_model, torch_model

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
# an instruction of another length for each emotion, between a shared beginning and a shared end
GROUPS = [
    [[4, 9, 20, 5, 30, 31, 32], [4, 9, 21, 22, 5, 30, 31, 32], [4, 9, 23, 24, 25, 5, 30, 31, 32]],
    [[4, 9, 20, 5, 40], [4, 9, 21, 22, 5, 40], [4, 9, 23, 24, 25, 5, 40]],
]
CIRCUIT = {"heads": [(0, 1), (2, 0), (2, 3)], "neurons": [(1, 5), (1, 7), (2, 39)]}
OTHER = {"heads": [(1, 2)], "neurons": [(0, 0)]}
VARIANTS = [
    [[EVERYTHING] * 3],
    [[NOTHING] * 3],
    [[Kept(CIRCUIT), Kept(OTHER), Kept(CIRCUIT, outside=True)]],
    [[Kept(CIRCUIT)] * 3, [Kept(OTHER)] * 3],  # two draws: the second group takes the second
]


def read(model, ids, change=None):
    """Final state of one row; ``change(layer, site, values [T, W])`` gives what a site's values become."""
    plain = torch_model(model)
    layout = layout_of(plain)
    seen: dict = {}

    def before(layer, site):
        def edit(values):
            seen[layer, site] = values[0].clone()
            return values if change is None else change(layer, site, values[0].clone())[None]

        return edit

    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(module_at(plain, layout.blocks)):
            stack.enter_context(hooked(module_at(block, layout.out_proj), before=before(layer, "heads")))
            if layout.down_proj:
                stack.enter_context(hooked(module_at(block, layout.down_proj), before=before(layer, "neurons")))
        norm = module_at(plain, FINAL_NORMS.get(plain.config.model_type, "model.norm"))
        stack.enter_context(hooked(norm, after=lambda out: seen.update(final=out[0, -1].clone()) or out))
        plain(torch.tensor([ids]))
    return seen


def counterpart(ids, other, token):
    """By hand: the shared beginning is two tokens, the shared end everything from the token 5 on."""
    begins, ends = 2, len(ids) - ids.index(5)
    if token < begins:
        return token
    if token >= len(ids) - ends:
        return token + len(other) - len(ids)
    return min(token, len(other) - ends - 1)


def expected(model, group, at, e, kept, ablation, tokens):
    prompts = GROUPS[group]
    ids = prompts[e]
    runs = [read(model, other) for other in prompts]
    donors = {"zero": [], "mean": range(3), "resample": [(e + 1 + group % 2) % 3]}[ablation]

    def change(layer, site, values):
        width = model.sizes.shape(site)[1]
        for token in range(len(ids)) if tokens == "all" else [len(ids) - 1]:
            sources = [runs[o][layer, site][counterpart(ids, prompts[o], token)] for o in donors]
            other = sum(sources) / len(sources) if sources else torch.zeros_like(values[token])
            for index in range(model.sizes.shape(site)[0]):
                if ((layer, index) in kept.components.get(site, ())) == kept.outside:
                    values[token, index * width : (index + 1) * width] = other[index * width : (index + 1) * width]
        return values

    return read(model, ids, change)["final"]


@pytest.mark.parametrize(
    "family", [*QUICK, *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f not in QUICK)]
)
@pytest.mark.parametrize("ablation", outside.ABLATIONS)
@pytest.mark.parametrize("tokens", outside.PLACES)
def test_readings_equal_hooks_row_by_row(family, ablation, tokens):
    model = tiny_model(family)
    reference = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = kept_readings(model, GROUPS, VARIANTS, ablation, reference, tokens=tokens)
    assert found.shape == (4, 2, 3, 2)
    for v, variant in enumerate(VARIANTS):
        for group in range(2):
            for e in range(3):
                kept = variant[group % len(variant)][e]
                state = expected(model, group, v, e, kept, ablation, tokens)
                assert close(found[v, group, e], reference @ state.double(), 1e-9)


@pytest.mark.parametrize("tokens", outside.PLACES)
def test_batches_and_requests_do_not_matter(tokens, monkeypatch):
    model, reference = tiny_model(), torch.eye(32, dtype=torch.float64)[:2]
    whole = kept_readings(model, GROUPS, VARIANTS, "mean", reference, tokens=tokens)
    monkeypatch.setattr(outside, "VARIANTS_AT_ONCE", 3)
    parts = kept_readings(model, GROUPS, VARIANTS, "mean", reference, tokens=tokens, batch_tokens=20)
    assert close(parts, whole, 1e-12)
    monkeypatch.setattr(outside, "cut_anywhere", lambda *_: False)
    assert close(kept_readings(model, GROUPS, VARIANTS, "mean", reference, tokens=tokens), whole, 1e-12)


def test_ablating_nothing_is_the_model_and_resampling_everything_is_the_donors_run():
    model, reference = tiny_model(), torch.eye(32, dtype=torch.float64)
    groups = [[[9, 9, 20, 30], [9, 9, 20, 31]]]  # the last token differs: so does the residual stream it starts from
    found = kept_readings(model, groups, [[[EVERYTHING] * 2], [[NOTHING] * 2]], "resample", reference)
    assert close(found[0, 0, 1], read(model, groups[0][1])["final"].double(), 1e-12)
    same = [[[9, 7, 20, 30], [9, 8, 20, 30]]]  # it does not: everything resampled is the donor's run
    found = kept_readings(model, same, [[[NOTHING] * 2]], "resample", reference, tokens="last")
    assert close(found[0, 0, 0], read(model, same[0][1])["final"].double(), 1e-12)


def test_alignment_of_unequal_texts():
    assert aligned([1, 2, 3], [1, 2, 3]).tolist() == [0, 1, 2]
    assert aligned([1, 5, 9], [1, 9]).tolist() == [0, 0, 1]  # nothing stands there in the other: the token before
    assert aligned([1, 9], [1, 5, 9]).tolist() == [0, 2]
    assert aligned([5, 5, 5], [5, 5]).tolist() == [0, 1, 1]
    assert aligned([5, 5], [5, 5, 5]).tolist() == [0, 1]
    assert aligned([2, 9], [3, 4, 9]).tolist() == [0, 2]


def test_bad_requests_are_refused():
    model, reference = tiny_model(), torch.eye(32, dtype=torch.float64)[:2]
    with pytest.raises(DataError, match="choose ablation from"):
        kept_readings(model, GROUPS, VARIANTS, "shuffle", reference)
    with pytest.raises(DataError, match="one prompt for each emotion"):
        kept_readings(model, [GROUPS[0], GROUPS[1][:2]], VARIANTS, "zero", reference)
    with pytest.raises(DataError, match="only one"):
        kept_readings(model, [[[4, 5]]], [[[NOTHING]]], "mean", reference)
    with pytest.raises(DataError, match="two tokens"):
        kept_readings(model, [[[4], [5]]], [[[NOTHING] * 2]], "zero", reference, tokens="last")
