"""Discovery on one GPU: `python -m benchmarks gpu`.

Llama-3.2-3B's and Llama-3.1-8B's shapes with random weights in bfloat16, 480 groups of six emotions and a neutral
prompt, each of 96 tokens that begin differently from all others. The capture of all statistics, of which
directions and scores are made, against a bare forward pass over the same prompts in the same batches, and the exact
influence of all sublayers on 40 neutral prompts. Medians of three rounds, and their range.
"""

from typing import Any

import torch

import emotrace as et
from benchmarks import shapes
from benchmarks.discovery import Study
from benchmarks.loops import batches_of
from benchmarks.record import keep
from benchmarks.shapes import Shape
from benchmarks.timing import in_turn, ratios, spread, timed

SHAPES = {"Llama-3.2-3B": Shape(28, 3072, 24, 8192, 8), "Llama-3.1-8B": Shape(32, 4096, 32, 14336, 8)}
CONDITIONS = (*et.PAPER_SIX.labels, "neutral")
SKIPPED = "gpu: skipped, there is no GPU on this machine"
INFLUENCE_PROMPTS = 40


def measure(name: str, shape: Shape, groups: int, length: int, budget: int, rounds: int) -> dict[str, Any]:
    """One shape's row."""
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        hf = shapes.llama(shape, vocabulary=128256)
        torch.set_default_dtype(torch.float32)
    model = et.load(hf, tokenizer=shapes.tokenizer())
    listed = shapes.prompts(groups * len(CONDITIONS), length)
    study = Study(model, CONDITIONS, [listed[c :: len(CONDITIONS)] for c in range(len(CONDITIONS))], budget)
    held = torch.cuda.memory_allocated()
    peaks: dict[str, int] = {}

    def on_gpu(kind: str, call: Any) -> Any:
        def work() -> float:
            torch.cuda.reset_peak_memory_stats()
            took = timed(lambda: (call(), torch.cuda.synchronize()))
            peaks[kind] = torch.cuda.max_memory_allocated() - held
            return took

        return work

    def bare() -> None:
        with torch.no_grad():
            for batch in batches_of([list(s.prompt) for s in study.samples], budget):
                ids, mask = batch.ids.cuda(), batch.mask.cuda()
                hf(ids, attention_mask=mask, use_cache=False, logits_to_keep=1)

    def captured() -> et.Statistics:
        return et.capture(model, study.samples, CONDITIONS, batch_tokens=budget)

    seconds = in_turn({"bare": on_gpu("bare", bare), "capture": on_gpu("capture", captured)}, rounds)
    directions = et.emotion_directions(captured())
    some = study.neutral[:INFLUENCE_PROMPTS]
    influence = on_gpu("influence", lambda: et.sublayer_influence(model, some, directions, batch_tokens=budget))()
    return {
        "shape": name,
        "prompts": len(study.samples),
        "bare s": spread(seconds["bare"]).median,
        "capture s": spread(seconds["capture"]).median,
        "capture, times bare": ratios(seconds["capture"], seconds["bare"]),
        "influence s": influence,
        "model GB": held / 1e9,
        "bare peak GB": peaks["bare"] / 1e9,
        "capture peak GB": peaks["capture"] / 1e9,
        "influence peak GB": peaks["influence"] / 1e9,
    }


def main(*, groups: int = 480, length: int = 96, budget: int = 32768, rounds: int = 3) -> str:
    """Measure and keep the table; a word where there is no GPU."""
    if not torch.cuda.is_available():
        return SKIPPED
    rows = [measure(name, shape, groups, length, budget, rounds) for name, shape in SHAPES.items()]
    caption = f"{torch.cuda.get_device_name()}, batches of {budget:,} tokens; memory above the model"
    return keep("gpu", "Discovery on a GPU", [(caption, rows)], __doc__)
