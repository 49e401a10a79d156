// How an answer looks while it grows and after: thoughts, text, tool calls, error, numbers, actions.

import { element, setText } from "./dom.js";
import { count, duration, label } from "./labels.js";
import { renderMarkdown } from "./markdown.js";
import { ToolCard } from "./tool_card.js";

export class AnswerView {
  /**
   * `actions`: copy(text), copyCurl(answer), copyPython(answer), again(answer) and
   * proceed(answer): the user typed the tool results.
   */
  constructor(answer, actions) {
    this.#answer = answer;
    this.#actions = actions;
    this.#author = element("h3", { class: "author" });
    this.#waiting = element("p", { class: "waiting" }, element("span", { class: "pulse" }));
    this.#waitingText = element("span", { class: "unseen" });
    this.#waiting.append(this.#waitingText);
    this.#summary = element("span", { class: "thinking-title" });
    this.#thinkingCount = element("span", { class: "thinking-count" });
    this.#reasoning = element("div", { class: "reasoning" });
    this.#thinking = element(
      "details",
      { class: "thinking", hidden: true },
      element("summary", {}, this.#summary, this.#thinkingCount),
      this.#reasoning,
    );
    this.#content = element("div", { class: "content" });
    this.#tools = element("div", { class: "tool-calls" });
    this.#continue = this.#button("primary-button", () => actions.proceed(answer));
    this.#continue.hidden = true;
    this.#failure = element("div", { class: "failure", role: "alert", hidden: true });
    this.#state = element("span", { class: "state" });
    this.#stats = element("dl", { class: "stats" });
    this.#buttons = {
      copy: this.#button("link-button", () => actions.copy(answer.content)),
      copyCurl: this.#button("link-button", () => actions.copyCurl(answer)),
      copyPython: this.#button("link-button", () => actions.copyPython(answer)),
      again: this.#button("link-button again", () => actions.again(answer)),
    };
    this.#footer = element(
      "footer",
      { hidden: true },
      this.#stats,
      element("div", { class: "answer-actions" }, ...Object.values(this.#buttons)),
    );
    this.node = element(
      "li",
      { class: "message answer" },
      this.#author,
      this.#waiting,
      this.#thinking,
      this.#content,
      this.#tools,
      this.#continue,
      this.#failure,
      this.#state,
      this.#footer,
    );
    this.update();
  }

  #answer;
  #actions;
  #author;
  #waiting;
  #waitingText;
  #summary;
  #thinkingCount;
  #thinking;
  #reasoning;
  #content;
  #tools;
  #cards = [];
  #continue;
  #failure;
  #state;
  #stats;
  #buttons;
  #footer;
  #frame = 0;

  /** Chunks may come faster than anyone can look: one update per frame. */
  scheduleUpdate() {
    this.#frame ||= requestAnimationFrame(() => this.update());
  }

