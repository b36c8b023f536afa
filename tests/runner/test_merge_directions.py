"""Shards of the shipped protocols, merged, are the run without shards."""

import json
from functools import reduce
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from emotrace.cli import app
from emotrace.data.concepts import ConceptSet
from emotrace.errors import DataError, RunError
from emotrace.judges.base import Reply, Verdict
from emotrace.runner import Inputs, Run, merge_shards, run_protocol
from emotrace.steps.directions import Differences, Directions
from emotrace.steps.separation import States
from emotrace.trace.capture import Sample, Statistics, capture
from tests.tiny import close, random_prompts, tiny_model

CONCEPTS = ConceptSet("three", ("w10", "w11", "w12"), "w20 {concept}", "w21 w22", {})
ARTIFACTS: dict[str, Any] = {
    "statistics": Statistics,
    "directions": Directions,
    "directions_reply": Directions,
    "differences": Differences,
    "states": States,
}


class Obliging:
    """Calls each reply what was asked for, as the order tells it, but for scenarios with a word in them."""

    name = "obliging"
    labels = (*CONCEPTS.labels, "neutral", "incoherent")

    def __init__(self, spoilt: str) -> None:
        self.spoilt = spoilt

    def judge(self, replies: list[Reply]) -> list[Verdict]:
        asked = cycle((*CONCEPTS.labels, "neutral"))
        return [
            Verdict("incoherent" if self.spoilt in r.scenario else label)
            for r, label in zip(replies, asked, strict=False)
        ]


@pytest.fixture
def word_data(tmp_path: Path) -> Path:
    """Scenarios in the tiny tokenizer's words, of unequal lengths."""
    folder = tmp_path / "words"
    folder.mkdir()
    for start, split in enumerate(("train", "validation", "test")):
        rows = [
            {
                "theme": "t",
                "scenario": " ".join(f"w{30 + (7 * n + i + start) % 30}" for i in range(2 + n % 3)),
                "event": {
                    valence: f"w{23 + k} w{40 + n}" for k, valence in enumerate(("positive", "neutral", "negative"))
                },
                "skeleton_id": f"{split}-{n}",
            }
            for n in range(6)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def largest_gap(one: Any, other: Any) -> float:
    """Largest difference of two artifacts' tensors, relative to the largest value of each tensor."""
    gaps = [0.0]
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if isinstance(value, torch.Tensor):
            value, theirs = {"": value}, {"": theirs}
        if not isinstance(value, dict):
            assert value == theirs, name
            continue
        assert list(value) == list(theirs)
        for key in value:
            assert value[key].dtype == theirs[key].dtype
            apart = (value[key].double() - theirs[key].double()).abs().max()
            gaps.append(float(apart / theirs[key].double().abs().max().clamp(min=1e-30)))
    return max(gaps)


def assert_equal_runs(one: Path, other: Path, tolerance: float) -> None:
    """Keys and replies are the same, statistics within a tolerance.

    What follows from them has a hundred times as much: a direction is a difference of means made one long, which loses
    digits in layers where emotions hardly differ.
    """
    for stage in ("elicit", "directions"):
        keys = [json.loads((folder / "stages" / stage / "stage.json").read_text())["key"] for folder in (one, other)]
        assert keys[0] == keys[1]
    replies = [(folder / "stages" / "elicit" / "replies.jsonl").read_bytes() for folder in (one, other)]
    assert replies[0] == replies[1]
    for name, kind in ARTIFACTS.items():
        mine, theirs = (kind.load(f / "stages" / "directions" / f"{name}.safetensors") for f in (one, other))
        assert largest_gap(mine, theirs) <= tolerance * (1 if name == "statistics" else 100), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert summaries[0]["elicit"] == summaries[1]["elicit"]
    mine, theirs = (summary["directions"] for summary in summaries)
    assert mine["norms"]["mlp"] == [pytest.approx(row, rel=100 * tolerance) for row in theirs["norms"]["mlp"]]
    assert mine["alignment"]["mlp"] == [pytest.approx(row, abs=100 * tolerance) for row in theirs["alignment"]["mlp"]]
    assert mine["sigma"]["attn"] == pytest.approx(theirs["sigma"]["attn"], rel=tolerance)
    if mine["affect"]:
        assert mine["affect"]["disparity"] == pytest.approx(theirs["affect"]["disparity"], rel=100 * tolerance)
        assert mine["affect"]["p"] == theirs["affect"]["p"]
    near = dict.fromkeys(("norms", "cosines", "sigma", "alignment", "similarity", "affect"), 0)
    assert mine | near == theirs | near


@pytest.mark.parametrize("spoilt", ["nothing", "w44"])
def test_merged_directions_are_those_of_a_run_without_shards(tmp_path: Path, word_data: Path, spoilt: str) -> None:
    given: dict[str, Any] = {"data_source": word_data, "concepts": CONCEPTS, "custom_judge": Obliging(spoilt)}
    given |= {"source": tiny_model(seed=2), "batch_tokens": 100}
    parameters = {"elicit.scenarios": 5, "elicit.max_new_tokens": 4}
    run_protocol("directions", tmp_path / "whole", Inputs(**given), parameters=parameters)
    folders = [tmp_path / f"shard-{i}" for i in (1, 2, 3)]
    found = [
        run_protocol("directions", folder, Inputs(**given, shard=(i, 3)), parameters=parameters).summary
        for i, folder in enumerate(folders, start=1)
    ]
    assert [summary["elicit"]["groups"] for summary in found] == [6, 6, 3]
    # the third shard has one scenario, which is the one with w44
    assert [summary["directions"]["groups"] for summary in found] == [6, 6, 3 if spoilt == "nothing" else 0]
    assert not (folders[0] / "stages" / "directions" / "states.safetensors").exists()
    merge_shards(folders, tmp_path / "all", Inputs(**given))
    assert_equal_runs(tmp_path / "all", tmp_path / "whole", 1e-12)
    whole, merged = (
        json.loads((tmp_path / name / "manifest.json").read_text())["counters"] for name in ("whole", "all")
    )
    assert merged["capture_tokens"] == pytest.approx(whole["capture_tokens"], rel=0.1)  # other batches, other padding
    assert run_protocol("directions", tmp_path / "all", Inputs(**given), parameters=parameters).computed == ()


def test_a_shard_that_has_lost_replies_is_refused(tmp_path: Path, word_data: Path) -> None:
    given: dict[str, Any] = {"data_source": word_data, "concepts": CONCEPTS, "custom_judge": Obliging("nothing")}
    given |= {"source": tiny_model(seed=2)}
    folders = [tmp_path / f"shard-{i}" for i in (1, 2)]
    for i, folder in enumerate(folders, start=1):
        run_protocol("elicit", folder, Inputs(**given, shard=(i, 2)), parameters={"max_new_tokens": 2})
    kept = folders[1] / "stages" / "elicit" / "replies.jsonl"
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:24]))
    with pytest.raises(RunError, match=r"shard-2: 24 replies are left of 36; run this shard again with --force"):
        merge_shards(folders, tmp_path / "all", Inputs(**given))


