import json
import random

import pytest

from emotrace.data.concepts import PAPER_SIX
from emotrace.data.sev import SPLITS, load_sev, validate
from emotrace.models.bundled.corpus import MIXTURE, draw_sample
from emotrace.models.bundled.dataset import main as write_dataset
from emotrace.models.bundled.dataset import make
from emotrace.models.bundled.grammar import (
    STYLES,
    draw_instruction,
    held_out_instructions,
    read_scene,
    sample_reply,
    sample_scenario,
)
from emotrace.models.bundled.instructions import KINDS
from emotrace.models.bundled.tokens import TemplateOnly
from emotrace.models.bundled.vocabulary import table


def test_a_scene_reads_back_from_its_text():
    rng = random.Random(3)
    for split in SPLITS:
        for _ in range(200):
            scene = sample_scenario(rng, split)
            assert read_scene(scene.scenario, scene.event) == scene


def test_words_that_mean_nothing_fill_the_slots_on_request():
    rng = random.Random(3)
    words = {word for theme in table("scenes")["themes"].values() for word in theme["nouns"]}
    assert not any(sample_scenario(rng, pseudo=1.0).noun in words for _ in range(200))
    assert all(sample_scenario(rng).noun in words for _ in range(200))


def test_reading_refuses_foreign_and_mismatched_texts():
    rng = random.Random(4)
    one, two = sample_scenario(rng), sample_scenario(rng)
    assert read_scene("My landlord kept the deposit.", one.event) is None
    assert one.person != two.person
    assert read_scene(one.scenario, two.event) is None


def test_replies_name_person_object_and_event():
    rng = random.Random(5)
    for label in STYLES:
        scene = sample_scenario(rng, "test")
        reply = sample_reply(rng, scene, label)
        assert all(part in reply for part in (scene.person, scene.noun, scene.verb))


def test_styles_share_no_words_that_mark_them():
    for slot in ("interjections", "leads", "adverbs", "determiners", "tails", "acts", "bodies", "vows"):
        words = [word for label in STYLES for word in table("replies")[label][slot]]
        assert len(words) == len(set(words)), slot


def test_shipped_set_is_sound_and_is_what_the_grammar_writes(tmp_path, monkeypatch):
    data = load_sev("sev-mini")
    assert validate(data) == []
    assert [len(data.split(split)) for split in SPLITS] == [80, 40, 80]
    assert len({s.theme for s in data.train}) == 8
    for split in SPLITS:
        assert tuple(make(split)) == data.split(split)
    monkeypatch.setattr("sys.argv", ["dataset", "--out", str(tmp_path)])
    write_dataset()
    assert load_sev(tmp_path).sha256 == data.sha256


def test_test_and_validation_hold_out_objects_persons_frames_and_events():
    data = load_sev("sev-mini")
    scenes = {
        split: [read_scene(s.scenario, e) for s in data.split(split) for e in s.event.values()] for split in SPLITS
    }
    for field in ("noun", "person", "frame", "verb", "time"):
        values = [{getattr(scene, field) for scene in scenes[split]} for split in SPLITS]
        first, second, third = values
        assert not ((first & second) | (first & third) | (second & third)), field


def test_no_held_out_word_starts_as_a_training_word_or_the_other_way_round():
    scenes, verbs = table("scenes"), table("events")["verbs"].values()
    for known, held in (
        ([w for t in scenes["themes"].values() for w in t["nouns"]], list(scenes["themes"].values())),
        (scenes["names"]["train"], [scenes["names"]]),
        (scenes["roles"]["train"], [scenes["roles"]]),
        ([w for v in verbs for w in v["train"]], list(verbs)),
    ):
        for word in (w for part in held for split in ("validation", "test") for w in part[split]):
            assert not [w for w in known if w.startswith(word) or word.startswith(w)], word


def test_held_out_instructions_never_occur_in_training():
    held = held_out_instructions()
    assert set(held) == set(KINDS)
    assert all(set(held[kind]) == set(PAPER_SIX.labels) for kind in KINDS)
    rng = random.Random(6)
    seen = {draw_instruction(rng, label, kind) for kind in KINDS for label in PAPER_SIX.labels for _ in range(3000)}
    assert not seen & {text for kinds in held.values() for texts in kinds.values() for text in texts}


def test_implied_instructions_never_name_an_emotion():
    words = {word for group in PAPER_SIX.lexicon.values() for word in group}
    for texts in held_out_instructions()["implied"].values():
        assert all(not words & set(text.lower().replace(".", "").replace(",", "").split()) for text in texts)


def test_negated_and_distracting_instructions_name_another_emotion():
    table_ = table("instructions")
    for kind in ("negated", "distractor"):
        for label, texts in held_out_instructions()[kind].items():
            others = [w for o in PAPER_SIX.labels if o != label for w in table_["nouns"][o] + table_["adjectives"][o]]
            assert all(any(word in text for word in others) for text in texts)


def test_samples_follow_the_mixture_and_are_deterministic():
    rng = random.Random(8)
    samples = [draw_sample(rng, TemplateOnly()) for _ in range(4000)]
    shares = {kind: sum(s.kind == kind for s in samples) / len(samples) for kind in MIXTURE}
    assert shares == pytest.approx(MIXTURE, abs=0.03)
    assert sum(MIXTURE.values()) == pytest.approx(1)
    again = random.Random(8)
    assert [draw_sample(again, TemplateOnly()) for _ in range(50)] == samples[:50]
    for sample in samples[:500]:
        assert (sample.kind == "begun") == bool(sample.opening)
        assert sample.rest


def test_tables_are_plain_data():
    for name in ("scenes", "events", "replies", "instructions"):
        assert json.dumps(table(name))
