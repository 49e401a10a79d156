// Wires the page together: composer, chat, settings, preferences, keyboard, dropping and pasting.

import { ApiError, address, listModels } from "./api.js";
import { Attachments } from "./attachments.js";
import { Chat } from "./chat.js";
import { byId, copyText, element, growWithText, recall, remember, setText } from "./dom.js";
import { applyLabels, bytes, count, label, language, setLanguage } from "./labels.js";
import {
  FieldError,
  insertExampleTools,
  readParameters,
  showToolsError,
  systemMessages,
} from "./parameters.js";
import { curlCommand, pythonScript } from "./snippets.js";

const MAX_BODY_BYTES = Number(document.documentElement.dataset.maxBodyBytes);
// What is not media in a request: text, tools and JSON's own signs.
const MEDIA_LIMIT = MAX_BODY_BYTES - Math.min(256 * 1024, MAX_BODY_BYTES / 8);
const TOAST_MS = 6000;
const NEAR_END_PX = 80;

const composer = byId("composer");
const message = byId("message");
const scroller = byId("scroller");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isNarrow = matchMedia("(max-width: 959px)");
let models = [];
let modelsError = null;
let staysAtEnd = true;
let lastTop = 0;
let toastTimer = 0;

const chat = new Chat(byId("messages"), {
  request,
  key: () => byId("key").value.trim(),
  onChange: showProgress,
  actions: {
    copy,
    copyCurl: ({ body }) =>
      copy(curlCommand(address("v1/chat/completions"), body, Boolean(byId("key").value))),
    copyPython: ({ body }) => copy(pythonScript(address("v1"), body, Boolean(byId("key").value))),
  },
});
const attachments = new Attachments(
  byId("attachments"),
  MEDIA_LIMIT,
  () => chat.mediaBytes,
  (errors) => {
    showComposerError(errors.join(" "));
    showComposer();
  },
);

// ---- asking ------------------------------------------------------------------------------------

async function submit() {
  if (chat.isRunning) return;
  await attachments.settled;
  const text = message.value.trim();
  if (!text && !attachments.items.length) return;
  showComposerError("");
  const isAsked = chat.ask(text, () => {
    message.value = "";
    growWithText(message);
    return attachments.take();
  });
  if (!isAsked) return;
  staysAtEnd = true;
  followEnd();
  showComposer();
}

/** The request's body; null, with the field at fault in focus, when there can be none. */
function request(messages) {
  let parameters;
  try {
    parameters = readParameters();
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    showToolsError();
    showComposerError(error.message);
    setSettingsOpen(true, error.field);
    return null;
  }
  return {
    model: byId("model").value || "default",
    messages: [...systemMessages(), ...messages],
    ...parameters,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
}

/** Called for each chunk: keep it cheap. */
function showProgress(answer) {
  if (!answer.isRunning || answer.firstAt === null) showComposer();
  if (answer.isRunning) {
    if (answer.firstAt === null) announce(label("answering"));
    return;
  }
  if (!answer.error) announce(answer.isStopped ? label("stopped") : label("answered"));
  if (answer.error?.status === 401) setSettingsOpen(true, byId("key"));
  if (answer.openCalls.length)
    document.querySelector(".tool-result textarea:not([readonly])").focus();
}

function showComposer() {
  byId("welcome").hidden = !chat.isEmpty;
  byId("send").hidden = chat.isRunning;
  byId("stop").hidden = !chat.isRunning;
  const used = chat.mediaBytes + attachments.mediaBytes;
  const limit = bytes(MEDIA_LIMIT);
  setText(byId("media-hint"), used ? label("mediaSize", { size: bytes(used), limit }) : "");
  setText(byId("keys-hint"), label(chat.isRunning ? "keysBusy" : "keys"));
  byId("attach").title = `${label("attach")} (${label("limits", { limit })})`;
}

function showComposerError(text) {
  const node = byId("composer-error");
  node.textContent = text;
  node.hidden = !text;
}

function announce(text) {
  setText(byId("announcer"), text);
}

// ---- scrolling ---------------------------------------------------------------------------------

const isAtEnd = () =>
  scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;

/** Follow the answer, unless the reader scrolled up to read. */
function followEnd() {
  if (staysAtEnd) scroller.scrollTop = scroller.scrollHeight;
  lastTop = scroller.scrollTop;
  byId("to-end").hidden = isAtEnd();
}

const sizes = new ResizeObserver(followEnd);
sizes.observe(scroller);
sizes.observe(byId("messages"));
scroller.addEventListener("scroll", () => {
  // Only upwards is the reader's doing: below the end that was followed, more may have come since.
  if (isAtEnd()) staysAtEnd = true;
  else if (scroller.scrollTop < lastTop) staysAtEnd = false;
  lastTop = scroller.scrollTop;
  byId("to-end").hidden = isAtEnd();
});
// Who unfolds thoughts wants to read them: what was clicked stays where it is.
scroller.addEventListener("click", (event) => {
  if (event.target.closest("summary")) staysAtEnd = false;
});
byId("to-end").addEventListener("click", () => {
  staysAtEnd = true;
  followEnd();
});

// ---- composer and keyboard ---------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("stop").addEventListener("click", () => {
  chat.stop();
  message.focus();
});
message.addEventListener("input", () => growWithText(message));
message.addEventListener("keydown", (event) => {
  // While an input method composes, Enter picks a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (chat.isRunning) chat.stop();
  else if (isNarrow.matches) setSettingsOpen(false);
});
for (const button of document.querySelectorAll("[data-suggestion]")) {
  button.addEventListener("click", () => suggest(button.dataset.suggestion));
}

