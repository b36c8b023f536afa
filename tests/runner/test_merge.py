import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from emotrace.errors import RunError
from emotrace.runner import Inputs, merge_shards, run_protocol
from emotrace.runner.disk import computed_batches
from tests.runner.killing import results
from tests.runner.test_run import Fixed
from tests.tiny import tiny_model

SHARED = Path(__file__).with_name("shared.py")


def record(folder: Path, stage: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "stages" / stage / "stage.json").read_text())
    return kept


def shard(folder: Path, index: int, count: int, data: Path, file: Path = SHARED, **given: Any) -> Path:
    parameters = given.pop("parameters", {})
    run_protocol(file, folder, Inputs(data_source=data, shard=(index, count), **given), parameters=parameters)
    return folder


@pytest.fixture
def folders(tmp_path: Path, sev_file: Path) -> list[Path]:
    return [shard(tmp_path / f"shard-{i}", i, 3, sev_file) for i in (1, 2, 3)]


def test_a_merge_equals_a_run_without_shards_and_a_run_goes_on_from_it(tmp_path: Path, sev_file: Path) -> None:
    folders = [shard(tmp_path / f"shard-{i}", i, 5, sev_file) for i in (4, 1, 5, 2, 3)]
    whole = run_protocol(SHARED, tmp_path / "whole", Inputs(data_source=sev_file))
    merged = merge_shards(folders, tmp_path / "merged")
    assert merged.computed == ("shared_first", "shared")
    assert results(tmp_path / "merged") == results(tmp_path / "whole")
    assert whole.summary["shared_first"]["scenarios"] == 12  # shares of unequal size
    again = merge_shards(folders, tmp_path / "merged")
    assert again.computed == ()
    assert merge_shards(folders, tmp_path / "merged", force=True).computed == merged.computed
    on = run_protocol("shared_after", tmp_path / "merged", Inputs(data_source=sev_file))
    assert (on.computed, on.cached) == (("shared_after",), ("shared_first", "shared"))


def test_the_record_says_where_a_merged_stage_came_from_and_what_it_cost(tmp_path: Path, folders: list[Path]) -> None:
    for i, folder in enumerate(folders):
        kept = record(folder, "shared_first")
        altered = kept | {"seconds": 100.0 + i, "counters": {"capture_tokens": 10 * (i + 1)}}
        (folder / "stages" / "shared_first" / "stage.json").write_text(json.dumps(altered))
    merge_shards(folders, tmp_path / "merged")
    kept = record(tmp_path / "merged", "shared_first")
    assert [origin["shard"] for origin in kept["merged"]] == ["1/3", "2/3", "3/3"]
    for folder, origin in zip(folders, kept["merged"], strict=True):
        own = record(folder, "shared_first")
        assert origin == {"shard": own["parts"]["shard"]} | {
            key: own[key] for key in ("key", "seconds", "computed", "counters")
        }
    assert 303 < kept["seconds"] < 304
    assert kept["counters"] == {"capture_tokens": 60}
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert manifest["stages"]["shared_first"]["merged"] == kept["merged"]
    assert manifest["counters"] == {"capture_tokens": 60}
    assert manifest["seconds"] > 303
    assert "shard" not in kept["parts"]
    assert "merged" not in record(folders[0], "shared_first")


def test_a_merge_that_was_stopped_is_taken_up_again(tmp_path: Path, sev_file: Path) -> None:
    given = {"parameters": {"switch": str(tmp_path / "on"), "shared_first.names": "x,y,z"}}
    folders = [shard(tmp_path / f"shard-{i}", i, 2, sev_file, **given) for i in (1, 2)]
    with pytest.raises(ZeroDivisionError):
        merge_shards(folders, tmp_path / "merged")
    (tmp_path / "on").touch()
    assert merge_shards(folders, tmp_path / "merged").computed == ("shared",)
    assert [e["batch"] for e in computed_batches(tmp_path / "merged/stages/shared")] == list(range(4))
    run_protocol(SHARED, tmp_path / "whole", Inputs(data_source=sev_file), **given)
    assert results(tmp_path / "merged") == results(tmp_path / "whole")


def test_inputs_and_parameters_are_the_shards_own(tmp_path: Path, sev_file: Path) -> None:
    given = {"seed": 7, "batch_tokens": 99, "dtype": "float64", "parameters": {"shared_first.limit": 5}}
    folders = [shard(tmp_path / f"shard-{i}", i, 2, sev_file, **given) for i in (1, 2)]
    assert merge_shards(folders, tmp_path / "merged").summary["shared_first"]["scenarios"] == 5
    parts = record(tmp_path / "merged", "shared")["parts"]
    assert (parts["seed"], parts["batch_tokens"], parts["model"]["dtype"]) == (7, 99, "float64")


def test_more_shards_than_scenarios(tmp_path: Path, sev_file: Path) -> None:
    with pytest.raises(RunError, match="shard 3/3 is empty: there are 2 scenarios"):
        shard(tmp_path / "s", 3, 3, sev_file, parameters={"shared_first.limit": 2})


def test_a_judge_or_model_in_memory_has_to_be_given_again(tmp_path: Path, sev_file: Path) -> None:
    model = tiny_model()
    for name, given in (("judge", {"custom_judge": Fixed()}), ("model", {"source": model})):
        folders = [shard(tmp_path / f"{name}-{i}", i, 2, sev_file, **given) for i in (1, 2)]
        with pytest.raises(
            RunError, match=f"{name}-1: the model, the judge or .* given in Python: give the same as in"
        ):
            merge_shards(folders, tmp_path / "merged")
        inputs = Inputs(data_source=sev_file, **given)  # type: ignore[arg-type]
        assert merge_shards(folders, tmp_path / name, inputs).computed == ("shared_first", "shared")
        assert inputs.merged == ()
        with pytest.raises(RunError, match=r"shared_first is not what it was when the shards were run \(model: "):
            merge_shards(folders, tmp_path / "other", Inputs("bundled", sev_file, dtype="float16"))
    with pytest.raises(RunError, match="a merge is of all scenarios: give inputs without shard=1/2"):
        merge_shards(folders, tmp_path / "other", Inputs(data_source=sev_file, shard=(1, 2)))


