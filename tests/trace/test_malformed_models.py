"""Masks, models, rows of the architecture table and files that do not fit: refused in one line before anything runs."""

import json
from functools import cache
from types import SimpleNamespace

import nnsight
import pytest
import torch
from safetensors.torch import save_file

import emotrace as et
from emotrace.errors import ArtifactError, EditMissed, ModelError, PlanError
from emotrace.models import architectures
from tests.tiny import tiny_hf, tiny_tokenizer
from tests.trace.random_plans import logits, model_of, padded, vector
from tests.trace.refusals import applied, computed, refused

MODEL = model_of("llama")
IDS, MASK, _ = padded([[7, 8, 9, 10], [11, 8]], [0, 2], [0, 0])
HEAD = [(0, 1)]
ALL, FIRST, SPAN = (et.zero(heads=HEAD, tokens=tokens) for tokens in ("all", (0,), et.Span("w8")))
ROWS = et.set({(0, 1): vector(3, 1, 12)}, "heads", tokens="last")
MASKS = {
    "index without a mask": (FIRST, {}, "counted from the left need attention_mask="),
    "mask of other width": (FIRST, {"attention_mask": MASK[:, :3]}, r"attention_mask is \(2, 3\), .* \(2, 4\)"),
    "mask of other rows": (FIRST, {"attention_mask": MASK[:1]}, r"attention_mask is \(1, 4\), .* \(2, 4\)"),
    "mask of other width, not needed": (ALL, {"attention_mask": MASK[:, :3]}, r"attention_mask is \(2, 3\)"),
    "mask of one axis": (FIRST, {"attention_mask": MASK[0]}, r"attention_mask is \(4,\)"),
    "mask of four axes": (FIRST, {"attention_mask": MASK[:, None, None]}, r"attention_mask is \(2, 1, 1, 4\)"),
    "mask as a list": (FIRST, {"attention_mask": MASK.tolist()}, "attention_mask is a list"),
    "mask with a hole": (FIRST, {"attention_mask": torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]])}, "attention_mask"),
    "mask of nothing": (FIRST, {"attention_mask": 0 * MASK}, "prompt of 0 tokens in row 0"),
    "index beyond a shorter row": (
        et.zero(heads=HEAD, tokens=(-3,)),
        {"attention_mask": MASK},
        r"\(-3,\) lie outside the prompt of 2 tokens in row 1",
    ),
    "Span without ids": (SPAN, {"attention_mask": MASK}, "needs input_ids=, the prompt's token ids"),
    "ids of one row": (SPAN, {"input_ids": IDS[:1]}, "input_ids|made for 1 rows, the batch has 2"),
    "ids of one row, masked": (SPAN, {"input_ids": IDS[:1], "attention_mask": MASK}, "input_ids"),
    "ids of one axis": (SPAN, {"input_ids": IDS[0], "attention_mask": MASK}, "input_ids"),
    "ids as a list": (SPAN, {"input_ids": IDS.tolist(), "attention_mask": MASK}, "input_ids"),
    "plans for another batch": ([ALL] * 3, {"attention_mask": MASK}, "made for 3 rows, the batch has 2"),
    "one plan in a list": ([ALL], {"attention_mask": MASK}, "made for 1 rows, the batch has 2"),
    "span plans for another batch": ([SPAN] * 3, {"input_ids": IDS, "attention_mask": MASK}, "3"),
    "values for another batch": (ROWS, {"attention_mask": MASK}, "made for 3 rows, the batch has 2"),
    "values and plans for each row": ([ROWS, ALL], {"attention_mask": MASK}, "do not go together"),
    "no plan": (None, {}, "apply takes a Plan, or a list with one for each row, not None"),
    "no plans": ([], {}, "apply takes a Plan"),
    "an edit": (ALL.edits[0], {}, "apply takes a Plan"),
    "tensors": ([vector(40, 40)], {}, "apply takes a Plan"),
    "a word for a step": (ALL, {"step": "0"}, "step"),
    "a step before the first": (ALL, {"step": -1}, "step"),
}


@pytest.mark.parametrize(("plan", "options", "message"), MASKS.values(), ids=MASKS)
def test_apply_refuses_what_does_not_fit_the_batch(plan, options, message):
    """The shape of the batch is known when its first edited site is reached: here before the first block is done."""
    mask, rest = options.get("attention_mask"), {name: o for name, o in options.items() if name != "attention_mask"}
    with refused(MODEL, PlanError, message, before=("embeddings",)):
        applied(MODEL, plan, IDS, mask, **rest)


