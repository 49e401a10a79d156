"""Time a checkpoint through HTTP, through the ensemble's gRPC and straight in the engine.

    python scripts/bench.py [--model FOLDER] [--executor cuda] [--concurrency 1,4,16]
                            [--requests 32] [--tokens 64]
    python scripts/bench.py --pipeline [--streams 256] [--pace 100] [--grpc]

The first form prints, in one run and with the same prompts, time to first token, inter-token
latency and tokens per second of each route, and their ratio to the engine alone: the price of the
service. The second replaces the model by an engine that emits tokens by the clock (executor
`paced`), so that the pipeline alone is loaded, and prints what arrives and how much later than it
was due. Latency there is exact: some streams ask for logprobs, in which that engine sends the
moment (of the machine's monotonic clock) at which each token was due.

The machine should be idle. Ratios within one run mean more than the numbers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop

from scripts.bench_service import pipeline, routes

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="checkpoint folder (the served default)")
    parser.add_argument("--executor", default="paddle", help="paddle, or cuda: an NVIDIA GPU")
    parser.add_argument("--concurrency", default="1,4,16", help="requests at a time, a list")
    parser.add_argument("--requests", type=int, default=32, help="per route and concurrency")
    parser.add_argument("--tokens", type=int, default=64, help="generated per request")
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--pipeline", action="store_true", help="load the service without a model")
    parser.add_argument("--grpc", action="store_true", help="with --pipeline: without HTTP")
    parser.add_argument("--streams", type=int, default=256, help="with --pipeline")
    parser.add_argument("--pace", type=float, default=100.0, help="tokens/s of a stream")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a paced stream")
    options = parser.parse_args()
    if options.pipeline:
        uvloop.run(
            pipeline.measure(
                options.model, options.streams, options.pace, options.seconds, options.grpc
            )
        )
        return 0
    routes.measure(
        options.model,
        options.executor,
        [int(item) for item in options.concurrency.split(",")],
        routes.Load(options.requests, options.tokens, options.prompt_words),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
