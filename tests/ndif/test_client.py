"""What a client of the published server sees: functions on other families, the documents' lines, doctor, errors."""

import json
import re
from pathlib import Path

import pytest

from tests.ndif.client import run_client
from tests.ndif.conftest import FAMILIES, MODEL
from tests.ndif.install import REPOSITORY
from tests.ndif.rig import Rig

FUNCTIONS = """
import json, sys
import torch
import emotrace as et
from tests.remote.functions import flat, functions
from tests.tiny import close

here, there = (functions(model) for model in (et.load(sys.argv[1]), et.load(sys.argv[2], remote=True)))
apart = []
for name, call in here.items():
    mine, theirs = flat(call()), flat(there[name]())
    for a, b in zip(mine, theirs, strict=True):
        numbers = isinstance(a, torch.Tensor) and a.is_floating_point()
        if not (close(b, a, 1e-4) if numbers else a.equal(b) if isinstance(a, torch.Tensor) else a == b):
            apart.append(name)
print(json.dumps([len(here), apart]))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_function_gives_the_same(rig: Rig, family: str) -> None:
    folder = str(rig.models[f"tiny/{family}"])
    done = run_client(rig, ["-c", FUNCTIONS, folder, f"tiny/{family}"], timeout_s=240)
    count, apart = json.loads(done.stdout.splitlines()[-1])
    assert count > 18
    assert apart == []


def test_the_documents_python_runs(rig: Rig, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "ndif.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(blocks) == 2
    source = "\n".join(blocks).replace("meta-llama/Llama-3.1-70B-Instruct", MODEL).replace("my.jsonl", "sev-mini")
    script = tmp_path / "documents.py"
    script.write_text(source.replace(").train)", ").train[:6])") + "\nprint(logits.shape)\n")
    printed = run_client(rig, [str(script)]).stdout.splitlines()
    assert printed[-1] == "torch.Size([1, 1280])"
    assert len(printed[-2]) > 10


def test_an_nnsight_model_of_the_users_own(rig: Rig) -> None:
    script = (
        "import emotrace as et\nfrom nnsight import TransformersModel\n"
        f"mine = TransformersModel({MODEL!r}, tokenizer={MODEL!r}, task='text-generation')\n"
        "print(et.generate(et.load(mine, remote=True), 'Yuki broke the lamp.'))\n"
        "print(et.generate(et.load('bundled'), 'Yuki broke the lamp.'))\n"
    )
    there, here = run_client(rig, script).stdout.splitlines()[-2:]
    assert there == here


def test_steering_from_the_command_line(rig: Rig) -> None:
    circuit = str(REPOSITORY / "emotrace" / "models" / "bundled" / "circuit.safetensors")
    text = "You keep a lamp in the bakery near Yuki.\nToday Yuki broke the lamp."
    replies = [
        run_client(rig, ["-m", "emotrace", "steer", "--emotion", "anger", *where, text]).stdout
        for where in (["--remote", "--model", MODEL, "--circuit", circuit], [])
    ]
    assert replies[0] == replies[1]


def test_doctor_finds_everything_in_order(rig: Rig) -> None:
    done = run_client(rig, ["-m", "emotrace", "doctor", "--remote", "--model", MODEL], environment={"COLUMNS": "200"})
    found = {line[:20].strip(): line[20:].split()[0] for line in done.stdout.splitlines() if line[:20].strip()}
    assert found["NDIF"] == found["nnsight there"] == found["transformers there"] == found["torch there"] == "ok"
    assert found["models hosted"] == found[MODEL] == "ok"
    assert re.search(rf"{MODEL} \(float32, RUNNING", done.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", MODEL, "--dtype", "bfloat16"], "holds 'emotrace/bundled' in float32, and bfloat16 was asked for"),
        (["--model", "emotrace/gated"], "gated"),
        (["--model", "emotrace/none"], "no model 'emotrace/none'"),
        (["--model", "tiny/huge"], "does not host 'tiny/huge' .*hosted there: .*emotrace/bundled"),
    ],
)
def test_errors_are_one_line(rig: Rig, tmp_path: Path, options: list[str], message: str) -> None:
    run = ["-m", "emotrace", "run", "elicit", "--remote", "--out", str(tmp_path), "-p", "scenarios=1"]
    done = run_client(rig, [*run, *options], check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr


def test_an_error_in_a_block_names_the_users_own_line(rig: Rig, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import torch\nimport emotrace as et\n\n"
        f"model = et.load({MODEL!r}, remote=True)\n"
        "with model.trace(torch.tensor([[7, 8]])):\n"
        "    state = model.blocks[1].output\n"
        "    wrong = state @ torch.ones(3)\n"
        "    state.save()\n"
    )
    done = run_client(rig, [str(script)], check=False)
    assert done.returncode == 1
    assert re.search(rf"HostedError: RuntimeError: .* \({re.escape(str(script))}:7, in a block", done.stderr)
