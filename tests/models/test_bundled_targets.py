"""What the bundled model must do on held-out scenarios, judged blind."""

from collections import Counter

import pytest

import emotrace as et
from emotrace.data.concepts import NEUTRAL
from emotrace.models.bundled.grammar import held_out_instructions
from emotrace.trace.generate import generate_replies

LABELS = et.PAPER_SIX.labels
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return et.load("bundled")


def judged(model, prompts, groups):
    replies = generate_replies(model, model.encode(prompts), max_new_tokens=64)
    texts = [et.Reply(r.text, g.scenario.scenario, g.event) for r, g in zip(replies, groups, strict=True)]
    labels = [verdict.label for verdict in et.BundledJudge.load().judge(texts)]
    accepted = [et.StructureJudge().accepts(text) for text in texts]
    return labels, accepted, [r.text for r in replies]


def test_named_instructions_and_the_neutral_prompt(model):
    groups = et.groups(et.load_sev("sev-mini").test)
    assert len(groups) == 240
    everything = []
    for condition in (*LABELS, NEUTRAL):
        prompts = [et.prompt(group, condition, et.PAPER_SIX) for group in groups]
        labels, accepted, texts = judged(model, prompts, groups)
        share = labels.count(condition) / len(labels)
        assert share >= 0.99, (condition, share, Counter(labels))
        everything += list(zip(accepted, texts, strict=True))
    assert sum(ok for ok, _ in everything) / len(everything) >= 0.90
    assert len({text for _, text in everything}) / len(everything) >= 0.90


@pytest.mark.parametrize("kind", held_out_instructions())
def test_held_out_wordings(model, kind):
    groups = et.groups(et.load_sev("sev-mini").test)
    prompts, used, asked = [], [], []
    for e, emotion in enumerate(LABELS):
        for i, instruction in enumerate(held_out_instructions()[kind][emotion][:60]):
            group = groups[(37 * i + 11 * e) % len(groups)]
            prompts.append(et.prompt(group, emotion, et.PAPER_SIX, instruction=instruction))
            used.append(group)
            asked.append(emotion)
    labels, _, _ = judged(model, prompts, used)
    right = sum(label == emotion for label, emotion in zip(labels, asked, strict=True)) / len(asked)
    assert right >= 0.95, (right, Counter((a, b) for a, b in zip(asked, labels, strict=True) if a != b))
