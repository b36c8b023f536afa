"""Batches that are cut where memory runs out, and errors that are left alone."""

import operator
import warnings
from collections.abc import Callable

import pytest
import torch
from nnsight.intervention.backends.remote import RemoteError
from nnsight.intervention.errors import capture_exception, raise_deferred

from emotrace.errors import DataError, ModelError
from emotrace.ledger import MemoryLedger, added
from emotrace.trace.adapting import Adaptive, is_out_of_memory
from emotrace.trace.batches import plan_batches

GPU_TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB."


def gpu() -> None:
    raise torch.OutOfMemoryError(GPU_TEXT)


def cpu() -> None:
    torch.empty(2**50, dtype=torch.uint8)  # a petabyte: the allocator refuses it at once


def python() -> None:
    raise MemoryError


def library() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def chained() -> None:
    try:
        gpu()
    except torch.OutOfMemoryError as error:
        raise ValueError("the layer failed") from error


SHORTAGES = [gpu, cpu, python, library, chained]


def limited(most: int, calls: list[tuple[int, ...]], fail: Callable[[], None] = gpu) -> Callable[..., list[int]]:
    """Work that runs out of memory above ``most`` rows."""

    def work(rows: tuple[int, ...]) -> list[int]:
        calls.append(rows)
        if len(rows) > most:
            fail()
        return list(rows)

    return work


@pytest.mark.parametrize("fail", SHORTAGES)
def test_shortages_are_recognised(fail):
    with pytest.raises(Exception) as caught:
        fail()
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as deferred:
        raise_deferred(capture_exception(caught.value.__cause__ or caught.value))
    assert is_out_of_memory(deferred.value), "nnsight's deferred errors keep the class in their text only"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RemoteError(f"Traceback ...\ntorch.OutOfMemoryError: {GPU_TEXT}"), True),
        (RemoteError("NameError: name 'x' is not defined"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_classes_and_messages(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_mere_context_and_an_error_made_on_purpose_are_no_shortage():
    def clumsy() -> None:
        try:
            gpu()
        except torch.OutOfMemoryError:
            {}["missing"]

    with pytest.raises(KeyError) as caught:
        clumsy()
    assert not is_out_of_memory(caught.value)
    told = DataError("a reply is too long: out of memory")
    told.__cause__ = MemoryError()
    assert not is_out_of_memory(told)
    loop = ValueError("a")
    loop.__cause__ = loop
    assert not is_out_of_memory(loop)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no"), ValueError("no"), AssertionError()])
def test_no_other_exception_is_swallowed(error):
    calls = []

    def work(rows: tuple[int, ...]) -> list[int]:
        calls.append(rows)
        raise error

    with pytest.raises(type(error)) as caught:
        Adaptive(work, operator.add, "testing")((0, 1, 2))
    assert caught.value is error
    assert calls == [(0, 1, 2)]


def test_later_batches_are_cut_beforehand_and_one_warning_is_given():
    calls: list[tuple[int, ...]] = []
    adaptive = Adaptive(limited(3, calls), operator.add, "capturing")
    with pytest.warns(RuntimeWarning) as told:
        found = MemoryLedger().map("x", [tuple(range(10)), tuple(range(10, 17)), (17,)], adaptive)
    assert found == list(range(18))
    assert [len(rows) for rows in calls] == [10, 5, 3, 3, 3, 1, 3, 3, 1, 1]
    assert adaptive.limit == 3
    assert len(told) == 1
    assert str(told[0].message) == (
        "capturing: memory ran out on a batch of 10 rows; it was cut to 3, and batches that follow are cut alike. "
        f"a smaller batch_tokens= avoids the failed attempt ({GPU_TEXT})"
    )


def test_with_lengths_the_limit_is_in_padded_tokens():
    lengths = [100, 90, 80, 70, 10, 9, 8, 7, 6, 5]
    calls: list[tuple[int, ...]] = []

    def work(rows: tuple[int, ...]) -> list[int]:
        calls.append(rows)
        if len(rows) * max(lengths[row] for row in rows) > 200:
            gpu()
        return list(rows)

    batches = plan_batches(lengths, 400)
    assert batches == [(0, 1, 2, 3), (4, 5, 6, 7, 8, 9)]
    adaptive = Adaptive(work, operator.add, "generating", lengths=lengths)
    with pytest.warns(RuntimeWarning, match=r"cut to 2.* batch_tokens=200 avoids"):
        found = MemoryLedger().map("x", batches, adaptive)
    assert found == list(range(10))
    assert calls == [(0, 1, 2, 3), (0, 1), (2, 3), (4, 5, 6, 7, 8, 9)]
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryLedger().map("x", plan_batches(lengths, 200), Adaptive(work, operator.add, "generating", lengths=lengths))
    assert calls == [(0, 1), (2, 3), (4, 5, 6, 7, 8, 9)], "what the warning advises avoids the failure"


def test_sums_are_those_of_the_whole_batch():
    values = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def work(rows: tuple[int, ...]) -> dict[str, torch.Tensor]:
        if len(rows) > 2:
            cpu()
        return {"sum": values[list(rows)].sum(0), "count": torch.tensor(len(rows))}

    with pytest.warns(RuntimeWarning, match="cut to 2"):
        sums = MemoryLedger().fold("x", [tuple(range(5)), tuple(range(5, 9))], Adaptive(work, added, "capturing"))
    torch.testing.assert_close(sums["sum"], values.sum(0), rtol=1e-13, atol=1e-14)
    assert sums["count"] == 9


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (None, r"^capturing: memory ran out on one row alone, so no smaller batch can help: .*bfloat16.*\(CUDA out of"),
        ([50, 40, 30], r"one row alone \(50 tokens\)"),
    ],
)
def test_one_row_that_does_not_fit_is_an_error(lengths, message):
    calls: list[tuple[int, ...]] = []
    with pytest.raises(ModelError, match=message) as caught:
        Adaptive(limited(0, calls), operator.add, "capturing", lengths=lengths)((0, 1, 2))
    assert calls == [(0, 1, 2), (0, 1), (0,)]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the shortage's traceback would hold its tensors"


def test_nothing_is_warned_or_cut_where_memory_suffices():
    calls: list[tuple[int, ...]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Adaptive(limited(9, calls), operator.add, "capturing")((3, 1, 2)) == [3, 1, 2]
    assert calls == [(3, 1, 2)]
