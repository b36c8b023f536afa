"""What a planted model reads and says: a word-level tokenizer with a chat template, and each emotion's reply."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.sev import groups, load_sev
from emotrace.errors import ModelError

PAD, BOS, END, UNKNOWN = "<|pad|>", "<|bos|>", "<|end|>", "<|unk|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
ASSISTANT = ROLES[2]
SPECIAL = (PAD, BOS, END, UNKNOWN, *ROLES)
REPLY_WORDS = 3
NEUTRAL_REPLY = ("okay", "noted", "thanks")
TEMPLATE = (
    "<|bos|> {% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORD = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class Vocabulary:
    """Words by token id, the first ones with a part to play.

    Attributes:
        words: every word, in the order of ids.
        replies: for each emotion and ``"neutral"`` the words of its reply, in order.
    """

    words: tuple[str, ...]
    replies: dict[str, tuple[str, ...]]

    def ids(self, words: tuple[str, ...]) -> tuple[int, ...]:
        """Token ids of words of the vocabulary."""
        known = {word: at for at, word in enumerate(self.words)}
        return tuple(known[word] for word in words)


def vocabulary(size: int) -> Vocabulary:
    """A vocabulary of ``size`` words.

    Special tokens, the instruction and the emotions' names, the words of the replies; then those of ``sev-mini``, the
    more frequent first, as far as there is room; then fillers that no text holds. Other words are read as unknown.

    Raises:
        ModelError: no room for the words that have a part to play.
    """
    replies = {e: tuple(w for w in PAPER_SIX.lexicon[e] if w != e)[:REPLY_WORDS] for e in PAPER_SIX.labels}
    replies["neutral"] = NEUTRAL_REPLY
    asked = WORD.findall(f"{PAPER_SIX.instruction.format(concept='')} {PAPER_SIX.length_rule}".lower())
    needed = [*SPECIAL, *asked, *PAPER_SIX.labels, *(word for reply in replies.values() for word in reply)]
    words = list(dict.fromkeys(needed))
    if size < len(words):
        raise ModelError(f"vocab_size={size} is too small for a planted model: give at least {len(words)}")
    data = load_sev("sev-mini")
    scenarios = [*data.train, *data.validation, *data.test]
    counts = Counter(
        word
        for group in groups(scenarios)
        for word in WORD.findall(f"{group.scenario.scenario} {group.event}".lower())
        if word not in words
    )
    words += sorted(counts, key=lambda word: (-counts[word], word))[: size - len(words)]
    words += [f"<|filler-{at}|>" for at in range(size - len(words))]
    return Vocabulary(tuple(words), replies)


def tokenizer_of(held: Vocabulary) -> Any:
    """The tokenizer: lower case, words and punctuation apart, with a template that takes a system text."""
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(held.words)}, unk_token=UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=list(ROLES),
        padding_side="left",
    )
    fast.chat_template = TEMPLATE
    return fast
