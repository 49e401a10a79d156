"""The tokenizer of ERNIE-4.5: a SentencePiece BPE model plus added tokens with fixed ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from backend.errors import CheckpointError
from backend.tokenizer.files import TokenizerFiles, read_tokenizer_files
from backend.tokenizer.names import carries_answer, looks_like_control
from backend.tokenizer.splitter import TokenSplitter

_SPACE = "\u2581"


class Tokenizer:
    """Immutable after loading; safe to use from several threads.

    A token is *special* when user text must never yield it: SentencePiece's control pieces, every
    added or user-defined token whose name has the form of a tag (`<…>`), and what the files flag.
    Special tokens are *hidden* in decoded text unless they carry a part of the answer (`<think>`,
    `<tool_call>`, table tags, `<|LOC_n|>`): parsers and readers need those.
    `role_tokens`: names by the keys that chat templates use ("eos_token").
    """

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, files: TokenizerFiles
    ) -> None:
        self._processor = processor
        num_pieces = processor.get_piece_size()
        names = [processor.id_to_piece(i) for i in range(num_pieces)]
        texts = [
            bytes([int(name[3:5], 16)])
            if processor.is_byte(i)
            else name.replace(_SPACE, " ").encode()
            for i, name in enumerate(names)
        ]
        self.vocab_size: int = max([num_pieces, *(i + 1 for i in files.added.values())])
        texts += [b""] * (self.vocab_size - num_pieces)

        # Pieces that the SentencePiece model itself treats as more than text.
        self._ids = {
            name: i
            for i, name in enumerate(names)
            if processor.is_control(i)
            or processor.is_unknown(i)
            or (not processor.is_byte(i) and (name in files.flagged or looks_like_control(name)))
        }
        for name, i in files.added.items():
            self._ids[name] = i
            texts[i] = name.encode()

        role_names = set(files.roles.values())
        special: set[int] = set()
        hidden: set[int] = set()
        for name, i in self._ids.items():
            is_piece_control = i < num_pieces and (
                processor.is_control(i) or processor.is_unknown(i)
            )
            if is_piece_control or name in files.flagged or looks_like_control(name):
                special.add(i)
                if is_piece_control or name in role_names or not carries_answer(name):
                    hidden.add(i)
        self._special = frozenset(special)
        self._all_texts = texts
        self._shown_texts = [b"" if i in hidden else text for i, text in enumerate(texts)]

        # A vocabulary without byte pieces has no other way to say "a character I do not know".
        self._forbidden = self._special
        if not any(processor.is_byte(i) for i in range(num_pieces)):
            self._forbidden = self._special - {processor.unk_id()}
        plain = {n: i for n, i in files.added.items() if i not in self._special}
        self._plain_splitter = TokenSplitter(plain)
        self._template_splitter = TokenSplitter(self._ids)
        self.role_tokens: dict[str, str] = {
            f"{role}_token": name for role, name in files.roles.items()
        }
        self._set_roles(files)

    def _set_roles(self, files: TokenizerFiles) -> None:
        processor = self._processor
        fallbacks = {"bos": processor.bos_id(), "eos": processor.eos_id(), "pad": 0}
        ids: dict[str, int] = {}
        for role, fallback in fallbacks.items():
            name = files.roles.get(role)
            known = None if name is None else self.token_id(name)
            if name is not None and known is None:
                raise CheckpointError(
                    f"{files.model.parent}: {role}_token {name!r} is not in the vocabulary"
                )
            ids[role] = fallback if known is None else known
        if ids["eos"] < 0:
            raise CheckpointError(f"{files.model.parent}: the tokenizer names no eos_token")
        self.bos_token_id: int = ids["bos"]
        self.eos_token_id: int = ids["eos"]
        self.pad_token_id: int = ids["pad"]
        self.eos_token_ids: tuple[int, ...] = tuple(
            dict.fromkeys([self.eos_token_id, *files.eos_token_ids])
        )

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder. Raises CheckpointError naming the file."""
        files = read_tokenizer_files(folder)
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(files.model.read_bytes())
        except (RuntimeError, OSError):
            raise CheckpointError(f"{files.model} is not a SentencePiece model") from None
        return cls(processor, files)

    def token_id(self, name: str) -> int | None:
        """Id of an added or control token by its name; None when the vocabulary lacks it."""
        return self._ids.get(name)

    def is_special(self, token_id: int) -> bool:
        """True for tokens that `encode_text` never yields."""
        return token_id in self._special

    def encode_text(self, text: str) -> list[int]:
        """Tokens of user text. Whatever it says, no token with `is_special` is among them.

        Added tokens that are ordinary text (digits) are recognised.
        """
        ids: list[int] = []
        for part in self._plain_splitter.split(_without_surrogates(text)):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_plain(part)
        return ids

    def encode_template(self, text: str) -> list[int]:
        """Tokens of trusted template text: names of special tokens become those tokens."""
        return self.encode_parts([(text, True)])

    def encode_parts(self, parts: Iterable[tuple[str, bool]]) -> list[int]:
        """Tokens of a text put together from (text, is trusted) parts.

        Special tokens are recognised within one trusted part only. Between two of them all text is
        encoded as a whole, so that `User: ` and the user's `Hi` merge to the same pieces as in
        training.
        """
        ids: list[int] = []
        plain: list[str] = []
        for text, is_trusted in parts:
            for part in self._template_splitter.split(text) if is_trusted else (text,):
                if isinstance(part, str):
                    plain.append(part)
                    continue
                ids += self.encode_text("".join(plain))
                plain.clear()
                ids.append(part)
        return ids + self.encode_text("".join(plain))

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        if self._forbidden.isdisjoint(ids):
            return ids
        # The model has a special token as a user-defined piece. Single characters cannot form it.
        return [
            i for char in text for i in self._processor.encode(char) if i not in self._forbidden
        ]

    def id_to_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        """The bytes a token adds to the text; b"" for ids outside the vocabulary.

        With `skip_special_tokens`, b"" for special tokens that carry no part of the answer.
        """
        texts = self._shown_texts if skip_special_tokens else self._all_texts
        return texts[token_id] if 0 <= token_id < len(texts) else b""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `token_ids`; bytes that are no UTF-8 become U+FFFD."""
        data = b"".join(self.id_to_bytes(i, skip_special_tokens) for i in token_ids)
        return data.decode("utf-8", "replace")


def _without_surrogates(text: str) -> str:
    """SentencePiece takes UTF-8 only; half a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
