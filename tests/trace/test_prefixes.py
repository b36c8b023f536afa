"""Shared beginnings against rows that are computed whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import emotrace as et
from emotrace.errors import PlanError
from emotrace.trace import prefixes
from emotrace.trace.capture import state_coordinates
from emotrace.trace.likelihood import reply_nll
from emotrace.trace.normed import normed_scores
from emotrace.trace.prefixes import split
from emotrace.trace.suffix import injected_shifts
from tests.tiny import FAMILIES, close, random_prompts, tiny_model

BEGINNINGS = ([9, 8, 7, 9, 8, 7, 11, 12], [9, 8, 7, 9, 8, 13, 14, 15])
ALIKE = [[*BEGINNINGS[n % 2], *ids] for n, ids in enumerate(random_prompts(7, shortest=2, longest=6))]
REPLIES = [[8, 9], [7], [], [9, 9, 9], [11], [12, 13], [8]]
SAMPLES = [
    et.Sample(n % 2, tuple(ids), tuple(reply)) for n, (ids, reply) in enumerate(zip(ALIKE, REPLIES, strict=True))
]


@pytest.fixture
def whole(monkeypatch):
    """Call it to let every row be computed whole from then on."""
    return lambda: monkeypatch.setattr(prefixes, "LEAST_SAVING", 2.0)


def push(model, tokens="reply"):
    values = {(1, h): torch.full((model.sizes.head_width,), 1.5) for h in (0, 2)}
    return et.add(values, "heads", tokens=tokens) + et.add({0: torch.full((32,), 0.5)}, "resid_mlp", tokens=tokens)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CALLS = {
    "capture": lambda model: et.capture(model, SAMPLES, ("joy", "neutral")),
    "states": lambda model: torch.einsum("nlsd,mlsd->lsnm", *[state_coordinates(model, ALIKE, (0, 2)).double()] * 2),
    "likelihood": lambda model: torch.tensor([v or 0.0 for v in reply_nll(model, ALIKE, REPLIES)]).double(),
    "influence": lambda model: injected_shifts(
        model, [ALIKE], random(2, 3, 2, 32), random(2, 3, 2, seed=1).abs(), random(2, 32, seed=2), "residual"
    ),
    "second_pass": lambda model: normed_scores(model, ALIKE, [0, 1] * 3 + [0], random(2, 3, 2, 32))["heads"],
}


def tensors(found):
    if isinstance(found, torch.Tensor):
        return [found]
    return [value for place in ("last", "reply") for value in found.at(place).values()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_read_is_the_same_and_fewer_tokens_are_computed(family, name, whole):
    model = tiny_model(family)
    shared = tensors(CALLS[name](model))
    fewer = sum(model.counters.values())
    model.counters.clear()
    whole()
    apart = tensors(CALLS[name](model))
    assert fewer < sum(model.counters.values())
    for one, other in zip(shared, apart, strict=True):
        assert close(one, other, 1e-6)  # norms of most families round to float32


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_are_the_same(family, whole):
    model = tiny_model(family)
    plans = {"unsteered": None, "steered": push(model), "by_row": [push(model), et.Plan()] * 3 + [push(model)]}
    shared = {name: et.generate_replies(model, ALIKE, plan, max_new_tokens=7) for name, plan in plans.items()}
    fewer = model.counters["prompt_tokens"]
    model.counters.clear()
    whole()
    apart = {name: et.generate_replies(model, ALIKE, plan, max_new_tokens=7) for name, plan in plans.items()}
    assert fewer < model.counters["prompt_tokens"]
    for name, replies in shared.items():
        assert [(r.ids, r.stopped, r.edited) for r in replies] == [(r.ids, r.stopped, r.edited) for r in apart[name]]
    assert shared["steered"] != shared["unsteered"]
    assert shared["by_row"][1::2] == shared["unsteered"][1::2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_static_cache_gives_the_same_replies(family):
    model = tiny_model(family)
    plans = [push(model), et.Plan()] * 3 + [push(model, "all")]
    static = et.generate_replies(model, ALIKE, plans, max_new_tokens=7, cache="static")
    assert static == et.generate_replies(model, ALIKE, plans, max_new_tokens=7)
    with pytest.raises(PlanError, match="unknown cache 'fixed': choose dynamic or static"):
        et.generate_replies(model, ALIKE, cache="fixed")


@pytest.mark.parametrize("tokens", ["all", "prompt", (0,), (-2,)])
def test_edits_inside_the_prompt_keep_rows_whole(tokens, whole):
    model = tiny_model()
    replies = et.generate_replies(model, ALIKE, push(model, tokens), max_new_tokens=5)
    assert model.counters["prompt_tokens"] == sum(map(len, ALIKE))
    whole()
    assert et.generate_replies(model, ALIKE, push(model, tokens), max_new_tokens=5) == replies


def test_strength_zero_everywhere_is_no_edit_where_beginnings_are_shared():
    model = tiny_model(dtype=torch.float32)
    nothing = et.add({(1, 0): torch.ones(12)}, "heads", strength=0.0, tokens="all")
    replies = et.generate_replies(model, ALIKE, nothing, max_new_tokens=6)
    shared = model.counters["prompt_tokens"]
    assert replies == et.generate_replies(model, ALIKE, max_new_tokens=6)
    assert model.counters["prompt_tokens"] == 2 * shared


def test_a_prompt_under_many_plans_is_computed_once():
    model = tiny_model()
    et.generate_replies(model, [ALIKE[0]] * 6, [et.scale(1 + n / 10, heads=[(0, 0)], tokens="last") for n in range(6)])
    assert model.counters["prompt_tokens"] == len(ALIKE[0]) - 1 + 6


@given(
    st.lists(
        st.builds(
            lambda start, rest: [*BEGINNINGS[start], *rest],
            st.integers(0, 1),
            st.lists(st.integers(7, 10), min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 4),
)
def test_a_split_batch_holds_every_token_where_it_was(sequences, apart):
    model = MODEL
    batch = split(model, sequences, apart)
    depth = batch.head.shape[1]
    assert batch.text.shape == batch.mask.shape
    assert [row[kept.bool()].tolist() for row, kept in zip(batch.text, batch.mask, strict=True)] == sequences
    assert depth == 0 or min(map(len, sequences)) - depth >= apart
    assert len({*map(tuple, batch.head.tolist())}) == len(batch.head)
    assert batch.tokens == batch.head.numel() + sum(len(ids) - depth for ids in sequences)
    fewest = min(
        len({tuple(ids[:d]) for ids in sequences}) * d + len(sequences) * (max(map(len, sequences)) - d)
        for d in range(min(map(len, sequences)) - apart + 1)
    )
    padded = len(sequences) * max(map(len, sequences))
    assert batch.head.numel() + batch.ids.numel() == (fewest if fewest < 0.9 * padded else padded)


MODEL = tiny_model()


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {"sliding_window": 8}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        ("llama", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}),
    ],
)
def test_models_whose_texts_cannot_be_cut_anywhere_keep_rows_whole(family, changed):
    model = tiny_model(family)
    for name, value in changed.items():
        setattr(model.nn._module.config, name, value)
    assert split(model, ALIKE).head.shape[1] == 0


def test_a_window_that_holds_the_whole_text_does_not_matter():
    model = tiny_model("mistral")
    model.nn._module.config.sliding_window = max(map(len, ALIKE)) + 3
    assert split(model, ALIKE, room=3).head.shape[1] > 0
    assert split(model, ALIKE, room=4).head.shape[1] == 0
