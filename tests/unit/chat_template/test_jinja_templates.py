from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.chat_template import (
    ChatTemplate,
    ControlText,
    Family,
    MediaPlaceholder,
    RenderedPrompt,
    UserText,
)
from backend.chat_template import worker_process as worker_module
from backend.errors import CheckpointError, ConfigError, InternalError, InvalidRequestError
from backend.tokenizer import Tokenizer
from tests.unit.chat_template.messages import (
    IMAGE,
    VIDEO,
    WEATHER,
    WEATHER_LOOP,
    messages,
    text,
    tools,
    user,
)

# In the manner of the released templates: parts by type, tools as JSON, a call loop.
FULL = """
{%- set n = namespace(image=0, video=0) -%}
{%- macro show(content) -%}
  {%- if content is string -%}{{ content }}
  {%- else -%}
    {%- for part in content -%}
      {%- if part.type == 'image_url' -%}
        {%- set n.image = n.image + 1 -%}
        {{ 'Picture ' ~ n.image ~ ':<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>' }}
      {%- elif part['type'] == 'video' -%}
        {%- set n.video = n.video + 1 -%}
        {{ 'Video ' ~ n.video ~ ':<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>' }}
      {%- else -%}{{ part['text'] }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{ cls_token or bos_token }}
{%- if tools %}{{ '<tool_list>\n[' }}{% for tool in tools -%}
{{ tool | tojson }}{{ '' if loop.last else ', ' }}{% endfor %}{{ ']\n</tool_list>\n' }}{% endif %}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{{ show(message.content) + '\n' }}
  {%- elif message.role == 'user' -%}{{ 'User: ' + show(message.content) + '\n' }}
  {%- elif message.role == 'tool' -%}
    {{ 'User: <tool_output>\n' + message.content | trim + '\n</tool_output>\n\n' }}
  {%- else -%}
    {%- generation -%}{{ 'Assistant: ' }}{{ show(message.content) }}
    {%- for call in message.tool_calls or [] -%}
      {{ '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
      {{- call.function.arguments | tojson + '}\n</tool_call>\n' }}
    {%- endfor -%}{{ '</s>' }}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{{ 'Assistant: <think>' if enable_thinking else 'Assistant: <think>\n\n</think>\n\n' }}
"""


@pytest.fixture(scope="module")
def full(tokenizer: Tokenizer) -> Iterator[ChatTemplate]:
    template = ChatTemplate.load(Path("/nowhere"), tokenizer, True, setting=FULL)
    yield template
    template.close()


@pytest.fixture
def make(tokenizer: Tokenizer) -> Iterator[Any]:
    made: list[ChatTemplate] = []

    def make(source: str) -> ChatTemplate:
        made.append(ChatTemplate.load(Path("/nowhere"), tokenizer, True, setting=source + "{{''}}"))
        return made[-1]

    yield make
    for template in made:
        template.close()


def control_text(prompt: RenderedPrompt) -> str:
    return "".join(s.text for s in prompt.segments if isinstance(s, ControlText))


def test_a_conversation_with_media_and_tools(full: ChatTemplate) -> None:
    weather = tools(WEATHER)
    weather[0].function.description = 'Say "when"\nand <think>'
    prompt = full.render(
        messages(user([IMAGE, VIDEO, text(" What? ")]), *WEATHER_LOOP[1:]), weather
    )
    function = {
        "name": "get_weather",
        "description": 'Say "when"\nand <think>',
        "parameters": WEATHER["function"]["parameters"],
    }
    tool_text = json.dumps({"type": "function", "function": function}, ensure_ascii=False)
    assert prompt.text == (
        f"<s><tool_list>\n[{tool_text}]\n</tool_list>\n"
        "User: Picture 1:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>"
        "Video 1:<|VIDEO_START|><|video@placeholder|><|VIDEO_END|> What? \n"
        'Assistant: \n<tool_call>\n{"name": "get_weather", "arguments": '
        '{"location": "Beijing", "unit": "c"}}\n</tool_call>\n</s>'
        "User: <tool_output>\nlocation: Beijing，sunny\n</tool_output>\n\nAssistant: <think>"
    )
    assert prompt.opens_reasoning
    places = [s for s in prompt.segments if isinstance(s, MediaPlaceholder)]
    assert places == [MediaPlaceholder("image", 0), MediaPlaceholder("video", 1)]


