"""Directions, influence, scores, circuits and controls on a tiny random model, against slow routes."""

import numpy as np
import pytest
import torch

from emotrace.data.concepts import NEUTRAL
from emotrace.errors import CircuitError, DataError
from emotrace.steps.causal import causal_scores
from emotrace.steps.circuit import EmotionCircuit, add, assemble
from emotrace.steps.components import METHODS, score_components
from emotrace.steps.directions import difference_vectors, emotion_directions
from emotrace.steps.influence import Influence, sublayer_influence
from emotrace.steps.random_circuits import Controls
from emotrace.trace.capture import Sample, capture
from emotrace.trace.compile import compile_plan
from tests.tiny import close, hooked, random_prompts, tiny_model, torch_model

EMOTIONS = ("joy", "gloom", "awe")
CONDITIONS = (*EMOTIONS, NEUTRAL)


def made():
    model = tiny_model()
    prompts = random_prompts(16)
    replies = random_prompts(16, seed=3, shortest=2, longest=4)
    samples = [Sample(i % 4, tuple(p), tuple(r)) for i, (p, r) in enumerate(zip(prompts, replies, strict=True))]
    statistics = capture(model, samples, CONDITIONS)
    return model, samples, statistics


MODEL, SAMPLES, STATISTICS = made()
DIRECTIONS = emotion_directions(STATISTICS)
DIFFERENCES = difference_vectors(STATISTICS)
PROMPTS = [s.prompt for s in SAMPLES if s.condition == 3]
INFLUENCE = sublayer_influence(MODEL, PROMPTS, DIRECTIONS)


def test_directions_are_unit_and_sum_to_zero_before_normalising():
    assert torch.allclose(DIRECTIONS.vectors.norm(dim=-1), torch.ones(3, 3, 2, dtype=torch.float64))
    total = (DIRECTIONS.vectors * DIRECTIONS.norms[..., None]).sum(0)
    assert float(total.abs().max()) < 1e-12
    neutral = emotion_directions(STATISTICS, contrast="neutral", measured_at="reply")
    expected = STATISTICS.reply["resid_mlp"][0] - STATISTICS.reply["resid_mlp"][3]
    assert close(neutral.vectors[0, :, 1] * neutral.norms[0, :, 1:], expected, 1e-12)


def test_bad_requests_are_refused():
    with pytest.raises(DataError, match="unknown contrast"):
        emotion_directions(STATISTICS, contrast="opposite")
    with pytest.raises(DataError, match="at least one neutral prompt"):
        sublayer_influence(MODEL, [], DIRECTIONS)
    with pytest.raises(DataError, match="must be positive"):
        sublayer_influence(MODEL, PROMPTS, DIRECTIONS, alphas=(0.0,))
    with pytest.raises(DataError, match="choose readout"):
        sublayer_influence(MODEL, PROMPTS, DIRECTIONS, readout="logits")
    with pytest.raises(DataError, match="unknown method"):
        score_components(MODEL, STATISTICS, DIRECTIONS, DIFFERENCES, method="guess")
    with pytest.raises(DataError, match="unknown place"):
        emotion_directions(STATISTICS, measured_at="first")
    uneven = capture(MODEL, SAMPLES[:13], CONDITIONS)
    with pytest.raises(DataError, match="not over the same groups"):
        emotion_directions(uneven)
    silent = capture(MODEL, [Sample(s.condition, s.prompt) for s in SAMPLES], CONDITIONS)
    emotion_directions(silent)
    with pytest.raises(DataError, match="means at reply are not over the same groups"):
        difference_vectors(silent)
    with pytest.raises(DataError, match="one token has no prefix"):
        sublayer_influence(MODEL, [(7,)], DIRECTIONS)
    with pytest.raises(DataError, match="condition 3, but only 3 conditions"):
        capture(MODEL, SAMPLES, EMOTIONS)
    smaller = tiny_model(layers=2)
    with pytest.raises(CircuitError, match="layers, heads and neurons a layer, this one has"):
        assemble(
            smaller,
            score_components(MODEL, STATISTICS, DIRECTIONS, DIFFERENCES),
            INFLUENCE,
            DIFFERENCES,
            heads=1,
            neurons=1,
        )
    with pytest.raises(DataError, match="needs prompts"):
        score_components(MODEL, STATISTICS, DIRECTIONS, DIFFERENCES, method="gradient")