def test_without_a_mask_a_late_edit_is_refused_late():
    """The shape of the batch is not known before: blocks below the edit have been computed, and nothing is returned."""
    plan = et.zero(heads=[(2, 1)], tokens=(-50,))
    with (
        computed(MODEL) as ran,
        pytest.raises(PlanError, match=r"\(-50,\) lie outside the prompt of 4 tokens in row 0"),
    ):
        applied(MODEL, plan, IDS, None)
    assert ran == ["embeddings", "first block"]
    with refused(MODEL, PlanError, r"\(-50,\) lie outside the prompt of 4 tokens"):
        applied(MODEL, plan, IDS, MASK)


def test_values_for_each_row_can_be_put_at_a_span():
    """What was recorded of several prompts, put at a word that each has at another place."""
    seen = et.record(MODEL, [[7, 8, 9, 10], [11, 12, 8, 7]], heads=HEAD, tokens=et.Span("w8"))
    plan, ids = et.patch(seen, tokens=et.Span("w8")), torch.tensor([[7, 8, 9, 10], [11, 12, 8, 7]])
    assert torch.equal(logits(MODEL, ids, plan), logits(MODEL, ids, et.Plan()))
    assert et.generate_replies(MODEL, ids, plan) == et.generate_replies(MODEL, ids)


@cache
def generic():
    """An nnsight model that knows no tokenizer."""
    return nnsight.NNsight(tiny_hf())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "bundled", r"load it first: emotrace.load\('bundled'\)"),
        (lambda: None, "cannot load a NoneType: give a name, a folder"),
        (lambda: 3, "cannot load a int"),
        (tiny_hf, "load it first"),
        (generic, "the nnsight model has no tokenizer; build it with tokenizer="),
    ],
    ids=["name", "nothing", "number", "transformers", "no tokenizer"],
)
def test_what_is_no_model_is_refused_everywhere(make, message):
    model = make()
    for call in (
        lambda: et.generate(model, "w7"),
        lambda: et.generate_replies(model, [[7]]),
        lambda: et.record(model, [[7]], heads=HEAD),
        lambda: et.capture(model, [et.Sample(0, (7,))], ("a",)),
        lambda: et.apply(model, ALL),
        lambda: et.check_contact(model, ALL, [[1]], [1]),
        lambda: et.EmotionCircuit.load(et.BUNDLED_CIRCUIT).check(model),
    ):
        with refused(MODEL, ModelError, message):
            call()


def test_contact_that_was_not_made_is_told():
    with refused(
        MODEL, EditMissed, r"^edit of heads in layer 0 at tokens='all' touched 1 of 3 passes of row 1, not \["
    ):
        et.check_contact(MODEL, ALL, [[2]], [1, 3])
    with refused(MODEL, EditMissed, r"touched 0 of 1 passes of row 0, not \[0\]"):  # an invoke of one row, of two
        et.check_contact(MODEL, ALL, [[1]], [1, 1])
    assert et.check_contact(MODEL, ALL, [[2], [2], [2]], [1, 3]) == [1, 3]


LLAMA = {"out_proj": "self_attn.o_proj", "mid_norm": "post_attention_layernorm"}
ROWS_OF_THE_TABLE = {
    "blocks": ({"blocks": "model.h"}, "blocks='model.h' is not in the model. Modules found there: model"),
    "final norm": ({"final_norm": "model.ln_f"}, "final_norm='model.ln_f' is not in the model"),
    "embeddings": ({"embeddings": "wte"}, "embeddings='wte' is not in the model"),
    "projection": ({"down_proj": "mlp.c_proj"}, "down_proj='mlp.c_proj' is not in block 0. Modules found there: self"),
    "norm": ({"attn_norm": "norm_1"}, "attn_norm='norm_1' is not in block 0"),
    "transposed": ({"transposed": True}, "transposed|width"),
    "blocks that are none": ({"blocks": "model.norm"}, "blocks"),
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(architectures, "ARCHITECTURES", dict(architectures.ARCHITECTURES))
    hf = tiny_hf()
    hf.config.model_type = "mine"
    return SimpleNamespace(hf=hf, load=lambda: et.load(hf, tokenizer=tiny_tokenizer()))


@pytest.mark.parametrize(("fields", "message"), ROWS_OF_THE_TABLE.values(), ids=ROWS_OF_THE_TABLE)
def test_a_row_that_does_not_fit_says_where(table, fields, message):
    et.register_architecture(et.Architecture("mine", **LLAMA | fields))
    with refused(MODEL, ModelError, message, longest=600):  # it lists the modules that are there
        table.load()


def test_a_row_is_checked_in_every_block(table):
    et.register_architecture(et.Architecture("mine"))
    del table.hf.model.layers[2].mlp.down_proj
    with refused(MODEL, ModelError, "down_proj='mlp.down_proj' is not in block 2", longest=600):
        table.load()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (et.Architecture("llama"), {}, "has a row for 'llama' already; pass replace=True"),
        (lambda config: et.Architecture("mine"), {}, "needs name=, the config's model_type"),
        ("llama", {"name": "mine"}, "a str|Architecture"),
        ({"blocks": "model.layers"}, {"name": "mine"}, "a dict|Architecture"),
    ],
    ids=["twice", "nameless", "a word", "a dict"],
)
def test_a_row_is_refused_when_it_is_registered(table, row, options, message):
    with refused(MODEL, ModelError, message):
        et.register_architecture(row, **options)


