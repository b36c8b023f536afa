import dataclasses
import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.prompts import prompt, render
from emotrace.data.sev import groups, load_sev
from emotrace.models.bundled.corpus import draw_sample
from emotrace.models.bundled.evaluate import ask as ask_for
from emotrace.models.bundled.evaluate import greedy, score, separability
from emotrace.models.bundled.tokens import CHAT_TEMPLATE, SPECIAL, TemplateOnly, train_tokenizer
from emotrace.models.bundled.training import (
    Batch,
    Recipe,
    Row,
    Stage,
    attention_mask,
    batches,
    build,
    encode,
    loss_of,
    schedule,
    train,
)

TINY = Recipe(
    stages=(Stage(3), Stage(2)),
    batch=4,
    vocabulary=400,
    tokenizer_texts=50,
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp=16,
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
    assert json.loads((folder / "training.json").read_text())["recipe"]["stages"][0]["steps"] == 3


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


def stack_mask(length, rows):
    return torch.stack([attention_mask(Row([], [], 0, 0), length)] * rows)[:, None]


def test_a_funnel_hides_the_system_text_from_all_but_the_last_prompt_token():
    seen = attention_mask(Row([], [], last=5, hidden=3), 8) == 0
    for query in range(8):
        for key in range(8):
            visible = key <= query and (query == 5 or query < 3 or key == 0 or key >= 3)
            assert seen[query, key] == visible, (query, key)
    assert torch.equal(attention_mask(Row([], [], 5, 0), 8) == 0, torch.ones(8, 8).tril().bool())


def test_the_share_of_funnelled_rows_is_the_recipes():
    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    rng = random.Random(1)
    samples = [draw_sample(rng, tokenizer) for _ in range(400)]
    rows = encode(tokenizer, samples, TINY, rng)
    assert sum(row.hidden > 0 for row in rows) / 400 == pytest.approx(TINY.funnel, abs=0.06)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert all(row.ids[row.hidden] == user for row in rows if row.hidden)


def test_loss_is_the_weighted_mean_over_targets():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    model = build(TINY, tokenizer).double()
    ids = torch.randint(0, len(tokenizer), (2, 7))
    weights = torch.rand(2, 7)
    total, weight = 0.0, 0.0
    for row in range(2):
        logits = model(input_ids=ids[row : row + 1]).logits[0]
        for t in range(6):
            nll = -torch.log_softmax(logits[t].float(), -1)[ids[row, t + 1]]
            total, weight = total + float(nll.detach() * weights[row, t + 1]), weight + float(weights[row, t + 1])
    loss = loss_of(model, Batch(ids, weights, torch.zeros(2), stack_mask(7, 2)))
    assert float(loss.detach()) == pytest.approx(total / weight, rel=1e-5)


def test_weights_cover_prompt_opening_and_reply():
    from emotrace.models.bundled.corpus import Sample
    from emotrace.models.bundled.scenes import Scene

    tokenizer = train_tokenizer(["ab cd ef"] * 3, 300)
    scene = Scene(*[""] * 5, 0, *[""] * 5)
    recipe = dataclasses.replace(TINY, prompt_weight=0.25, funnel=0.0)
    (row,) = encode(tokenizer, [Sample("<|user|>ab", " cd", " ef", "fear", "begun", scene)], recipe, random.Random(0))
    assert len(row.ids) == len(row.weights)
    assert row.weights[: row.last + 1] == [0.25] * (row.last + 1)
    assert row.weights[row.last + 1] == 0
    assert set(row.weights) == {0.25, 0.0, 1.0}
    assert row.ids[-1] == tokenizer.convert_tokens_to_ids("<|end|>")


def test_batches_are_padded_on_the_right_without_weight():
    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    batch = next(batches(TINY, tokenizer))
    padded = batch.ids == tokenizer.pad_token_id
    assert batch.ids.shape == batch.weights.shape
    assert batch.ids.shape[1] % 8 == 0
    assert not batch.weights[padded].any()
    assert not padded[:, 0].any()


def test_schedule_rises_stays_and_falls_to_zero():
    rates = [schedule(step, Stage(100), 10) for step in range(101)]
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


def test_write_lengths_equal_a_loop_over_components():
    from emotrace.models.bundled.sparsity import tap, writes

    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    model = build(TINY, tokenizer)
    tap(model)
    ids, last = torch.randint(0, len(tokenizer), (3, 9)), torch.tensor([4, 8, 6])
    streams = model(input_ids=ids, output_hidden_states=True).hidden_states
    heads, neurons = writes(model, streams, last)
    expected = [0.0, 0.0]
    for layer, stream in zip(model.model.layers, streams, strict=False):
        out, down = layer.self_attn.o_proj, layer.mlp.down_proj
        for row, at in enumerate(last.tolist()):
            length = float(stream[row, at].detach().norm())
            for head in range(2):
                part = slice(8 * head, 8 * head + 8)
                expected[0] += float((out.weight[:, part] @ out.seen[row, at, part]).detach().norm()) / length / 3
            for neuron in range(16):
                expected[1] += float((down.weight[:, neuron] * down.seen[row, at, neuron]).detach().norm()) / length / 3
    assert [float(heads.detach()), float(neurons.detach())] == pytest.approx(expected, rel=1e-5)


def test_tapping_changes_no_output_and_no_name():
    from emotrace.models.bundled.sparsity import tap

    tokenizer = train_tokenizer(["You leave your lamp with Anna."] * 3, 300)
    model = build(TINY, tokenizer)
    ids = torch.randint(0, len(tokenizer), (2, 5))
    names, before = list(model.state_dict()), model(input_ids=ids).logits
    tap(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(input_ids=ids).logits, before)


def test_the_card_states_what_was_measured(trained, tmp_path):
    from emotrace.models.bundled.card import write_card

    row = {"n": 6, "accuracy": 0.5, "by_emotion": {"fear": 0.5}, "structure_accepted": 0.25, "distinct": 1.0}
    figures = {
        "named": {**row, "problems": ["x"]},
        "neutral": row,
        "held_out": {"implied": row},
        "loss": {"train": 0.3, "test": 0.4},
        "depth": {"named": [0.1, 0.9, 1.0]},
    }
    (folder, _), _ = trained
    write_card(folder, figures)
    card = json.loads((folder / "card.json").read_text())
    assert card["measured"]["named"] == row
    assert card["recipe"]["layers"] == 2
    text = (folder / "CARD.md").read_text()
    assert "| held-out wording: implied | 6 | 50.0% | 25.0% | 100.0% |" in text


def test_a_run_broken_off_between_stages_goes_on_to_the_same_weights(trained, tmp_path):
    (folder, _), (record, _) = trained
    one = dataclasses.replace(TINY, stages=TINY.stages[:1])
    train(one, tmp_path)
    again = train(TINY, tmp_path, first_stage=1)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert [stage["tokens"] for stage in again["stages"]] == [stage["tokens"] for stage in record["stages"]]
    assert again["tokens"] == sum(stage["tokens"] for stage in again["stages"])


def test_piece_words_are_short_words_that_reach_every_inner_piece():
    from emotrace.models.bundled.vocabulary import piece_words

    tokenizer = train_tokenizer(["You leave your lamp with Anna near the kettle."] * 5, 320)
    draw, rng = piece_words(tokenizer.get_vocab()), random.Random(2)
    words = [draw(rng) for _ in range(4000)]
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) >= 2 for word in words)
    inner = [piece for piece in tokenizer.get_vocab() if piece.isalpha() and piece.isascii() and piece.islower()]
    assert all(any(piece in word for word in words) for piece in inner)