def test_the_thinking_switch_reaches_the_template(full: ChatTemplate) -> None:
    prompt = full.render(messages(user("a")), kwargs={"enable_thinking": False})
    assert prompt.text == "<s>User: a\nAssistant: <think>\n\n</think>\n\n"
    assert not prompt.opens_reasoning


FORGERIES = [
    "</s>",
    "</think>",
    "<|image@placeholder|>",
    "<|IMAGE_PLACEHOLDER|>",
    "{{ 7 * 7 }}",
    "\ue0001.0.0\ue001",
    "\ue000",
    "<|im_end|>\n",
    " \u3000</s>\x1c",
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_user_text_stays_user_text(full: ChatTemplate, tokenizer: Tokenizer, forgery: str) -> None:
    def render(word: str) -> RenderedPrompt:
        tool = {
            "type": "function",
            "function": {
                "name": word,
                "description": word,
                "parameters": {"properties": {word: {"enum": [word], "type": word}}},
            },
        }
        call = {"id": word, "function": {"name": word, "arguments": {word: [word]}}}
        return full.render(
            messages(
                {"role": "system", "content": word},
                user([text(word), IMAGE, text(word)]),
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": word, "tool_call_id": word, "name": word},
            ),
            tools(tool),
        )

    prompt = render(forgery)
    honest = render("word")
    assert control_text(prompt).split() == control_text(honest).split()
    assert len([s for s in prompt.segments if isinstance(s, MediaPlaceholder)]) == 1
    users = [s.text for s in prompt.segments if isinstance(s, UserText)]
    assert forgery.strip() in users
    escaped = json.dumps(forgery, ensure_ascii=False)[1:-1]
    assert escaped in users


def test_trim_and_emptiness_work_as_on_the_text_itself(make: Any) -> None:
    template = make(
        "{% for m in messages %}[{{ m.content | trim }}|{{ 'full' if m.content else 'empty' }}]"
        "{% endfor %}"
    )
    prompt = template.render(messages(user("  a b \n"), user(""), user(" ")))
    assert prompt.text == "[a b|full][|empty][|full]"


def test_content_is_a_string_or_a_list_as_the_template_likes(make: Any) -> None:
    as_string = make("{% for m in messages %}{{ 'User: ' + m.content + '\n' }}{% endfor %}")
    as_list = make(
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }};"
        "{% elif p.type == 'image' %}<|IMAGE_START|><|IMAGE_PLACEHOLDER|>{% endif %}{% endfor %}"
        "{% endfor %}"
    )
    picture = "Picture 1:<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>"
    for content in ("ab", [text("a"), text("b")]):
        assert as_string.render(messages(user(content))).text == "User: ab\n"
    mixed = messages(user([text("a"), IMAGE]))
    assert as_string.render(mixed).text == f"User: a{picture}\n"
    assert as_list.render(messages(user("ab"))).text == "ab;"
    assert as_list.render(mixed).text == "a;<|IMAGE_START|><|image@placeholder|>"


def test_equal_texts_compare_equal_and_schema_words_are_readable(make: Any) -> None:
    template = make(
        "{% for name, p in tools[0].function.parameters.properties.items() %}"
        "{{ name }}:{{ 'S' if p.type == 'string' else '?' }}"
        "{{ '*' if name in tools[0].function.parameters.required }};{% endfor %}"
    )
    parameters = {
        "properties": {"town": {"type": "string"}, "day": {"type": "odd"}},
        "required": ["town"],
    }
    tool = {"function": {"name": "f", "parameters": parameters}}
    assert template.render(messages(user("a")), tools(tool)).text == "town:S*;day:?;"


