"""Confirming candidates on a model wired by hand, whose answer is known; and its effects against plain hooks."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import emotrace as et
from emotrace.errors import DataError, PlanError
from emotrace.formulas.statistics import Interval
from emotrace.steps.components import Scores
from emotrace.steps.directions import Directions
from emotrace.steps.joint_effects import sign_of
from tests.remote.loopback import hosted_here
from tests.tiny import hooked, tiny_tokenizer, torch_model

CUE_TOKEN, LAST, LAYERS, WIDTH, NEURONS = 10, 9, 4, 32, 16
ONE, SAID, CUE, READ, DEAD, FLAG, ANSWERED = range(7)
"""Coordinates of the residual stream: a constant; "the prompt names the emotion", at its token; the same at the last
token; what is measured; what nobody reads; "a writer is at work"; what one neuron tells another."""

HEAD, DEAD_HEAD, PLUS_HEAD, MINUS_HEAD = (("heads", 0, n) for n in range(4))
PRIMARY, DEAD_NEURON, PLUS, MINUS, ASKING = (("neurons", 1, n) for n in range(5))
BACKUP, ANSWERING = ("neurons", 2, 0), ("neurons", 2, 1)
SECOND = ("neurons", 3, 0)
IDLE = [("neurons", layer, n) for layer in (1, 2, 3) for n in range(8, 12)]  # read the cue and write nowhere
WIRED = [HEAD, DEAD_HEAD, PLUS_HEAD, MINUS_HEAD, PRIMARY, DEAD_NEURON, PLUS, MINUS, ASKING, BACKUP, ANSWERING]


def by_hand(*, backups=1):
    """A Llama in which a head of layer 0 brings the cue to the last token and neurons make the reading of it.

    The constant is so large that norms hardly differ between tokens. All four heads of layer 0 do the same, so do all
    neurons that read the cue: only what is written, and who reads it, tells them apart.
    """
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=NEURONS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    hf = LlamaForCausalLM(config).double().eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in hf.model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        words = hf.model.embed_tokens.weight
        words[:, 8:] = 0.2 * torch.randn(64, WIDTH - 8, generator=noise, dtype=torch.float64)
        words[:, ONE] = 40.0
        words[CUE_TOKEN, SAID] = 60.0
        attention = hf.model.layers[0].self_attn
        for pair in range(2):
            attention.v_proj.weight[12 * pair, SAID] = 1.0
        for (_, _, head), (to, size) in {
            HEAD: (CUE, 1.0),
            DEAD_HEAD: (DEAD, 1.0),
            PLUS_HEAD: (READ, 6.0),
            MINUS_HEAD: (READ, -6.0),
        }.items():
            attention.o_proj.weight[to, 12 * head] = size
        for neuron, writes in {
            PRIMARY: {READ: 3.0, FLAG: 0.3},
            DEAD_NEURON: {DEAD: 0.5},
            PLUS: {READ: 1.0},
            MINUS: {READ: -1.0},
            ASKING: {READ: 0.8, ANSWERED: 0.3},
        }.items():
            wire(hf, neuron, {CUE: 40.0}, writes)
        wire(hf, BACKUP, {CUE: 40.0, FLAG: -800.0}, {READ: 3.0, FLAG: 0.3})
        wire(hf, ANSWERING, {ANSWERED: 40.0 / WIDTH**0.5 / 0.3}, {READ: -0.8})
        if backups == 2:
            wire(hf, SECOND, {CUE: 40.0, FLAG: -800.0}, {READ: 3.0})
        for idle in IDLE:
            wire(hf, idle, {CUE: 40.0}, {})
    return et.load(hf, tokenizer=tiny_tokenizer())


def wire(hf, neuron, reads, writes):
    """A neuron that is about x where what it reads adds up to x > 0, and about 0 where it is below."""
    _, layer, index = neuron
    mlp = hf.model.layers[layer].mlp
    for coordinate, size in reads.items():
        mlp.gate_proj.weight[index, coordinate] = size
    mlp.up_proj.weight[index, ONE] = WIDTH**-0.5  # the constant is the square root of the width behind a norm
    for coordinate, size in writes.items():
        mlp.down_proj.weight[coordinate, index] = size


def directions(emotion="anger"):
    reference = torch.zeros(1, WIDTH, dtype=torch.float64)
    reference[0, READ] = 1.0
    vectors = torch.zeros(1, LAYERS, 2, WIDTH, dtype=torch.float64)
    ones = torch.ones(1, LAYERS, 2, dtype=torch.float64)
    return Directions((emotion,), "neutral", "last", vectors, ones, ones[0], reference, (3,))


def asked(count=8):
    """Neutral prompts of different lengths, and the same with the cue in front."""
    generator = torch.Generator().manual_seed(5)
    fillers = [torch.randint(20, 64, (5 + n % 4,), generator=generator).tolist() for n in range(count)]
    return {"neutral": [[*ids, LAST] for ids in fillers], "anger": [[CUE_TOKEN, *ids, LAST] for ids in fillers]}


def candidates(sites):
    return {"anger": {site: [(layer, n) for held, layer, n in sites if held == site] for site in ("heads", "neurons")}}


def confirmed(sites=(*WIRED, *IDLE), *, backups=1, model=None, **options):
    return et.confirm(model or by_hand(backups=backups), candidates(sites), asked(), directions(), **options)


@pytest.fixture(scope="module")
def found():
    return confirmed()


EXPECTED = {
    **dict.fromkeys((HEAD, PRIMARY), "true"),
    **dict.fromkeys((DEAD_HEAD, DEAD_NEURON, *IDLE), "inert"),
    **dict.fromkeys((PLUS_HEAD, MINUS_HEAD, PLUS, MINUS, ASKING, ANSWERING), "cancelling"),
    BACKUP: "backup",
}


@pytest.mark.parametrize("removal", ["neutral", "zero"])
def test_every_candidate_is_what_it_was_made(removal):
    found = confirmed(removal=removal)
    assert found.classes("anger") == EXPECTED
    partners = {(c["site"], c["layer"], c["index"]): c["partners"] for c in found.candidates}
    for one, other in ((PLUS_HEAD, MINUS_HEAD), (PLUS, MINUS), (ASKING, ANSWERING)):
        assert partners[one] == (other,)
        assert partners[other] == (one,)
    assert partners[BACKUP] == (PRIMARY,)
    assert found.of_class("true", "anger", "heads") == [(0, 0)]


@pytest.mark.parametrize("removal", ["neutral", "zero"])
def test_a_backup_of_a_backup_is_found(removal):
    """Without the primary the first backup acts, without both the second: no single removal beside it shows either."""
    found = confirmed((*WIRED, *IDLE, SECOND), backups=2, removal=removal)
    assert found.classes("anger") == EXPECTED | {SECOND: "backup"}
    removed = {t["members"]: t["effect"]["estimate"] for t in found.tests if t["beside"] == (PRIMARY,)}
    assert all(abs(effect) < 0.05 for members, effect in removed.items() if len(members) < len(IDLE))


def partial_backup():
    """The first backup makes up for half, and the second for the first."""
    model = by_hand(backups=2)
    for layer, size in ((2, 1.5), (3, 1.5)):
        mlp = torch_model(model).model.layers[layer].mlp
        with torch.no_grad():
            mlp.down_proj.weight[READ, 0] = size
    return model


def test_a_backup_of_a_partial_backup_is_found():
    found = confirmed((HEAD, PRIMARY, BACKUP, SECOND, *IDLE), model=partial_backup())
    words = found.classes("anger")
    assert words[PRIMARY] == words[HEAD] == "true"
    assert words[BACKUP] == words[SECOND] == "backup"
    assert {words[site] for site in IDLE} == {"inert"}


def test_the_order_of_candidates_does_not_matter():
    found = confirmed((*reversed(IDLE), *reversed(WIRED)))
    assert found.classes("anger") == EXPECTED


@pytest.mark.parametrize("site", [MINUS_HEAD, ANSWERING], ids=["minus", "answering"])
def test_what_acts_against_the_emotion_needs_its_partner_to_be_understood(site):
    found = confirmed((HEAD, PRIMARY, BACKUP, site))
    assert found.classes("anger") == {HEAD: "true", PRIMARY: "true", BACKUP: "backup", site: "undecided"}
    (record,) = [c for c in found.candidates if c["class"] == "undecided"]
    assert record["reason"] == "acts against the emotion, and no candidate cancels it"
    assert record["patch_in"]["high"] < -0.05


def test_a_backup_without_its_primary_is_silent():
    assert confirmed((BACKUP, DEAD_HEAD)).classes("anger") == {BACKUP: "inert", DEAD_HEAD: "inert"}


def test_a_limit_on_tests_leaves_silent_candidates_undecided():
    found = confirmed(tests=0)
    words = found.classes("anger")
    assert {words[site] for site in (DEAD_HEAD, DEAD_NEURON, BACKUP, ASKING, *IDLE)} == {"undecided"}
    assert words[HEAD] == words[PRIMARY] == "true"
    assert "raise tests=" in next(c["reason"] for c in found.candidates if c["index"] == 8)
    few = confirmed(tests=6)
    assert sum(len(t["beside"]) > 0 for t in few.tests) == 6


def test_noise_is_not_decided():
    prompts = asked(6)
    for n in range(5):  # the cue is there once in six prompts
        prompts["anger"][n] = [21, *prompts["anger"][n][1:]]
    found = et.confirm(by_hand(), candidates(WIRED), prompts, directions())
    assert {c["class"] for c in found.candidates} == {"undecided"}
    backwards = {"neutral": asked()["anger"], "anger": asked()["neutral"]}
    found = et.confirm(by_hand(), candidates(WIRED), backwards, directions())
    reason = "the emotion's prompts do not read higher than neutral ones beyond noise"
    assert {c["reason"] for c in found.candidates} == {reason}
    assert all(c["patch_in"] is None and c["removal"] is None for c in found.candidates)
    assert found.to_records()[0]["patch_in_low"] is None


def reading(hf, ids, values):
    """Reading, and heads and neurons at the last token, in a plain pass with hooks; ``values`` are set there."""
    seen = {}

    def edit(site, layer, width):
        def change(x):
            x = x.clone()
            for (kind, at, index), value in values.items():
                if (kind, at) == (site, layer):
                    x[0, -1, index * width : (index + 1) * width] = value
            seen[site, layer] = x[0, -1].clone()
            return x

        return change

    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(hf.model.layers):
            stack.enter_context(hooked(block.self_attn.o_proj, before=edit("heads", layer, 12)))
            stack.enter_context(hooked(block.mlp.down_proj, before=edit("neurons", layer, 1)))
        stack.enter_context(hooked(hf.model.norm, after=lambda y: seen.update(state=y[0, -1]) or y))
        hf(torch.tensor([ids]), use_cache=False)

    def value_of(site):
        kind, layer, index = site
        width = 12 if kind == "heads" else 1
        return seen[kind, layer][index * width : (index + 1) * width]

    return float(seen["state"][READ]), value_of


@pytest.mark.parametrize("removal", ["neutral", "zero"])
def test_effects_equal_hooks(removal):
    model, prompts = by_hand(), asked()
    hf = torch_model(model)
    found = confirmed(model=model, removal=removal)
    base = {name: [reading(hf, ids, {}) for ids in prompts[name]] for name in prompts}
    full = np.mean([after[0] - before[0] for after, before in zip(base["anger"], base["neutral"], strict=True)])
    assert found.full[0]["estimate"] == pytest.approx(full, rel=1e-6)

    def effect(kind, members):
        own, other, sign = ("neutral", "anger", 1) if kind == "patch_in" else ("anger", "neutral", -1)
        changes = []
        for n, ids in enumerate(prompts[own]):
            values = {m: base[other][n][1](m) for m in members}
            if kind == "removal" and removal == "zero":
                values = {m: torch.zeros_like(value) for m, value in values.items()}
            changes.append(sign * (reading(hf, ids, values)[0] - base[own][n][0]) / full)
        return np.mean(changes)

    for candidate in found.candidates[:12]:
        site = (candidate["site"], candidate["layer"], candidate["index"])
        for kind in ("patch_in", "removal"):
            assert candidate[kind]["estimate"] == pytest.approx(effect(kind, [site]), abs=1e-6), (site, kind)
            assert candidate[kind]["low"] <= candidate[kind]["estimate"] <= candidate[kind]["high"]
    for test in (*found.tests[:6], *found.tests[-6:]):
        kind, members, beside = test["kind"], test["members"], test["beside"]
        expected = effect(kind, [*members, *beside])
        if beside:
            expected -= effect(kind, beside) + effect(kind, members)
        assert test["effect"]["estimate"] == pytest.approx(expected, abs=1e-6), test


def test_the_cost_is_counted_and_bounded(found):
    sets = found.cost["rows"] / found.prompts
    assert found.cost["rows"] % found.prompts == 0
    singles = 2 * (1 + len(WIRED) + len(IDLE)) + 2  # with the unedited prompts, and the recording of values
    pairs = sum(not test["beside"] for test in found.tests)
    groups = sum(bool(test["beside"]) for test in found.tests)
    assert singles + pairs <= sets <= singles + pairs + 3 * groups
    assert pairs <= 2 * 4 * 3, "four pairs for each of three that act against the emotion, both kinds"
    assert groups <= 40
    assert found.cost["tokens"] < found.cost["rows"] * 10


def test_it_is_the_same_on_a_hosted_model(found):
    there = confirmed(model=hosted_here(by_hand()))
    assert there.classes("anger") == found.classes("anger")
    for mine, theirs in zip(found.candidates, there.candidates, strict=True):
        assert theirs["patch_in"]["estimate"] == pytest.approx(mine["patch_in"]["estimate"], abs=1e-9)


def test_batches_do_not_matter():
    model, sites = by_hand(), (HEAD, PRIMARY, BACKUP, PLUS, MINUS)
    whole, cut = confirmed(sites, model=model), confirmed(sites, model=model, batch_tokens=24)
    assert cut.classes("anger") == whole.classes("anger") == {site: EXPECTED[site] for site in sites}
    assert cut.cost["passes"] > whole.cost["passes"]
    for mine, theirs in zip(whole.candidates, cut.candidates, strict=True):
        assert theirs["removal"]["estimate"] == pytest.approx(mine["removal"]["estimate"], abs=1e-7)


def test_a_metric_of_the_logits_does_as_well(found):
    model = by_hand()
    with torch.no_grad():
        torch_model(model).lm_head.weight[7].zero_()
        torch_model(model).lm_head.weight[7, READ] = 2.0
    other = confirmed(model=model, metric=lambda logits: logits[:, 7])
    assert other.classes("anger") == EXPECTED
    assert other.full[0]["estimate"] == pytest.approx(2 * found.full[0]["estimate"])


def test_a_confirmation_is_kept_on_disk(tmp_path):
    found = confirmed((HEAD, PRIMARY, BACKUP))
    assert et.Confirmation.load(found.save(tmp_path / "confirmed.safetensors")) == found
    row = found.to_records()[2]
    assert (row["class"], row["partners"], row["site"]) == ("backup", "neuron 1.0", "neurons")


def test_intervals_are_over_scenarios():
    """Twice the prompts of the same scenarios are no more evidence."""
    prompts = {name: ids * 2 for name, ids in asked().items()}
    model, sites = by_hand(), candidates((HEAD, PRIMARY))
    once = et.confirm(model, sites, asked(), directions(), clusters=[f"s{n}" for n in range(8)])
    twice = et.confirm(model, sites, prompts, directions(), clusters=[f"s{n}" for n in range(8)] * 2)
    assert (twice.prompts, twice.scenarios) == (16, 8)
    for mine, theirs in zip(once.candidates, twice.candidates, strict=True):
        assert theirs["patch_in"]["low"] == pytest.approx(mine["patch_in"]["low"], abs=1e-7)


@pytest.mark.parametrize(
    ("estimate", "low", "high", "sign"),
    [
        (0.3, 0.2, 0.4, 1),
        (-0.3, -0.4, -0.2, -1),
        (0.01, -0.04, 0.04, 0),
        (0.01, -0.04, 0.06, None),
        (0.3, -0.1, 0.7, None),
        (0.04, 0.01, 0.07, None),
    ],
)
def test_what_counts_as_an_effect(estimate, low, high, sign):
    assert sign_of(Interval(estimate, low, high, "bootstrap"), 0.05) == sign


def test_candidates_come_from_any_scores():
    generator = torch.Generator().manual_seed(0)
    one, other = (
        Scores(("anger",), "random", torch.rand(1, 2, 4, generator=generator), torch.rand(1, 2, 6, generator=generator))
        for _ in range(2)
    )
    found = et.top_candidates(one, other, heads=2, neurons=3)["anger"]
    assert found["heads"][:2] == one.top("heads", "anger", 2)
    assert set(found["neurons"]) == {*one.top("neurons", "anger", 3), *other.top("neurons", "anger", 3)}
    assert len(found["neurons"]) == len(set(found["neurons"]))
    with pytest.raises(DataError, match="all of the same emotions"):
        et.top_candidates(one, replace(other, emotions=("fear",)))


def test_what_does_not_fit_is_refused():
    model, sites = by_hand(), candidates(WIRED)
    for options, message in (
        ({"removal": "mean"}, "unknown removal='mean'"),
        ({"threshold": 0.0}, "threshold=0.0: give a share"),
        ({"remains": 2}, "remains=2: give a share"),
        ({"tests": -1}, "tests=-1: give a whole number"),
        ({"clusters": ["a"] * 8}, "two scenarios or more"),
        ({"clusters": ["a", "b"]}, "2 clusters for 8 groups"),
    ):
        with pytest.raises(DataError, match=message):
            et.confirm(model, sites, asked(), directions(), **options)
    with pytest.raises(DataError, match="no directions of 'joy'"):
        et.confirm(model, {"joy": {"heads": [(0, 0)]}}, asked(), directions())
    with pytest.raises(DataError, match="no candidates"):
        et.confirm(model, {"anger": {}}, asked(), directions())
    with pytest.raises(DataError, match="candidates are heads or neurons, not 'mlp_out'"):
        et.confirm(model, {"anger": {"mlp_out": [0]}}, asked(), directions())
    with pytest.raises(PlanError, match="named twice"):
        et.confirm(model, {"anger": {"heads": [(0, 0), (0, 0)]}}, asked(), directions())
    found = confirmed((HEAD,))
    with pytest.raises(DataError, match="nothing was confirmed for 'joy'"):
        found.classes("joy")
    with pytest.raises(DataError, match="unknown class 'good'"):
        found.of_class("good", "anger", "heads")
