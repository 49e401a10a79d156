// What the user asked, as data: text and attachments.

export class Question {
  constructor(text, attachments) {
    this.text = text;
    this.attachments = attachments;
  }

  messages() {
    if (!this.attachments.length) return [{ role: "user", content: this.text }];
    const parts = this.attachments.map(({ kind, url }) => ({
      type: `${kind}_url`,
      [`${kind}_url`]: { url },
    }));
    if (this.text) parts.push({ type: "text", text: this.text });
    return [{ role: "user", content: parts }];
  }

  /** What its media take in a request. */
  get mediaBytes() {
    return this.attachments.reduce((sum, { url }) => sum + url.length, 0);
  }

  toJSON() {
    return { messages: this.messages() };
  }
}
