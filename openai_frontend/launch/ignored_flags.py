"""FastDeploy's flags, and some of its neighbours', without effect here; each has the reason."""

from __future__ import annotations

from openai_frontend.launch.flag import Flag, Kind
from openai_frontend.launch.flag_checks import check_quantization

GROUP = "Accepted without effect"


def _ignored(name: str, kind: Kind, reason: str, *quiet: object, alias: str = "") -> Flag:
    return Flag(
        name,
        kind,
        reason,
        GROUP,
        ignored=True,
        quiet=quiet,
        aliases=(alias,) if alias else (),
        low=1 if name.endswith("-parallel-size") else None,
        check=check_quantization if name == "--quantization" else None,
    )


_ONE_PROCESS = "the engine runs on one device in one process; start one server per device"
_ONE_TIER = "the KV cache has one tier, in the device's memory"
_NO_SPLIT = "prefill and decode run in one engine"
_NO_REDIS = "the scheduler is local to the engine"
_NO_RL = "weights are loaded once, at start-up"
_INTERNAL_PORT = "parts talk over pipes and loopback ports of their own; equal numbers are fine"
_DECODING = "the executor chooses how to run a step"

_SCHEDULER_FLAGS: tuple[tuple[str, Kind], ...] = (
    ("host", "str"),
    ("port", "int"),
    ("db", "int"),
    ("password", "str"),
    ("topic", "str"),
    ("min-load-score", "float"),
    ("load-shards-num", "int"),
    ("sync-period", "int"),
    ("expire-period", "int"),
    ("release-load-expire-period", "int"),
    ("reader-parallel", "int"),
    ("writer-parallel", "int"),
    ("reader-batch-size", "int"),
    ("writer-batch-size", "int"),
)

