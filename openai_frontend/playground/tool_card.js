// A tool call: its name, its arguments, and the field where the user plays the tool.

import { element, growWithText, icon, setText } from "./dom.js";
import { label } from "./labels.js";

export class ToolCard {
  /** `onEnter`: the user is done with this field. */
  constructor(call, onEnter) {
    this.#call = call;
    this.#name = element("span", { class: "tool-name" });
    this.#arguments = element("pre", { class: "tool-arguments", tabindex: "0" });
    this.#label = element("span", { class: "tool-label" });
    this.field = element("textarea", {
      rows: 2,
      class: "code",
      spellcheck: "false",
      input: () => growWithText(this.field),
      keydown: (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        onEnter();
      },
    });
    this.#result = element("label", { class: "tool-result" }, this.#label, this.field);
    const head = element("header", {}, icon("tool"), this.#name);
    this.node = element("section", { class: "tool-call" }, head, this.#arguments, this.#result);
  }

  #call;
  #name;
  #arguments;
  #label;
  #result;

  update(isRunning) {
    const { name, arguments: json, result } = this.#call;
    const isSent = result !== null;
    this.node.setAttribute("aria-label", label("toolCall", { name }));
    setText(this.#name, name);
    setText(this.#arguments, pretty(json));
    setText(this.#label, label(isSent ? "toolResultSent" : "toolResult"));
    this.#result.hidden = isRunning;
    this.field.readOnly = isSent;
    if (isSent && this.field.value !== result) this.field.value = result;
  }
}

/** Indented if it is whole JSON already; as it came if not. */
function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
