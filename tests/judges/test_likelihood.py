"""The likelihood judge against one plain forward pass per label."""

import math

import pytest
import torch

import emotrace as et
from emotrace.data.concepts import NEUTRAL
from emotrace.data.prompts import prompt, render
from emotrace.judges.base import ABSTAIN
from emotrace.judges.likelihood import LikelihoodJudge
from emotrace.ledger import MemoryLedger

LABELS = (*et.PAPER_SIX.labels, NEUTRAL)


@pytest.fixture(scope="module")
def model():
    return et.load("bundled", dtype="float64")


@pytest.fixture(scope="module")
def elicited(model):
    """Replies of the model to prompts of all labels, and the labels."""
    groups = [scenario.groups()[i] for i, scenario in enumerate(et.load_sev("sev-mini").test[:2])]
    asked = [(group, label) for group in groups for label in LABELS]
    texts = et.generate(model, [prompt(group, label, et.PAPER_SIX) for group, label in asked])
    replies = [et.Reply(text, g.scenario.scenario, g.event) for text, (g, _) in zip(texts, asked, strict=True)]
    return replies, [label for _, label in asked]


def by_hand(model, reply, label):
    """Mean log-likelihood of the reply's tokens behind the label's prompt, from the Hugging Face model itself."""
    first = f"Always reply in {label}.\n" if label != NEUTRAL else ""
    messages = [
        {"role": "system", "content": f"{first}Keep the reply to at most two sentences."},
        {"role": "user", "content": f"{reply.scenario}\n{reply.event}"},
    ]
    before = model.tokenizer(render(model.tokenizer, messages), add_special_tokens=False)["input_ids"]
    said = model.tokenizer(reply.text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model.nn._module(torch.tensor([before + said])).logits[0]
    lines = logits[len(before) - 1 : -1].log_softmax(-1)
    return float(lines[torch.arange(len(said)), said].mean())


@pytest.mark.parametrize("budget", [256, 4096])
def test_scores_are_those_of_plain_forward_passes(model, elicited, budget):
    replies = elicited[0][4:9]
    verdicts = LikelihoodJudge(model, batch_tokens=budget).judge(replies)
    for reply, verdict in zip(replies[::4], verdicts[::4], strict=True):
        assert list(verdict.scores) == list(LABELS)
        for label, score in verdict.scores.items():
            assert score == pytest.approx(by_hand(model, reply, label), rel=1e-5)
        assert verdict.label == max(LABELS, key=verdict.scores.__getitem__)


def test_replies_are_given_back_to_the_label_that_was_asked(model, elicited):
    replies, asked = elicited
    verdicts = LikelihoodJudge(model).judge(replies)
    assert [v.label for v in verdicts] == asked
    assert all(not v.reasons for v in verdicts)


def test_it_abstains_under_the_margin_and_for_empty_replies(model, elicited):
    replies = [elicited[0][0], et.Reply(" ", "a", "b"), elicited[0][1]]
    sure = LikelihoodJudge(model).judge(replies)
    read = (sure[0], sure[2])
    leads = [max(v.scores.values()) - sorted(v.scores.values())[-2] for v in read]
    margin = sum(leads) / 2
    found = [v.label for v in LikelihoodJudge(model, margin=margin).judge(replies)]
    assert [found[0], found[2]] == [v.label if lead > margin else ABSTAIN for v, lead in zip(read, leads, strict=True)]
    assert found.count(ABSTAIN) == 2
    unsure = LikelihoodJudge(model, margin=2 * max(leads)).judge(replies)[0]
    assert unsure.label == ABSTAIN
    assert unsure.scores == sure[0].scores
    assert "leads" in unsure.reasons[0]
    assert (sure[1].label, sure[1].reasons) == (ABSTAIN, ("an empty reply",))


def test_equal_replies_are_read_once_and_order_does_not_matter(model, elicited):
    class Counting(MemoryLedger):
        rows = 0
        names = ()

        def map(self, name, batches, work, *, workers=1):
            self.rows += sum(map(len, batches))
            self.names += (name,)
            return super().map(name, batches, work, workers=workers)

    replies, ledger = [*elicited[0][:3], *elicited[0][7:9]], Counting()
    found = LikelihoodJudge(model, ledger=ledger).judge([*replies[::-1], *replies])
    assert ledger.rows == 5 * 7
    assert len(set(ledger.names)) == len(ledger.names) == 2  # one for each scenario
    assert found[:5] == found[5:][::-1]
    assert LikelihoodJudge(model).judge([]) == []


def test_it_is_a_judge_of_other_concepts_too(model):
    two = et.ConceptSet("two", ("joy", "grief"), "Always reply in {concept}.", "Be short.", {})
    judge = LikelihoodJudge(model, two, margin=0.0)
    assert (judge.name, judge.labels) == ("likelihood", ("joy", "grief", "neutral"))
    (verdict,) = judge.judge([et.Reply("It is here.", "You wait.", "It rains.")])
    assert verdict.label in judge.labels
    assert all(math.isfinite(score) for score in verdict.scores.values())
