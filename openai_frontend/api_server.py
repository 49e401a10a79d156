"""Serves a checkpoint: `python -m openai_frontend.api_server --model FOLDER`, FastDeploy's flags.

Exit status: 0 after a stop by signal, 2 for a wrong flag (told before anything starts), 1 when the
checkpoint cannot be served.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.errors import ConfigError
from openai_frontend.launch.checkpoint import Checkpoint, default_checkpoint, find_checkpoint
from openai_frontend.launch.native_executor import check_native_executor
from openai_frontend.launch.options import Options
from openai_frontend.launch.parsing import PROGRAM, parse_options

PROJECT = Path(__file__).resolve().parents[1]
LOG_FORMAT = "%(levelname)-8s %(asctime)s %(process)d %(filename)s[line:%(lineno)d] %(message)s"

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    try:
        options = parse_options(arguments, folder=PROJECT)
        check_native_executor(options.serving)
        return _serve(options, _choose_checkpoint(options))
    except ConfigError as error:
        print(f"{PROGRAM}: {error.message}", file=sys.stderr)
        return 2


def _choose_checkpoint(options: Options) -> Checkpoint:
    if options.model is not None:
        return find_checkpoint(options.model, options.model_folders)
    return default_checkpoint(PROJECT, options.cache_folder)


def _serve(options: Options, checkpoint: Checkpoint) -> int:
    # Imported only now: a wrong flag is told in the time of starting Python.
    from openai_frontend.launch.http_server import bind, url
    from openai_frontend.launch.launcher import Launcher

    for warning in (*options.warnings, checkpoint.notice):
        if warning:
            logger.warning("%s", warning)
    api_socket = bind(options.host, options.port, "--port")
    metrics_socket = None
    if options.metrics_port is not None:
        metrics_socket = bind(options.host, options.metrics_port, "--metrics-port")
    api_url = url(options.host, api_socket.getsockname()[1])
    metrics_url = url(options.host, (metrics_socket or api_socket).getsockname()[1])

    def announce(load_time_s: float) -> None:
        logger.info("Worker processes are launched with %s seconds.", load_time_s)
        logger.info("Launching metrics service at %s/metrics", metrics_url)
        logger.info("Launching chat completion service at %s/v1/chat/completions", api_url)
        logger.info("Launching completion service at %s/v1/completions", api_url)

    logger.info("Loading %s", checkpoint.folder)
    return Launcher(
        options, checkpoint, PROJECT / "model_repository", api_socket, metrics_socket, announce
    ).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
