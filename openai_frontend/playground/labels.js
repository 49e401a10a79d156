// All words of the page, in English and Chinese. The markup names them by data-label (text),
// data-label-name (accessible name and tooltip) and data-label-placeholder.

import { recall, remember, setText } from "./dom.js";

const ENGLISH = {
  title: "ERNIE playground",
  model: "Model",
  actions: "Actions",
  newChat: "New chat",
  exportJson: "Export as JSON",
  switchLanguage: "切换到中文",
  switchTheme: "Light or dark",
  settings: "Settings",
  close: "Close",
  conversation: "Conversation",
  welcome: "Ask ERNIE something",
  welcomeMore: "Type a question, or drop an image or a video anywhere on this page.",
  suggestPicture: "Describe an image",
  suggestText: "Explain an idea",
  suggestTool: "Call a tool",
  askPicture: "Describe this picture.",
  askText: "How does a neural network read a picture? Explain it in three short points.",
  askTool: "What is the weather in Beijing right now?",
  toEnd: "To the latest message",
  attachments: "Attachments",
  message: "Message",
  messageHint: "Message ERNIE",
  attach: "Add images or videos",
  keys: "Enter sends · Shift+Enter adds a line",
  keysBusy: "Esc stops",
  mediaSize: "{size} of {limit} in media",
  limits: "PNG, JPEG, WebP, GIF, BMP, TIFF or video · up to {limit} per request",
  send: "Send",
  stop: "Stop",
  behaviour: "Behaviour",
  system: "System prompt",
  systemHint: "None",
  thinking: "Think before answering",
  sampling: "Sampling",
  temperature: "Temperature",
  auto: "auto",
  random: "random",
  maxTokens: "Max tokens",
  seed: "Seed",
  stopStrings: "Stop strings, one per line",
  tools: "Tools",
  toolsJson: "Functions as a JSON list",
  insertExample: "Insert example",
  connection: "Connection",
  key: "API key",
  keyHint: "Only if the server asks for one",
  keyNote: "Kept in this page's memory only; gone when it closes.",
  reset: "Reset all settings",
  dropHere: "Drop images or videos here",
  contextLength: "{model}: up to {tokens} tokens per conversation",
  needsKey: "This server asks for an API key.",
  unreachable: "The server cannot be reached.",
  modelsFailed: "The list of models failed: {message}",
  you: "You",
  ernie: "ERNIE",
  waiting: "Waiting for the first token",
  thinkingNow: "Thinking",
  thoughts: "Thoughts",
  tokens: "{count} tokens",
  toolCall: "Tool call {name}",
  toolResult: "Result to give back",
  toolResultSent: "Result",
  toolContinue: "Send result and continue",
  toolContinueAll: "Send results and continue",
  stopped: "Stopped",
  cutOff: "Cut off at the token limit",
  firstToken: "First token",
  speed: "Speed",
  perSecond: "{count} tok/s",
  promptTokens: "Prompt",
  answerTokens: "Answer",
  time: "Time",
  ofImages: "{count} image",
  ofVideos: "{count} video",
  ofCache: "{count} cached",
  ofThinking: "{count} thinking",
  copy: "Copy",
  copyCode: "Copy code",
  copyCurl: "Copy as curl",
  copyPython: "Copy as Python",
  tryAgain: "Try again",
  regenerate: "Regenerate",
  copied: "Copied",
  copyFailed: "The browser refused to copy",
  cleared: "Chat cleared",
  undo: "Undo",
  remove: "Remove {name}",
  answering: "ERNIE is answering",
  answered: "The answer is complete",
  errorTitle: "The server answered with an error",
  requestId: "request id",
  retryAfter: "Try again in {seconds} s.",
  connectionLost: "The connection broke before the answer was complete.",
  badAnswer: "The server's answer could not be read.",
  notMedia: "{name} is neither an image nor a video that can be read.",
  tooLarge: "{name} ({size}) does not fit: a request may hold {limit}, pictures included.",
  unreadable: "{name} cannot be read.",
  toolsNotJson: "Not valid JSON: {reason}",
  toolsNotList: 'A list of objects like {"type": "function", "function": {"name": …}} is needed.',
  badNumber: "{name}: between {low} and {high}, please.",
};

