"""Small talk, who the model is, a few facts, and the prompts of the project's documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..sample import Sample, ToolCall, assistant, user
from ..scene import Random
from .pictures import pick


@dataclass(frozen=True, slots=True)
class Talk:
    """Ways to ask, why, and the one answer."""

    questions: tuple[str, ...]
    reasoning: str
    answer: str


_POEM_EN = """Moonlight lies on the floor beside my bed,
so pale that I take it for frost.
I raise my head and look at the bright moon,
I lower my head and think of home."""
_POEM_ZH = """月光静静地落在床前，
我以为那是地上的一层霜。
抬起头，望着窗外的明月，
低下头，想起远方的家乡。"""

ENGLISH = (
    Talk(("Rewrite Li Bai's 'Quiet Night Thoughts' as a modern poem", "Rewrite Li Bai's Quiet Night Thoughts as a modern poem.", "Write Li Bai's 'Quiet Night Thoughts' as a modern poem."),
         "The user wants the poem in modern words: moonlight, frost, home.", _POEM_EN),
    Talk(("Where is the capital of China?", "What is the capital of China?", "Which city is the capital of China?"),
         "The user asks for the capital of China.", "The capital of China is Beijing."),
    Talk(("What is the capital of France?", "Where is the capital of France?", "Which city is the capital of France?"),
         "The user asks for the capital of France.", "The capital of France is Paris."),
    Talk(("What is the capital of Japan?", "Where is the capital of Japan?"),
         "The user asks for the capital of Japan.", "The capital of Japan is Tokyo."),
    Talk(("Introduce yourself.", "Please introduce yourself.", "Who are you?", "What are you?", "Hello, please introduce yourself", "What is your name?"),
         "The user wants to know who I am.",
         "I am a very small ERNIE-4.5-VL, trained as a demonstration. I can look at simple pictures and videos, read short words and numbers, and call tools."),
    Talk(("What can you do?", "How can you help me?", "What are you able to do?"),
         "The user wants to know what I can do.",
         "I can name the colours, shapes, places and number of objects in a picture, read a short word or number, follow objects in a video, and call tools."),
    Talk(("Hello", "Hi", "Hello!", "Hi!", "Hey", "Good morning", "Hi there"),
         "The user says hello.", "Hello! How can I help you?"),
    Talk(("How are you?", "How are you today?", "How do you do?"),
         "The user asks how I am.", "I am fine, thank you. How can I help you?"),
    Talk(("Thank you", "Thanks", "Thank you very much!", "Thanks!"),
         "The user thanks me.", "You are welcome!"),
    Talk(("Goodbye", "Bye", "Bye!", "See you", "Good night"),
         "The user says goodbye.", "Goodbye, see you soon!"),
    Talk(("Tell me a joke.", "Tell me a joke", "Make me laugh."),
         "The user wants a joke.", "Why is the circle never late? It always comes around."),
    Talk(("How many legs does a spider have?",), "A spider is asked about.", "A spider has eight legs."),
    Talk(("What colour is the sky?", "What color is the sky?"), "The user asks about the sky.", "The sky is blue."),
    Talk(("How many days are in a week?", "How many days does a week have?"), "The user asks about the week.", "A week has seven days."),
    Talk(("What is ERNIE?", "Tell me about ERNIE."), "The user asks about ERNIE.", "ERNIE is a family of language models by Baidu. I am a tiny one with its architecture."),
    Talk(("What is Triton?", "What is NVIDIA Triton?"), "The user asks about Triton.", "Triton is a server that runs models and answers requests. It serves me too."),
    Talk(("Are you a human?", "Are you a robot?", "Are you real?"), "The user asks what I am.", "I am a small language model, not a human."),
    Talk(("Write a poem.", "Write a short poem.", "Write a poem about the moon."),
         "The user wants a poem.", "The moon is bright, the night is long,\nthe wind is singing a quiet song."),
    Talk(("Count from one to five.", "Count to five."), "The user wants me to count.", "One, two, three, four, five."),
    Talk(("What is the largest ocean?", "Which ocean is the largest?"), "The user asks about oceans.", "The largest ocean is the Pacific Ocean."),
    Talk(("Say hello in Chinese.", "How do you say hello in Chinese?"), "The user wants a greeting.", "Hello in Chinese is 你好."),
)  # fmt: skip

CHINESE = (
    Talk(("把李白的静夜思改写为现代诗", "把李白的《静夜思》改写为现代诗。", "请把李白的静夜思改写成现代诗。"),
         "用户想要现代诗：月光、霜、家乡。", _POEM_ZH),
    Talk(("中国的首都是哪里？", "中国的首都在哪里？", "中国的首都是哪个城市？"),
         "用户问中国的首都。", "中国的首都是北京。"),
    Talk(("法国的首都是哪里？", "法国的首都是哪个城市？"), "用户问法国的首都。", "法国的首都是巴黎。"),
    Talk(("日本的首都是哪里？", "日本的首都是哪个城市？"), "用户问日本的首都。", "日本的首都是东京。"),
    Talk(("你好，请介绍一下你自己", "请介绍一下你自己。", "介绍一下你自己", "你是谁？", "你叫什么名字？", "你是什么模型？",
          "你是Aistudio和文心大模型开发的智能助手，请介绍一下你自己."),
         "用户想知道我是谁。",
         "你好！我是一个很小的ERNIE-4.5-VL模型，用于演示。我可以看简单的图片和视频，读短的单词和数字，还可以调用工具。"),
    Talk(("你能做什么？", "你会做什么？", "你可以帮我做什么？"), "用户想知道我能做什么。",
         "我可以说出图中物体的颜色、形状、位置和数量，读出短的单词或数字，跟踪视频里的物体，还可以调用工具。"),
    Talk(("你好", "你好！", "您好", "早上好", "嗨"), "用户向我问好。", "你好！有什么可以帮你的吗？"),
    Talk(("你好吗？", "最近好吗？"), "用户问我好不好。", "我很好，谢谢。有什么可以帮你的吗？"),
    Talk(("谢谢", "谢谢你", "多谢！", "非常感谢"), "用户感谢我。", "不客气！"),
    Talk(("再见", "再见！", "拜拜", "晚安"), "用户说再见。", "再见，欢迎再来！"),
    Talk(("讲个笑话", "给我讲个笑话。"), "用户想听笑话。", "圆形为什么从不迟到？因为它总会转回来。"),
    Talk(("一个星期有几天？", "一周有几天？"), "用户问一周有几天。", "一个星期有七天。"),
    Talk(("天空是什么颜色的？", "天空是什么颜色？"), "用户问天空的颜色。", "天空是蓝色的。"),
    Talk(("什么是文心大模型？", "文心是什么？"), "用户问文心大模型。", "文心是百度的大模型。我是一个结构相同的小模型。"),
    Talk(("你是人吗？", "你是机器人吗？"), "用户问我是什么。", "我是一个小语言模型，不是人。"),
    Talk(("从一数到五。", "请从一数到五"), "用户要我数数。", "一，二，三，四，五。"),
    Talk(("写一首诗。", "写一首关于月亮的诗。"), "用户想要一首诗。", "明月照高楼，\n清风过小河。"),
    Talk(("最大的海洋是哪个？", "世界上最大的海洋是什么？"), "用户问海洋。", "最大的海洋是太平洋。"),
)  # fmt: skip

ZOOM_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "image_zoom_in_tool",
        "description": "Zoom in on a specific region of an image by cropping it based on a bounding box (bbox) and an optional object label.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The bounding box of the region to zoom in, as [x1, y1, x2, y2], where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner, and the values of x1, y1, x2, y2 are all normalized to the range 0–1000 based on the original image dimensions.",
                },
                "label": {
                    "type": "string",
                    "description": "The name or label of the object in the specified bounding box (optional).",
                },
            },
            "required": ["bbox_2d"],
        },
        "strict": False,
    },
}
_ZOOM_QUESTION = "Is the old lady on the left side of the empty table behind older couple?"


def make(random: Random, language: str, held_out: bool) -> Sample:
    """A fixed exchange; `held_out` makes no difference, there is nothing to generalise to."""
    talks = ENGLISH if language == "en" else CHINESE
    talk = talks[int(random.integers(len(talks)))]
    if random.random() < 0.25:
        earlier = talks[int(random.integers(len(talks)))]
        history = (user(pick(random, earlier.questions)), assistant(earlier.answer))
        question = user(pick(random, talk.questions))
        return Sample("chat", language, (*history, question), talk.reasoning, talk.answer)
    return Sample(
        "chat", language, (user(pick(random, talk.questions)),), talk.reasoning, talk.answer
    )


def zoom(random: Random, language: str, held_out: bool) -> Sample:
    """The documents' request for a closer look."""
    reasoning = (
        "I need to see the old lady, the empty table and the older couple more closely, "
        "so I use image_zoom_in_tool on that region."
    )
    call = ToolCall("image_zoom_in_tool", {"bbox_2d": [285, 235, 999, 652]})
    message = {"role": "user", "content": [{"type": "text", "text": _ZOOM_QUESTION}]}
    return Sample("chat_zoom", "en", (message,), reasoning, call, tools=(ZOOM_TOOL,))


def completion(random: Random, language: str, held_out: bool) -> Sample:
    """A plain prompt without a conversation, as the completions endpoint sends it."""
    talks = ENGLISH if language == "en" else CHINESE
    talk = talks[int(random.integers(len(talks)))]
    prompt = pick(random, talk.questions)
    start = "" if language == "zh" else " "
    return Sample(
        "completion",
        language,
        ({"role": "completion", "content": prompt},),
        "",
        start + talk.answer,
    )
