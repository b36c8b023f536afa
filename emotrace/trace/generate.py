"""Greedy and sampled replies, steered by a plan, in left-padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import nnsight
import torch
from transformers import GenerationConfig

from emotrace.errors import PlanError
from emotrace.ledger import Ledger, Record
from emotrace.models.load import as_model
from emotrace.trace.apply import contact
from emotrace.trace.batches import DEFAULT_BATCH_TOKENS
from emotrace.trace.compile import compile_distinct
from emotrace.trace.inputs import check_plans, check_prompts
from emotrace.trace.passes import edits_prompt, for_rows, make_edits
from emotrace.trace.plan import Plan
from emotrace.trace.prefixes import beginnings, split
from emotrace.trace.requests import Batches, mapped

if TYPE_CHECKING:
    from emotrace.models.traced import Model

MAX_NEW_TOKENS = 64
MARKS = (
    "max_new_tokens",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "transformers_version",
)
PLAIN = {
    **{name: None for name in GenerationConfig().to_dict() if name not in MARKS and not name.startswith("_")},
    **GenerationConfig._get_default_generation_params(),
    "max_length": None,
    "use_cache": True,
}
"""Every setting for generating at its default. What a checkpoint or its user has set would change the replies of every
arm unseen (repetition is never blocked while measuring), and transformers fills in whatever is not named."""
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    # transformers would compile the model of a static cache on a GPU, and nnsight's edits would be compiled out
    "static": {"cache_implementation": "static", "disable_compile": True},
}
SAMPLING = frozenset({"temperature", "top_k", "top_p", "do_sample"})


@dataclass(frozen=True)
class GeneratedReply:
    """One reply.

    Attributes:
        ids: token ids without the end of turn.
        text: decoded.
        stopped: the model ended it itself.
        edited: proof of contact: (operation, step) pairs in which the row was edited, up to its end of text; all that
            its plan declared. It says how the reply came about, so it takes no part in comparisons.
    """

    ids: tuple[int, ...]
    text: str
    stopped: bool
    edited: int = field(default=0, compare=False)


def generate_replies(
    model: Any,
    prompts: Sequence[Sequence[int]],
    plan: Plan | Sequence[Plan] | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    cache: str = "dynamic",
    ledger: Ledger | None = None,
    name: str = "generate",
    **sampling: Any,
) -> list[GeneratedReply]:
    """Replies to prompts given as token ids, in the order given.

    Args:
        model: an :class:`emotrace.Model` or your nnsight model.
        prompts: token ids, generation prompt included; lengths may differ.
        plan: edits made at every pass that their ``tokens`` select, one plan for all prompts or one for each, so that
            many variants share a batch; None generates unsteered.
        max_new_tokens: replies that have not ended by then are cut.
        batch_tokens: padded prompt tokens plus new tokens per batch, at most.
        cache: of keys and values: ``dynamic`` grows, and beginnings that prompts share are computed once; ``static`` is
            allocated at full length, for devices where growing costs more than that.
        ledger: keeps finished batches.
        name: the ledger's name for this work.
        sampling: ``do_sample``, ``temperature``, ``top_k``, ``top_p``; greedy without them.

    Raises:
        DataError: a prompt is empty, holds ids that the model lacks, or fills its context.
        CircuitError: a plan was made from a circuit of another model.
        PlanError: a plan does not fit the model or a prompt, plans and prompts differ in number, or a cache or sampling
            option is unknown or out of range.
        EditMissed: an edit touched fewer (row, step) pairs than it declared.
    """
    wrapped = as_model(model)
    _check_sampling(sampling)
    if cache not in CACHES:
        raise PlanError(f"unknown cache {cache!r}: choose {' or '.join(CACHES)}")
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise PlanError(f"max_new_tokens={max_new_tokens}: a reply has at least one token")
    beyond = max_new_tokens - 1 if wrapped.architecture.absolute_positions else 1
    asked = check_prompts(wrapped, prompts, room=max(1, beyond))
    plans = check_plans(wrapped, plan, asked)
    if not asked:
        return []
    lengths = [len(ids) + max_new_tokens for ids in asked]
    # here, the generators are the ledger's and the user's business; a server's have to be told, each request otherwise
    seed = int(torch.randint(2**31, ())) if sampling and wrapped.remote else None
    single = all(each is plans[0] for each in plans)

    def work(batches: Batches) -> list[Record]:
        return _generate(
            wrapped,
            [(rows, [asked[row] for row in rows]) for rows in batches],
            [[plans[0].for_rows(rows)] * len(rows) if single else [plans[row] for row in rows] for rows in batches],
            max_new_tokens,
            cache,
            sampling,
            None if seed is None else seed + batches[0][0],
        )

    records = mapped(wrapped, name, lengths, batch_tokens, work, ledger)
    replies: dict[int, GeneratedReply] = {}
    texts = wrapped.tokenizer.batch_decode([record["ids"] for record in records], skip_special_tokens=True)
    for record, text in zip(records, texts, strict=True):
        reply = GeneratedReply(tuple(record["ids"]), text.strip(), record["stopped"], record["edited"])
        replies[record["row"]] = reply
    return [replies[row] for row in range(len(asked))]


def _check_sampling(sampling: dict[str, Any]) -> None:
    unknown = sorted(set(sampling) - SAMPLING)
    if unknown:
        raise PlanError(f"unknown option {unknown[0]!r}: sampling takes {', '.join(sorted(SAMPLING))}")
    ranges = {
        "temperature": (lambda t: type(t) in (int, float) and 1e-6 <= t < inf, "a number above 0"),
        "top_k": (lambda k: type(k) is int and k >= 1, "a whole number from 1"),
        "top_p": (lambda p: isinstance(p, int | float) and 0 < p <= 1, "a number in (0, 1]"),
        "do_sample": (lambda d: isinstance(d, bool), "True or False"),
    }
    for name, value in sampling.items():
        fits, wanted = ranges[name]
        if not fits(value):
            raise PlanError(f"{name}={value!r}: give {wanted}")


def _generate(
    model: Model,
    batches: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    plans: Sequence[Sequence[Plan]],
    max_new_tokens: int,
    kind: str,
    sampling: dict[str, Any],
    seed: int | None,
) -> list[Record]:
    """Records of all rows of one request; ``batches`` holds rows and prompts, ``plans`` each batch's, row by row."""
    options = {**PLAIN, **CACHES[kind], "do_sample": bool(sampling), "pad_token_id": model.pad_token, **sampling}
    compiled, pick = compile_distinct([plan for rows in plans for plan in rows], model)
    inputs, done, tokens = [], 0, 0
    for rows, prompts in batches:
        chosen = pick[done : done + len(rows)]
        whole = any(edits_prompt(operation) for plan in {*chosen} for operation in compiled[plan])
        batch = split(model, prompts, room=max_new_tokens, share=kind == "dynamic" and not whole)
        head, heads, rest, given = batch.inputs(model.device)
        # the mask of what the first pass reads once more, on the CPU, where columns are worked out
        seen = batch.mask[:, -rest.shape[1] :]
        inputs.append((head, heads, batch.text.to(model.device), given["attention_mask"], seen, chosen))
        done += len(rows)
        tokens += batch.tokens
    with quiet(model), model.lock, model.session():
        if seed is not None:
            torch.manual_seed(seed)
        replies = nnsight.save([])
        contacts = nnsight.save([])
        for head, heads, ids, mask, padding, chosen in inputs:
            operations = for_rows(compiled, chosen)
            touched = []
            cache = beginnings(model, head, heads)
            with model.generate(max_new_tokens=max_new_tokens, past_key_values=cache, **options) as tracer:
                with tracer.invoke(ids, attention_mask=mask):
                    # No torch.no_grad() here: generate() has its own and ends it before the block would end this one,
                    # which would leave gradients off for the whole process.
                    if operations:
                        for step in tracer.iter[:max_new_tokens]:
                            touched.append(make_edits(operations, step, padding))
                with tracer.invoke():
                    result = tracer.result
            replies.append(result[:, ids.shape[1] :].cpu())
            contacts.append(torch.tensor(touched))
    records: list[Record] = []
    ends = set(model.end_of_text)
    for (rows, _), (*_, chosen), new, touched in zip(batches, inputs, replies, contacts, strict=True):
        made = new.tolist()
        lengths = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in made]
        passes = [length + (length < len(row)) for length, row in zip(lengths, made, strict=True)]
        hits = contact(for_rows(compiled, chosen), touched.tolist(), passes)
        records += [
            {"row": row, "ids": tokens[:length], "stopped": length < len(tokens), "edited": edited}
            for row, tokens, length, edited in zip(rows, made, lengths, hits, strict=True)
        ]
    model.count(prompt_tokens=tokens, generated_tokens=sum(new.numel() for new in replies))
    return records


@contextmanager
def quiet(model: Model) -> Iterator[None]:
    """nnsight warns when text ends before the loop does, which is what replies do."""
    if model.remote:  # nothing runs here, and filters are not for threads
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was never reached.*", category=UserWarning)
        yield
