"""What nnsight does with a shortage of memory inside a trace, and that the work goes on."""

import gc
import operator
import weakref
from collections.abc import Callable
from typing import Any

import nnsight
import pytest
import torch
from nnsight import TransformersModel
from transformers import LlamaConfig, LlamaForCausalLM

from emotrace.ledger import MemoryLedger
from emotrace.trace.adapting import Adaptive
from emotrace.trace.batches import pad_left
from tests.tiny import tiny_tokenizer
from tests.trace.test_adapting import SHORTAGES, gpu


@pytest.fixture(scope="module")
def nn() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    plain = LlamaForCausalLM(config).double().eval()
    return TransformersModel(plain, tokenizer=tiny_tokenizer(), task="text-generation")


def in_block(nn: Any, ids: torch.Tensor, mask: torch.Tensor, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """Neurons of the last token ``[B, F]``; ``check`` is a statement of the block."""
    with nn.trace(ids, attention_mask=mask, use_cache=False):
        with torch.no_grad():
            values = nn.model.layers[0].mlp.down_proj.input[:, -1].clone()
            check(values)
            out = values.save()
    return out


def in_forward(nn: Any, ids: torch.Tensor, mask: torch.Tensor, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """The same, with ``check`` inside the model's forward."""
    handle = nn._module.model.layers[1].register_forward_pre_hook(lambda _, args: check(args[0]))
    try:
        with nn.trace(ids, attention_mask=mask, use_cache=False):
            with torch.no_grad():
                out = nn.model.layers[0].mlp.down_proj.input[:, -1].clone().save()
                nn.lm_head.output.clone().save()
    finally:
        handle.remove()
    return out


def in_generation(
    nn: Any, ids: torch.Tensor, mask: torch.Tensor, check: Callable[[torch.Tensor], None]
) -> torch.Tensor:
    """The same, with ``check`` at the second step of a generation."""
    with nn.generate(max_new_tokens=3, min_new_tokens=3, do_sample=False) as tracer:
        with tracer.invoke(ids, attention_mask=mask):
            with torch.no_grad():
                found = nnsight.save([])
                for step in tracer.iter[:2]:
                    values = nn.model.layers[0].mlp.down_proj.input[:, -1].clone()
                    if step == 1:
                        check(values)
                    found.append(values)
    return found[0]


def in_session(nn: Any, ids: torch.Tensor, mask: torch.Tensor, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """The same, in a trace of a session."""
    with nn.session():
        with nn.trace(ids, attention_mask=mask, use_cache=False):
            with torch.no_grad():
                values = nn.model.layers[0].mlp.down_proj.input[:, -1].clone()
                check(values)
                out = values.save()
    return out


PLACES = [in_block, in_forward, in_generation, in_session]


@pytest.mark.parametrize(
    ("place", "fail"),
    [
        pytest.param(place, fail, marks=() if place is in_block or fail is SHORTAGES[0] else pytest.mark.slow)
        for place in PLACES
        for fail in SHORTAGES
    ],
)
def test_a_trace_that_runs_out_of_memory_is_halved(nn, place, fail):
    prompts = [[7, 8, 9, 10], [11, 12, 13], [14, 15, 16], [17, 18]]
    sizes = []

    def run(rows: tuple[int, ...], most: int) -> torch.Tensor:
        def check(values: torch.Tensor) -> None:
            sizes.append(len(values))
            if len(values) > most:
                fail()

        batch = pad_left([prompts[row] for row in rows], 0)
        return place(nn, batch.ids, batch.mask, check)

    def work(rows: tuple[int, ...]) -> list[dict[str, Any]]:
        return [{"row": row, "x": x} for row, x in zip(rows, run(rows, 2), strict=True)]

    whole = run((0, 1, 2, 3), 4)
    sizes.clear()
    with pytest.warns(RuntimeWarning, match="cut to 2"):
        records = MemoryLedger().map("x", [(0, 1, 2, 3)], Adaptive(work, operator.add, "testing"))
    assert sizes == [4, 2, 2]
    assert [record["row"] for record in records] == [0, 1, 2, 3]
    torch.testing.assert_close(torch.stack([record["x"] for record in records]), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", PLACES)
def test_another_error_of_a_trace_passes_through_as_the_same_object(nn, place):
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    def check(values: torch.Tensor) -> None:
        raise error

    def work(rows: tuple[int, ...]) -> list[int]:
        place(nn, torch.tensor([[7, 8]] * len(rows)), torch.ones(len(rows), 2, dtype=torch.long), check)
        return list(rows)

    with pytest.raises(RuntimeError) as caught:
        Adaptive(work, operator.add, "testing")((0, 1))
    assert caught.value is error


def test_tensors_of_the_failed_attempt_are_gone_when_the_retry_starts(nn):
    attempts: list[weakref.ref[torch.Tensor]] = []
    alive = []
    fails = iter([True, True, False, False, False, False])

    def work(rows: tuple[int, ...]) -> list[int]:
        alive.append([attempt() is not None for attempt in attempts])

        def check(values: torch.Tensor) -> None:
            kept = values.clone()
            attempts.append(weakref.ref(kept))
            if next(fails):
                try:
                    gpu()
                except torch.OutOfMemoryError as error:
                    cycle = error  # a frame that holds its own exception is freed by the collector only
                    raise cycle from None

        in_block(nn, torch.tensor([[7, 8]] * len(rows)), torch.ones(len(rows), 2, dtype=torch.long), check)
        return list(rows)

    enabled = gc.isenabled()
    gc.disable()
    try:
        with pytest.warns(RuntimeWarning, match="cut to 1"):
            assert Adaptive(work, operator.add, "testing")((0, 1, 2, 3)) == [0, 1, 2, 3]
    finally:
        if enabled:
            gc.enable()
    assert alive[:3] == [[], [False], [False, False]]
