"""tool_choice, response_format, guided_*, bans and thinking limits of a request."""

import json

import pytest

from backend.errors import ErnieError, InvalidRequestError
from backend.wire import StructuredSpec
from tests.unit.preprocess.bodies import as_request, picture, png, user

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g")
]
NAMED_G = {"type": "function", "function": {"name": "g"}}


@pytest.fixture
def engine(prepare):
    """The EngineRequest of a short chat with these fields."""

    def _engine(**body):
        return prepare(**{"messages": user("Hi"), **body}).engine

    return _engine


@pytest.fixture
def refused(engine):
    def _refused(**body):
        with pytest.raises(InvalidRequestError) as caught:
            engine(**body)
        return caught.value

    return _refused


# ---- answer formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", ""),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "json_schema",
            json.dumps(SCHEMA),
        ),
        ({"guided_json": SCHEMA}, "json_schema", json.dumps(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", json.dumps(SCHEMA)),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "choice", '["a", "b"]'),
        ({"guided_grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", '["a", "b"]'),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "grammar", 'root ::= "a"'),
        ({"structured_outputs": {"json_object": True}}, "json_object", ""),
    ],
)
def test_one_constraint(engine, body, kind, text):
    request = engine(**body)
    assert (request.structured.kind, request.structured.text) == (kind, text)
    assert request.post.layout_newlines == 2
    assert engine(prompt="Hi", messages=None, **body).structured == request.structured


def test_free_text(engine):
    request = engine(response_format={"type": "text"})
    assert request.structured is None
    assert request.post.layout_newlines == 0


def test_a_structural_tag_in_both_places(engine):
    tag = {"structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}
    first = engine(structural_tag=tag).structured
    second = engine(response_format={"type": "structural_tag", **tag}).structured
    assert first.kind == second.kind == "structural_tag"
    assert json.loads(first.text) == json.loads(second.text) == tag


@pytest.mark.parametrize(("strict", "is_refused"), [(True, True), (None, True), (False, False)])
def test_a_schema_that_cannot_be_enforced_needs_strict_false(engine, refused, strict, is_refused):
    schema = {"schema": {"not": {}}, "strict": strict}
    body = {"response_format": {"type": "json_schema", "json_schema": schema}}
    if is_refused:
        error = refused(**body)
        assert (error.code, error.status) == ("invalid_grammar", 400)
        assert error.param == "response_format.json_schema.schema"
    else:
        assert engine(**body).structured.lenient


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"guided_json": {"type": 5}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "(?=a)"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "no"}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs.choice",
        ),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "structured_outputs.regex"),
    ],
)
def test_bad_constraints_name_their_field(refused, body, param):
    assert refused(**body).param == param


# ---- tools --------------------------------------------------------------------------------------


def _prompt(prepare, tokenizer, **body):
    prepared = prepare(**{"messages": user("Hi"), "tools": TOOLS, **body})
    return tokenizer.decode(prepared.prompt_ids.tolist(), False), prepared.engine


def test_tools_are_up_to_the_model_by_default(prepare, tokenizer):
    for body in ({}, {"tool_choice": "auto"}):
        text, engine = _prompt(prepare, tokenizer, **body)
        assert '"name": "f"' in text
        assert engine.structured is None and engine.post.has_tools
        assert not engine.post.requires_call and engine.post.max_tool_calls == 0


def test_tool_choice_none_hides_the_tools_and_bans_the_tag(prepare, tokenizer):
    text, engine = _prompt(prepare, tokenizer, tool_choice="none")
    assert "tool" not in text
    assert not engine.post.has_tools
    assert engine.sampling.bad_words == ((tokenizer.token_id("<tool_call>"),),)


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "repeats"),
    [
        ("required", None, ["f", "g"], True),
        ("required", False, ["f", "g"], False),
        (NAMED_G, None, ["g"], False),
        (NAMED_G, False, ["g"], False),
    ],
)
def test_a_demanded_call_is_a_grammar(prepare, tokenizer, choice, parallel, names, repeats):
    text, engine = _prompt(prepare, tokenizer, tool_choice=choice, parallel_tool_calls=parallel)
    assert '"name": "f"' in text and '"name": "g"' in text
    grammar = engine.structured.text
    assert [name for name in ("f", "g") if f'\\"{name}\\"' in grammar] == names
    assert ("{0," in grammar) is repeats
    assert engine.post.requires_call and engine.post.has_tools


