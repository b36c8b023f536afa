"""The user's own nnsight model: every public function takes it, gives what a `Model` gives, and changes nothing."""

import dataclasses
import warnings

import nnsight
import pytest
import torch
from nnsight import TransformersModel

import emotrace as et
from emotrace.data.concepts import NEUTRAL
from tests.tiny import random_prompts, tiny_hf, tiny_tokenizer
from tests.trace.random_plans import vector

EMOTIONS = ("joy", "gloom", "awe")
PROMPTS = random_prompts(8, seed=2, shortest=5)
SAMPLES = [
    et.Sample(i % 4, tuple(prompt), tuple(reply))
    for i, (prompt, reply) in enumerate(zip(PROMPTS, random_prompts(8, seed=3, shortest=2, longest=4), strict=True))
]
ASKED = {name: [s.prompt for s in SAMPLES if s.condition == i] for i, name in enumerate((*EMOTIONS, NEUTRAL))}
FAMILIES = ("llama", "gemma2", "mixtral")


@pytest.fixture(autouse=True)
def _gradients_on():
    """So that one function which leaves them off does not hide another."""
    torch.set_grad_enabled(True)
    yield
    torch.set_grad_enabled(True)


def theirs(family="llama", maker=TransformersModel, **options):
    hf = tiny_hf(family)
    hf.generation_config.repetition_penalty = 1.3  # a setting of the user's, which must neither act nor be lost
    first = next(hf.parameters())
    first.requires_grad_(False)
    hf.get_submodule("model.layers.1").train()  # no dropout in it, so that the mode is all that could change
    return maker(hf, tokenizer=tiny_tokenizer(), **options)


def state(nn):
    """All that a function could leave behind on a model, on its tokenizer and in torch."""
    modules, parameters = dict(nn._module.named_modules()), dict(nn._module.named_parameters())
    hooks = [name for name in vars(torch.nn.Module()) if name.endswith("_hooks")]
    tokenizer = nn.tokenizer
    return {
        "attributes": set(vars(nn)),
        "modules": {name: (type(m), m.training, set(vars(m))) for name, m in modules.items()},
        "hooks": {(name, kind): len(getattr(m, kind)) for name, m in modules.items() for kind in hooks},
        "parameters": {n: (p.requires_grad, p.grad is None, p._version, p.dtype) for n, p in parameters.items()},
        "configs": (nn._module.config.to_dict(), nn._module.generation_config.to_dict()),
        "tokenizer": (tokenizer.padding_side, tokenizer.pad_token, tokenizer.chat_template, len(tokenizer)),
        "torch": (torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.get_default_dtype()),
    }