def test_an_unknown_family_is_refused(table):
    with refused(
        MODEL, ModelError, r"family 'mine' is not in the table .* emotrace.register_architecture", longest=1200
    ):
        table.load()


def test_a_row_made_from_the_config_has_to_be_a_row(table):
    et.register_architecture(lambda config: None, name="mine")
    with refused(MODEL, ModelError, "mine"):
        table.load()


EDIT = {"site": "heads", "layer": 0, "index": [1], "dims": None, "scale": 0.0, "tokens": "all"}
FIELDS = {"edits": [EDIT], "made_for": [], "values": {}}


def held(**changes):
    header = {"kind": "PlanFile", "schema": 1, "fields": FIELDS} | changes
    return json.dumps({key: value for key, value in header.items() if value is not None})


FILES = {
    "another kind": (held(kind="Statistics"), "holds a Statistics, not a PlanFile"),
    "another version": (held(schema=9), "schema 9 of PlanFile, this version reads 1"),
    "no kind": (held(kind=None), "kind|header|emotrace"),
    "no fields": (held(fields=None), "fields|header|emotrace"),
    "no JSON": ('{"kind": "Plan', "header|JSON|emotrace"),
    "no edits": (held(fields={"made_for": [], "values": {}}), "field 'edits' of PlanFile is missing"),
    "words for edits": (held(fields=FIELDS | {"edits": ["zero"]}), "not a plan that this version reads"),
    "an edit with more": (held(fields=FIELDS | {"edits": [EDIT | {"rank": 1}]}), "not a plan that this version reads"),
    "an edit without tokens": (held(fields=FIELDS | {"edits": [{"site": "heads"}]}), "not a plan that this version"),
    "tokens of another sort": (held(fields=FIELDS | {"edits": [EDIT | {"tokens": {"word": "a"}}]}), "not a plan that"),
    "another model's mark": (held(fields=FIELDS | {"made_for": [{"name": "llama"}]}), "not a plan that this version"),
    "values that are gone": (held(fields=FIELDS | {"values": {"tensors": ["0.add"]}}), "0.add|missing"),
}


@pytest.mark.parametrize(("header", "message"), FILES.values(), ids=FILES)
def test_a_file_that_holds_no_plan_is_refused(tmp_path, header, message):
    path = tmp_path / "plan.safetensors"
    save_file({}, path, metadata={"emotrace": header})
    with refused(MODEL, ArtifactError, rf"plan.safetensors: .*({message})"):
        et.Plan.load(path)


def test_what_is_no_plans_file_is_refused(tmp_path):
    et.zero(heads=HEAD).save(whole := tmp_path / "whole.safetensors")
    assert len(et.Plan.load(whole).edits) == 1
    (cut := tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:40])
    (text := tmp_path / "text.safetensors").write_text("a plan")
    save_file({"weight": torch.ones(2)}, foreign := tmp_path / "foreign.safetensors")
    for path, message in (
        (tmp_path / "none.safetensors", "no such file"),
        (tmp_path, "no such file"),
        (cut, "not a safetensors file"),
        (text, "not a safetensors file"),
        (foreign, "a safetensors file, but not one written by emotrace"),
        (et.BUNDLED_CIRCUIT, "holds a EmotionCircuit, not a PlanFile"),
    ):
        with refused(MODEL, ArtifactError, message):
            et.Plan.load(path)
