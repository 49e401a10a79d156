import numpy as np
import pytest

from backend.structured import StructuredOutput
from backend.tokenizer import Tokenizer
from tests.unit.tokenizer.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def structured(tokenizer):
    output = StructuredOutput(tokenizer, tokenizer.vocab_size)
    yield output
    output.close()


@pytest.fixture
def write(structured, tokenizer):
    """write(spec, seed): a random answer that follows the grammar, and whether it has ended."""

    def _write(spec, seed=0, max_tokens=400):
        matcher = structured.compile(spec).result()
        choose = np.random.default_rng(seed)
        ids = []
        while not matcher.is_complete and len(ids) < max_tokens:
            allowed = np.flatnonzero(matcher.allowed())
            token_id = int(choose.choice(allowed))
            if token_id in tokenizer.eos_token_ids:
                assert matcher.is_accepting
                return tokenizer.decode(ids, False), True
            ids.append(token_id)
            matcher.consume(token_id)
            structured.start_masks([matcher])
        return tokenizer.decode(ids, False), matcher.is_complete

    return _write
