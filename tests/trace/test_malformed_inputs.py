"""Prompts, options, models and results that do not fit: refused in one readable line before anything runs."""

from functools import cache

import pytest
import torch

import emotrace as et
from emotrace.data.concepts import NEUTRAL
from emotrace.errors import CircuitError, DataError, ModelError, PlanError
from tests.tiny import random_prompts
from tests.trace.random_plans import model_of, vector
from tests.trace.refusals import refused

EMOTIONS = ("joy", "awe")
CONDITIONS = (*EMOTIONS, NEUTRAL)
PROMPTS = [[7, 8, 9, 10], [11, 8, 12, 13]]
HEAD = [(0, 1)]
ZERO = et.zero(heads=HEAD)
SAMPLES = [
    et.Sample(i % 3, tuple(prompt), tuple(reply))
    for i, (prompt, reply) in enumerate(zip(random_prompts(6), random_prompts(6, seed=3), strict=True))
]
MODEL = model_of("llama")


@cache
def study(**options):
    """Statistics, directions, differences, scores, influence and a circuit of a model."""
    model = model_of("llama", **options)
    statistics = et.capture(model, SAMPLES, CONDITIONS)
    directions, differences = et.emotion_directions(statistics), et.difference_vectors(statistics)
    scores = et.score_components(model, statistics, directions, differences)
    influence = et.sublayer_influence(model, PROMPTS, directions)
    circuit = et.assemble(model, scores, influence, differences, heads=2, neurons=3)
    return statistics, directions, differences, scores, influence, circuit


def replies(prompts=PROMPTS, plan=None, **options):
    return et.generate_replies(MODEL, prompts, plan, **({"max_new_tokens": 2} | options))


def recorded(prompts=PROMPTS, **options):
    return et.record(MODEL, prompts, **({"heads": HEAD} | options))


@cache
def elsewhere():
    """The same word's activations, at another token of each prompt."""
    return recorded([[7, 8], [8, 7]], tokens=et.Span("w7"))


def influenced(prompts=PROMPTS, **options):
    return et.sublayer_influence(MODEL, prompts, study()[1], **options)


def attributed(prompts=PROMPTS, metric=lambda logits: logits[:, 7], **options):
    return et.gradient_scores(MODEL, prompts, study()[2], metric, **options)


def caused(site="heads", components=None, prompts=None, **options):
    given = dict.fromkeys(EMOTIONS, PROMPTS) if prompts is None else prompts
    return et.causal_scores(MODEL, given, study()[1], site, components or {0: [1]}, **options)


def assembled(heads=1, neurons=1, model=MODEL, **options):
    _, _, differences, scores, influence, _ = study()
    return et.assemble(model, scores, influence, differences, heads=heads, neurons=neurons, **options)


