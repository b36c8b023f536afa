"""What a checkpoint or a user has set on the model must not change what an edit does to a reply."""

import pytest
import torch

import emotrace as et
from emotrace.errors import PlanError
from emotrace.trace.generate import generate_replies
from tests.tiny import random_prompts, tiny_hf, tiny_tokenizer, torch_model
from tests.trace.random_plans import model_of, vector

PROMPTS = random_prompts(3)
PLAN = et.add({(1, 2): 3 * vector(12)}, "heads", tokens="all")
FIRST = generate_replies(model_of("llama"), PROMPTS, PLAN, max_new_tokens=1)[0].ids[0]
SETTINGS = {
    "use_cache": False,  # a pass would see the whole text again, and edit its last token only
    "cache_implementation": "static",
    "num_beams": 3,
    "return_dict_in_generate": True,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [FIRST],
    "begin_suppress_tokens": [FIRST],
    "bad_words_ids": [[FIRST]],
    "sequence_bias": [[[FIRST], -100.0]],
    "forced_eos_token_id": 9,
    "exponential_decay_length_penalty": (1, 5.0),
    "min_length": 40,
    "min_new_tokens": 6,
    "max_length": 3,
    "max_time": 0.0,
    "guidance_scale": 3.0,
    "stop_strings": ["w"],
    "token_healing": True,
    "prompt_lookup_num_tokens": 3,
    "do_sample": True,
    "temperature": 9.0,
    "top_k": 3,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_for_generating_changes_no_reply(name):
    model = et.load(tiny_hf(), tokenizer=tiny_tokenizer())
    setattr(torch_model(model).generation_config, name, SETTINGS[name])
    expected = generate_replies(model_of("llama"), PROMPTS, PLAN, max_new_tokens=6)
    assert generate_replies(model, PROMPTS, PLAN, max_new_tokens=6) == expected


def test_a_folder_saved_without_a_cache_gives_the_same_replies(tmp_path):
    """A config from training says so, and where no settings for generating were saved it is what they are made from."""
    hf = tiny_hf(dtype=torch.float32)
    hf.config.use_cache = False
    hf.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    expected = generate_replies(model_of("llama", dtype=torch.float32), PROMPTS, PLAN, max_new_tokens=6)
    assert generate_replies(et.load(tmp_path), PROMPTS, PLAN, max_new_tokens=6) == expected


@pytest.mark.parametrize("tokens", ["all", "generated", "prompt", "last", (0,)], ids=str)
def test_a_loop_without_a_cache_is_refused(tokens):
    """Each pass sees the whole text again, so what was edited at earlier tokens is not there any more."""
    plan = et.add({(1, 2): 3 * vector(12)}, "heads", tokens=tokens)
    model, ids = model_of("llama"), torch.tensor(PROMPTS[:1])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "use_cache": False}
    with pytest.raises(PlanError, match="use_cache"):  # noqa: PT012  the trace is the block under test
        with model.generate(**options) as tracer:
            with tracer.invoke(ids, attention_mask=torch.ones_like(ids)):
                for step in tracer.iter[:3]:
                    et.apply(model, plan, step=step, attention_mask=torch.ones_like(ids))


def test_a_reply_longer_than_absolute_positions_allow_is_refused():
    """GPT-2 has an embedding for each of its positions and none for a reply that runs past them."""
    model = model_of("gpt2")
    context = torch_model(model).config.n_positions
    with pytest.raises(Exception, match=rf"{context}") as caught:
        generate_replies(model, [[7] * (context - 2)], max_new_tokens=8)
    assert isinstance(caught.value, et.EmotraceError)