def same(a, b):
    """Equality of results, tensors to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def everything(model):
    """Every public function that takes a model and needs no language; what they return, by name."""
    statistics = et.capture(model, SAMPLES, (*EMOTIONS, NEUTRAL))
    directions, differences = et.emotion_directions(statistics), et.difference_vectors(statistics)
    neutral, given = ASKED[NEUTRAL], {"samples": SAMPLES, "prompts": ASKED[NEUTRAL]}
    found = {"capture": statistics}
    for method in ("analytic", "attribution", "gradient", "activation_difference", "weight_alignment", "random"):
        found[method] = et.score_components(model, statistics, directions, differences, method=method, **given)
    found["score_heads"] = et.score_heads(model, statistics, directions, readout="normed", samples=SAMPLES)
    found["score_neurons"] = et.score_neurons(model, statistics, directions, samples=SAMPLES)
    found["gradient_scores"] = et.gradient_scores(model, neutral, differences, lambda logits: logits[:, 7])
    asked = {name: ASKED[name] for name in EMOTIONS}
    found["causal_scores"] = et.causal_scores(model, asked, directions, "heads", {0: [1], 2: [0, 3]})
    for method in ("exact", "gradient"):
        found[f"influence {method}"] = et.sublayer_influence(model, neutral, directions, method=method)
    influence, scores = found["influence exact"], found["analytic"]
    circuit = et.assemble(
        model, scores, influence, differences, heads=2, neurons=3 if scores.neurons.numel() else 0, allocation="global"
    )
    circuit.check(model)
    found["assemble"] = circuit
    found["record"] = et.record(model, PROMPTS[:1], heads=[(0, 1)], mlp_out=[2], resid_attn=[1])
    steered = et.add(circuit, "joy", strength=4.0) + et.mean(statistics, heads=[(0, 2)])
    found["generate"] = et.generate(model, ["w8 w9", "w10 w11 w12"], plan=steered, max_new_tokens=4)
    found["generate_replies"] = et.generate_replies(model, PROMPTS[:3], steered, max_new_tokens=4)
    ids = torch.tensor(PROMPTS[:1])
    patched = et.patch(found["record"], heads=[(0, 1)]) + et.zero(resid_mlp=[1], dims=(3,))
    with model.trace(ids, use_cache=False):
        with torch.no_grad():
            found["apply"] = nnsight.save(et.apply(model, patched))
            found["logits"] = model.output.logits.clone().save()
    found["check_contact"] = et.check_contact(model, patched, [found["apply"]], [1])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_function_takes_an_nnsight_model_and_leaves_it_as_it_was(family):
    mine = theirs(family)
    weights = {name: value.clone() for name, value in mine._module.state_dict().items()}
    et.generate(mine, "w8", max_new_tokens=1)  # nnsight sets itself up in its first trace
    before = state(mine)
    found = everything(mine)
    after = state(mine)
    for name, held in before.items():
        assert after[name] == held, name
    kept = mine._module.state_dict()
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], value) for name, value in weights.items())
    expected = everything(et.load(theirs(family)))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert same(value, expected[name]), name


def test_first_use_changes_nothing_either():
    mine = theirs()
    before = state(mine)
    et.generate(mine, "w8", plan=et.zero(heads=[(0, 1)]), max_new_tokens=2)
    assert state(mine) == before


@pytest.mark.parametrize("plan", [None, et.zero(heads=[(0, 1)]), et.zero(heads=[(0, 1)], tokens="last")])
def test_generating_leaves_gradients_on(plan):
    """transformers switches them off while it generates, and a block inside it would restore what it met."""
    et.generate(theirs(), ["w8 w9", "w10"], plan=plan, max_new_tokens=3)
    assert torch.is_grad_enabled()


def test_the_older_name_of_nnsights_class_works():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nnsight says that it is the older name
        mine = theirs(maker=nnsight.LanguageModel)
    plan = et.zero(heads=[(0, 1)])
    assert et.generate(mine, "w8", plan=plan) == et.generate(theirs(), "w8", plan=plan)


def test_a_model_with_modules_renamed_works():
    mine = theirs(rename={"mlp": "feed_forward", "model.layers": "layers"}, task="text-generation")
    plan = et.zero(heads=[(0, 1)], neurons=[(1, 3)], mlp_out=[2])
    assert et.generate(mine, "w8", plan=plan) == et.generate(theirs(), "w8", plan=plan)


def test_a_model_whose_weights_come_with_its_first_trace(tmp_path):
    """nnsight reads the weights of a model given by name when they are needed: a plan is compiled before that."""
    tiny_hf(dtype=torch.float32).save_pretrained(tmp_path)
    mine = TransformersModel(str(tmp_path), tokenizer=tiny_tokenizer(), task="text-generation")
    plan = et.zero(heads=[(0, 1)]) + et.add({1: vector(32)}, "mlp_out")
    replies = et.generate_replies(mine, PROMPTS[:3], plan, max_new_tokens=4)
    loaded = et.load(tiny_hf(dtype=torch.float32), tokenizer=tiny_tokenizer())
    assert replies == et.generate_replies(loaded, PROMPTS[:3], plan, max_new_tokens=4)


@pytest.mark.slow
def test_functions_that_need_language_take_an_nnsight_model():
    bundled, scenarios = et.load("bundled"), et.load_sev("sev-mini")
    mine = TransformersModel(bundled.nn._module, tokenizer=bundled.tokenizer, task="text-generation")
    before = state(mine)
    study = et.discover(mine, scenarios.train[:1])
    tasks = et.held_out_tasks(scenarios.test, et.PAPER_SIX, 1)[:2]
    attempts = [et.Attempt(task, et.add(study.circuit, task.emotion, strength=2.0)) for task in tasks]
    judged = et.evaluate(mine, "steered", attempts, et.PAPER_SIX, et.BundledJudge.load())
    assert len(judged) == 2
    assert state(mine) == before
    assert same(study.circuit, et.discover(bundled, scenarios.train[:1]).circuit)
