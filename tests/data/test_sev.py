import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.sev import (
    SHIPPED,
    SPLITS,
    VALENCES,
    Scenario,
    SevDataset,
    dump_jsonl,
    groups,
    load_sev,
    read_jsonl,
    validate,
)
from emotrace.errors import DataError

EVENT = {"positive": "It went well.", "neutral": "Nothing came of it.", "negative": "It went wrong."}


def scenario(number: int, text: str | None = None, **event: str) -> Scenario:
    return Scenario("work", text or f"Task {number} was due.", EVENT | event, f"task-{number}")


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    whole = {"theme": "work", "scenario": "A task.", "event": EVENT, "skeleton_id": f"t{number}"} | changes
    return {key: value for key, value in whole.items() if value is not ...}


def written(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    scenarios = [scenario(i, text=f"Grüße {i}") for i in range(5)]
    dump_jsonl(scenarios, tmp_path / "s.jsonl")
    assert read_jsonl(tmp_path / "s.jsonl") == scenarios


def test_groups_are_scenarios_times_valences() -> None:
    made = groups([scenario(1), scenario(2)])
    assert [g.id for g in made] == [f"task-{i}/{valence}" for i in (1, 2) for valence in VALENCES]
    assert made[2].event == "It went wrong."
    assert made[5].skeleton_id == "task-2"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{broken", r"s\.jsonl:2: not valid JSON"),
        ("[1]", r"s\.jsonl:2: a record is a JSON object, got list"),
        (record(theme=...), r"s\.jsonl:2: field 'theme' must be a non-empty string, got None"),
        (record(scenario="  "), r"s\.jsonl:2: field 'scenario' must be a non-empty string"),
        (record(skeleton_id=3), r"s\.jsonl:2: field 'skeleton_id' must be a non-empty string, got 3"),
        (record(event="x"), r"s\.jsonl:2: field 'event' must be an object with positive, neutral, negative"),
        (record(event={"positive": "x", "neutral": "y"}), r"s\.jsonl:2: field 'event\.negative' must be"),
        (record(event=EVENT | {"mixed": "z"}), r"s\.jsonl:2: field 'event' has unknown valence 'mixed'"),
        (record(9), r"s\.jsonl:2: field 'skeleton_id': 't9' already used on line 1"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_sev(written(tmp_path / "s.jsonl", record(9), bad))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(json.dumps(record()).encode() + b"\n\n{\xff}\n")
    with pytest.raises(DataError, match=r"s\.jsonl:3: not UTF-8 \(byte 2"):
        load_sev(tmp_path / "s.jsonl")


def test_blank_lines_and_a_byte_order_mark_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode() + b"\r\n\n  \n")
    assert len(read_jsonl(path)) == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such dataset: nowhere.*sev-mini"):
        load_sev("nowhere")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="holds no records"):
        load_sev(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match=r"no train\.jsonl, validation\.jsonl, test\.jsonl"):
        load_sev(tmp_path)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        SevDataset("d", (), (), ()).split("dev")


def test_a_folder_keeps_its_splits_apart(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS):
        dump_jsonl([scenario(number)], tmp_path / f"{split}.jsonl")
    dataset = load_sev(tmp_path)
    assert [dataset.split(split)[0].skeleton_id for split in SPLITS] == ["task-0", "task-1", "task-2"]
    dump_jsonl([scenario(0)], tmp_path / "test.jsonl")
    with pytest.raises(DataError, match="more than one split: task-0"):
        load_sev(tmp_path)


def test_one_file_is_split_by_a_hash_that_other_scenarios_do_not_move(tmp_path: Path) -> None:
    scenarios = [scenario(i) for i in range(400)]
    dump_jsonl(scenarios, tmp_path / "all.jsonl")
    dump_jsonl(scenarios[::3], tmp_path / "some.jsonl")
    whole, part = load_sev(tmp_path / "all.jsonl"), load_sev(tmp_path / "some.jsonl")
    sizes = [len(whole.split(split)) for split in SPLITS]
    assert sum(sizes) == 400
    assert [abs(size / 400 - share) < 0.07 for size, share in zip(sizes, (0.6, 0.2, 0.2), strict=True)] == [True] * 3
    for split in SPLITS:
        assert all(scenario in whole.split(split) for scenario in part.split(split))


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    a = SevDataset("a", (scenario(1),), (), ())
    assert a.sha256 == SevDataset("other name", (scenario(1),), (), ()).sha256
    assert a.sha256 != SevDataset("a", (), (scenario(1),), ()).sha256
    assert a.sha256 != SevDataset("a", (scenario(1, negative="It went badly."),), (), ()).sha256
    assert re.fullmatch(r"[0-9a-f]{64}", a.sha256)
    assert a.sha256 != hashlib.sha256(b"").hexdigest()


def test_validation_finds_what_makes_a_study_unsound() -> None:
    dataset = SevDataset(
        "d",
        (scenario(1), scenario(2, text="She was furious."), scenario(3, positive="Pure JOY!")),
        (scenario(1, text="Another."),),
        (scenario(4, text="Task 1 was due."), scenario(5, negative="Same.", positive="Same.")),
    )
    assert validate(dataset) == [
        "train/task-2: scenario names anger outright ('furious')",
        "train/task-3: positive names happiness outright ('joy')",
        "validation/task-1: id task-1 also in train/task-1",
        "test/task-4: scenario text 'Task 1 was due.' also in train/task-1",
        "test/task-5: event 'Same.' serves two valences",
    ]


@given(st.sampled_from([word for words in PAPER_SIX.lexicon.values() for word in words]), st.sampled_from(VALENCES))
def test_every_word_of_the_lexicon_is_found_in_every_field(word: str, valence: str) -> None:
    dataset = SevDataset("d", (scenario(1, **{valence: f"A {word.upper()}, then."}),), (), ())
    assert any(repr(word) in problem for problem in validate(dataset))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets_are_sound(name: str) -> None:
    dataset = load_sev(name)
    assert validate(dataset) == []
    assert all(dataset.split(split) for split in SPLITS)
    assert len(dataset.test) >= 60
