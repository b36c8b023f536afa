import pickle

import pytest
import torch
from torch.utils.hooks import RemovableHandle
from transformers import GPT2LMHeadModel

import emotrace as et
from emotrace.errors import CircuitError, ModelError, PlanError
from emotrace.models.load import load
from emotrace.trace.batches import pad_left
from emotrace.trace.biases import with_biases
from emotrace.trace.plan import Edit, Plan
from tests.models.test_weights import offloaded
from tests.tiny import FAMILIES, MIXTURES, close, random_prompts, tiny_hf, tiny_model, tiny_tokenizer, torch_model


def pushed(model, *, seed=0, size=0.7):
    """Two heads and three neurons of two layers, pushed at every token."""
    generator = torch.Generator().manual_seed(seed)

    def values(site, named):
        width = model.sizes.shape(site)[1]
        return et.add({c: size * torch.randn(width, generator=generator).double() for c in named}, site, tokens="all")

    plan = values("heads", [(0, 1), (2, 3)])
    if "neurons" in model.sites:
        plan = plan + values("neurons", [(0, 5), (1, 2), (1, 7)])
    return plan


def batch_of(model):
    batch = pad_left(random_prompts(5), model.pad_token)
    return batch.ids, {"attention_mask": batch.mask, "position_ids": batch.positions}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_traced_intervention_and_leaves_the_model_alone(family):
    model = tiny_model(family)
    plan = pushed(model)
    ids, given = batch_of(model)
    with torch.no_grad():
        before = torch_model(model)(ids, **given).logits
    state = {name: value.clone() for name, value in torch_model(model).state_dict().items()}
    compiled = with_biases(model, plan)
    with model.trace(ids, **given):
        with torch.no_grad():
            et.apply(model, plan)
            traced = model.output.logits.save()
    with torch.no_grad():
        plain = compiled(ids, **given).logits
        after = torch_model(model)(ids, **given).logits
    kept = given["attention_mask"].bool()
    assert close(plain[kept], traced[kept], 1e-6)  # norms of most families round to float32
    assert not close(plain[kept], before[kept], 1e-3)
    assert torch.equal(after[kept], before[kept])
    assert {name: value.tolist() for name, value in torch_model(model).state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "mixtral"])
def test_generates_what_the_traced_intervention_generates(family):
    model = tiny_model(family)
    plan = pushed(model)
    prompts = random_prompts(6, seed=3)
    steered = et.generate_replies(model, prompts, plan, max_new_tokens=8)
    unsteered = et.generate_replies(model, prompts, max_new_tokens=8)
    again = et.generate_replies(load(with_biases(model, plan), tokenizer=tiny_tokenizer()), prompts, max_new_tokens=8)
    assert [r.ids for r in again] == [r.ids for r in steered]
    assert [r.ids for r in steered] != [r.ids for r in unsteered]


def test_shares_weights_and_holds_nothing_of_nnsight():
    model = tiny_model("llama")
    compiled = with_biases(model, pushed(model))
    mine = dict(torch_model(model).named_parameters())
    for name, parameter in compiled.named_parameters():
        if name in mine:
            assert parameter.data_ptr() == mine[name].data_ptr()
            assert parameter is not mine[name]
    extra = {name for name, _ in compiled.named_parameters()} - set(mine)
    assert extra == {f"model.layers.{n}.{p}.bias" for n, p in [(0, "self_attn.o_proj"), (2, "self_attn.o_proj")]} | {
        f"model.layers.{n}.mlp.down_proj.bias" for n in (0, 1)
    }
    for module in compiled.modules():
        assert "__nnsight__" not in module.__dict__
        assert "forward" not in module.__dict__
    assert not any("nnsight" in type(v).__module__ for m in compiled.modules() for v in m.__dict__.values())


def test_casting_or_moving_the_compiled_model_leaves_the_original_alone():
    model = tiny_model("llama")
    compiled = with_biases(model, pushed(model)).to(torch.bfloat16)
    assert next(compiled.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in torch_model(model).parameters()} == {torch.float64}


def test_tied_weights_stay_tied():
    hf = tiny_hf("gpt2")
    hf.config.tie_word_embeddings = True
    hf.tie_weights()
    assert isinstance(hf, GPT2LMHeadModel)
    assert hf.lm_head.weight is hf.transformer.wte.weight
    model = load(hf, tokenizer=tiny_tokenizer())
    compiled = with_biases(model, pushed(model))
    assert compiled.lm_head.weight is compiled.transformer.wte.weight


def test_hooks_that_accelerate_put_there_work_in_the_copy():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hf = tiny_hf("llama")
    for block in hf.model.layers:
        add_hook_to_module(block, AlignDevicesHook("cpu"))
    model = load(hf, tokenizer=tiny_tokenizer())
    plan = pushed(model)
    compiled = with_biases(model, plan)
    bare = tiny_model("llama")
    ids, given = batch_of(model)
    with torch.no_grad():
        expected = with_biases(bare, plan)(ids, **given).logits
        assert torch.equal(compiled(ids, **given).logits, expected)
    assert compiled.model.layers[0]._old_forward.__self__ is compiled.model.layers[0]


