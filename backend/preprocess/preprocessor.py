"""The preprocessor: everything about a request that can be known before the model runs."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from backend import wire
from backend.chat_template import ChatTemplate, Family, RenderedPrompt, detect_family
from backend.config.model import load_model_config
from backend.config.serving import PreprocessorSettings
from backend.errors import ConfigError, ContextLengthError, InvalidRequestError
from backend.media.fetch import FetchPolicy
from backend.media.http import HttpPolicy
from backend.media.options import SERVER_FLAG, ProcessorOptions
from backend.media.timestamp import FONT_NAME, find_font
from backend.media.video import VideoLimits
from backend.preprocess.answer_format import answer_format
from backend.preprocess.bad_words import bad_words
from backend.preprocess.checkpoint import load_processor_options, load_sampling_defaults
from backend.preprocess.final_message import render_plain, render_unfinished
from backend.preprocess.media_loader import MediaLoader
from backend.preprocess.media_parts import collect_media, parse_limits
from backend.preprocess.prompt import (
    Prompt,
    check_no_placeholders,
    ends_in_reasoning,
    lay_out,
    split_at_placeholders,
    text_prompt,
)
from backend.preprocess.sampling import (
    check_token_ids,
    merge_metadata,
    sampling_params,
    stop_strings,
)
from backend.preprocess.thinking import LAYOUT, template_options, thinking_spec
from backend.preprocess.tool_policy import ToolPolicy, tool_policy
from backend.request import check_cache_salt, check_priority
from backend.structured import StructuredOutput
from backend.tokenizer import Tokenizer

MAX_DETOKENIZED = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedRequest:
    """`prompt_ids` int32 [n]; `positions` int32 [3, n] on the axes (time, height, width);
    `pixels` uint8 [rows, 588], read-only, rows as `engine.media` says; None without media.

    `engine.pixels`, `acknowledged` and `received_at` are left to whoever sends it.
    """

    engine: wire.EngineRequest
    prompt_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    pixels: NDArray[np.uint8] | None


class Preprocessor:
    """`prepare` may be called from several threads at once; `close` ends threads and processes.

    Raises on construction: ConfigError naming the flag, CheckpointError naming the file.
    """

    def __init__(self, settings: PreprocessorSettings) -> None:
        folder = settings.model
        self._limits = parse_limits(settings.limit_mm_per_prompt)
        self._config = load_model_config(folder)
        # The engine may allow less, where memory is short; it says so itself then.
        self._max_model_len = settings.max_model_len or self._config.max_position_embeddings
        self._defaults = load_sampling_defaults(folder)
        vision = self._config.vision
        options = load_processor_options(folder, vision) if vision else ProcessorOptions()
        self._options = options.override(settings.mm_processor_kwargs, SERVER_FLAG, ConfigError)
        self._loader = _make_loader(settings, _font(folder) if vision else "")
        self._tokenizer = Tokenizer.load(folder)
        self._template = ChatTemplate.load(
            folder,
            self._tokenizer,
            self._config.is_multimodal,
            settings.chat_template,
            settings.reasoning_parser,
        )
        self._family = detect_family(folder, self._config.is_multimodal, settings.reasoning_parser)
        self._structured = StructuredOutput(
            self._tokenizer, min(self._tokenizer.vocab_size, self._config.vocab_size)
        )
        ids = (self._tokenizer.token_id(name) for name in self._template.stop_tokens)
        self._template_stop_ids = tuple(token_id for token_id in ids if token_id is not None)

    def close(self) -> None:
        self._loader.close()
        self._template.close()
        self._structured.close()

    def prepare(
        self, request: wire.GenerateRequest, media: Sequence[bytes], request_id: str
    ) -> PreparedRequest:
        """Check, fetch, render, tokenize. `media`: what `media:N` URLs refer to.

        Raises InvalidRequestError and its kin, naming the field, the value and the limit.
        """
        start = time.monotonic()
        if request.messages is None and request.prompt is None and request.prompt_token_ids:
            request = msgspec.structs.replace(request, prompt=request.prompt_token_ids)
        if (request.messages is None) == (request.prompt is None):
            found = "neither" if request.messages is None else "both"
            raise InvalidRequestError(
                f"the request must have messages or prompt, and not both; it has {found}",
                param="messages",
                code="missing_required_parameter" if found == "neither" else None,
            )
        request = merge_metadata(request)
        is_chat = request.messages is not None
        # All that is cheap to refuse is refused before media are fetched.
        policy = self._policy(request)
        words = bad_words(request, self._tokenizer, self._config.vocab_size)
        stop_ids = self._template_stop_ids if is_chat else ()
        sampling = sampling_params(
            request,
            self._defaults,
            self._config.vocab_size,
            stop_ids,
            [*words, *((token_id,) for token_id in policy.banned_ids)],
        )
        stop = stop_strings(request)
        if request.priority is not None:
            check_priority(request.priority)
        if request.cache_salt is not None:
            check_cache_salt(request.cache_salt)
        opens_reasoning, echo_text = False, ""
        reports: tuple[wire.MediaReport, ...] = ()
        if request.messages is not None:
            prompt, opens_reasoning, reports = self._chat(
                request.messages, request, policy.tools, media
            )
        else:
            prompt, echo_text = self._completion(request)
        prompt = self._truncate(prompt, request.truncate_prompt_tokens)
        if request.op == "generate":
            param = "messages" if is_chat else "prompt"
            self._check_length(len(prompt.ids), sampling.min_tokens, param)
        thinking = None
        if opens_reasoning:
            thinking = thinking_spec(
                request,
                sampling,
                self._tokenizer,
                self._family,
                self._layout(policy),
                (*self._tokenizer.eos_token_ids, *stop_ids),
            )
        post = wire.PostprocessSpec(
            stream=request.stream,
            parse_output=is_chat,
            prompt_opens_reasoning=opens_reasoning,
            has_tools=policy.may_call,
            requires_call=policy.must_call,
            max_tool_calls=policy.max_calls,
            layout_newlines=len(LAYOUT) if opens_reasoning and self._layout(policy) else 0,
            stop=stop,
            include_stop_str_in_output=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            return_token_ids=request.return_token_ids,
            prompt_token_ids=tuple(prompt.ids.tolist()) if request.return_token_ids else None,
            echo_text=echo_text,
            report=wire.PreparationReport(round(time.monotonic() - start, 6), reports),
        )
        # What ends an answer by its text is found by the postprocessor, token by token.
        ends_by_text = bool(stop) or policy.max_calls > 0
        engine = wire.EngineRequest(
            stream_key=uuid.uuid4().hex,
            request_id=request_id,
            collect=not request.stream and (request.single_response or not ends_by_text),
            sampling=sampling,
            structured=policy.structured,
            thinking=thinking,
            response_max_tokens=request.response_max_tokens,
            priority=request.priority or 0,
            cache_salt=request.cache_salt or "",
            media=prompt.spans,
            post=post,
        )
        return PreparedRequest(engine, prompt.ids, prompt.positions, prompt.pixels)

    def detokenize(self, request: wire.GenerateRequest) -> str:
        """The text of `prompt`, token ids. Raises InvalidRequestError naming the field."""
        token_ids = request.prompt
        if not isinstance(token_ids, list) or len(token_ids) > MAX_DETOKENIZED:
            raise InvalidRequestError(
                f"detokenize needs at most {MAX_DETOKENIZED} token ids", param="tokens"
            )
        check_token_ids(token_ids, self._tokenizer.vocab_size, "tokens")
        return self._tokenizer.decode(token_ids, request.skip_special_tokens)

    def _policy(self, request: wire.GenerateRequest) -> ToolPolicy:
        """Tools and constraint of the answer, which is known to compile."""
        answer = answer_format(request)
        if request.messages is None:
            policy = ToolPolicy(None, answer)
        else:
            policy = tool_policy(request, answer, self._structured.special_token_id)
        if policy.structured is not None:
            self._structured.check(policy.structured)
        return policy

    def _layout(self, policy: ToolPolicy) -> str:
        """What stands between `</think>` and the grammar; "" where the model writes it itself."""
        if policy.structured is None or policy.is_free:
            return ""
        is_response = self._family is Family.X1 and not policy.may_call
        return LAYOUT + "<response>\n" if is_response else LAYOUT

    def _chat(
        self,
        messages: Sequence[wire.Message],
        request: wire.GenerateRequest,
        tools: Sequence[wire.Tool] | None,
        media: Sequence[bytes],
    ) -> tuple[Prompt, bool, tuple[wire.MediaReport, ...]]:
        """(prompt, whether it opens reasoning, what its media took)"""
        options = self._options.override(request.mm_processor_kwargs or {}, "mm_processor_kwargs")
        sources = collect_media(messages, options, self._limits)
        given = request.prompt_token_ids
        if given:
            check_token_ids(given, self._config.vocab_size, "prompt_token_ids")
            pieces = split_at_placeholders(given, [s.kind for s in sources], self._config)
            opens_reasoning = ends_in_reasoning(given, self._tokenizer)
        else:
            rendered = self._render(messages, request, tools)
            pieces = rendered.tokenize(self._tokenizer)
            opens_reasoning = rendered.opens_reasoning
        if begun := request.completion_token_ids:
            check_token_ids(begun, self._config.vocab_size, "completion_token_ids")
            pieces = [*pieces, begun]
            opens_reasoning = opens_reasoning and not self._closes_reasoning(begun)
        num_text_tokens = sum(len(piece) for piece in pieces if isinstance(piece, list))
        if request.truncate_prompt_tokens is None and request.op == "generate":
            self._check_length(num_text_tokens + len(sources), 0, "messages")
        loaded = self._loader.load(sources, media) if sources else []
        prompt = lay_out(pieces, [one.item for one in loaded], self._config)
        if given and len(prompt.ids) != len(given) + len(begun or ()):
            raise InvalidRequestError(
                f"prompt_token_ids has {len(given)} tokens; with the placeholders that the media "
                f"need it would have {len(prompt.ids)}",
                param="prompt_token_ids",
            )
        return prompt, opens_reasoning, tuple(one.report for one in loaded)

    def _render(
        self,
        messages: Sequence[wire.Message],
        request: wire.GenerateRequest,
        tools: Sequence[wire.Tool] | None,
    ) -> RenderedPrompt:
        options = template_options(request)
        if request.disable_chat_template:
            return render_plain(messages)
        if request.continue_final_message:
            return render_unfinished(
                messages,
                lambda before, thinking: self._template.render(
                    before, tools, {"enable_thinking": thinking}
                ),
            )
        if not request.add_generation_prompt:
            raise InvalidRequestError(
                "add_generation_prompt can be false only with continue_final_message",
                param="add_generation_prompt",
            )
        return self._template.render(messages, tools, options, request.metadata)

    def _closes_reasoning(self, token_ids: Sequence[int]) -> bool:
        return "</think>" in self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def _truncate(self, prompt: Prompt, num_tokens: int | None) -> Prompt:
        """The last `num_tokens` of a prompt of text; -1 for as many as leave room for one token."""
        if num_tokens is None:
            return prompt
        if num_tokens == -1:
            num_tokens = self._max_model_len - 1
        if num_tokens < 1 or prompt.spans:
            what = "the prompt holds media" if prompt.spans else "expected -1 or at least 1"
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {num_tokens}: {what}", param="truncate_prompt_tokens"
            )
        return prompt if len(prompt.ids) <= num_tokens else text_prompt(prompt.ids[-num_tokens:])

    def _completion(self, request: wire.GenerateRequest) -> tuple[Prompt, str]:
        """(prompt, its text if it is to be echoed)"""
        given = request.prompt
        if isinstance(given, str):
            token_ids = self._tokenizer.encode_text(given)
        else:
            token_ids = given or []
            check_token_ids(token_ids, self._config.vocab_size, "prompt")
            check_no_placeholders(token_ids, self._config)
        if not token_ids:
            raise InvalidRequestError("prompt is empty", param="prompt")
        text = ""
        if request.echo:
            text = given if isinstance(given, str) else self._tokenizer.decode(token_ids)
        return text_prompt(token_ids), text

    def _check_length(self, num_tokens: int, min_tokens: int, param: str) -> None:
        if not num_tokens:
            raise InvalidRequestError("the prompt is empty", param=param)
        limit = self._max_model_len
        needed = num_tokens + max(1, min_tokens)
        if limit < needed:
            wish = f" with min_tokens {min_tokens}" if min_tokens > 1 else ""
            raise ContextLengthError(
                f"the prompt has {num_tokens} tokens{wish}; the model's context of {limit} tokens "
                f"must hold the prompt and at least {max(1, min_tokens)} generated",
                param=param,
            )


def _make_loader(settings: PreprocessorSettings, font: str) -> MediaLoader:
    allowed = settings.allowed_local_media_path
    if allowed and not Path(allowed).is_dir():
        raise ConfigError(f"--allowed-local-media-path is {allowed!r}, which is no folder")
    http = HttpPolicy(settings.media_timeout_s, settings.allow_private_media_hosts)
    policy = FetchPolicy(settings.max_image_bytes, settings.max_video_bytes, allowed, http)
    limits = VideoLimits(settings.max_image_pixels, settings.max_video_frames)
    return MediaLoader(
        policy,
        limits,
        max(1, settings.preprocess_threads),
        font,
        cache_bytes=int(settings.media_cache_gib * 2**30),
    )


def _font(folder: Path) -> str:
    path = find_font(folder)
    if not path:
        log.warning(
            "%s is neither in %s nor in the system's font folders: the times written into video "
            "frames differ a little from those of training",
            FONT_NAME,
            folder,
        )
    return path
