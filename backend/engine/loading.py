"""A checkpoint folder → a model ready to run, and what its tokenizer says about ids."""

from __future__ import annotations

from dataclasses import dataclass

from backend.config.model import ModelConfig, load_model_config
from backend.config.serving import EngineSettings
from backend.models import Model, build_model, parameter_specs
from backend.ops import create_ops
from backend.structured import StructuredOutput
from backend.tokenizer import Tokenizer
from backend.weights import load_weights, store_weights


@dataclass(frozen=True)
class LoadedModel:
    """`eos_token_ids`: the tokenizer's and generation_config.json's. `num_token_ids`: ids that the
    tokenizer knows; tables of released models are longer."""

    model: Model
    config: ModelConfig
    eos_token_ids: tuple[int, ...]
    num_token_ids: int
    structured: StructuredOutput


def load_model(settings: EngineSettings) -> LoadedModel:
    """Small files first, so that a wrong folder fails at once; then the weights, with a bar.

    Raises ConfigError, CheckpointError.
    """
    config = load_model_config(settings.model)
    tokenizer = Tokenizer.load(settings.model)
    ops = create_ops(settings.executor, settings.device, settings.threads)
    specs = parameter_specs(config)
    store = ops.weight_store({name: spec.shape for name, spec in specs.items()})
    if store is None:
        weights = load_weights(
            settings.model,
            config,
            specs,
            lambda array, spec: ops.parameter(array, spec.kind, spec.keep_float32),
        )
    else:
        weights = store_weights(settings.model, config, specs, store)
    num_token_ids = min(tokenizer.vocab_size, config.vocab_size)
    return LoadedModel(
        model=build_model(config, ops, weights),
        config=config,
        eos_token_ids=tokenizer.eos_token_ids,
        num_token_ids=num_token_ids,
        structured=StructuredOutput(tokenizer, num_token_ids),
    )
