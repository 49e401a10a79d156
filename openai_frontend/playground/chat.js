// The conversation: turns in order, the views that show them, and the answer that is running.

import { streamChat } from "./api.js";
import { Answer } from "./answer.js";
import { AnswerView } from "./answer_view.js";
import { Question } from "./question.js";
import { QuestionView } from "./question_view.js";

export class Chat {
  /**
   * `request(messages)`: the body to send; null when the settings cannot be sent as they are.
   * `key()`: the API key. `onChange(answer)`: an answer began, grew or ended.
   */
  constructor(list, { request, key, onChange, actions }) {
    this.#list = list;
    this.#request = request;
    this.#key = key;
    this.#onChange = onChange;
    this.#actions = {
      ...actions,
      again: (answer) => this.again(answer),
      proceed: (answer) => this.proceed(answer),
    };
  }

  #list;
  #request;
  #key;
  #onChange;
  #actions;
  #turns = []; // {data, view}
  #abort = null;

  get isEmpty() {
    return !this.#turns.length;
  }

  get isRunning() {
    return this.#abort !== null;
  }

  get mediaBytes() {
    return this.#turns.reduce((sum, { data }) => sum + (data.mediaBytes ?? 0), 0);
  }

  messages() {
    return this.#turns.flatMap(({ data }) => data.messages());
  }

  /** False, and nothing changed, when the settings cannot be sent. */
  ask(text, takeAttachments) {
    if (!this.#request([])) return false;
    const last = this.#turns.at(-1);
    // A new question passes over calls that are still open; the model must see some result.
    if (last?.data instanceof Answer) last.view.takeResults();
    const question = new Question(text, takeAttachments());
    this.#append(question, new QuestionView(question));
    this.#answerTurns();
    return true;
  }

  /** Go on with the results that the user typed for the last answer's tool calls. */
  proceed(answer) {
    const last = this.#turns.at(-1);
    if (this.isRunning || last?.data !== answer || !this.#request([])) return;
    last.view.takeResults();
    this.#answerTurns();
  }

  /** Answer anew what the last answer answered. */
  again(answer) {
    if (this.isRunning || this.#turns.at(-1)?.data !== answer || !this.#request([])) return;
    this.#turns.pop().view.node.remove();
    this.#answerTurns();
  }

  stop() {
    this.#abort?.abort();
  }

  /** Empty the chat. Returns a function that brings it back as long as nothing new was asked. */
  clear() {
    this.stop();
    const turns = this.#turns;
    this.#turns = [];
    this.#list.replaceChildren();
    return () => {
      if (!this.isEmpty) return;
      this.#turns = turns;
      this.#list.append(...turns.map(({ view }) => view.node));
    };
  }

  update() {
    for (const { view } of this.#turns) view.update();
  }

  toJSON() {
    return this.#turns.map(({ data }) => data);
  }

  async #answerTurns() {
    const answer = new Answer(this.#request(this.messages()));
    const view = new AnswerView(answer, this.#actions);
    this.#append(answer, view);
    const abort = new AbortController();
    this.#abort = abort;
    this.#onChange(answer);
    try {
      const onOpen = (requestId) => (answer.requestId = requestId);
      for await (const chunk of streamChat(answer.body, this.#key(), abort.signal, onOpen)) {
        answer.add(chunk);
        view.scheduleUpdate();
        this.#onChange(answer);
      }
    } catch (error) {
      if (abort.signal.aborted) answer.isStopped = true;
      else answer.error = error;
    }
    answer.end();
    this.#abort = null;
    view.update();
    this.#onChange(answer);
  }

  #append(data, view) {
    this.#turns.push({ data, view });
    this.#list.append(view.node);
  }
}
