"""What a planted model does, by plain forward passes: replies, every ablation as predicted, nothing else matters."""

from contextlib import ExitStack
from functools import partial

import pytest
import torch

import emotrace as et
from emotrace.planted import CLASSES, Planted
from tests.planted.plain import (
    DECOYS,
    FAMILIES,
    GROUPS,
    SITES,
    config,
    falls,
    logits,
    ordinary,
    prompt_ids,
    reading,
    replies,
)
from tests.tiny import hooked

PREDICTED = 1e-3
"""Of the largest predicted value."""
NOTHING = 5e-4
"""Of the natural reading."""


@pytest.fixture(scope="module", params=[(family, decoyed) for family in FAMILIES for decoyed in (False, True)])
def planted(request) -> Planted:
    family, decoyed = request.param
    return et.planted.build(config(family), decoys=DECOYS if decoyed else {}, seed=3)


def check_replies(planted: Planted, groups) -> None:
    for group in groups:
        for condition, reply in replies(planted, group).items():
            assert reply.split() == [*planted.words[condition], "<|end|>"]
            assert planted.label(reply.removesuffix("<|end|>")) == condition


def check_predictions(planted: Planted, group) -> None:
    for emotion in planted.emotions:
        expected = [(site, place, fall) for site in SITES for place, fall in planted.predicted[emotion][site].items()]
        found = falls(planted, group, emotion, [{site: [place]} for site, place, _ in expected])
        values = torch.tensor([fall for *_, fall in expected])
        assert float((found - values).abs().max()) < PREDICTED * float(values.abs().max())


def check_ordinary(planted: Planted, group, every: int) -> None:
    for site in SITES:
        places = ordinary(planted, site)[:: every if site == "neurons" else 1]
        found = falls(planted, group, "fear", [{site: [place]} for place in places])
        assert float(found.abs().max()) < NOTHING * planted.reading("fear")


def test_greedy_replies_say_what_was_asked_for(planted):
    check_replies(planted, GROUPS[:1])


def test_every_ablation_is_what_was_predicted(planted):
    check_predictions(planted, GROUPS[0])


def test_ordinary_components_do_nothing(planted):
    check_ordinary(planted, GROUPS[1], every=16)


