import json

import pytest
import torch
from transformers import AutoConfig

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.data.sev import groups, load_sev
from emotrace.models.bundled import WEIGHTS
from emotrace.models.bundled.evaluate import ask, evaluate, greedy, load, score, summary


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    return load()


def test_shape_and_size_are_within_the_limits():
    config = AutoConfig.from_pretrained(WEIGHTS, local_files_only=True)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.num_hidden_layers >= 8
    assert config.num_hidden_layers * config.num_attention_heads >= 64
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 12e6


def test_prompts_are_short_and_hold_no_unknown_piece(loaded):
    _, tokenizer = loaded
    for group in groups(load_sev("sev-mini").test)[::20]:
        text = ask(tokenizer, group, "fear").text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) <= 70
        assert tokenizer.decode(ids) == text


def test_a_few_held_out_prompts_are_answered_as_asked(loaded):
    model, tokenizer = loaded
    test = groups(load_sev("sev-mini").test)[5::37]
    asked = [ask(tokenizer, group, label) for group in test for label in (*PAPER_SIX.labels, NEUTRAL)]
    result = score(asked, greedy(model, tokenizer, [a.text for a in asked]))
    assert result["accuracy"] >= 0.9, result["problems"]
    assert result["structure_accepted"] >= 0.8, result["problems"]


def test_the_card_belongs_to_these_weights():
    card = json.loads((WEIGHTS / "card.json").read_text())
    config = AutoConfig.from_pretrained(WEIGHTS, local_files_only=True)
    assert card["recipe"]["layers"] == config.num_hidden_layers
    assert card["recipe"]["mlp"] == config.intermediate_size
    assert set(card["measured"]["named"]["by_emotion"]) == set(PAPER_SIX.labels)


@pytest.mark.slow
def test_the_card_is_what_the_evaluation_measures():
    card = json.loads((WEIGHTS / "card.json").read_text())["measured"]
    figures = evaluate(limit=24)
    assert figures["named"]["accuracy"] == pytest.approx(card["named"]["accuracy"], abs=0.03)
    assert figures["neutral"]["accuracy"] == pytest.approx(card["neutral"]["accuracy"], abs=0.06)
    assert figures["loss"] == pytest.approx(card["loss"], rel=1e-3)
    assert "held-out implied" in summary(figures)