# name: (call, class of the error, what the message says)
PROMPT_CASES = {
    "text": (lambda: replies("w7 w8"), DataError, "prompts are a str; give a list of lists of token ids"),
    "nothing": (lambda: replies(None), DataError, "prompts are a NoneType"),
    "list of text": (lambda: replies(["w7"]), DataError, r"prompt 0 is a str; give token ids \(model.encode"),
    "one prompt, no list": (lambda: replies([7, 8]), DataError, "prompt 0 is a int"),
    "empty": (lambda: replies([[7], []]), DataError, "prompt 1 is empty"),
    "beyond the vocabulary": (lambda: replies([[7], [64]]), DataError, "prompt 1 holds 64; .* go from 0 to 63"),
    "negative": (lambda: replies([[-1]]), DataError, "prompt 0 holds -1"),
    "fractions": (lambda: replies([[7.0]]), DataError, "prompt 0 holds 7.0"),
    "truth": (lambda: replies([[True]]), DataError, "prompt 0 holds True"),
    "nested": (lambda: replies([[[7, 8]]]), DataError, "prompt 0 holds"),
    "floating tensor": (lambda: replies([torch.tensor([7.5])]), DataError, "prompt 0 holds 7.5"),
    "scalar tensor": (lambda: replies([torch.tensor(7)]), DataError, "prompt 0"),
    "too long": (lambda: replies([[7] * 2048]), DataError, "prompt 0 of 2048 tokens leaves no room .* reads 2048"),
    "recorded text": (lambda: recorded("w7 w8"), PlanError, "takes a list of prompts; put the one prompt in a list"),
    "recorded nothing": (lambda: recorded([]), PlanError, "at least one prompt"),
    "recorded empty": (lambda: recorded([""]), DataError, "prompt 0 is empty"),
    "recorded too long": (lambda: recorded([[7] * 2049]), DataError, "prompt 0 has 2049 tokens; .* reads 2048"),
    "generate from ids": (lambda: et.generate(MODEL, [[7, 8]]), DataError, "text"),
    "generate from nothing": (lambda: et.generate(MODEL, None), DataError, "text"),
    "influence of text": (lambda: influenced(["w7 w8"]), DataError, "prompt 0 is a str"),
    "influence beyond": (lambda: influenced([[7, 64]]), DataError, "prompt 0 holds 64"),
    "influence of one token": (lambda: influenced([[7]]), DataError, "prompts of two tokens or more"),
    "influence of nothing": (lambda: influenced([]), DataError, "at least one neutral prompt"),
    "gradient of text": (lambda: attributed(["w7"]), DataError, "prompt 0 is a str"),
    "gradient of nothing": (lambda: attributed([]), DataError, "at least one prompt"),
    "causes of ids beyond": (lambda: caused(prompts={e: [[64]] for e in EMOTIONS}), DataError, "prompt 0 holds 64"),
    "causes without prompts": (lambda: caused(prompts={"joy": PROMPTS}), DataError, "awe"),
    "capture beyond": (lambda: et.capture(MODEL, [et.Sample(0, (64,))], ("a",)), DataError, "holds 64"),
    "capture of text": (lambda: et.capture(MODEL, [et.Sample(0, "w7")], ("a",)), DataError, "str|token ids"),
    "capture of nothing": (lambda: et.capture(MODEL, [], ("a",)), DataError, "nothing to capture"),
    "capture unnamed": (lambda: et.capture(MODEL, [et.Sample(1, (7,))], ("a",)), DataError, "condition 1, but only 1"),
    "capture negative": (
        lambda: et.capture(MODEL, [et.Sample(-1, (7,)), et.Sample(0, (7,))], ("a",)),
        DataError,
        "condition -1",
    ),
}
OPTION_CASES = {
    "no new tokens": (lambda: replies(max_new_tokens=0), PlanError, "max_new_tokens=0: a reply has at least one token"),
    "half a token": (lambda: replies(max_new_tokens=1.5), PlanError, "max_new_tokens=1.5"),
    "temperature 0": (lambda: replies(temperature=0), PlanError, "temperature=0: give a number above 0"),
    "temperature nan": (lambda: replies(temperature=float("nan")), PlanError, "temperature=nan"),
    "top_k 0": (lambda: replies(top_k=0), PlanError, "top_k=0: give a whole number from 1"),
    "top_p 2": (lambda: replies(top_p=2.0), PlanError, r"top_p=2.0: give a number in \(0, 1\]"),
    "do_sample 1": (lambda: replies(do_sample=1), PlanError, "do_sample=1: give True or False"),
    "beams": (lambda: replies(num_beams=2), PlanError, "unknown option 'num_beams': sampling takes do_sample, temp"),
    "misspelt": (lambda: et.generate(MODEL, "w7", max_tokens=2), PlanError, "unknown option 'max_tokens'"),
    "an edit for a plan": (
        lambda: replies(plan=ZERO.edits[0]),
        PlanError,
        "plan is a Edit; make one with",
    ),
    "a word for a plan": (lambda: replies(plan="zero"), PlanError, "plan is a str"),
    "a circuit for a plan": (lambda: replies(plan=study()[5]), PlanError, "plan is a EmotionCircuit"),
    "no plan for a prompt": (lambda: replies(plan=[ZERO, None]), PlanError, "plan is a list; make one"),
    "one plan too few": (lambda: replies(plan=[ZERO]), PlanError, "1 plans for 2 prompts"),
    "no plans": (lambda: replies(plan=[]), PlanError, "0 plans for 2 prompts"),
    "values per row in a list": (
        lambda: replies(plan=[et.set({(0, 1): vector(2, 1, 12)}, "heads", tokens="last"), ZERO]),
        PlanError,
        "the plan has values for 2 rows: give it alone",
    ),
    "edits for a plan": (lambda: replies(plan=et.Plan(("zero",))), PlanError, "edit|Edit"),
    "a plan plus an edit": (lambda: ZERO + ZERO.edits[0], PlanError, "a plan adds to a plan, not to a Edit"),
    "record what": (lambda: et.record(MODEL, PROMPTS), PlanError, "name what to record: heads=, neurons="),
    "record replies": (lambda: recorded(tokens="generated"), PlanError, "a prompt has no 'generated' tokens"),
    "record anything": (lambda: recorded(tokens="first"), PlanError, "unknown tokens='first'"),
    "record beyond": (lambda: recorded(tokens=(4,)), PlanError, r"\(4,\) lie outside a prompt of 4 tokens"),
    "record twice": (lambda: recorded(tokens=(0, -4)), PlanError, "twice"),
    "record unequal": (lambda: recorded([[7], [7, 8]]), PlanError, r"are \[1, 2\] tokens in different prompts"),
    "record a head beyond": (lambda: recorded(heads=[(0, 4)]), PlanError, "components go from 0 to 3"),
    "patch without tokens": (
        lambda: et.patch(elsewhere()),
        PlanError,
        "the recorded tokens differ between prompts, .*name them with tokens=",
    ),
    "alpha 0": (lambda: influenced(alphas=(0.0,)), DataError, r"alphas must be positive, got \(0.0,\)"),
    "alpha nan": (lambda: influenced(alphas=(float("nan"),)), DataError, "alphas must be"),
    "influence readout": (lambda: influenced(readout="logits"), DataError, "choose readout from"),
    "gradient tokens": (lambda: attributed(tokens="reply"), DataError, "choose tokens from"),
    "gradient of no metric": (lambda: attributed(metric=None), DataError, "metric"),
    "gradient of a word": (lambda: attributed(metric="joy"), DataError, "metric"),
    "cause at a stream": (lambda: caused("mlp_out"), ModelError, "has no mlp_out as a site|heads"),
    "cause in a layer beyond": (lambda: caused(components={3: [0]}), PlanError, "layers 0 to 2"),
    "cause in a layer before": (lambda: caused(components={-1: [0]}), PlanError, "layers 0 to 2"),
    "cause of a head beyond": (lambda: caused(components={0: [4]}), PlanError, "from 0 to 3"),
    "cause of a head before": (lambda: caused(components={0: [-1]}), PlanError, "from 0 to 3"),
    "cause, normed neurons": (lambda: caused("neurons", readout="normed"), ModelError, "is for heads"),
    "more heads than there are": (lambda: assembled(heads=13), CircuitError, "a budget of 13 does not fit .* 12 such"),
    "half a head": (lambda: assembled(heads=1.5), CircuitError, "budget of 1.5"),
    "allocation": (lambda: assembled(allocation="fair"), CircuitError, "unknown allocation 'fair': choose one of"),
    "no such emotion": (lambda: et.add(study()[5], "rage"), CircuitError, "no 'rage'; it holds joy, awe"),
    "circuit and later": (lambda: et.add(study()[5], "joy", later={}), PlanError, "a circuit brings its own vectors"),
    "no such ranking": (lambda: study()[3].top("heads", "rage", 1), DataError, "rage"),
    "a circuit of other weights": (
        lambda: replies(plan=et.add(study(seed=5)[5], "joy")),
        CircuitError,
        "made for other weights",
    ),
    "a circuit of other sizes": (lambda: replies(plan=et.add(study(layers=4)[5], "joy")), CircuitError, "other sizes"),
    "checked against another": (lambda: study(seed=5)[5].check(MODEL), CircuitError, "made for other weights"),
    "scores of another": (lambda: assembled(model=model_of("llama", layers=4)), CircuitError, "the scores are of a"),
    "scores of one with neurons": (lambda: assembled(model=model_of("mixtral")), CircuitError, "neurons"),
    "directions of another": (
        lambda: et.sublayer_influence(MODEL, PROMPTS, study(layers=2)[1]),
        DataError,
        "directions",
    ),
    "directions of a deeper one": (
        lambda: et.sublayer_influence(MODEL, PROMPTS, study(layers=4)[1]),
        DataError,
        "directions",
    ),
    "statistics of a shallower one": (
        lambda: et.score_heads(MODEL, *study(layers=2)[:2]),
        DataError,
        "statistics|directions",
    ),
    "statistics of a deeper one": (
        lambda: et.score_neurons(MODEL, *study(layers=4)[:2]),
        DataError,
        "statistics|directions",
    ),
    "differences of another": (
        lambda: et.gradient_scores(MODEL, PROMPTS, study(layers=2)[2], lambda logits: logits[:, 7]),
        DataError,
        "difference",
    ),
}
CASES = {f"prompts: {n}": case for n, case in PROMPT_CASES.items()} | {
    f"options: {n}": c for n, c in OPTION_CASES.items()
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES)
def test_what_does_not_fit_is_refused(call, error, message):
    for options in ({}, {"seed": 5}, {"layers": 2}, {"layers": 4}):
        study(**options)  # computed before
    elsewhere()
    with refused(MODEL, error, message):
        call()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda logits: logits[:, 7, None, None], "one number, or one for each row"),
        (lambda logits: logits[:, 7].sum().item(), "one number, or one for each row"),
        (lambda logits: None, "one number, or one for each row"),
        (lambda logits: logits[:, :3], "one number, or one for each row"),
        (lambda logits: logits.mean(0), "one number, or one for each row"),
        (lambda logits: logits.argmax(-1), "gradient|differentiable"),
        (lambda logits: logits[:, 7].detach(), "gradient|differentiable"),
    ],
    ids=["three axes", "float", "nothing", "targets that are no emotions", "a word each", "whole numbers", "detached"],
)
def test_a_metric_of_another_shape_is_refused(metric, message):
    """What it returns is known only in the pass, so the model has run by then."""
    study()
    with pytest.raises(DataError, match=message) as caught:
        attributed(metric=metric)
    assert "\n" not in str(caught.value)


def test_scores_do_not_depend_on_how_a_metric_counts_its_rows():
    """One number for the batch is the sum of its rows: a mean would depend on how the prompts fell into batches."""
    study()
    each = attributed().heads
    assert torch.allclose(attributed(metric=lambda logits: logits[:, 7].sum()).heads, each, rtol=1e-10, atol=1e-12)
    whole = attributed(metric=lambda logits: logits[:, 7].mean())
    cut = attributed(metric=lambda logits: logits[:, 7].mean(), batch_tokens=1)
    assert torch.allclose(whole.heads, cut.heads, rtol=1e-10, atol=1e-12)
