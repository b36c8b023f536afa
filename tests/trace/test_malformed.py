"""Plans that a careless user makes: each is refused in one readable line before anything runs, wherever it is given."""

from functools import cache

import numpy as np
import pytest
import torch

import emotrace as et
from emotrace.errors import CircuitError, PlanError
from tests.tiny import tiny_hf, tiny_tokenizer
from tests.trace.random_plans import model_of, vector
from tests.trace.refusals import applied, refused

PROMPTS = [[7, 8, 9, 10], [11, 8, 12, 13]]
IDS = torch.tensor(PROMPTS)
nan, inf = float("nan"), float("inf")
v = vector(12)
HEAD = [(0, 1)]


def heads(value, **options):
    return et.set({(0, 1): value}, "heads", **options)


def edit(*arguments, **options):
    return et.Plan((et.Edit(*arguments, **options),))


@cache
def seen(count=1, tokens=(0, -1)):
    """Activations of ``count`` prompts."""
    return et.record(model_of("llama"), PROMPTS[:1] * count, heads=HEAD, tokens=tokens)


@cache
def statistics():
    samples = [et.Sample(0, (7, 8), (9,)), et.Sample(1, (8, 7))]
    return et.capture(model_of("llama"), samples, ("joy", "neutral"))


def made_for(**options):
    """A plan made for another model: of other weights, sizes or words."""
    hf = tiny_hf(**{key: value for key, value in options.items() if key in ("seed", "layers", "family")})
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += options.get("template", "")
    return et.Plan(et.zero(heads=HEAD).edits, (et.load(hf, tokenizer=tokenizer).fingerprint,))