def test_no_accepted_group_in_any_shard(tmp_path: Path, word_data: Path) -> None:
    given: dict[str, Any] = {"data_source": word_data, "concepts": CONCEPTS, "custom_judge": Obliging("w")}
    given |= {"source": tiny_model(seed=2)}
    folders = [tmp_path / f"shard-{i}" for i in (1, 2)]
    for i, folder in enumerate(folders, start=1):
        run_protocol("directions", folder, Inputs(**given, shard=(i, 2)), parameters={"elicit.max_new_tokens": 2})
    with pytest.raises(DataError, match="no group was accepted in every emotion"):
        merge_shards(folders, tmp_path / "all", Inputs(**given))


def test_statistics_add_up_whatever_the_parts(tmp_path: Path) -> None:
    model, conditions = tiny_model(seed=1), ("w10", "neutral")
    prompts, replies = random_prompts(14, seed=1), random_prompts(14, seed=2, shortest=1)
    samples = [Sample(i % 2, tuple(p), tuple(r)) for i, (p, r) in enumerate(zip(prompts, replies, strict=True))]
    samples[:4] = [Sample(s.condition, s.prompt) for s in samples[:4]]  # a part without replies
    whole = capture(model, samples, conditions)
    cuts = [(0, 4), (4, 6), (6, 14)]
    for order in (cuts, cuts[::-1]):
        parts = [capture(model, samples[a:b], conditions, batch_tokens=20) for a, b in order]
        total = reduce(Statistics.plus, parts)
        assert total.count.tolist() == [7, 7]
        assert total.reply_count.tolist() == [5, 5]
        assert all(close(total.at(p)[site], whole.at(p)[site], 1e-12) for p in ("last", "reply") for site in whole.last)
    with pytest.raises(DataError, match="statistics of w10, neutral plus those of neutral, w10"):
        whole.plus(capture(model, samples, ("neutral", "w10")))


def test_a_users_records_are_gathered_in_order(tmp_path: Path) -> None:
    inputs = Inputs()
    rows = [{"of": f"s{i}", "text": text} for i in range(5) for text in ("one\u2028line", "two")]
    for index in (1, 2):
        part = [row for row in rows if int(row["of"][1:]) % 2 == index - 1]
        Run(tmp_path / str(index), "own", (), inputs, None).write_records("r", part)  # type: ignore[arg-type]
    inputs.merged = (tmp_path / "1", tmp_path / "2")
    merged = Run(tmp_path / "all", "own", (), inputs, None)  # type: ignore[arg-type]
    assert merged.gathered("r", by="of") == rows
    assert [len(shard.records("own", "r")) for shard in merged.shards] == [6, 4]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_shards_of_the_bundled_model_from_the_command_line(tmp_path: Path) -> None:
    few = ("-p", "elicit.scenarios=4")
    invoke("run", "directions", *few, "--no-report", "--out", str(tmp_path / "whole"))
    folders = [str(tmp_path / f"shard-{i}") for i in (1, 2, 3)]
    for i, folder in enumerate(folders, start=1):
        assert "report" not in invoke("run", "directions", *few, "--shard", f"{i}/3", "--out", folder)
    assert "report:  " in invoke("merge", *folders, "--out", str(tmp_path / "all"))
    assert_equal_runs(tmp_path / "all", tmp_path / "whole", 1e-5)
    more = (*few, "-p", "influence.prompts=4", "--no-report", "--out", str(tmp_path / "all"))
    shown = invoke("run", "circuit", *more).splitlines()
    assert {"elicit: cached", "directions: cached", "components: computing"} <= set(shown)
    assert (tmp_path / "all" / "stages" / "circuit" / "circuit.safetensors").is_file()
