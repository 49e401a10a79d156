#!/usr/bin/env python3
"""Write tests/goldens/*.npz: logits of transformers' classes, for tests that have no torch.

Needs the test extras. Run it after a change to tests/oracle/{models,prompts,cases}.py:

    .venv/bin/python scripts/make_goldens.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.oracle.cases import (
    GOLDENS,
    WEIGHT_SEED,
    golden_path,
    golden_rows,
    inputs_digest,
    make_prompts,
)
from tests.oracle.models import CONFIGS, make_config, random_weights
from tests.oracle.reference import Oracle


def write_goldens(name: str) -> None:
    config = make_config(name)
    weights = random_weights(config, WEIGHT_SEED)
    prompts = make_prompts(config.is_multimodal)
    oracle = Oracle(config, weights)
    arrays = {"digest": np.array(inputs_digest(weights, prompts))}
    for case, prompt in prompts.items():
        arrays[case] = oracle.logits(prompt)[golden_rows(prompt)]
    np.savez_compressed(golden_path(name), **arrays)
    print(f"{golden_path(name)}: {golden_path(name).stat().st_size} bytes")


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    for name in CONFIGS:
        write_goldens(name)


if __name__ == "__main__":
    main()