# name: (what makes the plan, what the message says)
WHERE = {
    "layer beyond": (lambda: et.zero(heads=[(3, 0)]), "heads in layer 3: the model has layers 0 to 2"),
    "layer negative": (lambda: et.zero(mlp_out=[-1]), "mlp_out in layer -1: the model has layers 0 to 2"),
    "head beyond": (lambda: et.zero(heads=[(0, 4)]), r"components go from 0 to 3, got \[4\]"),
    "head negative": (lambda: et.zero(heads=[(0, -1)]), r"components go from 0 to 3, got \[-1\]"),
    "neuron beyond": (lambda: et.zero(neurons=[(1, 40)]), "neurons in layer 1: components go from 0 to 39"),
    "head named twice": (lambda: et.zero(heads=HEAD * 2), "a component is named twice"),
    "layer named twice": (lambda: et.scale(2.0, mlp_out=[1, 1]), "named twice"),
    "second edit of two": (lambda: et.zero(heads=HEAD) + et.zero(heads=[(0, 9)]), r"edit 2 of 2"),
    "layers where pairs belong": (lambda: et.zero(heads=[0, 1]), r"heads are named by \(layer, index\) pairs"),
    "pairs where layers belong": (lambda: et.zero(mlp_out=HEAD), "mlp_out are named by layers"),
    "one pair, no list": (lambda: et.zero(heads=(0, 1)), r"heads are named by \(layer, index\) pairs"),
    "one layer, no list": (lambda: et.zero(mlp_out=1), "mlp_out are named by layers"),
    "triples": (lambda: et.zero(heads=[(0, 1, 2)]), "pairs"),
    "an empty pair": (lambda: et.zero(heads=[()]), "pairs"),
    "fractions": (lambda: et.zero(neurons=[(0, 1.0)]), "whole numbers"),
    "words": (lambda: et.zero(heads="0.1"), "whole numbers"),
    "None": (lambda: et.zero(heads=None), "heads are named by"),
    "a cube": (lambda: et.zero(heads=torch.zeros(2, 2, 2, dtype=torch.long)), "heads are named by"),
    "a matrix of layers": (lambda: et.zero(mlp_out=torch.zeros(9, 9, dtype=torch.long)), "mlp_out are named by"),
    "unknown site": (lambda: et.set({0: v}, "attention"), "unknown site 'attention': choose one of heads, attn_out"),
    "site and values swapped": (lambda: et.set("heads", {(0, 1): v}), "unknown site"),
    "site of an edit": (lambda: edit("keys", 0, (1,)), "unknown site 'keys'"),
    "index without components": (lambda: edit("mlp_out", 0, (1,)), "mlp_out has no components; leave index out"),
    "no index": (lambda: edit("heads", 0), "components go from 0 to 3, got none"),
    "index as a number": (lambda: edit("heads", 0, 1), "index"),
    "index of numpy": (lambda: edit("heads", 0, (np.int64(9),)), "components go from 0 to 3"),
    "dims beyond": (lambda: et.zero(heads=HEAD, dims=(3, 12)), r"dims go from 0 to 11, got \(3, 12\)"),
    "dims negative": (lambda: et.zero(heads=HEAD, dims=(-1,)), "dims go from 0 to 11"),
    "dims twice": (lambda: et.zero(mlp_out=[0], dims=(1, 1)), "a coordinate is named twice"),
    "dims empty": (lambda: et.zero(heads=HEAD, dims=()), "dims go from 0 to 11"),
    "dims as a number": (lambda: et.zero(heads=HEAD, dims=3), "dims"),
    "dims as a slice": (lambda: et.zero(heads=HEAD, dims=slice(3)), "dims"),
    "dims of a neuron": (lambda: et.zero(neurons=HEAD, dims=(0,)), "a neuron is one number; leave dims out"),
    "unknown tokens": (lambda: et.zero(heads=HEAD, tokens="first"), "unknown tokens='first'; choose last, prompt"),
    "tokens as a list": (lambda: et.zero(heads=HEAD, tokens=[0]), "a tuple of indices"),
    "tokens as a number": (lambda: et.zero(heads=HEAD, tokens=-1), "a tuple of indices"),
    "tokens as a tensor": (lambda: et.zero(heads=HEAD, tokens=torch.arange(40)), "a tuple of indices"),
    "tokens of fractions": (lambda: et.zero(heads=HEAD, tokens=(0.0,)), "unknown tokens"),
    "tokens of truth": (lambda: et.zero(heads=HEAD, tokens=(True,)), "unknown tokens"),
    "no tokens": (lambda: et.zero(heads=HEAD, tokens=()), "unknown tokens"),
    "tokens None": (lambda: et.zero(heads=HEAD, tokens=None), "unknown tokens=None"),
    "token beyond": (lambda: et.zero(heads=HEAD, tokens=(4,)), r"\(4,\) lie outside .*prompt.* of 4 tokens"),
    "token before": (lambda: et.zero(heads=HEAD, tokens=(-5,)), r"\(-5,\) lie outside"),
    "token twice": (lambda: et.zero(heads=HEAD, tokens=(0, -4)), "name a token twice"),
    "Span absent": (lambda: et.zero(heads=HEAD, tokens=et.Span("w63")), "'w63' is not in the prompt 'w7 w8 w9 w10'"),
    "Span ambiguous": (lambda: et.zero(heads=HEAD, tokens=et.Span("w")), "'w' stands 4 times .* choose occurrence="),
    "Span's occurrence": (lambda: et.zero(heads=HEAD, tokens=et.Span("w8", 1)), "occurrence 1 of 'w8': .* has 1"),
    "Span's occurrence as text": (lambda: et.zero(heads=HEAD, tokens=et.Span("w8", "0")), "occurrence"),
    "Span empty": (lambda: et.zero(heads=HEAD, tokens=et.Span("")), "a Span needs the text to look for"),
    "Span of an id": (lambda: et.zero(heads=HEAD, tokens=et.Span(8)), "a Span needs the text to look for"),
}
VALUES = {
    "too short": (lambda: heads(v[:5]), r"values of shape \(1, 5\) do not fit; this takes \(1, 12\)"),
    "too many axes": (lambda: heads(vector(1, 1, 1, 12)), "do not fit"),
    "not as many as dims": (lambda: heads(v, dims=(0, 1)), r"this takes \(1, 2\)"),
    "a neuron's with a width": (lambda: et.set({(0, 1): vector(2, 3)}, "neurons"), "for 3 tokens, .* takes 1"),
    "of several shapes": (lambda: et.set({(0, 1): v, (0, 2): v[:3]}, "heads"), "differ in shape"),
    "for other tokens": (lambda: heads(vector(3, 12), tokens=(0, 1)), r"values for 3 tokens, but tokens=\(0, 1\)"),
    "for tokens by name": (lambda: heads(vector(4, 12), tokens="prompt"), "name the tokens by as many indices"),
    "for no tokens": (lambda: heads(vector(0, 12), tokens="last"), "values for 0 tokens"),
    "for a Span's tokens": (lambda: heads(vector(3, 12), tokens=et.Span("w8")), "values for 3 tokens"),
    "nan": (lambda: heads(v * nan), "values are not finite"),
    "inf": (lambda: et.add({0: torch.full((32,), inf)}, "mlp_out"), "values are not finite"),
    "truth": (lambda: heads(v > 0), "values at heads of layer 0 are torch.bool"),
    "complex": (lambda: heads(v * 1j), "values at heads of layer 0 are torch.complex128"),
    "text": (lambda: heads("warm"), "values at heads of layer 0 are a str"),
    "missing": (lambda: heads(None), "values at heads of layer 0 are a NoneType"),
    "ragged": (lambda: heads([[1, 2], [3]]), "values at heads of layer 0 are a list"),
    "objects": (lambda: heads(np.array([None] * 12)), "values at heads of layer 0 are a ndarray"),
    "a tensor": (lambda: et.set(v, "heads"), "values at heads are a Tensor; give a mapping"),
    "a list": (lambda: et.add([v], "heads"), "values at heads are a list; give a mapping"),
    "by layer": (lambda: et.set({0: v}, "heads"), "heads are named by"),
    "by pair": (lambda: et.set({(0, 1): vector(32)}, "mlp_out"), "mlp_out are named by layers"),
    "whole numbers in an edit": (lambda: edit("heads", 0, (1,), add=torch.ones(1, 12).int()), "values are torch.int32"),
    "numpy in an edit": (lambda: edit("heads", 0, (1,), add=np.ones((1, 12))), "values are ndarray"),
    "later, of others": (lambda: et.add({(0, 1): v}, "heads", later={(0, 2): v}), "name different components"),
    "later, of another width": (lambda: et.add({(0, 1): v}, "heads", later={(0, 1): v[:3]}), "do not fit"),
    "later, elsewhere": (
        lambda: et.add({0: vector(32)}, "mlp_out", later={0: vector(32)}, tokens="last"),
        "'reply' or",
    ),
    "factor nan": (lambda: et.scale(nan, heads=HEAD), "scale is nan, not a finite number"),
    "factor inf": (lambda: et.scale(inf, heads=HEAD), "scale is inf, not a finite number"),
    "factor None": (lambda: et.scale(None, heads=HEAD), "scale is None"),
    "factor as text": (lambda: et.scale("2", heads=HEAD), "scale is '?2"),
    "factor complex": (lambda: et.scale(1j, heads=HEAD), "scale is 1j"),
    "factor for each coordinate": (lambda: et.scale(torch.ones(12), heads=HEAD), "scale is"),
    "factors that overflow": (lambda: et.scale(1e300, heads=HEAD) + et.scale(1e300, heads=HEAD), "overflow|not finite"),
    "strength nan": (lambda: et.add({(0, 1): v}, "heads", strength=nan), "not finite"),
    "strength as text": (lambda: et.add({(0, 1): v}, "heads", strength="2"), "strength"),
    "strength None": (lambda: et.add({(0, 1): v}, "heads", strength=None), "strength"),
    "strength for each coordinate": (lambda: et.add({(0, 1): v}, "heads", strength=torch.ones(12)), "strength"),
    "rows of another batch": (lambda: heads(vector(3, 1, 12), tokens="last"), r"3 rows"),
    "rows that disagree": (
        lambda: heads(vector(2, 1, 12), tokens="last") + heads(vector(3, 1, 12), tokens="last"),
        r"batches of \[2, 3\] rows",
    ),
    "patch of what was not recorded": (lambda: et.patch(seen(), heads=[(0, 2)]), r"heads \(0, 2\) was not recorded"),
    "patch of another site": (lambda: et.patch(seen(), mlp_out=[0]), "mlp_out 0 was not recorded"),
    "patch at other tokens": (lambda: et.patch(seen(), tokens=(0, 1, 2)), "values for 2 tokens, .* takes 3"),
    "patch of other rows": (lambda: et.patch(seen(3)), "3 rows"),
    "patch dims beyond": (lambda: et.patch(seen(), dims=(12,)), "dims"),
    "mean of nobody": (lambda: et.mean(statistics(), condition="rage", heads=HEAD), "hold no 'rage'; they hold joy"),
    "mean over nothing": (lambda: et.mean(statistics(), condition="neutral", place="reply", heads=HEAD), "no reply"),
    "mean elsewhere": (lambda: et.mean(statistics(), place="prompt", heads=HEAD), "'last' and 'reply', not 'prompt'"),
    "mean of a head beyond": (lambda: et.mean(statistics(), heads=[(0, 7)]), "outside the statistics"),
}
PLANS = {f"where: {name}": case for name, case in WHERE.items()} | {f"value: {n}": case for n, case in VALUES.items()}
cases = pytest.mark.parametrize(("make", "message"), PLANS.values(), ids=PLANS)


