import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import emotrace as et
import emotrace.cli.doctor as doctor
from emotrace.cli import app, main
from emotrace.cli.app import assignments
from emotrace.cli.tables import ARMS, comparison_table, protocol_table
from emotrace.errors import ModelError, RunError
from emotrace.runner import Inputs, RunResult, load_protocol
from emotrace.runner.run import fingerprint
from emotrace.steps.circuit import EmotionCircuit
from tests.tiny import tiny_model, torch_model

TOYS, SHARED = (Path(__file__).parent / "runner" / name for name in ("toys.py", "shared.py"))
ROOT = Path(__file__).parents[1]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["emotrace", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err.strip()


def text(renderable: Any) -> str:
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_run_computes_and_then_reuses(tmp_path: Path, sev_file: Path) -> None:
    arguments = ("run", str(TOYS), "--data", str(sev_file), "--out", str(tmp_path / "r"), "--no-report")
    first = invoke(*arguments, "-p", "toy_first.batches=3", "--seed", "4")
    assert "toy_first: computing" in first
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["toy_first"]["n"] == 3
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["seed"] == 4
    assert "toys: cached" in invoke(*arguments, "-p", "toy_first.batches=3", "--seed", "4")
    assert "toy_first: computing (changed seed; parameters: batches)" in invoke(*arguments)
    assert "toy_first: computing (forced)" in invoke(*arguments, "--force")


def test_run_writes_the_report_and_prints_the_comparison(
    tmp_path: Path, sev_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--data", str(sev_file), "--out", str(tmp_path / "r"), "-p", "toy_first.batches=2"]
    shown = invoke("run", str(TOYS), *arguments)
    assert f"results: {tmp_path / 'r' / 'summary.json'}" in shown
    assert f"report:  {tmp_path / 'r' / 'report.html'}" in shown
    assert (tmp_path / "r" / "report.html").stat().st_size > 1000
    arm = {"accuracy": 1.0, "accuracy_ci": [0.9, 1.0], "fluency_gap_nats": 0.0, "structure_accepted": 1.0, "n": 360}
    done = RunResult(tmp_path / "r", {"control": {"arms": {"circuit": arm}}}, ("control",), ())
    monkeypatch.setattr("emotrace.cli.run.run_protocol", lambda *given, **options: done)
    assert "90.0%–100.0%" in invoke("run", "control", "--no-report")


def test_a_stopped_run_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any, **options: Any) -> RunResult:
        raise KeyboardInterrupt

    monkeypatch.setattr("emotrace.cli.run.run_protocol", stopped)
    result = CliRunner().invoke(app, ["run", "control"])
    assert result.exit_code != 0
    assert "the same command goes on from there" in result.output


def test_run_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(monkeypatch, capsys, "run", "nope")
    assert message.startswith("error: no protocol named 'nope'; shipped: ")
    assert "\n" not in message
    assert "no parameter 'speed': pause: float = 0.0" in fails(monkeypatch, capsys, "run", str(TOYS), "-p", "speed=1")
    assert "write -p name=value" in fails(monkeypatch, capsys, "run", str(TOYS), "-p", "speed")
    assert "no dtype 'float12'" in fails(monkeypatch, capsys, "run", str(TOYS), "--dtype", "float12")
    assert "no such dataset: nowhere" in fails(monkeypatch, capsys, "run", str(TOYS), "--data", "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_shards_are_run_and_merged(tmp_path: Path, sev_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("run", str(SHARED), "--data", sev_file.name, "-p", "shared_first.scale=2")
    for shard in ("1/2", "2/2"):
        assert "report:" not in invoke(*arguments, "--shard", shard)
    folders = ["runs/shared-1-of-2", "runs/shared-2-of-2"]
    monkeypatch.chdir(tmp_path / "runs")  # the dataset is found from anywhere
    shown = invoke("merge", *(str(tmp_path / folder) for folder in folders), "--out", "all")
    assert "shared: computing" in shown
    assert "report:  " in shown
    monkeypatch.chdir(tmp_path)
    assert "shared: cached" in invoke(*arguments, "--out", "runs/all", "--no-report")
    assert "shared: cached" in invoke("merge", *folders, "--out", "runs/all", "--no-report")
    assert "shared: computing (forced)" in invoke("merge", *folders, "--out", "runs/all", "--no-report", "--force")


def test_shards_that_cannot_be_run_or_merged_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, sev_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in ("0/4", "5/4", "x"):
        message = fails(monkeypatch, capsys, "run", str(SHARED), "--shard", shard)
        assert message.startswith(f"error: shard '{shard}': write I/N with I from 1 to N, as in 3/16")
    assert "stage 'toy_first' needs all scenarios" in fails(monkeypatch, capsys, "run", str(TOYS), "--shard", "1/2")
    assert "nowhere: not a run folder" in fails(monkeypatch, capsys, "merge", "nowhere", "--out", "all")
    assert {path.name for path in tmp_path.iterdir()} == {sev_file.name}
    invoke("run", str(SHARED), "--data", str(sev_file), "--shard", "1/1", "--out", "one")
    message = fails(monkeypatch, capsys, "merge", "one", "--out", "all", "--jobs", "2")
    assert message.startswith("error: --jobs is for a model on NDIF, and these shards were run without one")
    assert not (tmp_path / "all").exists()


def test_shards_of_a_hosted_model_are_merged_on_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is the shards' own, its settings are those of the merge."""
    seen = []
    asked = Inputs("org/name", remote="http://here:1")
    monkeypatch.setattr("emotrace.cli.run.read_shards", lambda folders, out: folders)
    monkeypatch.setattr("emotrace.cli.run.shard_inputs", lambda shards: asked)
    monkeypatch.setattr(
        "emotrace.cli.run.merge_shards",
        lambda folders, out, inputs, **options: seen.append(inputs.ndif) or RunResult(out, {}, (), ()),
    )
    invoke("merge", "a", "b", "--out", "all", "--no-report", "--jobs", "2", "--request-tokens", "9")
    assert seen == [et.Ndif("http://here:1", request_tokens=9, jobs=2)]


def test_assignments() -> None:
    assert assignments(["a=1", "s.b = x=y"]) == {"a": "1", "s.b": " x=y"}
    with pytest.raises(RunError, match="given twice"):
        assignments(["a=1", "a=2"])


@pytest.mark.parametrize("command", ["run", "merge", "steer"])
def test_help_teaches_with_examples(command: str) -> None:
    shown = invoke(command, "--help")
    assert "Examples" in shown
    assert f"emotrace {command} " in shown


def test_protocols_lists_what_is_shipped() -> None:
    assert "what it measures" in invoke("protocols")
    shown = text(protocol_table([load_protocol(TOYS)]))
    assert "Everything." in shown
    assert "toy_second" in shown
    assert "pause: float = 0.0" in shown


def test_the_comparison_has_a_row_per_arm_in_order() -> None:
    arm: dict[str, Any] = {"accuracy": 0.5, "accuracy_ci": [0.25, 0.75], "fluency_gap_nats": -0.0312}
    arms = dict.fromkeys(("extra", *reversed(ARMS)), arm | {"structure_accepted": 0.9, "n": 360})
    shown = text(comparison_table({"control": {"arms": arms}})).splitlines()
    places = [next(i for i, line in enumerate(shown) if f" {name.replace('_', ' ')} " in line) for name in ARMS]
    assert places == sorted(places)
    assert "50.0%" in shown[places[0]]
    assert "25.0%–75.0%" in shown[places[0]]
    assert "-0.031" in shown[places[0]]


def test_steer_says_how_to_get_a_circuit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.safetensors")
    message = fails(monkeypatch, capsys, "steer", "--emotion", "anger", "--circuit", missing, "Hello.")
    assert message == f"error: {missing}: no such circuit; find one: emotrace run circuit --model bundled"
    message = fails(monkeypatch, capsys, "steer", "--emotion", "anger", "--model", "my/model", "Hello.")
    assert "emotrace run circuit --model my/model" in message


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A tiny random model as a folder, and a circuit of it beside its weights."""
    model = tiny_model(dtype=torch.float32, seed=3)
    torch_model(model).save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    sizes = model.sizes
    where = torch.tensor([[1, 0]])
    EmotionCircuit(
        emotions=("anger",),
        contrast="neutral",
        budgets={"heads": 1, "neurons": 1},
        allocation="global",
        method="analytic",
        fingerprint=json.loads(json.dumps(fingerprint(model))),
        heads={"anger": where},
        heads_last={"anger": torch.full((1, sizes.head_width), 9.0)},
        heads_reply={"anger": torch.full((1, sizes.head_width), 9.0)},
        neurons={"anger": where},
        neurons_last={"anger": torch.full((1, 1), 9.0)},
        neurons_reply={"anger": torch.full((1, 1), 9.0)},
    ).save(tmp_path / "tiny" / "circuit.safetensors")
    return tmp_path / "tiny"


def test_steer_shows_both_replies(tiny_folder: Path) -> None:
    circuit = tiny_folder / "circuit.safetensors"
    plain, steered, same = (
        invoke(
            *("steer", "--model", str(tiny_folder), "--circuit", str(circuit), "--emotion", "anger"),
            *("--max-new-tokens", "3", "--strength", strength, "w9 w10"),
        )
        for strength in ("0.5", "8", "0")
    )
    assert "unsteered" in plain
    assert "anger, strength 0.5" in plain
    unsteered = et.generate(et.load(tiny_folder), "w9 w10", max_new_tokens=3)
    assert all(unsteered in shown for shown in (plain, steered, same))
    assert same.count(unsteered) == 2
    assert steered.count(unsteered) == 1


def test_steer_refuses_what_does_not_belong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = ["steer", "--circuit", str(tiny_folder / "circuit.safetensors"), "w9"]
    message = fails(monkeypatch, capsys, *arguments, "--emotion", "joy", "--model", str(tiny_folder))
    assert message == "error: the circuit has no 'joy'; it holds anger"
    other = tiny_model(dtype=torch.float32, layers=2)
    torch_model(other).save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    message = fails(monkeypatch, capsys, *arguments, "--emotion", "anger", "--model", str(tmp_path / "other"))
    assert "made for a model of other sizes" in message


def test_doctor_compares_with_the_pinned_versions() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, version in doctor.TESTED.items():
        assert name == "python" or pinned[name] == version
    installed = {"python": "3.11.7", "torch": "2.13.0+cpu", "nnsight": "0.8.9", "transformers": "5"}
    findings = doctor.version_findings(installed)
    assert [finding.state for finding in findings] == ["ok", "ok", "note", "note"]
    assert findings[2].detail == "0.8.9 (tested with 0.8.1)"


def test_doctor_says_what_is_broken() -> None:
    def missing() -> str:
        raise ModelError("weights are missing")

    assert doctor.model_finding(missing) == doctor.Finding("bundled model", "broken", "weights are missing")
    assert doctor.model_finding(lambda: " ").state == "broken"
    assert doctor.model_finding(lambda: "Fine.").state == "ok"
    assert doctor.device_finding().state == "ok"


def test_doctor_ends_with_the_state_of_what_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ndif_finding", lambda: doctor.Finding("NDIF", "note", "unreachable [offline]"))
    for state, code in (("ok", 0), ("broken", 1)):
        monkeypatch.setattr(doctor, "model_finding", lambda state=state: doctor.Finding("bundled model", state, "x"))
        result = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
        assert result.exit_code == code
        assert "unreachable [offline]" in result.output


def test_doctor_asks_ndif_briefly() -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    host = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        assert doctor.ndif_finding(host).state == "ok"
        assert doctor.ndif_finding(f"{host}/elsewhere").detail.startswith(f"{host}/elsewhere answers with 404")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert doctor.ndif_finding(host, timeout=0.5).state == "note"


def test_the_module_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "emotrace", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "doctor" in done.stdout
