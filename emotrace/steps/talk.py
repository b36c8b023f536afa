"""Text in, text out: replies of a model, steered or not."""

from collections.abc import Sequence
from typing import Any, overload

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.prompts import Prompt, render
from emotrace.errors import DataError, shown
from emotrace.models.load import as_model
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.generate import MAX_NEW_TOKENS, generate_replies
from emotrace.trace.plan import Plan


@overload
def generate(model: Any, prompts: str | Prompt, **options: Any) -> str: ...
@overload
def generate(model: Any, prompts: Sequence[str | Prompt], **options: Any) -> list[str]: ...
def generate(
    model: Any,
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    plan: Plan | Sequence[Plan] | None = None,
    system: str | None = PAPER_SIX.length_rule,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    **sampling: Any,
) -> str | list[str]:
    """Replies to user messages, greedy unless ``sampling`` says otherwise.

    Args:
        model: from :func:`emotrace.load`, or your nnsight model.
        prompts: one user message (gives one reply), or several (gives a list, in order).
        plan: edits to make while replying; one for all, or one for each prompt.
        system: system text put before each message; the neutral prompt's by default, None for none.
        max_new_tokens: replies that have not ended by then are cut.
        batch_tokens: token budget of a batch.
        sampling: ``do_sample``, ``temperature``, ``top_k``, ``top_p``; any of them turns sampling on.

    Raises:
        DataError: the prompts are not text.
        PlanError: the plan does not fit the model, or an unknown option.

    >>> import emotrace as et
    >>> model = et.load("bundled")
    >>> et.generate(model, "My landlord kept the deposit.") == et.generate(model, ["My landlord kept the deposit."])[0]
    True
    """
    model = as_model(model)
    listed = [prompts] if isinstance(prompts, str | Prompt) else prompts
    if not isinstance(listed, list | tuple) or not all(isinstance(p, str | Prompt) for p in listed):
        raise DataError(f"generate takes text, or a list of texts, not {shown(prompts)}; ids go to generate_replies")
    several = not isinstance(prompts, str | Prompt)
    given: Sequence[str | Prompt] = prompts if several else [prompts]  # type: ignore[list-item,assignment]
    before = [{"role": "system", "content": system}] if system else []
    texts = [
        render(model.tokenizer, p.messages if isinstance(p, Prompt) else [*before, {"role": "user", "content": p}])
        for p in given
    ]
    replies = generate_replies(
        model, model.encode(texts), plan, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, **sampling
    )
    return [reply.text for reply in replies] if several else replies[0].text