function suggest(name) {
  const texts = { picture: "askPicture", text: "askText", tool: "askTool" };
  message.value = label(texts[name]);
  growWithText(message);
  if (name === "tool") insertExampleTools();
  if (name === "picture") byId("files").click();
  message.focus();
}

// ---- pictures and videos -----------------------------------------------------------------------

byId("attach").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", (event) => {
  attachments.add(event.target.files);
  event.target.value = "";
  message.focus();
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  attachments.add(event.clipboardData.files);
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  byId("drop-veil").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop-veil").hidden = true;
});
document.addEventListener("drop", (event) => {
  byId("drop-veil").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  attachments.add(event.dataTransfer.files);
  message.focus();
});

// ---- settings ----------------------------------------------------------------------------------

function setSettingsOpen(isOpen, focus = null) {
  document.body.classList.toggle("settings-open", isOpen);
  const panel = byId("settings");
  panel.inert = !isOpen;
  // On a phone the panel covers the chat: what lies below must not be reached by keyboard.
  byId("chat").inert = isOpen && isNarrow.matches;
  byId("open-settings").setAttribute("aria-expanded", String(isOpen));
  focus?.focus();
}

byId("open-settings").addEventListener("click", () => {
  const isOpen = !document.body.classList.contains("settings-open");
  if (!isNarrow.matches) remember("settings", isOpen ? null : "closed");
  setSettingsOpen(isOpen, isOpen && isNarrow.matches ? byId("close-settings") : null);
});
byId("close-settings").addEventListener("click", () => byId("open-settings").click());
byId("backdrop").addEventListener("click", () => setSettingsOpen(false));
isNarrow.addEventListener("change", () => setSettingsOpen(!isNarrow.matches));
byId("parameters").addEventListener("submit", (event) => event.preventDefault());
byId("parameters").addEventListener("reset", () => setTimeout(showToolsError));
byId("tools").addEventListener("input", showToolsError);
byId("tools-example").addEventListener("click", insertExampleTools);
byId("key").addEventListener("change", loadModels);
byId("model").addEventListener("change", showServer);
for (const id of ["system", "stop_strings", "tools"]) {
  byId(id).addEventListener("input", (event) => growWithText(event.target));
}

async function loadModels() {
  try {
    models = await listModels(byId("key").value.trim());
    modelsError = null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    models = [];
    modelsError = error;
  }
  const chosen = byId("model").value;
  const names = models.length ? models.map(({ id }) => id) : ["default"];
  byId("model").replaceChildren(...names.map((id) => element("option", { value: id }, id)));
  if (names.includes(chosen)) byId("model").value = chosen;
  showServer();
}

function showServer() {
  const card = models.find(({ id }) => id === byId("model").value);
  let note = "";
  if (modelsError?.status === 401) note = label("needsKey");
  else if (modelsError) note = label("modelsFailed", { message: modelsError.message });
  else if (card?.maxLength) {
    note = label("contextLength", { model: card.id, tokens: count(card.maxLength) });
  }
  setText(byId("server-note"), note);
  byId("server-note").classList.toggle("field-error", Boolean(modelsError));
}

// ---- actions of the bar ------------------------------------------------------------------------

byId("clear").addEventListener("click", () => {
  if (!chat.isEmpty) {
    const bringBack = chat.clear();
    toast(label("cleared"), label("undo"), () => {
      bringBack();
      showComposer();
    });
  }
  showComposer();
  message.focus();
});

byId("export").addEventListener("click", () => {
  const record = {
    exported_at: new Date().toISOString(),
    server: address("v1"),
    model: byId("model").value,
    messages: [...systemMessages(), ...chat.messages()],
    turns: chat,
  };
  const blob = new Blob([JSON.stringify(record, null, 2)], { type: "application/json" });
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: "ernie-chat.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
});

byId("language").addEventListener("click", () => {
  setLanguage(language() === "zh" ? "en" : "zh");
  showLanguage();
});

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const system = prefersDark.matches ? "dark" : "light";
  const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
  if (next === system) delete root.dataset.theme;
  else root.dataset.theme = next;
  remember("theme", next === system ? null : next);
});

function showLanguage() {
  applyLabels();
  setText(byId("language-mark"), language() === "zh" ? "EN" : "中");
  chat.update();
  showComposer();
  showServer();
}

async function copy(text) {
  try {
    await copyText(text);
    toast(label("copied"));
  } catch {
    toast(label("copyFailed"));
  }
}

function toast(text, actionName = "", action = null) {
  const [words, button] = byId("toast").children;
  words.textContent = text;
  button.textContent = actionName;
  button.hidden = !action;
  button.onclick = () => {
    byId("toast").hidden = true;
    action();
  };
  byId("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (byId("toast").hidden = true), TOAST_MS);
}

setSettingsOpen(!isNarrow.matches && recall("settings") !== "closed");
showLanguage();
loadModels();
if (!isNarrow.matches) message.focus(); // on a phone it would open the keyboard over the page
