"""The README's Python is run, block after block, as a user would."""

import re
import runpy
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert len(blocks) == 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")  # a file, since nnsight reads a trace's source
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script))
    plain, steered, share = capsys.readouterr().out.strip().splitlines()
    assert plain != steered
    assert int(share.split()[0]) >= 10
    assert share.endswith("of 12")
    assert (tmp_path / "circuit.safetensors").is_file()
    assert names["logits"].shape == (1, names["model"].sizes.vocabulary)