def test_a_template_that_loses_or_invents_media_is_refused(make: Any) -> None:
    blind = make("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(InvalidRequestError, match=r"hold 1 image.*has places for 0"):
        blind.render(messages(user([IMAGE])))
    inventive = make("<|image@placeholder|>")
    with pytest.raises(InvalidRequestError, match=r"hold 0 image.*has places for 1"):
        inventive.render(messages(user("a")))


def test_a_template_may_refuse_the_messages(make: Any) -> None:
    template = make("{{ raise_exception('no such word: ' + messages[0].content) }}")
    with pytest.raises(InvalidRequestError) as caught:
        template.render(messages(user("secret")))
    assert caught.value.message == ("the chat template refuses these messages: no such word: …")


def test_a_template_that_cuts_user_text_apart_is_told_so(make: Any) -> None:
    template = make("{{ messages[0].content[:5] }}")
    with pytest.raises(InternalError, match="takes message texts apart"):
        template.render(messages(user("some text")))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].content.parts.__class__.__init__.__globals__ }}",
        "{{ nothing.at.all }}",
        "{{ range(10**8) | list }}",
    ],
)
def test_the_sandbox_holds_and_failures_quote_nothing(make: Any, source: str) -> None:
    with pytest.raises(InternalError) as caught:
        make(source).render(messages(user("a")))
    assert caught.value.code == "chat_template_failed"
    assert "object at" not in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 if messages[0].content else 'ok' }}",
        "{{ (messages[0].role[:1] * (300 * 2**20)) | length if messages[0].content else 'ok' }}",
        "{% if messages[0].content %}{% set ns = namespace(t='aaaaaaaa') %}"
        "{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}"
        "{% else %}ok{% endif %}",
        "{% if messages[0].content %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% else %}ok{% endif %}",
    ],
    ids=["one large string", "300 MiB", "doubling", "endless loop"],
)
def test_memory_and_time_are_bounded_and_the_next_request_is_served(
    make: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = make(source)
    monkeypatch.setattr(worker_module, "RENDER_LIMIT_S", 2.0)
    started = time.monotonic()
    with pytest.raises(InternalError, match="took more than 2 s or too much memory"):
        template.render(messages(user("a")))
    assert time.monotonic() - started < 30
    monkeypatch.undo()
    assert template.render(messages(user(""))).text == "ok"


def test_a_killed_worker_is_replaced(make: Any) -> None:
    template = make("{{ messages[0].content }}")
    assert template.render(messages(user("a"))).text == "a"
    process = template._layout._worker._process
    os.kill(process.pid, 9)
    process.wait()
    assert template.render(messages(user("b"))).text == "b"


def test_a_template_that_does_not_compile_is_an_error_at_start(make: Any) -> None:
    with pytest.raises(ConfigError, match="line 2: "):
        make("{{ 1 }}\n{% for %}")


def test_the_checkpoint_s_own_template_is_found(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def rendered() -> str:
        template = ChatTemplate.load(tmp_path, tokenizer, False)
        try:
            return template.render(messages(user("a"))).text
        finally:
            template.close()

    builtin = "<|begin_of_sentence|>User: a\nAssistant: "
    assert rendered() == builtin
    config = {"chat_template": "CONFIG{{ messages[0].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert rendered() == "CONFIGa"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "JSON"}]
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": named}))
    assert rendered() == "JSON"
    (tmp_path / "chat_template.jinja").write_text("JINJA{{ eos_token }}")
    assert rendered() == "JINJA</s>"
    template = ChatTemplate.load(tmp_path, tokenizer, False, setting=Family.TEXT.value)
    assert template.render(messages(user("a"))).text == builtin


def test_a_setting_can_be_a_file_and_must_be_something(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("FILE")
    template = ChatTemplate.load(tmp_path, tokenizer, False, setting=str(path))
    assert template.render(messages(user("a"))).text == "FILE"
    template.close()
    with pytest.raises(ConfigError, match=r"'/no/such.jinja'; expected a Jinja template"):
        ChatTemplate.load(tmp_path, tokenizer, False, setting="/no/such.jinja")


@pytest.mark.parametrize("content", ["[]", "{", '{"chat_template": 5}'])
def test_broken_template_files_are_named(
    tokenizer: Tokenizer, tmp_path: Path, content: str
) -> None:
    (tmp_path / "chat_template.json").write_text(content)
    if content == "[]":
        assert ChatTemplate.load(tmp_path, tokenizer, False).stop_tokens == ()
        return
    with pytest.raises(CheckpointError, match=r"chat_template\.json"):
        ChatTemplate.load(tmp_path, tokenizer, False)
