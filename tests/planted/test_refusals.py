"""What cannot be planted is refused with what to do about it."""

import pytest
from transformers import MistralConfig

import emotrace as et
from emotrace.errors import DataError, ModelError
from emotrace.planted.families import certainty
from tests.planted.plain import SIZES, config

WRONG = {
    "is too small for a planted model": (config(vocab_size=40), {}),
    "needs 2 layers": (config(num_hidden_layers=1), {}),
    "heads are asked for": (config(), {"heads": 12}),
    "neurons are asked for": (config(), {"neurons": 40}),
    "directions of the residual stream are needed": (config(hidden_size=40, head_dim=32), {}),
    "only layer 0 may hold planted heads": (
        config(num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=8, head_dim=16),
        {"heads": 1, "decoys": {"backup": 1}},
    ),
    "too few rotary pairs": (config(head_dim=4), {}),
    "turn too fast": (config(head_dim=8), {}),
    "an unembedding of its own": (config(tie_word_embeddings=True), {}),
    "computed for silu": (config(hidden_act="gelu"), {}),
    "use_sliding_window=False": (config("qwen3", use_sliding_window=True), {}),
    "not from a MistralConfig": (MistralConfig(**SIZES), {}),
    "no decoys of class 'dead'": (config(), {"decoys": {"dead": 1}}),
    "inert=-1": (config(), {"decoys": {"inert": -1}}),
    "heads=0": (config(), {"heads": 0}),
    "leak=1.5": (config(), {"leak": 1.5}),
    "as many true components": (config(), {"heads": 1, "decoys": {"backup": 2}}),
}


@pytest.mark.parametrize("message", WRONG)
def test_refusals(message):
    given, options = WRONG[message]
    with pytest.raises(ModelError, match=message):
        et.planted.build(given, **options)


def test_the_configuration_stays_as_it_is():
    mine = config()
    before = mine.to_dict()
    et.planted.build(mine)
    assert mine.to_dict() == before


def test_unknown_words_name_what_there_is():
    planted = et.planted.build(config())
    for words in (("joy", "heads", "true"), ("fear", "mlp", "true"), ("fear", "heads", "dead")):
        with pytest.raises(DataError, match="choose one of anger"):
            planted.components(*words)


def test_certainty_gives_the_margin_behind_norms():
    """Of a query half of the square is one coordinate, of a key all of it equal ones; norms bring both to d."""
    for width, sharing in ((16, 1), (32, 2)):
        certain = certainty(config("qwen3"), width, 2.0, sharing)
        query, key = width**0.5 / 2**0.5, width**0.5 / (sharing + 1) ** 0.5
        assert certain.gain**2 * query * key / width**0.5 == pytest.approx(40.0)
        plain = certainty(config(), width, 2.0, sharing)
        assert plain.query * plain.key / width**0.5 == pytest.approx(40.0)
