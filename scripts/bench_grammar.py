"""What grammars cost with a vocabulary of ERNIE's size: compiling, masks, tokens.

    python scripts/bench_grammar.py [--model CHECKPOINT] [--tokens 300]

Without a checkpoint the vocabulary is made up: 103,424 tokens of the lengths that BPE gives. Times
are of one thread; every token of an answer costs one mask (beside the model) and one `consume` and
one `apply` (before the next step).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from backend.errors import InvalidRequestError
from backend.request import SamplingParams
from backend.sampler import Sampler, SamplingState, seed_key
from backend.structured import StructuredOutput
from backend.structured.vocabulary import Vocabulary
from backend.tokenizer import Tokenizer
from backend.wire import StructuredSpec

VOCAB_SIZE = 103_424
NUM_TEXTS = 100_000


class MadeUpVocabulary:
    """Bytes, then words of 1 to 9 letters, half of them behind a blank, a third of them Chinese."""

    eos_token_ids = (2,)

    def __init__(self) -> None:
        choose = np.random.default_rng(0)
        texts = {b"<unk>": None, b"<s>": None, b"</s>": None}
        texts |= dict.fromkeys(bytes([i]) for i in range(256))
        texts |= dict.fromkeys(s.encode() for s in ['{"', '"}', '": "', '", "', '":', "\n\n", "  "])
        letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
        weights = np.linspace(2, 0.1, 26)
        while len(texts) < NUM_TEXTS:
            if choose.random() < 0.33:
                word = "".join(map(chr, choose.integers(0x4E00, 0x9FA5, choose.integers(1, 4))))
            else:
                size = choose.integers(1, 10)
                word = "".join(choose.choice(letters, size, p=weights / weights.sum()))
            texts[(" " * int(choose.random() < 0.5) + word).encode()] = None
        self._texts = [*texts, *(b"<|unused%d|>" % i for i in range(VOCAB_SIZE - len(texts)))]

    def token_id(self, name: str) -> int | None:
        return None

    def id_to_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        return self._texts[token_id]

    def is_special(self, token_id: int) -> bool:
        return token_id < 3 or token_id >= NUM_TEXTS

    def encode_text(self, text: str) -> list[int]:
        return [3 + byte for byte in text.encode()]


def grammars() -> dict[str, StructuredSpec]:
    def schema(value: Any) -> StructuredSpec:
        return StructuredSpec("json_schema", json.dumps(value))

    person = {"name": {"type": "string"}, "age": {"type": "integer"}, "email": {"format": "email"}}
    many = {f"field_{i}": {"type": "string"} for i in range(500)}
    return {
        "any object": StructuredSpec("json_object"),
        "small object": schema({"type": "object", "properties": person, "required": list(person)}),
        "500 required": schema({"type": "object", "properties": many, "required": list(many)}),
        "enum of 5,000": schema({"enum": [f"v{i}" for i in range(5000)]}),
        "maxLength 1e6": schema({"type": "string", "maxLength": 1_000_000}),
        "letters of any script": StructuredSpec("regex", r"\p{L}{1,100}"),
        "5,000 choices": StructuredSpec("choice", json.dumps([f"c{i}" for i in range(5000)])),
        "free text, one tag": StructuredSpec(
            "structural_tag",
            json.dumps(
                {
                    "structures": [{"begin": "<f>", "schema": {"type": "object"}, "end": "</f>"}],
                    "triggers": ["<f"],
                }
            ),
        ),
    }


def measure(structured: StructuredOutput, spec: StructuredSpec, num_tokens: int) -> str:
    """One line: milliseconds to compile; microseconds of masks and of consuming, over an answer."""
    started = time.perf_counter()
    try:
        matcher = structured.compile(spec).result()
    except InvalidRequestError as error:
        return f"refused: {error.message}"
    compile_ms = 1e3 * (time.perf_counter() - started)
    choose = np.random.default_rng(0)
    masks, consumed = [], []
    while len(masks) < num_tokens and not matcher.is_complete:
        masks.append(1e6 * seconds(matcher.compute_mask))
        token_id = int(choose.choice(np.flatnonzero(matcher.allowed())))
        try:
            consumed.append(1e6 * seconds(lambda token_id=token_id: matcher.consume(token_id)))
        except InvalidRequestError:
            break
    return (
        f"{compile_ms:8.1f} ms |{np.median(masks):7.0f} {max(masks):8.0f} us |"
        f"{np.median(consumed):6.0f} {max(consumed):7.0f} us |{len(masks):5d}"
    )


def measure_sampling(num_ids: int) -> str:
    """What a mask adds to sampling one token, in microseconds."""

    class Everything:
        allowed_ids = np.ones(num_ids, dtype=np.bool_)

        def forced_token(self) -> None:
            return None

        def allowed(self) -> Any:
            return self.allowed_ids

        def admit(self, token_id: int) -> int:
            return token_id

    logits = np.random.default_rng(0).standard_normal((1, num_ids)).astype(np.float32)
    params = SamplingParams(temperature=0.8, top_p=0.8)
    times = []
    for control in (None, Everything()):
        state = SamplingState(params, seed_key(1), np.zeros(1, np.int32), [], control=control)
        runs = [seconds(lambda state=state: Sampler().sample(logits, [state])) for _ in range(50)]
        times.append(1e6 * float(np.median(runs)))
    return f"sampling a token: {times[0]:.0f} us, with a mask {times[1]:.0f} us"


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="take the vocabulary of this checkpoint")
    parser.add_argument("--tokens", type=int, default=300, help="longest answer")
    arguments = parser.parse_args()
    vocabulary: Vocabulary = MadeUpVocabulary()
    num_ids = VOCAB_SIZE
    if arguments.model:
        vocabulary = tokenizer = Tokenizer.load(arguments.model)
        num_ids = tokenizer.vocab_size
    started = time.perf_counter()
    structured = StructuredOutput(vocabulary, num_ids)
    print(f"{num_ids} tokens, tables built in {time.perf_counter() - started:.2f} s")
    print(f"{'':24}{'compile':>11} |{'mask median, max':>19} |{'consume':>17} |tokens")
    for name, spec in grammars().items():
        print(f"{name:24}{measure(structured, spec, arguments.tokens)}")
    print(measure_sampling(num_ids))
    structured.close()


if __name__ == "__main__":
    main()