const CHINESE = {
  title: "文心体验台",
  model: "模型",
  actions: "操作",
  newChat: "新对话",
  exportJson: "导出为 JSON",
  switchLanguage: "Switch to English",
  switchTheme: "浅色或深色",
  settings: "设置",
  close: "关闭",
  conversation: "对话",
  welcome: "向文心提问",
  welcomeMore: "输入问题，或将图片、视频拖放到页面任意位置。",
  suggestPicture: "描述一张图片",
  suggestText: "解释一个概念",
  suggestTool: "调用一个工具",
  askPicture: "请描述这张图片。",
  askText: "神经网络是如何看懂图片的？请用三个要点简要说明。",
  askTool: "北京现在天气怎么样？",
  toEnd: "回到最新消息",
  attachments: "附件",
  message: "消息",
  messageHint: "给文心发消息",
  attach: "添加图片或视频",
  keys: "Enter 发送 · Shift+Enter 换行",
  keysBusy: "Esc 停止",
  mediaSize: "媒体 {size}，上限 {limit}",
  limits: "PNG、JPEG、WebP、GIF、BMP、TIFF 或视频 · 每次请求不超过 {limit}",
  send: "发送",
  stop: "停止",
  behaviour: "行为",
  system: "系统提示词",
  systemHint: "无",
  thinking: "回答前先思考",
  sampling: "采样",
  temperature: "温度",
  auto: "自动",
  random: "随机",
  maxTokens: "最大 token 数",
  seed: "随机种子",
  stopStrings: "停止字符串，每行一个",
  tools: "工具",
  toolsJson: "函数列表（JSON）",
  insertExample: "插入示例",
  connection: "连接",
  key: "API 密钥",
  keyHint: "仅在服务器要求时填写",
  keyNote: "只保存在本页内存中，关闭页面即消失。",
  reset: "重置全部设置",
  dropHere: "将图片或视频拖放到这里",
  contextLength: "{model}：每个对话最多 {tokens} 个 token",
  needsKey: "该服务器需要 API 密钥。",
  unreachable: "无法连接服务器。",
  modelsFailed: "获取模型列表失败：{message}",
  you: "你",
  ernie: "文心",
  waiting: "等待第一个 token",
  thinkingNow: "思考中",
  thoughts: "思考过程",
  tokens: "{count} 个 token",
  toolCall: "工具调用 {name}",
  toolResult: "要返回的结果",
  toolResultSent: "结果",
  toolContinue: "发送结果并继续",
  toolContinueAll: "发送全部结果并继续",
  stopped: "已停止",
  cutOff: "已达到 token 上限",
  firstToken: "首 token",
  speed: "速度",
  perSecond: "{count} token/秒",
  promptTokens: "输入",
  answerTokens: "输出",
  time: "用时",
  ofImages: "图片 {count}",
  ofVideos: "视频 {count}",
  ofCache: "缓存 {count}",
  ofThinking: "思考 {count}",
  copy: "复制",
  copyCode: "复制代码",
  copyCurl: "复制为 curl",
  copyPython: "复制为 Python",
  tryAgain: "重试",
  regenerate: "重新生成",
  copied: "已复制",
  copyFailed: "浏览器拒绝复制",
  cleared: "对话已清空",
  undo: "撤销",
  remove: "移除 {name}",
  answering: "文心正在回答",
  answered: "回答完毕",
  errorTitle: "服务器返回错误",
  requestId: "请求 ID",
  retryAfter: "请在 {seconds} 秒后重试。",
  connectionLost: "连接在回答完成前中断。",
  badAnswer: "无法解析服务器的回答。",
  notMedia: "{name} 不是可读取的图片或视频。",
  tooLarge: "{name}（{size}）放不下：每次请求（含图片）不超过 {limit}。",
  unreadable: "无法读取 {name}。",
  toolsNotJson: "不是有效的 JSON：{reason}",
  toolsNotList: '需要一个列表，元素形如 {"type": "function", "function": {"name": …}}。',
  badNumber: "{name}：请填写 {low} 到 {high} 之间的数。",
};

let chosen = recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const language = () => (chosen === "zh" ? "zh" : "en");

export function setLanguage(name) {
  chosen = name;
  remember("language", name);
}

export function label(key, values = {}) {
  const text = (language() === "zh" ? CHINESE : ENGLISH)[key];
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Fill in the words of all marked elements. */
export function applyLabels() {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  document.title = label("title");
  for (const node of document.querySelectorAll("[data-label]")) {
    setText(node, label(node.dataset.label));
  }
  for (const node of document.querySelectorAll("[data-label-name]")) {
    const name = label(node.dataset.labelName);
    node.setAttribute("aria-label", name);
    if (node.localName === "button") node.title = name;
  }
  for (const node of document.querySelectorAll("[data-label-placeholder]")) {
    node.placeholder = label(node.dataset.labelPlaceholder);
  }
}

export const count = (number) => number.toLocaleString(language());

export function bytes(number) {
  const units = ["B", "KB", "MB", "GB"];
  let power = 0;
  while (number >= 1024 && power < units.length - 1) {
    number /= 1024;
    power += 1;
  }
  return `${Number(number.toFixed(number < 10 && power ? 1 : 0))} ${units[power]}`;
}

export function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;
}
