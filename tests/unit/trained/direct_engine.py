"""Preprocessor and engine of the shipped checkpoint in this process: no Triton, no HTTP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from backend import wire
from backend.config.serving import EngineSettings, PreprocessorSettings
from backend.engine.core import EngineCore
from backend.preprocess import Preprocessor
from backend.tokenizer import Tokenizer
from scripts.train_tiny.asking import request_body
from scripts.train_tiny.judging import Case, Reply
from scripts.train_tiny.processing import CHECKPOINT


class DirectEngine:
    def __init__(self) -> None:
        self._preprocessor = Preprocessor(PreprocessorSettings(CHECKPOINT))
        self.core = EngineCore.from_settings(
            EngineSettings(CHECKPOINT, kv_cache_gib=0.05, threads=1, max_num_batched_tokens=512)
        )
        self._tokenizer = Tokenizer.load(CHECKPOINT)

    def close(self) -> None:
        self._preprocessor.close()

    def replies(self, cases: Sequence[Case]) -> list[Reply]:
        """Greedy answers, all cases in the engine at once."""
        texts = self.texts([request_body(case.sample) for case in cases])
        return [
            Reply.of_text(text, case.sample.thinking)
            for case, text in zip(cases, texts, strict=True)
        ]

    def texts(self, bodies: Sequence[dict[str, Any]]) -> list[str]:
        """All that the model writes in reply to each chat request."""
        token_ids: dict[str, list[int]] = defaultdict(list)
        keys = []
        for body in bodies:
            request = wire.decode(msgspec.json.encode(body), wire.GenerateRequest)
            prepared = self._preprocessor.prepare(request, (), f"request-{len(keys)}")
            self.core.add(prepared.engine, prepared.prompt_ids, prepared.positions, prepared.pixels)
            keys.append(prepared.engine.stream_key)
        while self.core.has_work():
            for output in self.core.step():
                assert output.error is None, output.error
                token_ids[output.stream_key] += output.token_ids
        self.core.check_integrity()
        return [self._tokenizer.decode(token_ids[key]) for key in keys]
