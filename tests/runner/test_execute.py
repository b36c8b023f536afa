import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from emotrace.errors import RunError
from emotrace.runner import Inputs, RunResult, run_protocol
from emotrace.runner.execute import summarise
from tests.runner.killing import results

TOYS = Path(__file__).with_name("toys.py")


@pytest.fixture
def inputs(sev_file: Path) -> Inputs:
    return Inputs(data_source=sev_file)


def run(out: Path, inputs: Inputs, file: Path = TOYS, **options: Any) -> RunResult:
    return run_protocol(file, out, inputs, **options)


def test_everything_is_written_and_a_second_run_computes_nothing(tmp_path: Path, inputs: Inputs) -> None:
    out = tmp_path / "run"
    first = run(out, inputs)
    assert first.computed == ("toy_first", "toy_second", "toys")
    before = results(out)
    second = run(out, inputs)
    assert (second.computed, second.cached) == ((), first.computed)
    assert results(out) == before
    summary = json.loads((out / "summary.json").read_text())
    assert summary == first.summary == second.summary
    assert set(summary) == {"toy_first", "toy_second", "toys", "seconds"}
    assert summary["toy_first"]["n"] == 12
    assert sum(record["value"] for record in summary["toy_first"]["kept"]) == pytest.approx(
        sum(json.loads(line)["value"] for line in (out / "stages/toy_first/draws.jsonl").read_text().splitlines())
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["data"] == {
        "name": "twenty",
        "sha256": inputs.data.sha256,
        "scenarios": {split: len(inputs.data.split(split)) for split in ("train", "validation", "test")},
    }
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["stages"]["toy_first"]["parameters"] == {"batches": 12, "pause": 0.0, "scale": 1.0}
    assert summary["seconds"] == manifest["seconds"] > 0
    assert not (out / "stages/toy_first/batches").exists()


def test_a_run_in_another_folder_is_equal(tmp_path: Path, inputs: Inputs) -> None:
    run(tmp_path / "one", inputs)
    run(tmp_path / "two", inputs)
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_only_what_changed_is_computed_again(tmp_path: Path, inputs: Inputs, sev_file: Path) -> None:
    out = tmp_path / "run"
    run(out, inputs)
    assert run(out, inputs, parameters={"toy_second.names": "x,y"}).computed == ("toy_second", "toys")
    assert run(out, inputs).computed == ("toy_second", "toys")
    assert run(out, inputs, parameters={"toy_first.scale": 2}).computed == ("toy_first", "toy_second", "toys")
    assert run(out, Inputs(data_source=sev_file, seed=1)).computed == ("toy_first", "toy_second", "toys")
    assert run(out, Inputs(data_source=sev_file, seed=1)).computed == ()
    assert run(out, Inputs(data_source=sev_file, seed=1), force=True).computed == ("toy_first", "toy_second", "toys")
    sev_file.write_text("\n".join(sev_file.read_text().splitlines()[:-1]) + "\n")
    assert run(out, Inputs(data_source=sev_file, seed=1)).computed == ("toy_first", "toy_second", "toys")


def test_a_change_of_the_protocol_file_counts_and_a_comment_does_not(tmp_path: Path, inputs: Inputs) -> None:
    file = tmp_path / "own.py"
    source = TOYS.read_text().replace("toy", "own").replace("def owns", "def own")
    file.write_text(source)
    out = tmp_path / "run"
    assert run(out, inputs, file).computed == ("own_first", "own_second", "own")
    file.write_text("# a comment\n" + source)
    assert run(out, inputs, file).computed == ()
    file.write_text(source.replace("batch + 3", "batch + 4"))
    assert run(out, inputs, file).computed == ("own_first", "own_second", "own")


def test_a_stage_that_fails_keeps_its_batches(tmp_path: Path, inputs: Inputs) -> None:
    file = tmp_path / "fragile.py"
    file.write_text(
        "from pathlib import Path\nfrom typing import Any\nfrom emotrace.runner import Run, protocol\n"
        "@protocol()\ndef fragile(run: Run, *, switch: str = '') -> dict[str, Any]:\n    '''Fails until told.'''\n"
        "    def work(i: int) -> list[dict[str, Any]]:\n"
        "        if i == 3 and not Path(switch).exists():\n            raise ZeroDivisionError\n"
        "        return [{'i': i}]\n"
        "    return {'records': run.ledger.map('w', range(5), work)}\n"
    )
    parameters = {"switch": str(tmp_path / "on")}
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", inputs, file, parameters=parameters)
    assert not (tmp_path / "run/summary.json").exists()
    (tmp_path / "on").touch()
    result = run(tmp_path / "run", inputs, file, parameters=parameters)
    assert result.summary["fragile"]["records"] == [{"i": i} for i in range(5)]
    log = (tmp_path / "run/stages/fragile/computed.log").read_text().splitlines()
    assert [json.loads(line)["batch"] for line in log] == list(range(5))


def test_results_of_replaced_stages_leave_the_summary(tmp_path: Path, inputs: Inputs) -> None:
    out = tmp_path / "run"
    run(out, inputs)
    record = json.loads((out / "stages/toy_first/stage.json").read_text())
    (out / "stages/toy_first/stage.json").write_text(json.dumps(record | {"key": "replaced"}))
    assert set(summarise(out)) == {"toy_first", "seconds"}


def test_a_folder_in_use_is_refused(tmp_path: Path, inputs: Inputs) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RunError, match="another run is writing there"):
        run(tmp_path / "run", inputs)
    run(tmp_path / "run", inputs)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1]", "must return a dict"),
        ("return {'a': {'b': [1.0, float('nan')]}}", r"not JSON: \['a'\]\['b'\]\[1\] = nan"),
        ("return {'a': {1, 2}}", r"not JSON: \['a'\] = \{1, 2\}"),
        ("run.write_records('r', [{'x': 1}, {'x': object()}])\n    return {}", r"record 1 of 'r' is not JSON: \['x'\]"),
        ("return run.summary('other')", r"odd reads stage 'other' without needing it"),
        ("return {'r': run.records('odd', 'none')}", r"none.jsonl: no such records"),
        ("return run.summary('odd')", r"has no result yet"),
    ],
)
def test_misuse_is_named(tmp_path: Path, inputs: Inputs, body: str, message: str) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "from emotrace.runner import Run, protocol\n@protocol()\n"
        f"def odd(run: Run) -> dict[str, object]:\n    '''Odd.'''\n    {body}\n"
    )
    with pytest.raises(RunError, match=message):
        run(tmp_path / "run", inputs, file)


def test_a_damaged_record_is_named(tmp_path: Path, inputs: Inputs) -> None:
    run(tmp_path / "run", inputs)
    (tmp_path / "run/stages/toys/stage.json").write_text("{")
    with pytest.raises(RunError, match=r"toys/stage\.json: damaged"):
        run(tmp_path / "run", inputs)
