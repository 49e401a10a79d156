"""The preprocessor: everything about a request that can be known before the model runs."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend import wire
from backend.chat_template import ChatTemplate
from backend.config.model import load_model_config
from backend.config.serving import PreprocessorSettings
from backend.errors import ConfigError, ContextLengthError, InvalidRequestError
from backend.media.fetch import FetchPolicy
from backend.media.http import HttpPolicy
from backend.media.options import SERVER_FLAG, ProcessorOptions
from backend.media.timestamp import FONT_NAME, find_font
from backend.media.video import VideoLimits
from backend.preprocess.checkpoint import load_processor_options, load_sampling_defaults
from backend.preprocess.media_loader import MediaLoader
from backend.preprocess.media_parts import collect_media, parse_limits
from backend.preprocess.prompt import Prompt, check_no_placeholders, lay_out, text_prompt
from backend.preprocess.sampling import (
    check_token_ids,
    merge_metadata,
    sampling_params,
    stop_strings,
)
from backend.tokenizer import Tokenizer

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
        self._max_model_len = settings.max_model_len
        self._limits = parse_limits(settings.limit_mm_per_prompt)
        self._config = load_model_config(folder)
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
        ids = (self._tokenizer.token_id(name) for name in self._template.stop_tokens)
        self._template_stop_ids = tuple(token_id for token_id in ids if token_id is not None)

    def close(self) -> None:
        self._loader.close()
        self._template.close()

    def prepare(
        self, request: wire.GenerateRequest, media: Sequence[bytes], request_id: str
    ) -> PreparedRequest:
        """Check, fetch, render, tokenize. `media`: what `media:N` URLs refer to.

        Raises InvalidRequestError and its kin, naming the field, the value and the limit.
        """
        if (request.messages is None) == (request.prompt is None):
            found = "neither" if request.messages is None else "both"
            raise InvalidRequestError(
                f"the request must have messages or prompt, and not both; it has {found}",
                param="messages",
                code="missing_required_parameter" if found == "neither" else None,
            )
        request = merge_metadata(request)
        # All that is cheap to refuse is refused before media are fetched.
        sampling = sampling_params(
            request,
            self._defaults,
            self._config.vocab_size,
            self._template_stop_ids if request.messages is not None else (),
        )
        stop = stop_strings(request)
        opens_reasoning, echo_text = False, ""
        if request.messages is not None:
            prompt, opens_reasoning = self._chat(request.messages, request, media)
        else:
            prompt, echo_text = self._completion(request)
        self._check_length(len(prompt.ids), sampling.min_tokens)
        post = wire.PostprocessSpec(
            stream=request.stream,
            parse_output=request.messages is not None,
            prompt_opens_reasoning=opens_reasoning,
            has_tools=bool(request.tools),
            stop=stop,
            include_stop_str_in_output=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            return_token_ids=request.return_token_ids,
            prompt_token_ids=tuple(prompt.ids.tolist()) if request.return_token_ids else None,
            echo_text=echo_text,
        )
        engine = wire.EngineRequest(
            stream_key=uuid.uuid4().hex,
            request_id=request_id,
            # With stop strings the postprocessor must see tokens as they come, to end them early.
            collect=not request.stream and (request.single_response or not stop),
            sampling=sampling,
            media=prompt.spans,
            post=post,
        )
        return PreparedRequest(engine, prompt.ids, prompt.positions, prompt.pixels)

    def _chat(
        self,
        messages: Sequence[wire.Message],
        request: wire.GenerateRequest,
        media: Sequence[bytes],
    ) -> tuple[Prompt, bool]:
        """(prompt, whether it opens reasoning)"""
        options = self._options.override(request.mm_processor_kwargs or {}, "mm_processor_kwargs")
        sources = collect_media(messages, options, self._limits)
        rendered = self._template.render(
            messages, request.tools, request.chat_template_kwargs, request.metadata
        )
        pieces = rendered.tokenize(self._tokenizer)
        num_text_tokens = sum(len(piece) for piece in pieces if isinstance(piece, list))
        self._check_length(num_text_tokens + len(sources), 0)
        items = self._loader.load(sources, media) if sources else []
        return lay_out(pieces, items, self._config), rendered.opens_reasoning

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

    def _check_length(self, num_tokens: int, min_tokens: int) -> None:
        limit = self._max_model_len
        needed = num_tokens + max(1, min_tokens)
        if 0 < limit < needed:
            wish = f" with min_tokens {min_tokens}" if min_tokens > 1 else ""
            raise ContextLengthError(
                f"the prompt has {num_tokens} tokens{wish}; the model's context of {limit} tokens "
                f"must hold the prompt and at least {max(1, min_tokens)} generated",
                param="messages",
            )


def _make_loader(settings: PreprocessorSettings, font: str) -> MediaLoader:
    allowed = settings.allowed_local_media_path
    if allowed and not Path(allowed).is_dir():
        raise ConfigError(f"--allowed-local-media-path is {allowed!r}, which is no folder")
    http = HttpPolicy(settings.media_timeout_s, settings.allow_private_media_hosts)
    policy = FetchPolicy(settings.max_image_bytes, settings.max_video_bytes, allowed, http)
    limits = VideoLimits(settings.max_image_pixels, settings.max_video_frames)
    return MediaLoader(policy, limits, max(1, settings.preprocess_threads), font)


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
