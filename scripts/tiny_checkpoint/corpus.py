"""The text the tiny tokenizer is trained on: plain sentences in English and Chinese.

Written for this project, about everyday things, so that its pieces cover what examples and tests
say. One sentence a line; a newline is never part of a sentence, which keeps "\\n" a byte piece.
"""

from __future__ import annotations

ENGLISH = """
The quick brown fox jumps over the lazy dog while the cat sleeps in the sun.
What is shown in this picture? Please describe the image in detail.
The picture shows a red circle on a white background next to a blue square.
How many people are there in the video, and what are they doing?
I am a multimodal AI assistant. I can read text, look at pictures and watch videos.
You are a helpful assistant. Answer the question briefly and clearly.
Hello! How can I help you today?
Let me think about this step by step before I give the final answer.
First, we look at the question. Second, we collect the facts. Third, we answer.
The weather in Beijing is sunny today, with a light wind from the north.
Get the weather for the location and return the temperature in degrees.
The function takes two arguments: the name of the city and the unit of the temperature.
A train leaves the station at noon and arrives in the evening.
Two plus three equals five, and five times four equals twenty.
If the sum of two numbers is ten and one of them is seven, the other is three.
Water boils at one hundred degrees and freezes at zero degrees.
The capital of France is Paris, and the capital of China is Beijing.
She opened the window, and the fresh air of the morning filled the room.
He wrote a short letter to his friend who lives near the river.
The children are playing football in the park behind the school.
My favourite books are about history, science and long journeys by sea.
A good program is short, clear and easy to test.
The server receives a request, runs the model and streams the answer back.
Every token is sent to the client as soon as it has been generated.
The model reads the prompt once and then writes one token after another.
Please translate the following sentence into English.
Please write a poem about the moon, the mountains and the autumn wind.
The table has three columns: name, price and number of items.
The total price is shown at the bottom of the receipt.
The sign on the door says that the shop is open until nine in the evening.
There is a small green plant on the desk beside the computer.
A man in a black coat is walking along the street with an umbrella.
The left side of the chart is higher than the right side.
The line rises slowly at first and then falls quickly after the middle.
This is a photograph of an old bridge across a wide river.
The text in the image reads: welcome to the museum of natural history.
Scientists found that the stars are much older than they had thought.
The doctor told him to rest, drink water and come back next week.
We need more time, because the problem is harder than it looked.
It is possible that the answer is wrong, so we should check it again.
Which of these statements is true? Explain why the others are false.
The first video frame shows an empty room; in the last one there is a dog.
The user asked for a summary, so I will keep the answer short.
Summarise the article in three sentences and give it a title.
Here is an example in Python: for item in items: print(item)
def add(first, second): return first + second
import json; data = json.loads(text); print(data["name"])
{"name": "get_weather", "arguments": {"location": "Beijing", "unit": "c"}}
{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
User: Hi Assistant: Hello! User: Bye Assistant: Goodbye, see you soon.
Picture 1: a cat. Picture 2: a dog. Compare them and tell me the differences.
The difference between them is the colour of the background.
In my opinion the best way to learn a language is to speak it every day.
Music makes people happy, and singing together makes them friends.
The farmer grows rice, wheat, apples and tomatoes on his land.
A healthy breakfast has fruit, bread, eggs and a cup of tea.
The airplane flew above the clouds, and the city below looked like a toy.
They built a house of wood and stone on the side of the hill.
Once upon a time there was a king who had three daughters.
The end of the story is not what anyone expected.
Yes, that is correct. No, that is not correct. Perhaps we can try another way.
Thank you very much for your help. You are welcome.
! " # $ % & ' ( ) * + , - . / : ; < = > ? @ [ \\ ] ^ _ ` { | } ~
ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz
"""

CHINESE = """
你好,请问有什么可以帮助你的吗?
请描述一下这张图片的内容。
这张图片里有一个红色的圆形和一个蓝色的正方形。
视频中有几个人?他们在做什么?
我是一个多模态人工智能助手,可以阅读文字、观看图片和视频。
我是文心一言,是百度研发的知识增强大语言模型。
你是一个有用的助手,请简短而清楚地回答问题。
让我一步一步地思考这个问题,然后给出最后的答案。
首先看问题,其次找事实,最后得出结论。
今天北京的天气很好,阳光明媚,有一点北风。
请查询上海明天的天气,并告诉我最高气温是多少度。
二加三等于五,五乘以四等于二十。
如果两个数的和是十,其中一个数是七,那么另一个数是三。
中国的首都是北京,法国的首都是巴黎。
床前明月光,疑是地上霜。举头望明月,低头思故乡。
春眠不觉晓,处处闻啼鸟。夜来风雨声,花落知多少。
白日依山尽,黄河入海流。欲穷千里目,更上一层楼。
她打开窗户,早晨的新鲜空气充满了房间。
他给住在河边的朋友写了一封短信。
孩子们正在学校后面的公园里踢足球。
我最喜欢的书是关于历史、科学和长途旅行的。
好的程序应该简短、清晰、容易测试。
服务器收到请求,运行模型,然后把答案一个字一个字地返回。
请把下面的句子翻译成英文。
请写一首关于月亮、高山和秋风的诗。
表格有三列:名称、价格和数量。
总价写在收据的最下面。
门上的牌子写着商店营业到晚上九点。
电脑旁边的桌子上有一盆绿色的小植物。
一个穿黑色大衣的男人打着伞走在街上。
图表左边比右边高,曲线先慢慢上升,然后很快下降。
这是一座古老的桥的照片,桥下是一条很宽的江。
图中的文字是:欢迎来到自然历史博物馆。
科学家发现这些星星比他们以前想的要老得多。
医生让他多休息,多喝水,下个星期再来。
我们需要更多的时间,因为这个问题比看起来更难。
答案可能是错误的,所以我们应该再检查一次。
下面哪一个说法是正确的?请解释为什么其他的是错误的。
用户想要一个总结,所以我会回答得短一些。
请用三句话总结这篇文章,并给它起一个标题。
函数有两个参数:城市的名字和温度的单位。
我认为学习语言最好的方法是每天都说。
音乐使人快乐,一起唱歌使人成为朋友。
农民在田地里种水稻、小麦、苹果和西红柿。
健康的早餐有水果、面包、鸡蛋和一杯茶。
飞机在云层上面飞行,下面的城市看起来像玩具一样。
从前有一位国王,他有三个女儿。
故事的结局出乎所有人的意料。
是的,这是对的。不,这不对。也许我们可以试试别的办法。
非常感谢你的帮助。不客气,再见!
"""


def sentences() -> list[str]:
    """All sentences, English first, in the order written."""
    return [line for line in (ENGLISH + CHINESE).splitlines() if line]
