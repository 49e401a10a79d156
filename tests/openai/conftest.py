from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from openai_frontend.triton_client import TritonClient
from tests.openai.service_process import ROOT, ServiceProcess


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A VL checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    script = ROOT / "scripts" / "make_tiny_checkpoint.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120)
    return str(folder)


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """picture.jpg, 84 x 56 pixels, and video.mp4, one second of moving bars."""
    import av

    folder = tmp_path_factory.mktemp("media")
    pixels = np.indices((56, 84)).sum(0)[:, :, None] * np.array([1, 2, 3])
    Image.fromarray((pixels % 256).astype(np.uint8)).save(folder / "picture.jpg")
    with av.open(str(folder / "video.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 84, 56, "yuv420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(
                np.roll((pixels % 256).astype(np.uint8), index * 8, axis=1), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


@pytest.fixture(scope="session")
def service(checkpoint: str, media_folder: Path) -> Iterator[ServiceProcess]:
    """The real engine on the small checkpoint, shared by the tests that ask it questions."""
    flags = ("--model", checkpoint, "--allowed-local-media-path", str(media_folder))
    with ServiceProcess(*flags, kv_cache_gib=0.05) as service:
        yield service.wait_ready()


@pytest.fixture
def paced(checkpoint: str) -> Iterator[ServiceProcess]:
    """One token every 20 ms and no model: for tests of time. Started anew for each test."""
    with ServiceProcess("--model", checkpoint, "--executor", "paced", tokens_per_s=50) as service:
        yield service.wait_ready()


@pytest.fixture
def ask(service: ServiceProcess):
    """A collected chat answer; asserts that it is one."""

    def post(**body: Any) -> dict[str, Any]:
        url = f"{service.url}/v1/chat/completions"
        reply = httpx.post(url, json={"max_tokens": 12, **body}, timeout=120)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return post


@pytest.fixture
def engine_stats():
    """The engine's own numbers, asked of Triton directly."""

    def ask_engine(service: ServiceProcess) -> dict[str, Any]:
        async def stats() -> dict[str, Any]:
            client = TritonClient(num_channels=1)
            client.connect(f"127.0.0.1:{service.grpc_port}")
            try:
                return await client.stats()
            finally:
                await client.close()

        return asyncio.run(stats())

    return ask_engine
