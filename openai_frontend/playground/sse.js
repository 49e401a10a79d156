// Server-sent events from a fetch: EventSource cannot POST.

/** push(text) returns the data of the events that the text completed, however it was cut. */
export class EventParser {
  #rest = "";
  #data = [];

  push(text) {
    const events = [];
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      } else if (line === "" && this.#data.length) {
        events.push(this.#data.join("\n"));
        this.#data = [];
      } // Comments (": ping") and other fields say nothing to this page.
    }
    return events;
  }
}

/** Yields the data of each event of a response's body. */
export async function* readEvents(body) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
