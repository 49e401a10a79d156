"""Text ↔ token ids, from the files of a checkpoint folder.

Owns the rule that user text never yields a control token. Knows nothing of chat templates, media
or parsers.
"""

from backend.tokenizer.detokenizer import IncrementalDetokenizer
from backend.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer"]
