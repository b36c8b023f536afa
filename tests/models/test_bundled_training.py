import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.prompts import prompt, render
from emotrace.data.sev import groups, load_sev
from emotrace.models.bundled.evaluate import ask as ask_for
from emotrace.models.bundled.evaluate import greedy, score, separability
from emotrace.models.bundled.tokens import CHAT_TEMPLATE, SPECIAL, TemplateOnly, train_tokenizer
from emotrace.models.bundled.train import Batch, Recipe, batches, build, encode, loss_of, schedule, train

TINY = Recipe(
    steps=3, batch=4, vocabulary=400, tokenizer_texts=50, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=16
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    return folders, [train(TINY, folder) for folder in folders]


def test_the_same_recipe_gives_the_same_weights_bit_for_bit(trained):
    (one, two), _ = trained
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()


def test_the_folder_loads_offline_in_half_precision_with_its_recipe(trained):
    (folder, _), _ = trained
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert next(model.parameters()).dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.padding_side == "left"
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert json.loads((folder / "training.json").read_text())["recipe"]["steps"] == 3


def test_rendered_prompts_equal_the_stand_in_and_are_one_token_per_marker(trained):
    (folder, _), _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    group = groups(load_sev("sev-mini").test)[0]
    messages = prompt(group, "fear", PAPER_SIX).messages
    text = render(tokenizer, messages)
    assert text == TemplateOnly().apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert tokenizer.decode(ids) == text


def test_loss_is_the_weighted_mean_over_targets():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    model = build(TINY, tokenizer).double()
    ids = torch.randint(0, 300, (2, 7))
    weights = torch.rand(2, 7)
    total, weight = 0.0, 0.0
    for row in range(2):
        logits = model(input_ids=ids[row : row + 1]).logits[0]
        for t in range(6):
            nll = -torch.log_softmax(logits[t].float(), -1)[ids[row, t + 1]]
            total, weight = total + float(nll * weights[row, t + 1]), weight + float(weights[row, t + 1])
    assert float(loss_of(model, Batch(ids, weights))) == pytest.approx(total / weight, rel=1e-5)


def test_weights_cover_prompt_opening_and_reply():
    from emotrace.models.bundled.corpus import Sample
    from emotrace.models.bundled.scenes import Scene

    tokenizer = train_tokenizer(["ab cd ef"], 300)
    scene = Scene(*[""] * 5, 0, *[""] * 5)
    (row,) = encode(tokenizer, [Sample("ab", " cd", " ef", "fear", "begun", scene)], 0.25)
    assert len(row[0]) == len(row[1])
    kinds = [0.25] * 2, [0.0], [1.0]
    assert row[1][:2] == kinds[0]
    assert set(row[1]) == {0.25, 0.0, 1.0}
    assert row[0][-1] == tokenizer.convert_tokens_to_ids("<|end|>")


def test_batches_are_padded_on_the_right_without_weight():
    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    batch = next(batches(TINY, tokenizer))
    padded = batch.ids == tokenizer.pad_token_id
    assert batch.ids.shape == batch.weights.shape
    assert batch.ids.shape[1] % 8 == 0
    assert not batch.weights[padded].any()
    assert not padded[:, 0].any()


def test_schedule_rises_stays_and_falls_to_zero():
    recipe = Recipe(steps=100, warmup=10)
    rates = [schedule(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:40] == [1.0] * 30
    assert rates[70] == pytest.approx(0.5)
    assert rates[100] == 0


def test_scoring_counts_labels_and_acceptance():
    tokenizer = TemplateOnly()
    group = groups(load_sev("sev-mini").test)[0]
    from emotrace.models.bundled.replies import write_reply
    from emotrace.models.bundled.scenes import read_scene

    scene = read_scene(group.scenario.scenario, group.event)
    import random

    asked = [ask_for(tokenizer, group, "fear"), ask_for(tokenizer, group, "anger"), ask_for(tokenizer, group, "anger")]
    replies = [write_reply(random.Random(i), scene, label)[0] for i, label in enumerate(("fear", "sadness", "anger"))]
    replies[2] = replies[2].replace(scene.noun, "zeppelin")
    result = score(asked, replies)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["by_emotion"] == {"fear": 1.0, "anger": 0.5}
    assert result["structure_accepted"] == pytest.approx(2 / 3)
    assert len(result["problems"]) == 2


def test_separability_is_one_for_far_classes_and_chance_for_equal_ones():
    fit = torch.tensor([[[0.0], [0.0]], [[9.0], [0.0]]])
    assert separability(fit, ["a", "b"], torch.tensor([[[8.0], [0.0]]]), ["b"]) == [1.0, 0.0]


def test_batched_left_padded_greedy_equals_one_by_one(trained):
    (folder, _), _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, local_files_only=True).eval()
    texts = [ask_for(tokenizer, g, "anger").text for g in groups(load_sev("sev-mini").test)[:5]]
    together = greedy(model, tokenizer, texts, new_tokens=8)
    assert together == [greedy(model, tokenizer, [text], new_tokens=8)[0] for text in texts]


def test_chat_template_names_every_marker():
    assert all(marker in "".join(SPECIAL) for marker in SPECIAL)
    assert "assistant" in CHAT_TEMPLATE