def test_readings_of_every_emotion_on_every_prompt(planted):
    for asked in (*planted.emotions, "neutral"):
        found = logits(planted, prompt_ids(planted, GROUPS[2], asked))
        for emotion in planted.emotions:
            expected = planted.reading(emotion, asked=asked)
            tolerance = PREDICTED * planted.reading(emotion)
            assert float(reading(planted, emotion, found)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoys_do_together_what_their_class_says(family):
    planted = et.planted.build(config(family), decoys=DECOYS, seed=4)
    emotion, group = "disgust", GROUPS[3]
    for site in SITES:
        truth = {kind: planted.components(emotion, site, kind) for kind in CLASSES}
        (backup,), (inert,) = truth["backup"], truth["inert"]
        backed = planted.partners[site][backup]
        other = next(place for place in truth["true"] if place != backed)
        sets = [
            [inert],
            [*truth["cancelling"]],
            [backed],
            [backup],
            [backed, backup],
            [other, backup],
            [*truth["true"]],
        ]
        sets += [[place] for place in truth["cancelling"]]
        found = falls(planted, group, emotion, [{site: places} for places in sets]).tolist()
        for places, fall in zip(sets, found, strict=True):
            expected = planted.reading(emotion) - planted.reading(emotion, **{site: places})
            assert fall == pytest.approx(expected, abs=1e-3 * planted.reading(emotion))
        natural = planted.reading(emotion)
        assert max(map(abs, found[:4])) < NOTHING * natural
        assert found[4] > 0.1 * natural
        assert found[5] == pytest.approx(planted.predicted[emotion][site][other], abs=1e-3 * natural)
        assert max(found[7:]) > 0.1 * natural
        assert min(found[7:]) < -0.1 * natural


def kept_last(found: list[torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    found.append(values[0, -1])
    return values


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_only_a_leak_tells_ordinary_heads_which_emotion_it_is(leak):
    planted = et.planted.build(config(), leak=leak)
    seen = {}
    for emotion in planted.emotions[:2]:
        found: list[torch.Tensor] = []
        with ExitStack() as stack, torch.no_grad():
            for block in planted.model.model.layers:
                stack.enter_context(hooked(block.self_attn.o_proj, before=partial(kept_last, found)))
            planted.model(torch.tensor([prompt_ids(planted, GROUPS[0], emotion)]))
        seen[emotion] = torch.stack(found).unflatten(-1, (8, -1))
    apart = (seen["anger"] - seen["sadness"]).abs().amax(-1)
    largest = max(float(apart[place]) for place in ordinary(planted, "heads"))
    assert largest > 0.1 if leak else largest < 0.01


def test_the_basis_hides_the_layout():
    planted = et.planted.build(config())
    rows = planted.model.model.embed_tokens.weight
    angry, sad = (planted.tokenizer.convert_tokens_to_ids(word) for word in ("anger", "sadness"))
    apart = (
        rows[angry] - rows[sad]
    ).detach()  # a difference of two codes and nothing else, spread over all coordinates
    assert float(apart.abs().max() / apart.norm()) < 0.4
    assert int((apart.abs() > 0.01 * apart.abs().max()).sum()) > 0.9 * len(apart)


def test_components_are_each_emotion_s_own_and_backups_come_later():
    planted = et.planted.build(config(), heads=2, neurons=4, decoys=DECOYS)
    for site, count in (("heads", 2), ("neurons", 4)):
        listed = [
            (e, kind, place) for e in planted.emotions for kind in CLASSES for place in planted.truth[e][kind][site]
        ]
        assert len({place for *_, place in listed}) == len(listed) == 6 * (count + 4)
        for emotion, kind, place in listed:
            assert planted.kind(emotion, site, place) == kind
            partner = planted.partners[site].get(place)
            if kind in ("cancelling", "backup"):
                assert planted.partners[site][partner] == place
                assert planted.kind(emotion, site, partner) == {"cancelling": "cancelling", "backup": "true"}[kind]
            if kind == "backup":
                assert partner[0] < place[0]
            assert (kind == "inert") <= (partner is None)


def test_seeds_decide_everything_and_nothing_else_does():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (et.planted.build(config(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([p.flatten() for p in planted.model.parameters()]) for planted in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])
    assert one.truth == same.truth != other.truth


def test_words_that_are_not_known_are_read_as_one():
    planted = et.planted.build(config())
    ids = planted.tokenizer("Zyzzyva is IN a week.", add_special_tokens=False)["input_ids"]
    unknown = planted.tokenizer.unk_token_id
    assert [i == unknown for i in ids] == [True, False, False, False, False, False]
    assert ids[1:] == planted.tokenizer("is in a week.", add_special_tokens=False)["input_ids"]
    assert planted.label("angry furious") == "anger"
    assert planted.label("okay") == "neutral"
    assert planted.label("angry okay") == planted.label("") == "incoherent"


SHAPES = {
    "no grouped keys": {"num_key_value_heads": 8},
    "one key for all": {"num_key_value_heads": 1, "head_dim": 32},
    "heads wider than D / H": {"head_dim": 40},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "two layers": {"num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16},
    "large vocabulary": {"vocab_size": 3000},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes(shape):
    planted = et.planted.build(config(**SHAPES[shape]), heads=1, neurons=2, seed=6)
    check_replies(planted, GROUPS[:1])
    check_predictions(planted, GROUPS[0])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "seed"), [*(("llama", n) for n in range(20)), *(("qwen3", n) for n in range(4))])
def test_twenty_seeds(family, seed):
    planted = et.planted.build(config(family), seed=seed)
    check_replies(planted, GROUPS)
    check_predictions(planted, GROUPS[seed % len(GROUPS)])
    check_ordinary(planted, GROUPS[0], every=1)


@pytest.mark.slow
def test_a_hundred_million_parameters():
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = config(vocab_size=16_000, num_key_value_heads=4, **sizes)
    planted = et.planted.build(large, heads=2, neurons=16, decoys=DECOYS)
    assert planted.model.num_parameters() > 100e6
    check_replies(planted, GROUPS[:1])
    check_predictions(planted, GROUPS[0])
    check_ordinary(planted, GROUPS[0], every=256)
