import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InvalidRequestError
from backend.structured import OutputControl, ThinkingSection
from backend.wire import StructuredSpec, ThinkingSpec

EOS = 2
END, LINE, THINK = 3, 4, 5
PIECES = {6: b"</th", 7: b"ink>", 8: b"ink>\n\nyes", 9: b"a", 10: b"b"}
TEXTS = {EOS: b"</s>", END: b"</think>", LINE: b"\n", THINK: b"x", **PIECES}


def section(budget=3, close=(END,), after=(), replaced=(EOS,), is_constrained=False):
    spec = ThinkingSpec(close, None, after, replaced)
    return ThinkingSection(spec, budget, TEXTS.__getitem__, is_constrained)


def write(thinking, wishes):
    """What comes of a model that wishes for these tokens, in turn."""
    tokens = []
    for wish in wishes:
        token_id = thinking.forced_token()
        if token_id is None:
            token_id = thinking.admit(wish)
        thinking.commit(token_id)
        tokens.append(token_id)
    return tokens


@pytest.mark.parametrize("budget", [0, 1, 2, 7])
def test_exactly_the_budget_is_thought_and_then_the_section_is_closed(budget):
    thinking = section(budget, close=(LINE, END), after=(LINE, LINE))
    tokens = write(thinking, [THINK] * (budget + 6))
    assert tokens == [*[THINK] * budget, LINE, END, LINE, LINE, THINK, THINK]
    assert thinking.num_tokens == budget
    assert not thinking.is_open


def test_a_section_that_the_model_closes_is_left_alone():
    thinking = section(budget=3, after=(LINE,))
    assert write(thinking, [THINK, END, THINK, EOS]) == [THINK, END, THINK, EOS]


def test_the_last_token_of_the_budget_may_close_the_section():
    thinking = section(budget=2)
    assert write(thinking, [THINK, END, THINK]) == [THINK, END, THINK]


def test_a_constrained_answer_gets_its_blank_line_written():
    thinking = section(after=(LINE, LINE), is_constrained=True)
    assert write(thinking, [THINK, END, THINK, THINK, THINK]) == [THINK, END, LINE, LINE, THINK]


def test_an_end_that_comes_too_early_closes_the_section_instead():
    thinking = section(close=(LINE, END), after=(LINE,))
    assert write(thinking, [THINK, EOS, 9, 9, 9, EOS]) == [THINK, LINE, END, LINE, 9, EOS]


def test_the_tag_may_come_in_pieces_with_text_behind_it():
    thinking = section(budget=10, is_constrained=True, after=(LINE,))
    assert write(thinking, [6, 8, THINK]) == [6, 8, THINK]
    assert (thinking.is_open, thinking.rest) == (False, b"\n\nyes")


def test_a_budget_that_ends_inside_the_tag_still_closes_it_once():
    thinking = section(budget=1)
    assert write(thinking, [6, 7, 9]) == [6, END, 9]


def test_close_ids_must_close():
    with pytest.raises(InvalidRequestError, match="close_ids"):
        section(close=(LINE,))


def test_the_grammar_begins_behind_the_section(structured, tokenizer):
    end, line = tokenizer.token_id("</think>"), tokenizer.encode_text("\n")[0]
    spec = ThinkingSpec((end,), None, (line, line))
    thinking = ThinkingSection(spec, 2, tokenizer.id_to_bytes, is_constrained=True)
    control = OutputControl(thinking, stop_ids=(EOS,))
    control.attach(structured.compile(StructuredSpec("regex", "ab?")).result())
    word = tokenizer.encode_text("z")[-1]
    for _ in range(2):
        assert (control.forced_token(), control.allowed()) == (None, None)
        control.commit(word)
    for expected in (end, line, line):
        assert control.forced_token() == expected
        assert control.allowed() is None or expected == line
        control.commit(expected)
    assert control.forced_token() is None
    assert not control.allowed()[[word, EOS, end]].any()
    control.commit(tokenizer.encode_text("a")[-1])
    structured.start_masks([control.take_maskless()])
    assert control.allowed()[EOS] and not control.is_complete
    control.commit(tokenizer.encode_text("b")[-1])
    assert control.is_complete and control.take_maskless() is None


def test_text_behind_the_tag_counts_for_the_grammar(structured, tokenizer):
    texts = {**TEXTS, END: b"</think>"}
    thinking = ThinkingSection(ThinkingSpec((END,)), 9, texts.__getitem__, is_constrained=True)
    control = OutputControl(thinking)
    control.attach(structured.compile(StructuredSpec("regex", "yes!")).result())
    control.commit(6)
    control.commit(8)
    structured.start_masks([control.take_maskless()])
    allowed = control.allowed().nonzero()[0].tolist()
    assert {tokenizer.id_to_bytes(token_id) for token_id in allowed} == {b"!"}


def test_end_tokens_that_the_logits_do_not_cover_are_neither_banned_nor_allowed(
    structured, tokenizer
):
    """As generation_config.json may name one that the tokenizer does not have."""
    unknown = structured.num_token_ids + 5
    for stop_ids, may_end in (((), False), ((EOS, unknown), True)):
        control = OutputControl(stop_ids=stop_ids, eos_token_ids=(EOS, unknown))
        control.attach(structured.compile(StructuredSpec("regex", "ab?")).result())
        control.commit(tokenizer.encode_text("a")[-1])
        structured.start_masks([control.take_maskless()])
        assert bool(control.allowed()[EOS]) is may_end


def test_the_answer_is_counted_from_behind_the_section():
    thinking = section(budget=9)
    control = OutputControl(thinking, response_max_tokens=2)
    for token_id, is_full in ((THINK, False), (END, False), (9, False), (10, True)):
        control.commit(token_id)
        assert control.is_full is is_full


@given(
    budget=st.integers(0, 6),
    close=st.sampled_from([(END,), (LINE, END), (6, 7)]),
    after=st.sampled_from([(), (LINE,)]),
    replaced=st.sampled_from([(), (EOS,)]),
    is_constrained=st.booleans(),
    past=st.lists(st.sampled_from(sorted(TEXTS)), max_size=12),
)
def test_running_ahead_needs_what_holds_after_every_next_token(
    budget, close, after, replaced, is_constrained, past
):
    """Asked before a token is known, for the one behind it; a replaced token takes it back."""

    def begin():
        thinking = section(budget, close, after, replaced, is_constrained)
        write(thinking, past)
        return thinking

    if not begin().may_run_ahead:
        return
    for token_id in TEXTS:
        thinking = begin()
        assert thinking.forced_token() is None
        if thinking.admit(token_id) == token_id:
            thinking.commit(token_id)
            assert thinking.forced_token() is None


def test_a_free_answer_runs_ahead_from_its_first_thought_until_the_budget_is_near():
    thinking = section(budget=4, close=(LINE, END), after=(LINE,))
    ahead = []
    for _ in range(9):
        ahead.append(thinking.may_run_ahead)
        write(thinking, [THINK])
    assert ahead == [True, True, True, False, False, False, False, True, True]


def test_a_grammar_never_runs_ahead(structured):
    assert OutputControl(response_max_tokens=5).may_run_ahead
    assert OutputControl(section(budget=9)).may_run_ahead
    assert not OutputControl(section(budget=9, is_constrained=True)).may_run_ahead
    control = OutputControl()
    control.attach(structured.compile(StructuredSpec("regex", "ab?")).result())
    assert not control.may_run_ahead
