"""The commands and requests of the ERNIE-4.5 guides that FastDeploy's users follow.

Commands without the program's name; request bodies with short texts in place of the guides' own.
"""

from __future__ import annotations

from typing import Any

_VL = (
    "--mm-processor-kwargs '{\"video_max_frames\": 30}' "
    '--limit-mm-per-prompt \'{"image": 10, "video": 3}\' --reasoning-parser ernie-45-vl'
)
_THINKING = (
    "--max-model-len 131072 --max-num-seqs 32 --quantization wint8 "
    "--reasoning-parser ernie-45-vl-thinking --tool-call-parser ernie-45-vl-thinking "
    "--mm-processor-kwargs '{\"image_max_pixels\": 12845056 }'"
)
_XPU = "--port 8188 --gpu-memory-utilization 0.9"

COMMANDS = [
    # ERNIE-4.5-VL-424B-A47B; queue and metrics port are equal in the guide
    "--model baidu/ERNIE-4.5-VL-424B-A47B-Paddle --port 8180 --engine-worker-queue-port 8181 "
    "--cache-queue-port 8182 --metrics-port 8182 --tensor-parallel-size 8 --quantization wint4 "
    f"--max-model-len 32768 --max-num-seqs 32 --enable-mm {_VL}",
    # ERNIE-4.5-VL-28B-A3B-Thinking
    f"--model baidu/ERNIE-4.5-VL-28B-A3B-Thinking --port 8180 {_THINKING}",
    # Kunlunxin P800
    f"--model PaddlePaddle/ERNIE-4.5-300B-A47B-Paddle {_XPU} --tensor-parallel-size 8 "
    '--max-model-len 32768 --max-num-seqs 64 --quantization "wint8"',
    f"--model PaddlePaddle/ERNIE-4.5-300B-A47B-Paddle {_XPU} --tensor-parallel-size 4 "
    '--max-model-len 131072 --max-num-seqs 64 --quantization "wint4"',
    f"--model PaddlePaddle/ERNIE-4.5-21B-A3B-Paddle {_XPU} --tensor-parallel-size 1 "
    "--max-model-len 32768 --max-num-seqs 128",
    f"--model PaddlePaddle/ERNIE-4.5-0.3B-Paddle {_XPU} --tensor-parallel-size 1 "
    '--max-model-len 131072 --max-num-seqs 128 --quantization "wint8"',
    f"--model PaddlePaddle/ERNIE-4.5-300B-A47B-W4A8C8-TP4-Paddle {_XPU} "
    '--tensor-parallel-size 4 --max-model-len 32768 --max-num-seqs 64 --quantization "W4A8"',
    "--model PaddlePaddle/ERNIE-4.5-VL-28B-A3B-Paddle --port 8188 --tensor-parallel-size 1 "
    f'--quantization "wint8" --max-model-len 32768 --max-num-seqs 10 --enable-mm {_VL}',
    "--model PaddlePaddle/ERNIE-4.5-VL-424B-A47B-Paddle --port 8188 --tensor-parallel-size 8 "
    f'--quantization "wint8" --max-model-len 32768 --max-num-seqs 8 --enable-mm {_VL} '
    "--gpu-memory-utilization 0.7",
    "--model PaddlePaddle/PaddleOCR-VL --port 8188 --metrics-port 8181 "
    "--engine-worker-queue-port 8182 --max-model-len 16384 --max-num-batched-tokens 16384 "
    "--gpu-memory-utilization 0.8 --max-num-seqs 256",
    "--model PaddlePaddle/ERNIE-4.5-VL-28B-A3B-Thinking --port 8188 --tensor-parallel-size 1 "
    "--engine-worker-queue-port 8189 --metrics-port 8190 --cache-queue-port 8191 " + _THINKING,
    # AI Studio tutorial
    "--model work/models --port 8180 --metrics-port 8181 --engine-worker-queue-port 8182 "
    "--max-model-len 32768 --enable-mm --reasoning-parser ernie-45-vl --max-num-seqs 32",
    "--model work/models --host 0.0.0.0 --trust-remote-code --tensor-parallel-size 1 "
    "--gpu-memory-utilization 0.9 --max-num-batched-tokens 4096 --swap-space 4 --enable-lora "
    "--max-log-len 100",
]


def _user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/demo/example2.jpg"}}
_VIDEO = {"type": "video_url", "video_url": {"url": "https://example.com/demo/video.mp4"}}
_QUESTION = {"type": "text", "text": "图中的文物属于哪个年代?"}
_GREETING = {"role": "user", "content": "把李白的静夜思改写为现代诗"}


def _tool(name: str, properties: dict[str, Any], strict: bool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "What it does.",
            "parameters": {
                "type": "object",
                "properties": properties,
                "additionalProperties": False,
                "required": list(properties)[:1],
            },
            "strict": strict,
        },
    }


_ZOOM = _tool(
    "image_zoom_in_tool",
    {
        "bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "label": {"type": "string"},
    },
    strict=False,
)
_WEATHER = _tool(
    "get_weather",
    {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    strict=True,
)
_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"location": "Beijing", "unit": "c"}},
}

CHAT_REQUESTS: dict[str, dict[str, Any]] = {
    "text": {"messages": [_GREETING]},
    "image": {"messages": [_user(_IMAGE, _QUESTION)]},
    "video": {"messages": [_user(_VIDEO, {"type": "text", "text": "画面中有几个苹果?"})]},
    "thinking off by metadata": {
        "messages": [_user(_IMAGE, _QUESTION)],
        "metadata": {"enable_thinking": False},
    },
    "thinking off by template kwargs": {
        "messages": [_user(_IMAGE, _QUESTION)],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "detail": {
        "messages": [
            _user({"type": "image_url", "image_url": {**_IMAGE["image_url"], "detail": "high"}})
        ],
        "model": "default",
        "temperature": 0.0001,
        "max_tokens": 10000,
        "top_p": 0,
        "metadata": {"enable_thinking": False},
    },
    "tool": {
        "tools": [_ZOOM],
        "messages": [_user({"type": "text", "text": "Is she behind the couple?"})],
        "stream": False,
    },
    "tool result": {
        "messages": [
            _user({"type": "text", "text": "Get the current weather in Beijing"}),
            {"role": "assistant", "tool_calls": [_CALL], "content": ""},
            {"role": "tool", "content": [{"type": "text", "text": "temperature: 23，sunny"}]},
        ],
        "tools": [_WEATHER],
        "stream": False,
    },
    "model null, temperature": {"model": "null", "messages": [_GREETING], "temperature": 0.7},
    "all parameters": {
        "model": "null",
        "messages": [_GREETING],
        "max_tokens": 2048,
        "temperature": 0.7,
        "top_p": 0.9,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": ["<|endoftext|>"],
    },
    "file": {"messages": [_user({"type": "image_url", "image_url": {"url": "file:///a/b"}})]},
    "base64 image": {
        "messages": [
            _user(
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/jpg;base64,this/is/an/example"},
                }
            )
        ]
    },
    "base64 video": {
        "messages": [
            _user(
                {
                    "type": "video_url",
                    "video_url": {"url": "data:video/mp4;base64,this/is/an/example"},
                }
            )
        ]
    },
}

COMPLETION_REQUESTS: dict[str, dict[str, Any]] = {
    "completion": {"model": "null", "prompt": "Where is the capital of China?"},
}