@cases
def test_a_malformed_plan_is_refused_by_generate(make, message):
    model = model_of("llama")
    statistics(), seen(), seen(3)  # what the plan is made from is computed before
    with refused(model, PlanError, message):
        et.generate_replies(model, PROMPTS, make(), max_new_tokens=2)


@cases
def test_a_malformed_plan_is_refused_by_apply(make, message):
    """nnsight raises a block's own exception, the same object; with the mask given it comes before the first block."""
    model = model_of("llama")
    statistics(), seen(), seen(3)
    with refused(model, PlanError, message):
        applied(model, make(), IDS, torch.ones_like(IDS), input_ids=IDS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: heads(torch.full((12,), 7e4)), r"values up to 7e\+04 overflow torch.float16"),
        (lambda: et.add({(0, 1): v}, "heads", strength=1e6), "overflow torch.float16"),
        (lambda: et.scale(1e6, heads=HEAD), "overflow"),
        (lambda: et.add({(0, 1): torch.full((12,), 6e4)}, "heads") + et.scale(2.0, heads=HEAD, tokens="reply"), "over"),
        (
            lambda: et.add({0: torch.full((32,), 4e4)}, "mlp_out") + et.add({0: torch.full((32,), 4e4)}, "mlp_out"),
            "over",
        ),
    ],
    ids=["set", "strength", "factor", "sum times factor", "sum"],
)
def test_what_overflows_the_models_dtype_is_refused(make, message):
    with refused(model := model_of("llama", dtype=torch.float16), PlanError, message):
        et.generate_replies(model, PROMPTS, make(), max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 5}, r"made for other weights .*allow_other_weights=True"),
        ({"layers": 4}, r"made for a model of other sizes \(layers: 4, 3\)"),
        ({"template": "."}, "made with another tokenizer or chat template"),
        ({"layers": 4, "family": "gpt2"}, "other sizes"),
    ],
    ids=["weights", "sizes", "template", "family"],
)
def test_a_plan_of_another_model_is_refused(options, message):
    plan = made_for(**options)
    for run in (
        lambda: et.generate_replies(model_of("llama"), PROMPTS, plan),
        lambda: applied(model_of("llama"), plan, IDS, None),
    ):
        with refused(model_of("llama"), CircuitError, message):
            run()


@pytest.mark.parametrize(
    ("family", "make", "message"),
    [
        (
            "mixtral",
            lambda: et.zero(neurons=HEAD),
            "mixture of experts, .* no neurons as a site; what works: heads",
        ),
        ("mixtral", lambda: et.set({(0, 1): 1.0}, "neurons"), "has no neurons as a site"),
        ("gpt_neox", lambda: et.set({0: vector(32)}, "resid_attn"), "in parallel, .* can only be added to. What works"),
        ("gpt_neox", lambda: et.zero(resid_attn=[0]), "can only be added to"),
        ("gpt_neox", lambda: et.scale(2.0, resid_attn=[0], dims=(1,)), "can only be added to"),
    ],
)
def test_what_a_family_lacks_is_refused(family, make, message):
    model = model_of(family)
    with refused(model, PlanError, message):
        et.generate_replies(model, PROMPTS, make(), max_new_tokens=2)
    with refused(model, PlanError, message):
        applied(model, make(), IDS, None)
