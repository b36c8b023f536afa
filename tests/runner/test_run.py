import json
from pathlib import Path

import pytest

from emotrace.data.sev import SevDataset
from emotrace.errors import RunError
from emotrace.judges.base import Reply, Verdict
from emotrace.judges.structure import StructureJudge
from emotrace.runner import Inputs, Run, run_protocol
from emotrace.runner.disk import DiskLedger
from emotrace.runner.run import fingerprint
from tests.tiny import tiny_model

PROTOCOL = '''
from typing import Any
from emotrace.runner import Run, protocol
from emotrace.trace.generate import generate_replies

@protocol()
def replies(run: Run, *, n: int = 3) -> dict[str, Any]:
    """Replies of a tiny model."""
    prompts = [[1, 7 + i] for i in range(n)]
    made = generate_replies(run.model, prompts, max_new_tokens=2, batch_tokens=8, ledger=run.ledger)
    return {"ids": [reply.ids for reply in made], "model": run.model_id}
'''


class Fixed:
    """A judge of one mind."""

    name = "fixed"
    labels = ("anger",)

    def judge(self, replies: list[Reply]) -> list[Verdict]:
        return [Verdict("anger") for _ in replies]


def test_a_model_in_memory_is_known_by_its_fingerprint(sev_file: Path) -> None:
    one, same, other = (Inputs(tiny_model(seed=seed), sev_file).parts["model"] for seed in (0, 0, 1))
    assert one == same != other
    assert json.loads(json.dumps(one)) == one


def test_counts_and_fingerprint_reach_the_manifest_and_stay_there(tmp_path: Path, sev_file: Path) -> None:
    file = tmp_path / "replies.py"
    file.write_text(PROTOCOL)
    model = tiny_model()
    first = run_protocol(file, tmp_path / "run", Inputs(model, sev_file))
    assert first.computed == ("replies",)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["counters"] == dict(model.counters) != {}
    assert manifest["model"]["fingerprint"] == json.loads(json.dumps(fingerprint(model)))
    again = run_protocol(file, tmp_path / "run", Inputs(tiny_model(), sev_file))
    assert (again.computed, again.summary) == ((), first.summary)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text()) == manifest
    assert run_protocol(file, tmp_path / "run", Inputs(tiny_model(seed=1), sev_file)).computed == ("replies",)


def test_what_a_protocol_sees(tmp_path: Path, sev_file: Path) -> None:
    judge = Fixed()
    (tmp_path / "model").mkdir()
    inputs = Inputs(tmp_path / "model", sev_file, seed=5, batch_tokens=99, custom_judge=judge)
    run = Run(tmp_path, "mine", ("elicit",), inputs, DiskLedger(tmp_path / "stages" / "mine", "key"))
    assert (run.seed, run.batch_tokens, run.model_id) == (5, 99, str(tmp_path / "model"))
    assert isinstance(run.data, SevDataset)
    assert run.concepts.labels[0] == "anger"
    assert run.judge is judge
    assert isinstance(run.structure, StructureJudge)
    assert inputs.parts["judge"] == "fixed"
    assert not inputs.loaded
    assert inputs.counters() == {}
    run.write_records("r", [{"a": "ü"}])
    assert run.records("mine", "r") == [{"a": "ü"}]
    with pytest.raises(RunError, match="mine reads stage 'circuit' without needing it"):
        run.records("circuit", "r")
