// How a question looks: its pictures and videos, then its text as it was typed.

import { caption, thumbnail } from "./attachments.js";
import { element, setText } from "./dom.js";
import { label } from "./labels.js";

export class QuestionView {
  constructor(question) {
    this.#author = element("h3", { class: "unseen" });
    this.node = element("li", { class: "message question" }, this.#author);
    if (question.attachments.length) {
      const cards = question.attachments.map((item) =>
        element("li", { class: "attachment" }, thumbnail(item), caption(item)),
      );
      this.node.append(element("ul", { class: "attachments" }, ...cards));
    }
    if (question.text) this.node.append(element("div", { class: "bubble" }, question.text));
    this.update();
  }

  #author;

  update() {
    setText(this.#author, label("you"));
  }
}
