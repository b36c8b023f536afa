"""Confirming on constructed models whose true, inert, cancelling and backup components are known."""

import pytest
from transformers import LlamaConfig, Qwen3Config

import emotrace as et
from emotrace.planted import CLASSES, build

SIZES = {"vocab_size": 600, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 8}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16}


@pytest.mark.parametrize("config", [LlamaConfig, pytest.param(Qwen3Config, marks=pytest.mark.slow)])
def test_planted_components_are_told_apart(config):
    decoys = {"inert": 1, "cancelling": 1, "backup": 1}
    planted = build(config(**SIZES, **HEADS), heads=2, neurons=3, decoys=decoys)
    model, emotion = et.load(planted.model, tokenizer=planted.tokenizer), "fear"
    chosen = et.groups(et.load_sev("sev-mini").validation[:4])
    asked = {
        name: model.encode([et.prompt(group, name, et.PAPER_SIX) for group in chosen]) for name in (emotion, "neutral")
    }
    every = {
        name: model.encode([et.prompt(chosen[0], name, et.PAPER_SIX)])[0] for name in (*planted.emotions, "neutral")
    }
    samples = [et.Sample(n, tuple(ids)) for n, ids in enumerate(every.values())]
    directions = et.emotion_directions(et.capture(model, samples, [*every]))
    truth = {
        (site, *place): kind
        for kind in CLASSES
        for site in ("heads", "neurons")
        for place in planted.components(emotion, site, kind)
    }
    truth |= {("neurons", *place): "inert" for place in planted.components("anger", "neurons")}  # another emotion's
    own = list(planted.word_ids[emotion])
    others = [i for name in planted.emotions if name != emotion for i in planted.word_ids[name]]
    found = et.confirm(
        model,
        {emotion: {site: [place[1:] for place in truth if place[0] == site] for site in ("heads", "neurons")}},
        asked,
        directions,
        clusters=[group.skeleton_id for group in chosen],
        metric=lambda logits: logits[:, own].mean(-1) - logits[:, others].mean(-1),
    )
    assert found.classes(emotion) == truth
    for record in found.candidates:
        place = (record["layer"], record["index"])
        if record["class"] in ("cancelling", "backup"):
            assert record["partners"] == ((record["site"], *planted.partners[record["site"]][place]),)
    assert found.cost["rows"] / found.prompts < 200