def refused(message: str, folders: list[Path], out: Path) -> None:
    there = out.exists()
    with pytest.raises(RunError, match=message) as caught:
        merge_shards(folders, out)
    assert "\n" not in str(caught.value)
    assert out.exists() == there


def test_folders_that_are_no_shards(tmp_path: Path, sev_file: Path, folders: list[Path]) -> None:
    out = tmp_path / "merged"
    refused("nothing to merge", [], out)
    refused("nowhere: not a run folder; a shard is what", [*folders[:2], tmp_path / "nowhere"], out)
    run_protocol(SHARED, tmp_path / "whole", Inputs(data_source=sev_file))
    refused("whole: a run, but not on a shard; leave it out", [*folders, tmp_path / "whole"], out)
    refused("shard-1 is one of the shards: give another --out", folders, folders[0])


def test_shards_that_do_not_add_up_to_a_whole(tmp_path: Path, sev_file: Path, folders: list[Path]) -> None:
    out = tmp_path / "merged"
    refused("shards 1 and 3 of 3 are missing: give the folders of all 3", folders[1:2], out)
    refused("shard 2 of 3 is missing", [folders[0], folders[2]], out)
    refused("shard 2/3 is given twice: .*shard-2 and .*shard-2; leave one out", [*folders, folders[1]], out)
    copied = Path(shutil.copytree(folders[1], tmp_path / "copy"))
    refused("shard 2/3 is given twice: .*shard-2 and .*copy; leave one out", [*folders, copied], out)
    four = shard(tmp_path / "four", 3, 4, sev_file)
    refused("four is shard 3/4, .*shard-1 is 1/3: give the shards of one run, cut", [*folders[:2], four], out)
    merge_shards(folders, out)
    refused("merged: a run, but not on a shard", [*folders, out], tmp_path / "more")


def test_unfinished_shards(tmp_path: Path, sev_file: Path, folders: list[Path]) -> None:
    out = tmp_path / "merged"
    stage = folders[1] / "stages" / "shared" / "stage.json"
    kept = stage.read_text()
    stage.write_text(json.dumps(json.loads(kept) | {"finished": False}))
    refused("shard-2: shared is unfinished; give the command of this run again", folders, out)
    stage.write_text(json.dumps(json.loads(kept) | {"key": "another"}))  # begun anew with other parameters
    refused("shard-2: shared is unfinished", folders, out)
    stage.write_text(kept)
    (folders[2] / "manifest.json").rename(folders[2] / "kept.json")  # killed before the end of its first run
    refused("shard-3: .* is unfinished", folders, out)
    (folders[2] / "kept.json").rename(folders[2] / "manifest.json")
    shutil.rmtree(folders[0] / "stages" / "shared")
    refused("shard-1: shared is unfinished", folders, out)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 1}, "shared_first differs in seed"),
        ({"dtype": "float64"}, "shared_first differs in model: dtype"),
        ({"batch_tokens": 1}, "shared_first differs in batch_tokens"),
        ({"parameters": {"shared_first.scale": 2.0}}, "shared_first differs in parameters: scale"),
        ({"parameters": {"switch": "x"}}, "shared differs in parameters: switch"),
    ],
)
def test_shards_of_other_runs(
    tmp_path: Path, sev_file: Path, folders: list[Path], given: dict[str, Any], said: str
) -> None:
    shard(folders[2], 3, 3, sev_file, **given)
    refused(f"shard-3 and .*shard-1 are not shards of one run, {said}: run one", folders, tmp_path / "merged")


def test_shards_of_other_data_protocols_and_code(tmp_path: Path, sev_file: Path, folders: list[Path]) -> None:
    out = tmp_path / "merged"
    lines = sev_file.read_text().splitlines()
    (tmp_path / "fewer.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    shard(folders[2], 3, 3, tmp_path / "fewer.jsonl")
    refused("not shards of one run, shared_first differs in data", folders, out)
    run_protocol("shared_first", folders[2], Inputs(data_source=sev_file, shard=(3, 3)))
    shutil.rmtree(folders[2] / "stages" / "shared")
    refused("shard-3 is a shard of 'shared_first', .*shard-1 of 'shared'", folders, out)
    shard(folders[2], 3, 3, sev_file)
    sev_file.write_text("\n".join(lines[:-1]) + "\n")
    refused(r"shared_first is not what it was when the shards were run \(data\): merge with", folders, out)


def test_code_that_has_changed_since(tmp_path: Path, sev_file: Path) -> None:
    file = tmp_path / "own.py"
    source = SHARED.read_text().replace("shared", "own")
    file.write_text(source)
    folders = [shard(tmp_path / f"shard-{i}", i, 2, sev_file, file) for i in (1, 2)]
    file.write_text(source.replace("Records of every", "Records for every"))
    refused(r"own_first is not what it was when the shards were run \(code: own\)", folders, tmp_path / "merged")
    shard(folders[1], 2, 2, sev_file, file)
    refused("own_first differs in code: own: run one", folders, tmp_path / "merged")
    shard(folders[0], 1, 2, sev_file, file)
    file.unlink()
    refused(r"own\.py: no such file", folders, tmp_path / "merged")
