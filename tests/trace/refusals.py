"""What every refusal has to be: one readable line, of the right class, before the model computes anything."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import emotrace as et
from emotrace.errors import EmotraceError
from tests.conformance.hooks import layout_of, module_at
from tests.tiny import torch_model

LONGEST = 350


@contextmanager
def computed(model: et.Model) -> Iterator[list[str]]:
    """Names of the modules at either end of the model whose forward was completed within the block."""
    hf, seen = torch_model(model), []
    ends = {"embeddings": hf.get_input_embeddings(), "first block": module_at(hf, layout_of(hf).blocks)[0]}
    ends["unembedding"] = hf.get_output_embeddings()
    handles = [m.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, m in ends.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def refused(
    model: et.Model,
    error: type[EmotraceError],
    message: str,
    *,
    longest: int = LONGEST,
    before: tuple[str, ...] = (),
) -> Iterator[None]:
    """The block raises ``error`` in one line that matches ``message``; nothing is computed but what is ``before``."""
    # any error is caught, so that one of another class fails with its class and text
    with computed(model) as ran, pytest.raises(Exception) as caught:
        yield
    text = str(caught.value)
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {text}"
    assert "\n" not in text
    assert len(text) <= longest
    assert "tensor(" not in text, "numbers are no message"
    caught.match(message)
    assert [name for name in ran if name not in before] == []


def applied(model: et.Model, plan: object, ids: torch.Tensor, mask: torch.Tensor | None, **options: object) -> None:
    """`apply` in a trace of the user's."""
    with model.trace(ids, attention_mask=torch.ones_like(ids), use_cache=False):
        with torch.no_grad():
            et.apply(model, plan, attention_mask=mask, **options)
            model.output.logits.save()
