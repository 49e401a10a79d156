"""Command line → `Options`. Nothing heavy is imported here: a wrong flag must be told at once."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backend.errors import ConfigError
from openai_frontend.launch.config_file import read_config_arguments
from openai_frontend.launch.flag import Flag
from openai_frontend.launch.flag_checks import check_api_key, read_names
from openai_frontend.launch.flag_table import FLAGS, USED_FLAGS
from openai_frontend.launch.native_executor import refuse_unserved, with_native_defaults
from openai_frontend.launch.options import Options

PROGRAM = "python -m openai_frontend.api_server"
DEFAULT_DRAIN_TIMEOUT_S = 90.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def parse_options(
    arguments: Sequence[str], environ: Mapping[str, str] = os.environ, folder: Path = Path(".")
) -> Options:
    """`folder` is the project's: hub ids are looked for in its `checkpoints`.

    Raises ConfigError that names the flag, its value and the fix. `--help` prints and exits 0.
    """
    parser = _make_parser()
    arguments = _spelled_with_dashes(arguments)
    config = _find_config(arguments)
    if config is not None:
        arguments = [*read_config_arguments(config), *arguments]
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ConfigError(_unknown_text(unknown[0]))
    return _options(vars(values), environ, folder)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Serve an ERNIE-4.5 checkpoint through Triton with an OpenAI-compatible API.",
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        arguments: dict[str, Any] = {"type": flag.convert, "default": None, "help": _help(flag)}
        if flag.kind == "switch":
            arguments |= {"nargs": "?", "const": True}
        elif flag.kind == "append":
            arguments |= {"action": "append"}
        elif flag.kind == "list":
            arguments |= {"nargs": "+"}
        metavar = flag.kind.upper() if flag.kind not in ("append", "list", "switch") else "VALUE"
        groups[flag.group].add_argument(flag.name, *flag.aliases, metavar=metavar, **arguments)
    return parser


def _help(flag: Flag) -> str:
    default = flag.default_text or (str(flag.default) if flag.default not in (None, ()) else "")
    text = f"{flag.help} (default: {default})" if default else flag.help
    return text.replace("%", "%%")


def _spelled_with_dashes(arguments: Sequence[str]) -> list[str]:
    """FastDeploy takes `--max_model_len` too."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = name.lower().replace("_", "-")
        spelled.append(name + equals + value)
    return spelled


def _find_config(arguments: Sequence[str]) -> str | None:
    finder = _Parser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    return str(path) if (path := finder.parse_known_args(arguments)[0].config) else None


def _unknown_text(argument: str) -> str:
    name = argument.partition("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {argument!r}; every setting is given as --name value"
    known = [spelling for flag in FLAGS for spelling in (flag.name, *flag.aliases)]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; see {PROGRAM} --help"
    return f"unknown flag {name}{hint}"


def _options(values: dict[str, Any], environ: Mapping[str, str], folder: Path) -> Options:
    given = {name: value for name, value in values.items() if value is not None}

    def get(flag: str, default: Any) -> Any:
        return given.get(flag.replace("-", "_"), default)

    def names(flag: str, default: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for text in get(flag, []) for name in read_names(text)) or default

    default = Options()
    origins = names("allowed-origins", default.allowed_origins)
    if get("allow-credentials", False) and "*" in origins:
        raise ConfigError(
            "--allow-credentials with --allowed-origins '*' would let every web page act with the "
            "cookies of its visitor; name the origins"
        )
    drain = get("timeout-graceful-shutdown", DEFAULT_DRAIN_TIMEOUT_S)
    port = get("port", default.port)
    metrics_port = get("metrics-port", None)
    return Options(
        host=get("host", default.host),
        port=port,
        metrics_port=None if metrics_port == port else metrics_port,
        api_keys=tuple(get("api-key", [])) or _keys_from(environ),
        max_concurrency=get("max-concurrency", default.max_concurrency),
        drain_timeout_s=get("drain-timeout", drain),
        request_timeout_s=get("request-timeout", default.request_timeout_s),
        max_body_bytes=int(get("max-body-mib", default.max_body_bytes / 2**20) * 2**20),
        ping_interval_s=get("ping-interval", default.ping_interval_s),
        model=get("model", environ.get("ERNIE_MODEL") or None),
        served_model_name=get("served-model-name", None),
        strict_fields=get("strict-fields", default.strict_fields),
        allowed_origins=origins,
        allowed_methods=names("allowed-methods", default.allowed_methods),
        allowed_headers=names("allowed-headers", default.allowed_headers),
        allow_credentials=get("allow-credentials", default.allow_credentials),
        triton_grpc_port=get("triton-grpc-port", 0),
        triton_http_port=get("triton-http-port", 0),
        triton_metrics_port=get("triton-metrics-port", 0),
        serving=_serving(given, environ),
        model_folders=_model_folders(environ, folder),
        cache_folder=_cache_folder(environ),
        warnings=_warnings(given),
    )


def _serving(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings already in ERNIE_SERVING stay, unless a flag says otherwise."""
    try:
        serving = json.loads(environ.get("ERNIE_SERVING") or "{}")
    except json.JSONDecodeError as error:
        raise ConfigError(f"the variable ERNIE_SERVING is not JSON ({error.msg})") from None
    if not isinstance(serving, dict):
        raise ConfigError("the variable ERNIE_SERVING is not a JSON object")
    for flag in USED_FLAGS:
        # -1 is FastDeploy's "unlimited" queue: the default bound stays.
        if flag.setting and given.get(flag.destination, -1) != -1:
            serving[flag.setting] = given[flag.destination]
    if template := serving.get("chat_template"):
        serving["chat_template"] = _template_text(template)
    if media_folder := serving.get("allowed_local_media_path"):
        serving["allowed_local_media_path"] = _media_folder(media_folder)
    if serving.get("executor") == "cuda":
        refuse_unserved(given)
    return with_native_defaults(serving)


def _template_text(value: str) -> str:
    """The template itself: Triton's processes have another working directory."""
    if "{" in value or "\n" in value:
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, ValueError):  # not UTF-8, or a NUL in the name
        raise ConfigError(
            f"--chat-template: {value!r} is neither a readable file nor a Jinja template"
        ) from None


def _media_folder(value: str) -> str:
    if "\0" in value or not Path(value).is_dir():
        raise ConfigError(f"--allowed-local-media-path: {value!r} is no folder")
    return str(Path(value).resolve())


def _keys_from(environ: Mapping[str, str]) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in environ.get("FD_API_KEY", "").split(",") if key.strip())
    try:
        for key in keys:
            check_api_key(key)
    except ValueError as error:
        raise ConfigError(f"the variable FD_API_KEY: {error}") from None
    return keys


def _model_folders(environ: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    cache = environ.get("FD_MODEL_CACHE")
    return (folder / "checkpoints", *([Path(cache)] if cache else []))


def _cache_folder(environ: Mapping[str, str]) -> Path:
    """Where a default checkpoint may be made; a container may have no home."""
    base = environ.get("XDG_CACHE_HOME")
    if not base and environ.get("HOME"):
        base = str(Path(environ["HOME"]) / ".cache")
    return Path(base or tempfile.gettempdir()) / "ernie-triton"


def _warnings(given: Mapping[str, Any]) -> tuple[str, ...]:
    texts = []
    for flag in FLAGS:
        value = given.get(flag.destination)
        if flag.ignored and value is not None and value not in flag.quiet:
            shown = "" if value is True else f" {_shown(value)}"
            texts.append(f"{flag.name}{shown} has no effect here: {flag.help}")
    return tuple(texts)


def _shown(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