def test_one_call_at_most_ends_the_answer_by_its_text(prepare, tokenizer):
    _, engine = _prompt(prepare, tokenizer, parallel_tool_calls=False, single_response=False)
    assert engine.post.max_tool_calls == 1
    assert not engine.collect
    _, engine = _prompt(prepare, tokenizer, parallel_tool_calls=True, single_response=False)
    assert engine.post.max_tool_calls == 0
    assert engine.collect


STRICT = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}, TOOLS[1]]


def test_a_strict_function_makes_calls_obey_and_leaves_text_free(prepare, tokenizer):
    text, engine = _prompt(prepare, tokenizer, tools=STRICT)
    assert '"name": "f"' in text and '"name": "g"' in text
    assert engine.structured.kind == "lark" and "TEXT" in engine.structured.text
    assert engine.post.has_tools and not engine.post.requires_call
    # The blank line behind the thinking is the model's own and stays in the content.
    assert engine.post.prompt_opens_reasoning and engine.post.layout_newlines == 0
    assert engine.thinking.after_ids == ()
    assert "call)*" in engine.structured.text
    _, engine = _prompt(prepare, tokenizer, tools=STRICT, parallel_tool_calls=False)
    assert engine.post.max_tool_calls == 1 and "call)*" not in engine.structured.text


def test_strict_leaves_other_choices_as_they_are(prepare, tokenizer):
    assert _prompt(prepare, tokenizer, tools=STRICT, tool_choice="none")[1].structured is None
    for body in ({"tool_choice": "required"}, {"response_format": {"type": "json_object"}}):
        _, engine = _prompt(prepare, tokenizer, tools=STRICT, **body)
        assert "calls" in engine.structured.text and "TEXT" not in engine.structured.text
        assert engine.post.layout_newlines == 2
    _, engine = _prompt(prepare, tokenizer, tools=STRICT, guided_regex="a+")
    assert engine.structured.kind == "regex"


def test_a_strict_function_that_cannot_be_enforced_is_refused(refused):
    tool = {"name": "f", "parameters": {"type": "object", "not": {}}, "strict": True}
    error = refused(tools=[{"type": "function", "function": tool}])
    assert (error.code, error.param) == ("invalid_grammar", "tools")


def test_json_and_tools_leave_the_model_both_ways(prepare, tokenizer):
    _, engine = _prompt(prepare, tokenizer, response_format={"type": "json_object"})
    assert engine.structured.kind == "lark" and "otherwise" in engine.structured.text
    _, engine = _prompt(
        prepare, tokenizer, response_format={"type": "json_object"}, tool_choice="required"
    )
    assert "otherwise" not in engine.structured.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": "any", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": TOOLS, "guided_regex": "a"}, "tool_choice"),
        ({"tools": TOOLS * 65}, "tools"),
    ],
)
def test_bad_tool_choices_name_their_field(refused, body, param):
    assert refused(**body).param == param


# ---- thinking -----------------------------------------------------------------------------------


def test_a_hybrid_model_is_made_to_write_the_tag_alone(engine, tokenizer):
    thinking = engine(reasoning_max_tokens=9, max_tokens=50).thinking
    assert tokenizer.decode(thinking.close_ids, False) == "</think>"
    assert (thinking.after_ids, thinking.max_tokens) == ((), 9)
    assert thinking.replaced_ids == tokenizer.eos_token_ids
    assert engine().thinking.max_tokens is None


def test_a_constrained_answer_begins_behind_a_blank_line(engine, tokenizer):
    after = engine(guided_regex="a").thinking.after_ids
    assert tokenizer.decode(after, False) == "\n\n"


@pytest.mark.parametrize(
    ("reasoning_parser", "body", "close", "after"),
    [
        ("ernie-45-vl-thinking", {}, "\n</think>", "\n\n"),
        ("ernie-45-vl-thinking", {"guided_regex": "a"}, "\n</think>", "\n\n"),
        ("ernie-x1", {}, "\n</think>", "\n\n"),
        ("ernie-x1", {"guided_regex": "a"}, "\n</think>", "\n\n<response>\n"),
        ("ernie-x1", {"tools": TOOLS, "tool_choice": "required"}, "\n</think>", "\n\n"),
    ],
)
def test_thinking_models_close_it_on_a_line_of_its_own(
    make_preprocessor, text_folder, tokenizer, reasoning_parser, body, close, after
):
    folder = text_folder if reasoning_parser == "ernie-x1" else None
    preprocessor = make_preprocessor(
        folder, reasoning_parser=reasoning_parser, chat_template=reasoning_parser
    )
    request = as_request(messages=user("Hi"), **body)
    thinking = preprocessor.prepare(request, [], "id").engine.thinking
    assert tokenizer.decode(thinking.close_ids, False) == close
    assert tokenizer.decode(thinking.after_ids, False) == after


