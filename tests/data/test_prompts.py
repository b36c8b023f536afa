from typing import Any

import jinja2
import pytest

from emotrace.data.concepts import NEUTRAL, PAPER_SIX
from emotrace.data.prompts import prompt, render
from emotrace.data.sev import Group, Scenario
from emotrace.errors import DataError

GROUP = Group(
    Scenario("work", "The report was due.", {"positive": "a", "neutral": "b", "negative": "It failed."}, "s1"),
    "negative",
)


class Templated:
    """A tokenizer that only renders its chat template, by jinja2 itself."""

    name_or_path = "templated"

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def apply_chat_template(
        self, messages: Any, *, tokenize: bool, add_generation_prompt: bool = False, **options: Any
    ) -> str:
        assert tokenize is False

        def refuse(message: str) -> None:
            raise jinja2.exceptions.TemplateError(message)

        environment = jinja2.Environment()
        environment.globals["raise_exception"] = refuse
        template = environment.from_string(self.chat_template or "")
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **options)


TURN = "<{{ m.role }}>{{ m.content }}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('') }}{% endif %}" + TURN + "{% endfor %}"
)
DROPPING = "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}"


def test_the_paper_s_wording() -> None:
    anger = prompt(GROUP, "anger", PAPER_SIX)
    assert anger.messages == (
        {"role": "system", "content": "Always reply in anger.\nKeep the reply to at most two sentences."},
        {"role": "user", "content": "The report was due.\nIt failed."},
    )
    assert (anger.group_id, anger.skeleton_id, anger.valence, anger.condition) == (
        "s1/negative",
        "s1",
        "negative",
        "anger",
    )


def test_neutral_is_the_same_without_the_first_sentence() -> None:
    neutral, fear = prompt(GROUP, NEUTRAL, PAPER_SIX), prompt(GROUP, "fear", PAPER_SIX)
    assert neutral.messages[1] == fear.messages[1]
    assert fear.messages[0]["content"].split("\n", 1)[1] == neutral.messages[0]["content"]


def test_an_instruction_can_be_replaced_but_not_given_to_neutral() -> None:
    other = prompt(GROUP, "fear", PAPER_SIX, instruction="You saw a ghost.")
    assert other.messages[0]["content"] == "You saw a ghost.\nKeep the reply to at most two sentences."
    with pytest.raises(DataError, match="carries no emotion instruction"):
        prompt(GROUP, NEUTRAL, PAPER_SIX, instruction="You saw a ghost.")


def test_unknown_conditions_are_named_with_those_that_exist() -> None:
    with pytest.raises(DataError, match="unknown condition 'joy': use 'neutral' or one of anger, sadness"):
        prompt(GROUP, "joy", PAPER_SIX)
    with pytest.raises(KeyError, match="'joy' is not a concept of 'paper-six'; choose one of anger"):
        PAPER_SIX.index("joy")
    assert [PAPER_SIX.index(label) for label in PAPER_SIX.labels] == list(range(6))


def test_rendering_ends_with_the_generation_prompt() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert render(Templated(PLAIN), messages) == "<system>S<user>U<assistant>"


@pytest.mark.parametrize("template", [REFUSING, DROPPING])
def test_a_template_without_a_system_role_gets_its_text_before_the_user_s(template: str) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert render(Templated(template), messages) == "<user>S\n\nU"
    assert render(Templated(template), messages[1:]) == "<user>U"


def test_date_and_thinking_are_fixed_where_a_template_has_them() -> None:
    template = "{{ date_string }}|{{ enable_thinking }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    assert render(Templated(template), [{"role": "user", "content": "U"}]) == "26 Jul 2024|False|U"


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(DataError, match="'templated' has no chat template"):
        render(Templated(None), [{"role": "user", "content": "U"}])
