"""Checks of prompts and plans against a model before anything runs."""

from collections.abc import Sequence
from typing import Any

from emotrace.errors import DataError, PlanError, shown
from emotrace.models.traced import Model
from emotrace.trace.plan import Plan


def check_prompts(model: Model, prompts: Any, *, room: int = 0) -> list[list[int]]:
    """Prompts as lists of token ids.

    Args:
        model: whose vocabulary and context they must fit.
        prompts: sequences of ids.
        room: tokens that must fit behind each.

    Raises:
        DataError: text instead of ids, an empty prompt, an id outside the vocabulary, or a prompt too long.
    """
    context = getattr(model.nn._module.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(prompts, str) or not hasattr(prompts, "__iter__"):
        raise DataError(f"prompts are a {type(prompts).__name__}; give a list of lists of token ids (model.encode)")
    checked = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str) or not hasattr(prompt, "__iter__"):
            raise DataError(f"prompt {number} is a {type(prompt).__name__}; give token ids (model.encode makes them)")
        ids = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
        if not isinstance(ids, list):
            raise DataError(f"prompt {number} is one number; give a list of token ids")
        if not ids:
            raise DataError(f"prompt {number} is empty")
        strange = [i for i in ids if type(i) is not int or not 0 <= i < model.sizes.vocabulary]
        if strange:
            raise DataError(
                f"prompt {number} holds {shown(strange[0])}; the token ids of {model.identity!r} go from 0 to "
                f"{model.sizes.vocabulary - 1}"
            )
        if context is not None and len(ids) + room > context:
            raise DataError(
                f"prompt {number} of {len(ids)} tokens leaves no room for a reply: {model.identity!r} reads {context}"
                if room
                else f"prompt {number} has {len(ids)} tokens; {model.identity!r} reads {context}"
            )
        checked.append(ids)
    return checked


def check_shape(model: Model, what: str, found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise ``DataError`` when ``what`` (a plural) was measured on a model of other sizes."""
    if tuple(found) != tuple(expected):
        raise DataError(
            f"the {what} are of another model: {tuple(found)} where {model.identity!r} has {tuple(expected)}; "
            "measure them on this one"
        )


def check_plans(model: Model, plan: Any, prompts: Sequence[Sequence[int]]) -> list[Plan]:
    """One plan for each prompt, spans located; equal plans are the same object.

    Raises:
        PlanError: not a plan, another number of plans or rows of values than prompts, an edit that does not fit the
            model, or tokens that lie outside a prompt.
        CircuitError: a plan was made from a circuit of another model.
    """
    single = plan is None or isinstance(plan, Plan)
    given = [plan or Plan()] if single else plan
    if not isinstance(given, list | tuple) or not all(isinstance(p, Plan) for p in given):
        raise PlanError(
            f"plan is a {type(plan).__name__}; make one with emotrace.add, zero, scale, set, mean or patch, or give a "
            "list with one for each prompt"
        )
    plans = list(given) * len(prompts) if single else list(given)
    if len(plans) != len(prompts):
        raise PlanError(f"{len(plans)} plans for {len(prompts)} prompts: give one plan, or one for each prompt")
    for distinct in {id(p): p for p in plans}.values():
        distinct.check(model)
        if distinct.rows is not None and (not single or distinct.rows != len(prompts)):
            raise PlanError(
                f"the plan has values for {distinct.rows} rows: give it alone, with as many prompts, not {len(prompts)}"
            )
    located = [p.located(model, ids, row) for row, (p, ids) in enumerate(zip(plans, prompts, strict=True))]
    for row, (p, ids) in enumerate(zip(located, prompts, strict=True)):
        for edit in p.edits:
            n = len(ids)
            if not isinstance(edit.tokens, tuple):
                continue
            if not all(-n <= i < n for i in edit.tokens):
                raise PlanError(f"token indices {edit.tokens} lie outside prompt {row} of {n} tokens")
            if len({i % n for i in edit.tokens}) < len(edit.tokens):
                raise PlanError(f"token indices {edit.tokens} name a token twice in prompt {row} of {n} tokens")
    return located
