"""The README's Python is run, block after block, as a user would."""

import re
import runpy
from pathlib import Path

import torch

from emotrace.trace.generate import generate_replies

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(blocks) == 4
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")  # a file, since nnsight reads a trace's source
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script))
    plain, steered, share, own, confirmed = capsys.readouterr().out.strip().splitlines()
    assert plain != steered
    assert int(share.split()[0]) >= 10
    assert share.endswith("of 12")
    assert "'true'" in confirmed
    assert own == steered  # the user's own model, the shipped circuit
    assert (tmp_path / "circuit.safetensors").is_file()
    assert names["logits"].shape == (1, names["model"].sizes.vocabulary)
    assert_edits_fit(text, names)


def assert_edits_fit(text, names):
    """Every plan in the README's table of edits fits the model and reaches what it names."""
    plans = re.findall(r"`(et\.(?:zero|scale|set|add|mean|patch)\(.*?\))`(?=[ ,|])", text)
    assert len(plans) == 7
    model = names["model"]
    prompts = model.encode(["<|user|>Yuki broke the lamp.<|assistant|>"])
    for source in plans:
        wide = torch.ones(model.sizes.width if "resid" in source else model.sizes.head_width)
        plan = eval(source, {**names, "vector": wide, "prompts": prompts, "model": model})
        (reply,) = generate_replies(model, prompts, plan, max_new_tokens=3)
        assert reply.edited >= 1, source