IGNORED_FLAGS: tuple[Flag, ...] = (
    # Server
    _ignored("--workers", "int", "one process serves the API", 1),
    _ignored("--controller-port", "int", "there is no controller endpoint", -1),
    _ignored(
        "--max-waiting-time",
        "float",
        "a request above --max-concurrency is refused at once, it does not wait for a slot",
        -1.0,
    ),
    _ignored("--timeout", "float", "there are no worker processes to time out", 0.0),
    _ignored("--enable-mm-output", "switch", "the models served here answer in text", False),
    _ignored("--max-log-len", "int", "prompts and answers are never logged"),
    # Model
    _ignored(
        "--quantization",
        "str",
        "the paddle executor keeps the checkpoint's precision: answers are those of the "
        "unquantised model and memory use is higher; --executor cuda refuses it",
    ),
    _ignored("--revision", "str", "nothing is downloaded", "master", "main"),
    _ignored("--model-config-name", "str", "the file is always config.json", "config.json"),
    _ignored("--tokenizer", "str", "the tokenizer is the one in the --model folder"),
    _ignored("--tokenizer-base-url", "str", "the tokenizer is the one in the --model folder"),
    _ignored("--task", "str", "models generate text; there is no pooling", "generate"),
    _ignored("--runner", "str", "models generate text; there is no pooling", "auto", "generate"),
    _ignored("--convert", "str", "models generate text; there is no pooling", "auto", "none"),
    _ignored("--override-pooler-config", "json", "models generate text; there is no pooling"),
    _ignored("--use-warmup", "int", "there is no separate warm-up", 0),
    _ignored("--enable-mm", "switch", "whether a model sees is read from its config.json"),
    _ignored(
        "--max-encoder-cache",
        "int",
        "the cache of encoded pictures is sized in GiB: encoder_cache_gib in ERNIE_SERVING",
        -1,
        0,
    ),
    _ignored("--tool-parser-plugin", "str", "no foreign code is loaded"),
    _ignored("--speculative-config", "json", "every token is computed by the model itself"),
    _ignored("--dynamic-load-weight", "switch", _NO_RL, False),
    _ignored("--load-strategy", "str", _NO_RL, "normal"),
    _ignored(
        "--load-choices",
        "str",
        "one loader reads every checkpoint layout",
        "default",
        "default_v1",
    ),
    _ignored("--graph-optimization-config", "json", _DECODING),
    _ignored("--plas-attention-config", "json", "attention is never sparse"),
    _ignored("--guided-decoding-backend", "str", "answers can always be constrained", "off"),
    _ignored(
        "--guided-decoding-disable-any-whitespace", "switch", "whitespace in JSON is always limited"
    ),
    _ignored("--enable-logprob", "switch", "log-probabilities are always available"),
    _ignored("--max-logprobs", "int", "at most 20 log-probabilities per token", 20),
    _ignored(
        "--logprobs-mode", "str", "log-probabilities are those of the raw logits", "raw_logprobs"
    ),
    _ignored("--enable-early-stop", "switch", "repetition does not end an answer", False),
    _ignored("--early-stop-config", "json", "repetition does not end an answer"),
    _ignored("--logits-processors", "list", "no foreign code is loaded"),
    _ignored("--lm-head-fp32", "switch", "logits are always float32"),
    _ignored("--enable-entropy", "switch", "entropy is not reported", False),
    _ignored("--trust-remote-code", "switch", "code in a checkpoint is never run"),
    _ignored("--enable-lora", "switch", "adapters must be merged into the checkpoint", False),
    # Parallelism and capacity
    _ignored("--tensor-parallel-size", "int", _ONE_PROCESS, 1, alias="-tp"),
    _ignored("--data-parallel-size", "int", _ONE_PROCESS, 1),
    _ignored("--local-data-parallel-id", "int", _ONE_PROCESS, 0),
    _ignored("--enable-expert-parallel", "switch", _ONE_PROCESS, False),
    _ignored("--enable-eplb", "switch", _ONE_PROCESS, False),
    _ignored("--eplb-config", "json", _ONE_PROCESS),
    _ignored("--ips", "str", _ONE_PROCESS),
    _ignored("--disable-custom-all-reduce", "switch", _ONE_PROCESS),
    _ignored("--use-internode-ll-two-stage", "switch", _ONE_PROCESS),
    _ignored("--disable-sequence-parallel-moe", "switch", _ONE_PROCESS),
    _ignored("--shutdown-comm-group-if-worker-idle", "switch", _ONE_PROCESS),
    _ignored("--enable-chunked-moe", "switch", _DECODING),
    _ignored("--chunked-moe-size", "int", _DECODING),
    _ignored("--routing-replay-config", "json", _NO_RL),
    _ignored("--engine-worker-queue-port", "str", _INTERNAL_PORT),
    # Cache
    _ignored(
        "--kv-cache-dtype",
        "str",
        "keys and values have the precision that the executor computes in",
        "auto",
    ),
    _ignored("--kv-cache-ratio", "float", "prompts and answers share one pool of blocks"),
    _ignored("--swap-space", "float", _ONE_TIER, 0.0),
    _ignored("--cache-queue-port", "str", _INTERNAL_PORT),
    _ignored("--enable-output-caching", "switch", "blocks of answers are cached like prompts'"),
    _ignored("--prealloc-dec-block-slot-num-threshold", "int", "blocks are allocated as needed"),
    _ignored("--static-decode-blocks", "int", "blocks are allocated as needed"),
    _ignored("--kvcache-storage-backend", "str", _ONE_TIER),
    _ignored("--write-policy", "str", _ONE_TIER),
    # Prefill
    _ignored("--enable-chunked-prefill", "switch", "long prompts are always computed in chunks"),
    _ignored("--max-num-partial-prefills", "int", "the token budget decides"),
    _ignored("--max-long-partial-prefills", "int", "the token budget decides"),
    _ignored("--long-prefill-token-threshold", "int", "the token budget decides"),
    _ignored("--disable-chunked-mm-input", "switch", "long prompts are always computed in chunks"),
    # Prefill/decode split
    _ignored("--splitwise-role", "str", _NO_SPLIT, "mixed"),
    _ignored("--cache-transfer-protocol", "str", _NO_SPLIT),
    _ignored("--pd-comm-port", "str", _NO_SPLIT),
    _ignored("--rdma-comm-ports", "str", _NO_SPLIT),
    _ignored("--router", "str", _NO_SPLIT),
    # Scheduler
    _ignored("--scheduler-name", "str", _NO_REDIS, "local"),
    _ignored("--scheduler-ttl", "int", "requests end by --request-timeout"),
    *(_ignored(f"--scheduler-{name}", kind, _NO_REDIS) for name, kind in _SCHEDULER_FLAGS),
)