@pytest.mark.parametrize("readout", ["final_norm", "residual"])
def test_influence_equals_full_passes(readout):
    got = sublayer_influence(MODEL, PROMPTS, DIRECTIONS, readout=readout, batch_tokens=100).values
    plain = torch_model(MODEL)

    def final(prompt, module=None, vector=None):
        seen = []

        def add_vector(y):
            y = y.clone()
            y[:, -1] += vector
            return y

        def keep(x):
            seen.append(x[0, -1].clone())
            return x

        watch = {"before" if readout == "residual" else "after": keep}
        with torch.no_grad(), hooked(plain.model.norm, **watch):
            if module is None:
                plain(torch.tensor([prompt]))
            else:
                with hooked(module, after=add_vector):
                    plain(torch.tensor([prompt]))
        return seen[0]

    for e in range(3):
        for layer in range(3):
            for p in range(2):
                block = plain.model.layers[layer]
                module = block.self_attn.o_proj if p == 0 else block.mlp.down_proj
                values = []
                for prompt in PROMPTS:
                    for alpha in (0.1, 0.3, 0.5, 0.7):
                        size = alpha * DIRECTIONS.sigma[layer, p]
                        moved = final(prompt, module, size * DIRECTIONS.vectors[e, layer, p]) - final(prompt)
                        values.append(float(moved @ DIRECTIONS.reference[e]) / float(size))
                assert abs(np.mean(values) - float(got[e, layer, p])) < 1e-5 * float(got.abs().max())


def test_influence_invariant_of_the_last_mlp():
    values = sublayer_influence(MODEL, PROMPTS, DIRECTIONS, readout="residual").values
    expected = (DIRECTIONS.vectors[:, -1, 1] * DIRECTIONS.reference).sum(-1)
    assert torch.allclose(values[:, -1, 1], expected, rtol=1e-6, atol=1e-9)


def test_gradient_is_the_limit_of_small_pushes():
    small = sublayer_influence(MODEL, PROMPTS, DIRECTIONS, alphas=(0.003,)).values
    gradient = sublayer_influence(MODEL, PROMPTS, DIRECTIONS, method="gradient").values
    assert close(gradient, small, 5e-3)


@pytest.mark.parametrize("site", ["heads", "neurons"])
def test_analytic_scores_equal_really_zeroing(site):
    few = capture(MODEL, [s for s in SAMPLES if s.condition < 3], EMOTIONS)
    scores = score_components(MODEL, few, DIRECTIONS, DIFFERENCES).at(site)
    prompts = {e: [s.prompt for s in SAMPLES if s.condition == i] for i, e in enumerate(EMOTIONS)}
    causal = causal_scores(MODEL, prompts, DIRECTIONS, site, {0: [0, 3], 2: [1]})
    for (emotion, layer, index), fall in causal.items():
        assert abs(fall - float(scores[EMOTIONS.index(emotion), layer, index])) < 1e-8


def test_every_method_has_one_signature():
    for method in METHODS:
        scores = score_components(MODEL, STATISTICS, DIRECTIONS, DIFFERENCES, method=method, prompts=PROMPTS)
        assert scores.heads.shape == (3, 3, 4)
        assert scores.neurons.shape == (3, 3, 40)
        assert len(set(scores.top("neurons", "awe", 7))) == 7


def built(**options):
    scores = score_components(MODEL, STATISTICS, DIRECTIONS, DIFFERENCES)
    positive = Influence(EMOTIONS, INFLUENCE.values.abs() + 0.1, "final_norm", "exact", (), 1)
    return assemble(MODEL, scores, positive, DIFFERENCES, **{"heads": 4, "neurons": 20, **options}), scores, positive


def test_circuit_fills_shares_with_the_best(tmp_path):
    circuit, scores, influence = built()
    for e, emotion in enumerate(EMOTIONS):
        counts = circuit.counts("neurons", emotion, 3)
        ideal = 20 * influence.values[e, :, 1] / influence.values[e, :, 1].sum()
        assert sum(counts) == 20
        assert all(abs(c - float(i)) < 1 for c, i in zip(counts, ideal, strict=True))
        for layer, count in enumerate(counts):
            best = set(scores.neurons[e, layer].topk(count).indices.tolist())
            assert {n for where, n in circuit.components("neurons", emotion) if where == layer} == best
        for (layer, head), vector in zip(
            circuit.components("heads", emotion), circuit.vectors("heads", "reply", emotion), strict=True
        ):
            assert torch.equal(vector, DIFFERENCES.reply["heads"][e, layer, head])
    loaded = EmotionCircuit.load(circuit.save(tmp_path / "c.safetensors"))
    loaded.check(MODEL)
    assert loaded.to_records() == circuit.to_records()
    with pytest.raises(CircuitError, match="other weights"):
        loaded.check(tiny_model(seed=1))
    loaded.check(tiny_model(seed=1), allow_other_weights=True)
    with pytest.raises(CircuitError, match="other sizes"):
        loaded.check(tiny_model(layers=2))
    loaded.check(tiny_model(dtype=torch.bfloat16))
    with pytest.raises(CircuitError, match="has no 'envy'"):
        add(circuit, "envy")


