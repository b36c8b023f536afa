"""Which words of two texts differ."""

import re
from difflib import SequenceMatcher

# white space, then a word or one punctuation mark; white space alone only at the end of a text
_WORD = re.compile(r"(\s*)(\w+(?:['’-]\w+)*|[^\w\s]|\Z)")


def word_diff(before: str, after: str) -> tuple[list[str], list[str]]:
    """Two texts cut into stretches they share and stretches they do not: whole words and single punctuation marks.

    Matched by ``difflib.SequenceMatcher`` (after Ratcliff & Obershelp); white space is not compared.

    Returns:
        A list of strings for each text that join to it: shared, differing, shared, ... in turn, beginning with a shared
        stretch, which may be empty.
    """
    left, right = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, [word for _, word in left], [word for _, word in right], autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    return (
        _stretches(left, {place for _, start, end, _, _ in changes for place in range(start, end)}),
        _stretches(right, {place for _, _, _, start, end in changes for place in range(start, end)}),
    )


def _stretches(words: list[tuple[str, str]], differing: set[int]) -> list[str]:
    """Words joined into stretches, shared and differing in turn; space between two differing words differs, too."""
    parts = [""]
    for place, (space, word) in enumerate(words):
        for text, differs in ((space, {place - 1, place} <= differing), (word, place in differing)):
            if text and differs == (len(parts) % 2 == 1):
                parts.append(text)
            else:
                parts[-1] += text
    return parts
