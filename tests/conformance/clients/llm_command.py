"""Simon Willison's `llm`, the command: `python llm_command.py BASE_URL`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

from conversation import (
    CHAT,
    DESCRIBE,
    KEY,
    PICTURE,
    POEM,
    SCHEMA,
    TOOL_RESULT,
    WEATHER,
    Streamed,
    ToolRound,
    base_url,
    play,
)

URL = f"{base_url()}/v1"
LIMITS = ("-m", "default", "-o", "temperature", "0", "-o", "max_tokens", "400")
# The model is told the function's name, docstring and types.
FUNCTION = f'''
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    import sys
    print("called with", city, file=sys.stderr)
    return {TOOL_RESULT!r}
'''


def command(*arguments):
    return [sys.executable, "-m", "llm", "openai", "endpoint", URL, "--key", KEY, *arguments]


def llm(*arguments):
    """What the command prints, and what it tells on standard error."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def chat():
    return llm(*LIMITS, CHAT)[0]


def vision():
    return llm(*LIMITS, DESCRIBE, "-a", str(PICTURE))[0]


def tools():
    answer, told = llm(*LIMITS, WEATHER, "--functions", FUNCTION)
    (city,) = [line.split()[-1] for line in told.splitlines() if line.startswith("called with")]
    return ToolRound({"city": city}, answer)


def streaming():
    """Standard output, as it comes."""
    pieces = []
    with subprocess.Popen(command(*LIMITS, "-R", POEM), stdout=subprocess.PIPE) as process:
        started = time.monotonic()
        while piece := os.read(process.stdout.fileno(), 4096):
            pieces.append(piece)
            assert time.monotonic() - started < 120
    assert process.returncode == 0
    text = b"".join(pieces).decode()
    assert len(pieces) > 10, pieces  # else it came in one piece at the end
    return Streamed([text[: len(text) // 2], text[len(text) // 2 :]])


def structured():
    schema = json.dumps(SCHEMA)
    return json.loads(llm(*LIMITS, "-R", DESCRIBE, "-a", str(PICTURE), "--schema", schema)[0])


def responses():
    """The same by /v1/responses, with a tool."""
    answer, told = llm(*LIMITS, "--responses", WEATHER, "--functions", FUNCTION)
    assert "called with Beijing" in told and "sunny" in answer
    return answer


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder  # not the user's own logs and keys
    play(
        {
            step.__name__: step
            for step in (
                chat,
                vision,
                tools,
                streaming,
                structured,
                responses,
            )
        }
    )
