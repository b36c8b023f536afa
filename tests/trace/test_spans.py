"""Which tokens hold a piece of text, in tokenizers that cut characters into bytes, against their own offsets."""

from functools import cache
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import emotrace as et
from emotrace.errors import PlanError
from emotrace.trace.tokens import locate
from tests.trace.random_plans import some

PLAIN = "abc. "
WIDE = PLAIN + "éß你好🙂"
"""Characters of one to four bytes."""


def byte_level():
    """GPT-2's way: text is bytes from the start, and few of the wide characters are a token of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["abc cab. 你好 abc é🙂", "cab 你 abc. é"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback():
    """Llama 2's way: characters that the vocabulary lacks are bytes, each of which decodes to a mark of its own."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    vocabulary |= {character: 257 + i for i, character in enumerate("▁abc.é")}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@cache
def made(name):
    return {"byte level": byte_level, "byte fallback": byte_fallback, "bundled": lambda: et.load("bundled").tokenizer}[
        name
    ]()


TOKENIZERS = pytest.mark.parametrize("name", ["byte level", "byte fallback", "bundled"])


def check_every_piece(name, text):
    """Every piece of up to four characters, against the tokens whose offsets overlap it."""
    tokenizer = made(name)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text, "offsets are those of the decoded text"
    model = SimpleNamespace(tokenizer=tokenizer)
    for start in range(len(text)):
        for end in range(start + 1, min(start + 4, len(text)) + 1):
            piece = text[start:end]
            occurrence = sum(text.startswith(piece, at) for at in range(start))
            expected = tuple(i - len(ids) for i, (a, b) in enumerate(offsets) if a < end and b > start)
            assert locate(model, ids, et.Span(piece, occurrence)) == expected, (text, piece, tokenizer.tokenize(text))


@TOKENIZERS
@some
@given(st.text(PLAIN, min_size=1, max_size=12))
def test_plain_text(name, text):
    check_every_piece(name, text)


@TOKENIZERS
@some
@given(st.text(WIDE, min_size=1, max_size=8))
def test_every_byte_of_a_character_belongs_to_it(name, text):
    check_every_piece(name, text)


@TOKENIZERS
def test_what_comes_behind_a_wide_character_is_found(name):
    check_every_piece(name, "a🙂b")


def test_characters_are_in_fact_cut():
    assert len(made("byte level").tokenize("好🙂")) == 7
    assert len(made("byte fallback").tokenize("🙂")) == 4
    assert len(made("bundled").tokenize("é")) == 2


def test_a_span_of_a_rendered_prompt():
    model = et.load("bundled")
    text = "<|user|>Yuki broke the lamp."
    ids = model.encode([text])[0]
    assert model.tokenizer.decode([ids[i] for i in locate(model, ids, et.Span("lamp"))]).strip() == "lamp"
    assert locate(model, ids, et.Span("<|user|>")) == (-len(ids),)
    assert locate(model, ids, et.Span(text)) == tuple(range(-len(ids), 0))


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (et.Span("lamp"), r"'lamp' is not in the prompt 'aba aba'"),
        (et.Span("aba"), r"'aba' stands 2 times in the prompt 'aba aba'; choose occurrence="),
        (et.Span("aba", 2), r"occurrence 2 of 'aba': the prompt has 2, from 0"),
        (et.Span("aba", -1), r"occurrence -1 of 'aba'"),
    ],
)
def test_a_span_that_is_not_there_says_so(span, message):
    model = SimpleNamespace(tokenizer=made("byte level"))
    with pytest.raises(PlanError, match=message):
        locate(model, model.tokenizer("aba aba")["input_ids"], span)