@pytest.mark.parametrize(
    ("body", "budget"),
    [
        ({"reasoning_effort": "minimal"}, 128),
        ({"reasoning_effort": "low", "max_tokens": 10000}, 1024),
        ({"reasoning_effort": "low", "max_tokens": 100}, 80),
        ({"reasoning_effort": "medium"}, 4096),
        ({"reasoning_effort": "high"}, None),
        ({"reasoning_effort": "low", "reasoning_max_tokens": 7}, 7),
        ({"metadata": {"reasoning_max_tokens": 8}}, 8),
        ({"reasoning_effort": "xhigh"}, None),
        ({"thinking_token_budget": 9}, 9),
        ({"thinking_token_budget": -1}, None),
        ({"thinking_token_budget": 9, "reasoning_max_tokens": 7}, 7),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            0,
        ),
    ],
)
def test_efforts_are_budgets(engine, body, budget):
    assert engine(**body).thinking.max_tokens == budget


def test_no_effort_switches_thinking_off(engine):
    request = engine(reasoning_effort="none", response_max_tokens=4)
    assert request.thinking is None and not request.post.prompt_opens_reasoning
    assert request.response_max_tokens == 4


def test_stop_tokens_of_the_client_and_ignored_eos_end_nothing_early(engine, tokenizer):
    (eos,) = tokenizer.eos_token_ids
    assert engine(stop_token_ids=[eos]).thinking.replaced_ids == ()
    assert engine(ignore_eos=True).thinking.replaced_ids == ()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reasoning_effort": "most"}, "reasoning_effort"),
        ({"reasoning_max_tokens": -1}, "reasoning_max_tokens"),
    ],
)
def test_bad_thinking_limits_name_their_field(refused, body, param):
    assert refused(**body).param == param


# ---- biases and bad words -----------------------------------------------------------------------


def test_biases_by_token_id(engine):
    request = engine(logit_bias={"5": -100, "7": 1.5})
    assert request.sampling.logit_bias == ((5, -100.0), (7, 1.5))


def test_bad_words_alone_and_behind_a_blank(engine, tokenizer):
    request = engine(bad_words=["hello world"], bad_words_token_ids=[9, [8, 7]])
    words = request.sampling.bad_words
    assert [tokenizer.decode(word) for word in words[:2]] == ["hello world", " hello world"]
    assert words[2:] == ((9,), (8, 7))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
        ({"logit_bias": {str(n): 0 for n in range(1025)}}, "logit_bias"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"bad_words": ["x" * 257]}, "bad_words"),
        ({"bad_words": ["x"] * 257}, "bad_words"),
        ({"bad_words_token_ids": [-1]}, "bad_words_token_ids"),
        ({"bad_words_token_ids": [[]]}, "bad_words_token_ids"),
        ({"bad_words_token_ids": [10**8]}, "bad_words_token_ids"),
    ],
)
def test_bad_biases_and_words_name_their_field(refused, body, param):
    assert refused(**body).param == param


def test_a_bias_of_no_token_is_refused_by_its_key(refused):
    message = refused(logit_bias={"1": 0, "99999999": 1}).message
    assert message.startswith("logit_bias has the key '99999999'; token ids are from 0 to ")


# ---- prompts that are not rendered --------------------------------------------------------------


def test_a_final_message_is_continued(prepare, tokenizer):
    messages = [*user("Hi"), {"role": "assistant", "content": "Once upon"}]
    prepared = prepare(messages=messages, continue_final_message=True)
    text = tokenizer.decode(prepared.prompt_ids.tolist(), False)
    assert text.endswith("Assistant: <think>\n\n</think>\n\nOnce upon")
    assert prepared.engine.thinking is None


def test_a_final_reasoning_is_continued(prepare, tokenizer):
    final = {"role": "assistant", "content": None, "reasoning_content": "Let me"}
    prepared = prepare(messages=[*user("Hi"), final], continue_final_message=True)
    assert tokenizer.decode(prepared.prompt_ids.tolist(), False).endswith("<think>Let me")
    assert prepared.engine.post.prompt_opens_reasoning
    final["content"] = "</think> is text here: yes"
    prepared = prepare(messages=[*user("Hi"), final], continue_final_message=True)
    text = tokenizer.decode(prepared.prompt_ids.tolist(), False)
    assert text.endswith("<think>Let me\n</think>\n\n</think> is text here: yes")
    ids = prepared.prompt_ids.tolist()
    assert ids.count(tokenizer.token_id("</think>")) == 1


