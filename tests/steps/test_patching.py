"""Patching and gradients between two ends, against plain hooks, loops with autograd, and completeness."""

from contextlib import ExitStack

import pytest
import torch
from scipy.special import roots_legendre

import emotrace as et
from emotrace.errors import DataError, ModelError, PlanError
from emotrace.steps.directions import Differences, Directions
from emotrace.trace import pairs
from tests.conformance.hooks import activations, layout_of, module_at
from tests.remote.loopback import hosted_here
from tests.tiny import close, hooked, random_prompts, tiny_model, torch_model

EMOTIONS = ("anger", "fear")
NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox")


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def directions_of(model, emotions=EMOTIONS):
    sizes, count = model.sizes, len(emotions)
    vectors = random(count, sizes.layers, 2, sizes.width, seed=1)
    ones = torch.ones(count, sizes.layers, 2, dtype=torch.float64)
    return Directions(emotions, "neutral", "last", vectors, ones, ones[0], random(count, sizes.width, seed=2), (1,))


def differences_of(model, emotions=EMOTIONS):
    sizes = model.sizes
    last = {
        "heads": random(len(emotions), sizes.layers, *sizes.shape("heads"), seed=3),
        "neurons": random(len(emotions), sizes.layers, sizes.neurons, seed=4),
    }
    return Differences(emotions, "neutral", last, last)


def asked():
    """Prompts of unequal length that end in the same token, as prompts of one template do."""
    names = ("neutral", *EMOTIONS)
    return {name: [[*ids, 9] for ids in random_prompts(3, seed=n)] for n, name in enumerate(names)}


def projection(hf, site, layer):
    layout = layout_of(hf)
    return module_at(module_at(hf, layout.blocks)[layer], layout.out_proj if site == "heads" else layout.down_proj)


def reading(hf, ids, reference, site=None, layer=0, change=None, metric=None):
    """The reading of one prompt in a plain pass, the input of a projection changed at the last token by a hook."""
    seen = []

    def edit(x):
        x = x.clone()
        x[0, -1] = change(x[0, -1])
        return x

    norm = module_at(hf, NORMS.get(hf.config.model_type, "model.norm"))
    with ExitStack() as stack:
        if change is not None:
            stack.enter_context(hooked(projection(hf, site, layer), before=edit))
        stack.enter_context(hooked(norm, after=lambda y: seen.append(y[0, -1]) or y))
        logits = hf(torch.tensor([ids]), use_cache=False).logits[:, -1]
    return seen[0] @ reference if metric is None else metric(logits)[0]


def ends(hf, ids):
    """Heads ``[L, W]`` and neurons ``[L, W]`` at the last token."""
    found = activations(hf, ids)
    return {site: found[site][:, -1].flatten(1) for site in ("heads", "neurons")}


def by_hooks(model, prompts, reference, components, *, pushes=None, metric=None):
    """Mean rise for each (site, layer, index), one full pass with a hook for each."""
    hf, rises = torch_model(model), {}
    for site, layer, index in components:
        width = model.sizes.shape(site)[1]
        part = slice(index * width, (index + 1) * width)
        total = 0.0
        for n, base in enumerate(prompts["neutral"]):
            own = None if pushes is None else pushes[site][layer].flatten()[part]
            there = None if pushes is not None else ends(hf, prompts["partner"][n])[site][layer, part]

            def change(x, part=part, own=own, there=there):
                x = x.clone()
                x[part] = there if own is None else x[part] + own
                return x

            with torch.no_grad():
                after = reading(hf, base, reference, site, layer, change, metric)
                total += float(after - reading(hf, base, reference, metric=metric))
        rises[site, layer, index] = total / len(prompts["neutral"])
    return rises


