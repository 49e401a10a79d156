"""All flags, in FastDeploy's spelling. `docs/flags.md` is generated from this table.

The first part has an effect here. The second part, `ignored_flags`, is accepted so that a
FastDeploy command starts unchanged; each use is answered with one warning.
"""

from __future__ import annotations

from openai_frontend.launch.flag import Flag
from openai_frontend.launch.flag_checks import (
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
    check_api_key,
    check_device,
    check_executor,
    check_mm_limits,
    check_mm_processor_kwargs,
    check_name,
    check_origins,
    check_tokens,
)
from openai_frontend.launch.ignored_flags import IGNORED_FLAGS

SERVER = "Server"
MODEL = "Model"
MEDIA = "Pictures and videos"
CAPACITY = "Capacity"
TRITON = "Triton"

USED_FLAGS: tuple[Flag, ...] = (
    Flag(
        "--host",
        "str",
        "Address to listen on. 0.0.0.0, every interface, is FastDeploy's default and therefore "
        "this one's: set 127.0.0.1, or --api-key, where others can reach the machine.",
        SERVER,
        default="0.0.0.0",  # noqa: S104
    ),
    Flag(
        "--port",
        "int",
        "Port of the API; 0 takes a free one. 8180 is the port of all ERNIE-4.5-VL guides "
        "(FastDeploy's own default is 8000, which Triton's HTTP endpoint uses too).",
        SERVER,
        default=8180,
        low=0,
        high=65535,
    ),
    Flag(
        "--metrics-port",
        "int",
        "Port of /metrics. Absent or equal to --port: the API's own port serves it.",
        SERVER,
        low=0,
        high=65535,
    ),
    Flag(
        "--api-key",
        "append",
        "Key that clients must send as `Authorization: Bearer KEY` or `x-api-key: KEY`; may be "
        "repeated. Also from FD_API_KEY (comma-separated). All paths of the API port but /health, "
        "/ping and the playground's own files ask for it.",
        SERVER,
        default=(),
        check=check_api_key,
    ),
    Flag(
        "--allowed-origins",
        "append",
        "Origins whose web pages may call the API from a browser (CORS): a JSON list, names with "
        "commas between, or repeated; `*` is every origin. Without it no page of another origin "
        "can. The playground needs none.",
        SERVER,
        default=(),
        check=check_origins,
    ),
    Flag(
        "--allowed-methods",
        "append",
        "Methods that such pages may use.",
        SERVER,
        default_text="*",
        check=check_tokens,
    ),
    Flag(
        "--allowed-headers",
        "append",
        "Request headers that such pages may send.",
        SERVER,
        default_text="*",
        check=check_tokens,
    ),
    Flag(
        "--allow-credentials",
        "switch",
        "Let such pages send cookies and other credentials of the browser; not together with "
        "origin `*`.",
        SERVER,
        default=False,
    ),
    Flag(
        "--strict-fields",
        "switch",
        "Refuse request bodies with fields that are not known here, on any level, with 400 and "
        "the field's path; otherwise such fields are ignored.",
        SERVER,
        default=False,
    ),
    Flag(
        "--max-concurrency",
        "int",
        "Generations served at a time; one more is refused with 429.",
        SERVER,
        default=512,
        low=1,
        high=100_000,
    ),
    Flag(
        "--drain-timeout",
        "float",
        "Seconds that running requests get to finish after SIGTERM or Ctrl-C. A second signal "
        "ends them at once.",
        SERVER,
        default_text="90",
        low=0,
        high=86_400,
    ),
    Flag(
        "--timeout-graceful-shutdown",
        "float",
        "FastDeploy's name of --drain-timeout, which wins when both are given.",
        SERVER,
        low=0,
        high=86_400,
    ),
    Flag(
        "--request-timeout",
        "float",
        "Seconds after which a request is stopped and answered with 504; 0 means never. Clients "
        "may ask for less (`timeout`, X-Request-Timeout).",
        SERVER,
        default=3600.0,
        low=0,
        high=1_000_000,
    ),
    Flag(
        "--max-body-mib",
        "float",
        "Largest request body in MiB, base64 pictures included; a larger one gets 413.",
        SERVER,
        default=32.0,
        low=0.001,
        high=1024,
    ),
    Flag(
        "--ping-interval",
        "float",
        "Seconds of silence after which a stream gets a comment line, so that proxies keep it "
        "open; 0 means never.",
        SERVER,
        default=15.0,
        low=0,
        high=3600,
    ),
    Flag("--config", "str", "File with flags: `name: value` lines or a JSON object.", SERVER),
    Flag(
        "--model",
        "str",
        "Checkpoint folder. A hub id such as baidu/ERNIE-4.5-VL-28B-A3B-Paddle is looked for "
        "under checkpoints/ (and under FD_MODEL_CACHE); nothing is downloaded.",
        MODEL,
        default_text="the variable ERNIE_MODEL, else checkpoints/ernie-4.5-vl-tiny, else a small "
        "model with random weights made on the spot",
    ),
    Flag(
        "--served-model-name",
        "str",
        "Name clients must ask for (or `default`). Without it every name is accepted and echoed.",
        MODEL,
        check=check_name,
    ),
    Flag(
        "--reasoning-parser",
        "str",
        "Splits thinking from the answer; `auto` goes by the checkpoint, `none` leaves it in.",
        MODEL,
        default_text="auto",
        setting="reasoning_parser",
        choices=REASONING_PARSERS,
    ),
    Flag(
        "--tool-call-parser",
        "str",
        "Finds tool calls in the answers to requests with tools.",
        MODEL,
        default_text="auto",
        setting="tool_call_parser",
        choices=TOOL_CALL_PARSERS,
    ),
    Flag(
        "--chat-template",
        "str",
        "Jinja template, as text or as the path of a file, instead of the checkpoint's.",
        MODEL,
        setting="chat_template",
    ),
    Flag("--seed", "int", "Seed of requests without one.", MODEL, setting="seed", low=0),
    Flag(
        "--executor",
        "str",
        "What computes the model: `paddle` runs on every device Paddle drives; `cuda`, kernels of "
        "this project, on an NVIDIA GPU (docs/devices.md); `paced` computes nothing and emits "
        "tokens by the clock, to load the service alone.",
        MODEL,
        setting="executor",
        default_text="paddle",
        check=check_executor,
    ),
    Flag(
        "--device",
        "str",
        "Device in Paddle's spelling: cpu, gpu:0, xpu:0.",
        MODEL,
        setting="device",
        default_text="cpu; gpu:0 with --executor cuda",
        check=check_device,
    ),
    Flag(
        "--limit-mm-per-prompt",
        "json",
        'Largest number of items in one request, such as \'{"image": 10, "video": 3}\'.',
        MEDIA,
        setting="limit_mm_per_prompt",
        check=check_mm_limits,
    ),
    Flag(
        "--mm-processor-kwargs",
        "json",
        "Sizes and frame counts, such as '{\"video_max_frames\": 30}'.",
        MEDIA,
        setting="mm_processor_kwargs",
        check=check_mm_processor_kwargs,
    ),
    Flag(
        "--allowed-local-media-path",
        "str",
        "Folder below which `file://` URLs are read. Without it they are refused.",
        MEDIA,
        setting="allowed_local_media_path",
    ),
    Flag(
        "--allow-private-media-hosts",
        "switch",
        "Fetch pictures and videos also from loopback and private addresses.",
        MEDIA,
        default=False,
        setting="allow_private_media_hosts",
    ),
    Flag(
        "--max-processor-cache",
        "float",
        "GiB of processed pictures and videos that are kept for later requests, found by their "
        "bytes or their `uuid`; 0 keeps none, -1 means the default.",
        MEDIA,
        setting="media_cache_gib",
        default_text="0.25",
        low=-1,
        high=65_536,
    ),
    Flag(
        "--max-model-len",
        "int",
        "Longest prompt plus answer in tokens.",
        CAPACITY,
        setting="max_model_len",
        default_text="what the model allows",
        low=1,
        high=2**24,
    ),
    Flag(
        "--max-num-seqs",
        "int",
        "Sequences computed together.",
        CAPACITY,
        setting="max_num_seqs",
        default_text="32",
        low=1,
        high=65_536,
    ),
    Flag(
        "--max-num-batched-tokens",
        "int",
        "Tokens computed in one step, prompts and answers together.",
        CAPACITY,
        setting="max_num_batched_tokens",
        default_text="2048",
        low=1,
        high=2**24,
    ),
    Flag(
        "--scheduler-max-size",
        "int",
        "Requests that may wait in the engine; one more is refused with 429.",
        CAPACITY,
        setting="max_num_waiting",
        default_text="256",
        low=-1,
        high=1_000_000,
    ),
    Flag(
        "--block-size",
        "int",
        "Tokens in one block of the KV cache; a multiple of 16 with --executor cuda.",
        CAPACITY,
        setting="block_size",
        default_text="16; 64 with --executor cuda",
        low=1,
        high=1024,
    ),
    Flag(
        "--num-gpu-blocks-override",
        "int",
        "Blocks in the KV cache.",
        CAPACITY,
        setting="num_kv_blocks",
        default_text="what memory allows",
        low=1,
        high=2**31,
    ),
    Flag(
        "--kv-cache-gib",
        "float",
        "Memory for the KV cache in GiB; --executor cuda refuses it and measures.",
        CAPACITY,
        setting="kv_cache_gib",
        default_text="1",
        low=0.001,
        high=65_536,
    ),
    Flag(
        "--gpu-memory-utilization",
        "float",
        "Share of the device's memory to use with --executor cuda; no effect otherwise.",
        CAPACITY,
        setting="gpu_memory_utilization",
        default_text="0.9",
        low=0.01,
        high=1,
    ),
    Flag(
        "--enable-prefix-caching",
        "switch",
        "Reuse the KV cache of equal prompt beginnings, pictures included; "
        "`--enable-prefix-caching=false` switches it off.",
        CAPACITY,
        setting="enable_prefix_caching",
        default_text="true",
    ),
    Flag(
        "--threads",
        "int",
        "CPU threads of the executor; 0 means one per core. With --executor cuda they copy weights "
        "while these are loaded, and 0 means up to four.",
        CAPACITY,
        setting="threads",
        default_text="0",
        low=0,
        high=4096,
    ),
    *(
        Flag(
            f"--triton-{name}-port",
            "int",
            f"Triton's own {text}, on the loopback interface; 0 takes a free one.",
            TRITON,
            default=0,
            low=0,
            high=65535,
        )
        for name, text in (
            ("grpc", "gRPC endpoint (KServe v2)"),
            ("http", "HTTP endpoint (KServe v2)"),
            ("metrics", "Prometheus endpoint (nv_*)"),
        )
    ),
)

FLAGS: tuple[Flag, ...] = (*USED_FLAGS, *IGNORED_FLAGS)
