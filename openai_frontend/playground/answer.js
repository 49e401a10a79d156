// One answer as data: what the stream's chunks add up to, and how fast they came.

const MIN_SPAN_MS = 20; // a shorter span says more about the network than about the model

export class Answer {
  /** `body`: the request that is answered. */
  constructor(body) {
    this.body = body;
    this.reasoning = "";
    this.content = "";
    this.toolCalls = []; // {id, name, arguments, result}; result is null until the user gave it
    this.finishReason = null;
    this.usage = null;
    this.error = null;
    this.requestId = null;
    this.isRunning = true;
    this.isStopped = false;
    this.startedAt = performance.now();
    this.firstAt = null;
    this.lastAt = null;
    this.reasoningTokens = 0;
    this.tokensAtFirst = 0;
  }

  add(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { reasoning_content: reasoning, content, tool_calls: calls } = choice.delta ?? {};
    if (reasoning || content || calls?.length) this.#note();
    this.reasoning += reasoning ?? "";
    this.content += content ?? "";
    for (const call of calls ?? []) this.#addCall(call);
    if (choice.finish_reason) this.finishReason = choice.finish_reason;
    // Tokens are counted as thoughts until something else begins; the end's usage knows exactly.
    if (!this.content && !this.toolCalls.length) this.reasoningTokens = this.completionTokens;
    const details = this.usage?.completion_tokens_details;
    if (this.finishReason && details?.reasoning_tokens) {
      this.reasoningTokens = details.reasoning_tokens;
    }
  }

  end() {
    this.isRunning = false;
    this.lastAt ??= performance.now();
  }

  get completionTokens() {
    return this.usage?.completion_tokens ?? 0;
  }

  get isThinking() {
    return this.isRunning && !this.content && !this.toolCalls.length;
  }

  get isEmpty() {
    return !this.content && !this.reasoning && !this.toolCalls.length;
  }

  /** Calls that wait for the user's results. */
  get openCalls() {
    return this.isRunning ? [] : this.toolCalls.filter((call) => call.result === null);
  }

  /** Milliseconds from asking to the first text; null before. */
  get firstTokenMs() {
    return this.firstAt === null ? null : this.firstAt - this.startedAt;
  }

  get totalMs() {
    return (this.isRunning ? performance.now() : this.lastAt) - this.startedAt;
  }

  /** After the first token, as decoding alone; null until there is a span to measure. */
  get tokensPerSecond() {
    const tokens = this.completionTokens - this.tokensAtFirst;
    const span = this.lastAt - this.firstAt;
    return this.firstAt !== null && tokens > 0 && span > MIN_SPAN_MS
      ? (tokens / span) * 1000
      : null;
  }

  /** The messages that stand for this answer in the next request; none if nothing came of it. */
  messages() {
    if (!this.content && !this.toolCalls.length) return [];
    const message = { role: "assistant", content: this.content };
    if (!this.toolCalls.length) return [message];
    // Thoughts belong to the calls they led to; elsewhere the model wants none of them back.
    if (this.reasoning) message.reasoning_content = this.reasoning;
    message.tool_calls = this.toolCalls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
    const results = this.toolCalls.map((call) => ({
      role: "tool",
      tool_call_id: call.id,
      content: call.result ?? "",
    }));
    return [message, ...results];
  }

  toJSON() {
    const round = (number) => (number === null ? null : Math.round(number * 100) / 100);
    return {
      reasoning_content: this.reasoning,
      content: this.content,
      tool_calls: this.toolCalls,
      finish_reason: this.finishReason,
      stopped: this.isStopped,
      usage: this.usage,
      request_id: this.requestId,
      first_token_ms: round(this.firstTokenMs),
      total_ms: round(this.totalMs),
      tokens_per_second: round(this.tokensPerSecond),
      error: this.error && {
        status: this.error.status,
        code: this.error.code,
        message: this.error.message,
      },
    };
  }

  #note() {
    this.lastAt = performance.now();
    if (this.firstAt === null) {
      this.firstAt = this.lastAt;
      this.tokensAtFirst = this.completionTokens;
    }
  }

  #addCall(delta) {
    const index = delta.index ?? this.toolCalls.length;
    const call = (this.toolCalls[index] ??= { id: "", name: "", arguments: "", result: null });
    call.id ||= delta.id ?? "";
    call.name ||= delta.function?.name ?? "";
    call.arguments += delta.function?.arguments ?? "";
  }
}