CHOSEN = [("heads", 0, 3), ("heads", 2, 1), ("neurons", 0, 5), ("neurons", 1, 39), ("neurons", 2, 0)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("abreast", [True, False], ids=["side by side", "rows"])
def test_patch_in_equals_hooks(family, abreast, monkeypatch):
    if not abreast:
        monkeypatch.setattr(pairs, "side_by_side", lambda *_: False)
    model, prompts = tiny_model(family), asked()
    directions = directions_of(model)
    scores = et.patch_in_scores(model, prompts, directions, batch_tokens=100)
    assert scores.method == "patch_in"
    assert scores.emotions == EMOTIONS
    assert scores.heads.shape == (2, 3, 4)
    assert scores.neurons.shape == (2, 3, 40)
    assert bool(scores.heads.isfinite().all())
    assert bool(scores.neurons.isfinite().all())
    for e, emotion in enumerate(EMOTIONS):
        given = {"neutral": prompts["neutral"], "partner": prompts[emotion]}
        for (site, layer, index), rise in by_hooks(model, given, directions.reference[e], CHOSEN).items():
            assert abs(float(scores.at(site)[e, layer, index]) - rise) < 1e-7 * (1 + abs(rise)), (emotion, site, layer)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_pushing_difference_vectors_equals_hooks(family):
    model, prompts = tiny_model(family), {"neutral": asked()["neutral"]}
    directions, differences = directions_of(model), differences_of(model)
    neurons = {0: [5], 1: [39, 2], 2: [0]}
    scores = et.patch_in_scores(model, prompts, directions, differences=differences, neurons=neurons)
    measured = torch.zeros(3, 40, dtype=torch.bool)
    for layer, indices in neurons.items():
        measured[layer, indices] = True
    assert bool((scores.neurons.isfinite() == measured).all()), "what was not asked for ranks last"
    for e in range(2):
        pushes = {site: values[e] for site, values in differences.last.items()}
        for (site, layer, index), rise in by_hooks(
            model, prompts, directions.reference[e], CHOSEN, pushes=pushes
        ).items():
            assert abs(float(scores.at(site)[e, layer, index]) - rise) < 1e-7 * (1 + abs(rise))


@pytest.mark.parametrize("one_number", [True, False])
def test_patch_in_of_a_metric_equals_hooks(one_number):
    def metric(logits):
        values = logits[:, 7] - logits[:, 8]
        return values[0] if one_number and len(values) == 1 else values.sum() if one_number else values

    model, prompts = tiny_model(), asked()
    scores = et.patch_in_scores(model, prompts, directions_of(model), metric=metric)
    given = {"neutral": prompts["neutral"], "partner": prompts["fear"]}
    plain = by_hooks(model, given, torch.zeros(32), CHOSEN, metric=lambda logits: logits[:, 7] - logits[:, 8])
    for (site, layer, index), rise in plain.items():
        assert abs(float(scores.at(site)[1, layer, index]) - rise) < 1e-7 * (1 + abs(rise))


def along_the_line(model, prompts, reference, site, layer, steps):
    """Integrated gradients of one layer's site by a loop over prompts and points, autograd through plain hooks."""
    hf, total = torch_model(model), 0
    nodes, weights = roots_legendre(steps)
    for base, partner in zip(prompts["neutral"], prompts["partner"], strict=True):
        start, stop = ends(hf, base)[site][layer], ends(hf, partner)[site][layer]
        grads = []
        for node in (nodes + 1) / 2:
            point = (start + node * (stop - start)).detach().requires_grad_(True)
            value = reading(hf, base, reference, site, layer, lambda _, point=point: point)
            grads.append(torch.autograd.grad(value, point)[0])
        total = total + (stop - start) * torch.einsum("s,sw->w", torch.tensor(weights / 2), torch.stack(grads))
    width = model.sizes.shape(site)[1]
    return total.unflatten(-1, (-1, width)).sum(-1) / len(prompts["neutral"])


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_equal_a_loop_with_autograd(family):
    model, prompts = tiny_model(family), asked()
    directions = directions_of(model)
    scores = et.integrated_gradient_scores(model, prompts, directions, steps=5, batch_tokens=120)
    assert scores.method == "integrated_gradients"
    for e, site, layer in ((0, "heads", 0), (1, "neurons", 1), (1, "heads", 2)):
        given = {"neutral": prompts["neutral"], "partner": prompts[EMOTIONS[e]]}
        slow = along_the_line(model, given, directions.reference[e], site, layer, 5)
        assert close(scores.at(site)[e, layer], slow, 1e-6), (family, site, layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_are_complete_within_a_layer_and_site(family):
    model, prompts = tiny_model(family), asked()
    directions, hf = directions_of(model), torch_model(model)
    scores = et.integrated_gradient_scores(model, prompts, directions, steps=64)
    for site in ("heads", "neurons"):
        for layer in range(3):
            for e, emotion in enumerate(EMOTIONS):
                change = 0.0
                for base, partner in zip(prompts["neutral"], prompts[emotion], strict=True):
                    there = ends(hf, partner)[site][layer]
                    with torch.no_grad():
                        after = reading(hf, base, directions.reference[e], site, layer, lambda _, there=there: there)
                        change += float(after - reading(hf, base, directions.reference[e])) / 3
                assert abs(float(scores.at(site)[e, layer].sum()) - change) < 1e-3 * (1 + abs(change)), (site, layer)


def test_one_point_is_the_gradient_halfway():
    model, prompts = tiny_model(), asked()
    directions = directions_of(model)
    scores = et.integrated_gradient_scores(model, prompts, directions, steps=1)
    given = {"neutral": prompts["neutral"], "partner": prompts["anger"]}
    for site in ("heads", "neurons"):
        slow = along_the_line(model, given, directions.reference[0], site, 1, 1)
        assert close(scores.at(site)[0, 1], slow, 1e-6)


def test_integrated_gradients_of_a_metric_are_complete():
    model, prompts = tiny_model(), asked()
    metric = lambda logits: logits[:, 7] - logits[:, 8]  # noqa: E731
    directions = directions_of(model)
    found = et.integrated_gradient_scores(model, prompts, directions, steps=32, metric=metric)
    hf, change = torch_model(model), 0.0
    for base, partner in zip(prompts["neutral"], prompts["fear"], strict=True):
        there = ends(hf, partner)["neurons"][2]
        with torch.no_grad():
            after = reading(hf, base, None, "neurons", 2, lambda _, there=there: there, metric)
            change += float(after - reading(hf, base, None, metric=metric)) / 3
    assert abs(float(found.neurons[1, 2].sum()) - change) < 1e-4 * (1 + abs(change))


def gradient(model, prompts, reference, site, layer):
    """Mean gradient at the last token, prompt by prompt, by autograd through a plain hook."""
    hf, total = torch_model(model), 0
    for ids in prompts:
        held = []

        def change(x, held=held):
            held.append(x.detach().requires_grad_(True))
            return held[0]

        value = reading(hf, ids, reference, site, layer, change)
        total = total + torch.autograd.grad(value, held[0])[0]
    return total / len(prompts)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("end", ["emotion", "neutral"])
def test_gradients_at_either_end_equal_autograd(family, end):
    model, prompts = tiny_model(family), asked()
    directions, differences = directions_of(model), differences_of(model)
    scores = et.end_gradient_scores(model, prompts, directions, differences, end=end)
    assert scores.method == f"gradient_{end}"
    for e, emotion in enumerate(EMOTIONS):
        own = prompts[emotion if end == "emotion" else "neutral"]
        for site in ("heads", "neurons"):
            slope = gradient(model, own, directions.reference[e], site, 1)
            expected = (slope * differences.last[site][e, 1].flatten()).unflatten(-1, model.sizes.shape(site)).sum(-1)
            assert close(scores.at(site)[e, 1], expected, 1e-6)


def test_gradients_of_a_metric_at_the_emotions_prompts():
    model, prompts = tiny_model(), asked()
    directions, differences = directions_of(model), differences_of(model)
    metric = lambda logits: logits[:, 7] - logits[:, 8]  # noqa: E731
    scores = et.end_gradient_scores(model, prompts, directions, differences, metric=metric)
    for e, emotion in enumerate(EMOTIONS):
        expected = et.gradient_scores(model, prompts[emotion], differences, metric)
        assert close(scores.heads[e], expected.heads[e])
        assert close(scores.neurons[e], expected.neurons[e])


def test_scores_do_not_depend_on_batches(monkeypatch):
    model, prompts = tiny_model(), asked()
    directions = directions_of(model)
    whole = et.patch_in_scores(model, prompts, directions)
    monkeypatch.setattr("emotrace.trace.pairs.jobs_of.__defaults__", (7,))
    alone = et.patch_in_scores(model, prompts, directions, batch_tokens=1)
    assert close(whole.heads, alone.heads, 1e-7)
    assert close(whole.neurons, alone.neurons, 1e-7)
    path = [et.integrated_gradient_scores(model, prompts, directions, batch_tokens=n) for n in (1, 4096)]
    assert close(path[0].neurons, path[1].neurons, 1e-6)
    assert close(path[0].heads, path[1].heads, 1e-6)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_it_is_the_same_on_a_hosted_model(family):
    model, prompts = tiny_model(family), asked()
    hosted, directions, differences = hosted_here(model), directions_of(model), differences_of(model)
    for score in (
        lambda each: et.patch_in_scores(each, prompts, directions),
        lambda each: et.patch_in_scores(each, prompts, directions, differences=differences),
        lambda each: et.integrated_gradient_scores(each, prompts, directions),
        lambda each: et.end_gradient_scores(each, prompts, directions, differences),
    ):
        here, there = score(model), score(hosted)
        assert close(there.heads, here.heads, 1e-9)
        assert close(there.neurons, here.neurons, 1e-9)


def test_a_mixture_of_experts_has_heads_only():
    model, prompts = tiny_model("mixtral"), asked()
    directions = directions_of(model)
    assert et.patch_in_scores(model, prompts, directions).neurons.shape == (2, 3, 0)
    assert et.integrated_gradient_scores(model, prompts, directions).neurons.shape == (2, 3, 0)
    with pytest.raises(ModelError, match="has no neurons"):
        et.patch_in_scores(model, prompts, directions, neurons={0: [1]})


def test_the_models_weights_keep_no_gradient():
    model = tiny_model()
    et.integrated_gradient_scores(model, asked(), directions_of(model))
    assert all(p.grad is None for p in torch_model(model).parameters())


def test_what_does_not_fit_is_refused():
    model, prompts = tiny_model(), asked()
    directions, differences = directions_of(model), differences_of(model)
    with pytest.raises(DataError, match="2 prompts of 'fear' beside 3 neutral ones"):
        et.patch_in_scores(model, {**prompts, "fear": prompts["fear"][:2]}, directions)
    with pytest.raises(DataError, match="0 prompts of 'anger'"):
        et.integrated_gradient_scores(model, {"neutral": prompts["neutral"]}, directions)
    with pytest.raises(DataError, match="nothing to patch"):
        et.patch_in_scores(model, prompts, directions, heads={}, neurons={})
    with pytest.raises(PlanError, match="components go from 0 to 3"):
        et.patch_in_scores(model, prompts, directions, heads={0: [4]}, neurons={})
    with pytest.raises(DataError, match="a prompt of one token has no prefix"):
        et.patch_in_scores(model, {name: [[9]] for name in prompts}, directions)
    with pytest.raises(DataError, match="steps=0"):
        et.integrated_gradient_scores(model, prompts, directions, steps=0)
    with pytest.raises(DataError, match="the metric must give one number"):
        et.patch_in_scores(model, prompts, directions, metric=lambda logits: logits)
    with pytest.raises(DataError, match="unknown end='middle'"):
        et.end_gradient_scores(model, prompts, directions, differences, end="middle")
    with pytest.raises(DataError, match="need prompts of 'anger'"):
        et.end_gradient_scores(model, {"neutral": prompts["neutral"]}, directions, differences)
    with pytest.raises(DataError, match="take both from the same statistics"):
        et.end_gradient_scores(model, prompts, directions, differences_of(model, ("fear", "anger")))
    with pytest.raises(DataError, match="directions are of another model"):
        et.patch_in_scores(tiny_model(layers=2), prompts, directions)
