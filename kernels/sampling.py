"""Layouts of what `kernels.sample` reads and writes, as NumPy dtypes (include/ernie/sampling.h)."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_TOP_LOGPROBS = 20

ROW = np.dtype(
    [
        ("temperature", "<f4"),  # 0: greedy
        ("top_p", "<f4"),  # 1: off
        ("min_p", "<f4"),  # 0: off
        ("repetition", "<f4"),  # 1: off
        ("frequency", "<f4"),  # 0: off
        ("presence", "<f4"),  # 0: off
        ("top_k", "<i4"),  # 0: off
        ("mask_row", "<i4"),  # -1: everything is allowed
        ("seat", "<i4"),  # -1: none
        ("num_top", "<i4"),  # -1: no log-probabilities
        ("key", "<u8", (2,)),
        ("position", "<i4"),  # negative: a padding row
        ("place", "<i4"),  # of the result, where `sample` is given `results`; -1: nowhere
    ]
)

RESULT = np.dtype(
    [
        ("token", "<i4"),
        ("status", "<i4"),
        ("logprob", "<f4"),
        ("num_top", "<i4"),
        ("top_ids", "<i4", (MAX_TOP_LOGPROBS,)),
        ("top_logprobs", "<f4", (MAX_TOP_LOGPROBS,)),
    ]
)


class Status(enum.IntEnum):
    """`status` of a result: 0, the logits are not finite, or nothing that is allowed is left.
    MISSING is for the host to write where the device has not written yet."""

    MISSING = -1
    OK = 0
    NOT_FINITE = 1
    NONE_LEFT = 2


def padding_rows(count: int) -> NDArray[Any]:
    """`count` rows [ROW] for which nothing is drawn; every field neutral, ready to be filled in."""
    rows = np.zeros(count, ROW)
    rows["top_p"] = 1.0
    rows["repetition"] = 1.0
    rows["mask_row"] = -1
    rows["seat"] = -1
    rows["num_top"] = -1
    rows["position"] = -1
    rows["place"] = -1
    return rows


def row_bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Rows [R] as the uint8 [R, 64] that is uploaded."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), ROW.itemsize)


def results_of(words: NDArray[np.int32]) -> NDArray[Any]:
    """The int32 [R, 44] that `sample` gave, as RESULT [R]."""
    return np.ascontiguousarray(words).view(RESULT).reshape(len(words))