  update() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const answer = this.#answer;
    this.node.classList.toggle("running", answer.isRunning);
    this.node.setAttribute("aria-busy", String(answer.isRunning));
    setText(this.#author, label("ernie"));
    this.#waiting.hidden = !answer.isRunning || !answer.isEmpty;
    setText(this.#waitingText, label("waiting"));
    this.#updateThinking(answer);
    renderMarkdown(this.#content, answer.content.trimEnd(), (source) => this.#codeButton(source));
    this.#updateTools(answer);
    this.#updateFailure(answer.error);
    setText(this.#state, stateText(answer));
    this.#footer.hidden = answer.isRunning;
    if (answer.isRunning) return;
    this.#stats.replaceChildren(...statistics(answer));
    for (const name of ["copy", "copyCurl", "copyPython"])
      setText(this.#buttons[name], label(name));
    this.#buttons.copy.hidden = !answer.content;
    setText(this.#buttons.again, label(answer.error ? "tryAgain" : "regenerate"));
  }

  #updateThinking({ reasoning, reasoningTokens, isThinking }) {
    this.#thinking.hidden = !reasoning.trim();
    this.#thinking.classList.toggle("live", isThinking);
    setText(this.#summary, label(isThinking ? "thinkingNow" : "thoughts"));
    setText(
      this.#thinkingCount,
      reasoningTokens ? label("tokens", { count: count(reasoningTokens) }) : "",
    );
    setText(this.#reasoning, reasoning.trim());
  }

  #updateTools(answer) {
    for (const call of answer.toolCalls.slice(this.#cards.length)) {
      const card = new ToolCard(call, () => this.#leaveCard(card));
      this.#cards.push(card);
      this.#tools.append(card.node);
    }
    for (const card of this.#cards) card.update(answer.isRunning);
    this.#continue.hidden = !answer.openCalls.length;
    setText(this.#continue, label(this.#cards.length > 1 ? "toolContinueAll" : "toolContinue"));
  }

  /** Enter goes to the next field that is empty, and on from the last. */
  #leaveCard(card) {
    const empty = this.#cards.find((other) => other !== card && !other.field.value);
    if (empty) empty.field.focus();
    else this.#actions.proceed(this.#answer);
  }

  /** What stands in the cards' fields becomes the calls' results, empty or not. */
  takeResults() {
    for (const call of this.#answer.openCalls) {
      call.result = this.#cards[this.#answer.toolCalls.indexOf(call)].field.value;
    }
    this.update();
  }

  #updateFailure(error) {
    this.#failure.hidden = !error;
    if (!error) return;
    const where = [error.status || "", error.code ?? "", error.param ?? ""].filter(Boolean);
    const retry = error.retryAfter ? label("retryAfter", { seconds: error.retryAfter }) : "";
    const lines = [
      element("strong", {}, error.status ? label("errorTitle") : error.message),
      element("p", {}, error.status ? error.message : ""),
      element("p", {}, retry),
      element("p", { class: "failure-details" }, where.join(" · ")),
    ];
    if (error.requestId) {
      lines.push(
        element(
          "p",
          { class: "failure-details" },
          `${label("requestId")} `,
          element("code", {}, error.requestId),
        ),
      );
    }
    this.#failure.replaceChildren(...lines.filter((line) => line.textContent));
  }

  #button(style, click) {
    return element("button", { type: "button", class: style, click });
  }

  #codeButton(source) {
    const button = this.#button("link-button", () => this.#actions.copy(source));
    button.dataset.label = "copyCode";
    setText(button, label("copyCode"));
    return button;
  }
}

function stateText({
  isRunning,
  isStopped,
  isThinking,
  finishReason,
  completionTokens,
  tokensPerSecond,
}) {
  if (isStopped) return label("stopped");
  if (!isRunning) return finishReason === "length" ? label("cutOff") : "";
  if (isThinking || !completionTokens) return "";
  const tokens = label("tokens", { count: count(completionTokens) });
  return tokensPerSecond === null ? tokens : `${tokens} · ${speed(tokensPerSecond)}`;
}

const speed = (tokensPerSecond) => label("perSecond", { count: tokensPerSecond.toFixed(1) });

function statistics(answer) {
  const { usage, firstTokenMs, tokensPerSecond } = answer;
  const items = [];
  const add = (name, value, details = []) => {
    const known = details
      .filter(([, number]) => number)
      .map(([key, number]) => label(key, { count: count(number) }));
    const text = known.length ? `${value} (${known.join(", ")})` : value;
    items.push(element("div", {}, element("dt", {}, label(name)), element("dd", {}, text)));
  };
  if (firstTokenMs !== null) add("firstToken", duration(firstTokenMs));
  if (tokensPerSecond !== null) add("speed", speed(tokensPerSecond));
  if (usage) {
    const prompt = usage.prompt_tokens_details ?? {};
    add("promptTokens", count(usage.prompt_tokens), [
      ["ofImages", prompt.image_tokens],
      ["ofVideos", prompt.video_tokens],
      ["ofCache", prompt.cached_tokens],
    ]);
    add("answerTokens", count(usage.completion_tokens), [["ofThinking", answer.reasoningTokens]]);
  }
  if (firstTokenMs !== null) add("time", duration(answer.totalMs));
  return items;
}