def test_a_forward_that_someone_replaced():
    hf = tiny_hf("llama")
    projection = hf.model.layers[0].self_attn.o_proj
    original = projection.forward
    projection.forward = lambda x: original(x)
    model = load(hf, tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.o_proj has a forward of its own"):
        with_biases(model, pushed(model))


def test_a_forward_that_someone_replaced_after_nnsight():
    model = tiny_model("llama")
    mlp = torch_model(model).model.layers[0].mlp
    before = mlp.forward
    mlp.forward = lambda x: 2 * before(x)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp has a forward of its own"):
        with_biases(model, pushed(model))


def test_hooks_of_accelerate_that_came_after_nnsight():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = tiny_model("llama")
    for block in torch_model(model).model.layers:
        add_hook_to_module(block, AlignDevicesHook("cpu"))
    plan, (ids, given) = pushed(model), batch_of(model)
    compiled = with_biases(model, plan)
    assert not any("nnsight" in type(v).__module__ for m in compiled.modules() for v in m.__dict__.values())
    assert compiled.model.layers[1]._old_forward.__self__ is compiled.model.layers[1]
    with torch.no_grad():
        expected = with_biases(tiny_model("llama"), plan)(ids, **given).logits
        assert torch.equal(compiled(ids, **given).logits, expected)


def test_weights_that_accelerate_offloads(tmp_path):
    model = load(offloaded(tiny_hf("llama"), tmp_path), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="not all in memory"):
        with_biases(model, pushed(model))


def test_a_compiled_model_is_pickled():
    model = tiny_model("llama")
    compiled, (ids, given) = with_biases(model, pushed(model)), batch_of(model)
    again = pickle.loads(pickle.dumps(compiled))
    with torch.no_grad():
        assert torch.equal(again(ids, **given).logits, compiled(ids, **given).logits)
    with pytest.raises(ModelError, match="would lose the biases"):
        again.save_pretrained("nowhere")


def test_a_users_own_hooks_come_along():
    hf = tiny_hf("llama")
    calls = []
    handle = hf.model.norm.register_forward_hook(lambda *_: calls.append(1))
    assert isinstance(handle, RemovableHandle)
    compiled = with_biases(load(hf, tokenizer=tiny_tokenizer()), Plan())
    with torch.no_grad():
        compiled(torch.tensor([[7, 8, 9]]))
    assert calls == [1]


def test_saving_would_lose_the_biases_and_is_refused(tmp_path):
    model = tiny_model("llama")
    with pytest.raises(ModelError, match=r"save_pretrained would lose the biases"):
        with_biases(model, pushed(model)).save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("heads", 0, (0,), scale=0.0), "is no bias"),
        (Edit("heads", 0, (0,), add=torch.ones(1, 12), tokens="reply"), "tokens='reply' is no bias"),
        (Edit("resid_mlp", 0, add=torch.ones(1, 32)), "edit of resid_mlp"),
        (Edit("heads", 0, (0,), add=torch.ones(2, 1, 1, 12)), "is no bias"),
        (Edit("heads", 0, (0,), dims=(1,), add=torch.ones(1, 1)), "is no bias"),
        (Edit("heads", 0, (0,), add=torch.ones(1, 12), add_later=torch.zeros(1, 12)), "something else at reply tokens"),
        (Edit("heads", 9, (0,), add=torch.ones(1, 12)), "layers 0 to 2"),
    ],
)
def test_edits_that_are_no_bias(edit, message):
    with pytest.raises(PlanError, match=message):
        with_biases(tiny_model("llama"), Plan((edit,)))


def test_weights_on_the_meta_device():
    model = tiny_model("llama")
    hf = torch_model(model)
    hf.model.embed_tokens.weight = torch.nn.Parameter(hf.model.embed_tokens.weight.to("meta"))
    with pytest.raises(ModelError, match="not all in memory"):
        with_biases(model, pushed(model))


@pytest.mark.parametrize("family", MIXTURES)
def test_neurons_of_a_mixture(family):
    with pytest.raises(PlanError, match="no neurons"):
        with_biases(tiny_model(family), Plan((Edit("neurons", 0, (0,), add=torch.ones(1, 1)),)))


@pytest.fixture(scope="module")
def circuit():
    return et.EmotionCircuit.load(et.BUNDLED_CIRCUIT)


class TestCircuit:
    def test_compiled_replies_are_the_traced_ones(self, circuit):
        model = et.load("bundled")
        prompts = model.encode(
            [et.prompt(g, "neutral", et.PAPER_SIX) for g in et.groups(et.load_sev("sev-mini").test)[:6]]
        )
        compiled = et.load(circuit.compile(model, emotion="fear", strength=0.8), tokenizer=model.tokenizer)
        plan = et.add(circuit, "fear", strength=0.8, tokens="all")
        assert et.generate_replies(compiled, prompts) == et.generate_replies(model, prompts, plan)

    def test_strength_zero_changes_nothing(self, circuit):
        model = et.load("bundled")
        ids = torch.tensor(model.encode(["Yuki broke the lamp."]))
        with torch.no_grad():
            a = circuit.compile(model, emotion="fear", strength=0.0)(ids).logits
            b = torch_model(model)(ids).logits
        assert torch.equal(a, b)

    def test_refusals(self, circuit):
        with pytest.raises(CircuitError, match="no 'joy'"):
            circuit.compile(et.load("bundled"), emotion="joy")
        with pytest.raises(CircuitError, match="other sizes"):
            circuit.compile(tiny_model("llama"), emotion="anger")
        with pytest.raises(PlanError, match="not finite"):
            circuit.compile(et.load("bundled"), emotion="anger", strength=float("inf"))
