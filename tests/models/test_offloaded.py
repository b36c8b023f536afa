"""A study's steps on a model whose weights accelerate keeps on disk between passes."""

import pytest
import torch

import emotrace as et
from emotrace.errors import ModelError
from tests.models.test_weights import offloaded, plain_llama
from tests.tiny import random_prompts, tiny_hf, tiny_tokenizer

CONDITIONS = ("joy", "fear", "neutral")


def samples():
    return [et.Sample(i % 3, tuple(ids), (7, 8)) for i, ids in enumerate(random_prompts(9))]


def test_capture_scores_influence_and_steering_equal_those_in_memory(tmp_path):
    plain = plain_llama()
    here = et.load(plain, tokenizer=tiny_tokenizer())
    away = et.load(offloaded(plain, tmp_path), tokenizer=tiny_tokenizer())
    assert away.device == torch.device("cpu")
    assert [away.device_of(layer) for layer in range(3)] == [torch.device("cpu")] * 3
    here.fingerprint.check(away.fingerprint)

    def study(model):
        statistics = et.capture(model, samples(), CONDITIONS)
        directions, differences = et.emotion_directions(statistics), et.difference_vectors(statistics)
        scores = et.score_components(model, statistics, directions, differences)
        influence = et.sublayer_influence(model, random_prompts(2), directions)
        circuit = et.assemble(model, scores, influence, differences, heads=2, neurons=3, allocation="uniform")
        replies = et.generate_replies(model, random_prompts(3), et.add(circuit, "joy", strength=4.0), max_new_tokens=5)
        gradients = et.gradient_scores(model, random_prompts(2), differences, lambda logits: logits[:, 7])
        return statistics.last["neurons"], scores.heads, scores.neurons, influence.values, gradients.heads, replies

    for mine, theirs in zip(study(here), study(away), strict=True):
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs


def test_scores_behind_a_norm_say_that_they_need_the_weights(tmp_path):
    plain = tiny_hf("olmo2")
    model = et.load(plain, tokenizer=tiny_tokenizer())
    statistics = et.capture(model, samples(), CONDITIONS)
    directions = et.emotion_directions(statistics)
    places = {name: "disk" if name.startswith("model.layers.1") else "cpu" for name in modules(plain)}
    away = et.load(offloaded(plain, tmp_path, places), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match=r"layer 1 of .* has its weights off this device, .*causal_scores"):
        et.score_heads(away, statistics, directions, samples=samples())


def modules(plain):
    return [f"model.layers.{i}" for i in range(3)] + ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