@pytest.mark.parametrize(
    "messages",
    [
        user("Hi"),
        [{"role": "assistant", "content": "x"}],
        [*user("Hi"), {"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
    ],
)
def test_only_an_assistants_text_can_be_continued(refused, messages):
    error = refused(messages=messages, continue_final_message=True)
    assert error.param == "continue_final_message"


def test_no_generation_prompt_makes_no_sense_alone(refused):
    assert refused(add_generation_prompt=False).param == "add_generation_prompt"


def test_tokens_instead_of_a_rendered_chat(prepare, tokenizer):
    rendered = prepare(messages=user("Hi"))
    ids = rendered.prompt_ids.tolist()
    given = prepare(messages=user("ignored"), prompt_token_ids=ids)
    assert given.prompt_ids.tolist() == ids
    assert given.engine.post.prompt_opens_reasoning
    closed = prepare(messages=[], prompt_token_ids=[*ids, tokenizer.token_id("</think>")])
    assert not closed.engine.post.prompt_opens_reasoning
    assert prepare(prompt_token_ids=[5, 6]).prompt_ids.tolist() == [5, 6]


def test_tokens_with_placeholders_take_their_pictures_from_the_messages(prepare):
    messages = user("What?", picture("media:0"), picture("media:1"))
    media = [png(56, 84), png(112, 56, seed=1)]
    rendered = prepare(messages=messages, media=media)
    ids = rendered.prompt_ids.tolist()
    given = prepare(messages=messages, media=media, prompt_token_ids=ids)
    assert given.prompt_ids.tolist() == ids
    assert given.engine.media == rendered.engine.media
    assert (given.pixels == rendered.pixels).all()
    first = rendered.engine.media[0].offset
    for wrong in (ids[:first] + ids[first + 1 :], ids[: first - 1]):
        with pytest.raises(ErnieError) as caught:
            prepare(messages=messages, media=media, prompt_token_ids=wrong)
        assert caught.value.param == "prompt_token_ids"


def test_a_long_prompt_is_cut_from_the_left(prepare):
    cut = prepare(prompt=list(range(300, 320)), truncate_prompt_tokens=4)
    assert cut.prompt_ids.tolist() == [316, 317, 318, 319]
    assert cut.positions.tolist() == [[0, 1, 2, 3]] * 3
    with pytest.raises(ErnieError) as caught:
        prepare(prompt=[1, 2], truncate_prompt_tokens=0)
    assert caught.value.param == "truncate_prompt_tokens"


def test_a_constraint_crosses_the_wire(engine):
    request = engine(guided_choice=["a"])
    assert request.structured == StructuredSpec("choice", '["a"]', param="guided_choice")


# ---- prompts without, and behind, the template ---------------------------------------------------


def test_a_begun_answer_is_put_behind_the_prompt(prepare, tokenizer):
    plain = prepare(messages=user("Hi"))
    thought = tokenizer.encode_text("\nhm")
    begun = prepare(messages=user("Hi"), completion_token_ids=thought)
    assert begun.prompt_ids.tolist() == [*plain.prompt_ids.tolist(), *thought]
    assert begun.engine.post.prompt_opens_reasoning
    closed = [*thought, *tokenizer.encode_template("</think>"), *tokenizer.encode_text("\n\nHel")]
    answer = prepare(messages=user("Hi"), completion_token_ids=closed)
    assert answer.prompt_ids.tolist() == [*plain.prompt_ids.tolist(), *closed]
    assert not answer.engine.post.prompt_opens_reasoning
    given = plain.prompt_ids.tolist()
    both = prepare(messages=user("Hi"), prompt_token_ids=given, completion_token_ids=thought)
    assert both.prompt_ids.tolist() == [*given, *thought]


def test_without_a_template_the_message_is_the_prompt(prepare, tokenizer):
    prepared = prepare(
        messages=[{"role": "user", "content": "Once <think>"}], disable_chat_template=True
    )
    assert prepared.prompt_ids.tolist() == tokenizer.encode_text("Once <think>")
    assert not prepared.engine.post.prompt_opens_reasoning


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"completion_token_ids": [10**6]}, "completion_token_ids"),
        ({"messages": user("a") * 2, "disable_chat_template": True}, "disable_chat_template"),
        ({"messages": user("a"), "disable_chat_template": True}, "disable_chat_template"),
    ],
)
def test_bad_beginnings_name_their_field(refused, body, param):
    assert refused(**body).param == param