def test_allocations():
    everywhere, scores, _ = built(allocation="global", heads=5)
    assert everywhere.components("heads", "joy") == scores.top("heads", "joy", 5)
    assert built(allocation="uniform", heads=6)[0].counts("heads", "awe", 3) == [2, 2, 2]
    for budget in (-1, 1000):
        with pytest.raises(CircuitError, match="does not fit"):
            built(allocation="global", heads=budget)
    with pytest.raises(CircuitError, match="unknown allocation"):
        built(allocation="alphabetical")


def test_controls_keep_their_promises():
    circuit, _, _ = built(heads=2, neurons=12)
    controls = Controls(MODEL, circuit, DIFFERENCES)
    matched, anywhere = controls.matched(1), controls.anywhere(1)
    rescaled, direction = controls.rescaled(matched), controls.random_direction(1)
    for emotion in EMOTIONS:
        for site in ("heads", "neurons"):
            mine = circuit.components(site, emotion)
            assert matched.counts(site, emotion, 3) == circuit.counts(site, emotion, 3)
            assert not set(mine) & set(matched.components(site, emotion))
            assert len(set(anywhere.components(site, emotion))) == len(mine)
            assert direction.components(site, emotion) == mine
            for place in ("last", "reply"):
                norms = [controls.norms(c)[site, place, emotion] for c in (circuit, rescaled, direction)]
                assert torch.allclose(norms[0], norms[1])
                assert torch.allclose(norms[0], norms[2])
                assert not torch.allclose(
                    circuit.vectors(site, place, emotion), direction.vectors(site, place, emotion)
                )
    assert controls.matched(1).components("neurons", "joy") == matched.components("neurons", "joy")
    assert controls.matched(2).components("neurons", "joy") != matched.components("neurons", "joy")
    assert controls.shortfall(matched) == 0
    expected = np.mean(
        [
            max(
                float(controls.norms(circuit)[site, "last", e][layer])
                / float(DIRECTIONS.sigma[layer, sublayer] * 32**0.5)
                for sublayer, site in enumerate(("heads", "neurons"))
                for layer in range(3)
            )
            for e in EMOTIONS
        ]
    )
    assert abs(controls.write_fraction(circuit, DIRECTIONS.sigma) - expected) < 1e-12
    crowded = Controls(MODEL, built(heads=9)[0], DIFFERENCES)
    assert crowded.shortfall(crowded.matched(0)) > 0


def test_norm_of_the_write_is_that_of_the_projected_edit():
    circuit, _, _ = built()
    controls, plain = Controls(MODEL, circuit, DIFFERENCES), torch_model(MODEL)
    for operation in compile_plan(add(circuit, "joy", strength=2.0), MODEL):
        site, block = operation["site"], plain.model.layers[operation["layer"]]
        projection = block.self_attn.o_proj if site == "heads" else block.mlp.down_proj
        for place, values in (("last", operation["add"]), ("reply", operation["add_later"])):
            norm = controls.norms(circuit)[site, place, "joy"][operation["layer"]]
            assert close((projection.weight.detach() @ values).norm(), 2 * norm, 1e-12)


def test_tokens_choose_the_vectors():
    circuit, _, _ = built()
    for tokens, first, later in (("reply", "last", "reply"), ("all", "reply", "reply"), ("last", "last", "last")):
        edit = add(circuit, "joy", tokens=tokens).edits[0]
        assert edit.site == "heads"
        rows = [circuit.components("heads", "joy").index((edit.layer, i)) for i in edit.index]
        assert torch.equal(edit.add, circuit.vectors("heads", first, "joy")[rows])
        after = edit.add if edit.add_later is None else edit.add_later
        assert torch.equal(after, circuit.vectors("heads", later, "joy")[rows])
