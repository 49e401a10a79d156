// The server's API, by addresses relative to the page, so that a path prefix in a proxy is fine.

import { label } from "./labels.js";
import { readEvents } from "./sse.js";

/** What went wrong, as the server told it or, with status 0, as the browser saw it. */
export class ApiError extends Error {
  constructor({
    status = 0,
    message,
    code = null,
    param = null,
    requestId = null,
    retryAfter = null,
  }) {
    super(message);
    Object.assign(this, { status, code, param, requestId, retryAfter });
  }
}

export const address = (path) => new URL(path, document.baseURI).href;

export async function listModels(key) {
  const response = await send("v1/models", { headers: headers(key) });
  try {
    const { data } = await response.json();
    return data.map((card) => ({ id: String(card.id), maxLength: card.max_model_len ?? null }));
  } catch {
    throw new ApiError({ message: label("badAnswer"), status: response.status });
  }
}

/**
 * Yields the chunks of a streamed chat. `onOpen` gets the request id as soon as it is known.
 * Throws ApiError, or AbortError when `signal` ended it.
 */
export async function* streamChat(body, key, signal, onOpen) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const requestId = response.headers.get("x-request-id");
  onOpen(requestId);
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parse(data, requestId);
      if (chunk.error) throw toApiError(chunk, { status: response.status, requestId });
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError({ message: label("connectionLost"), requestId });
  }
  throw new ApiError({ message: label("connectionLost"), requestId });
}

const headers = (key) => (key ? { authorization: `Bearer ${key}` } : {});

async function send(path, options) {
  let response;
  try {
    response = await fetch(address(path), { ...options, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError({ message: label("unreachable") });
  }
  if (response.ok) return response;
  const known = {
    status: response.status,
    requestId: response.headers.get("x-request-id"),
    retryAfter: response.headers.get("retry-after"),
  };
  const text = await response.text().catch(() => "");
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's own page, most likely.
  }
  throw toApiError(body, { ...known, text });
}

function parse(data, requestId) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError({ message: label("badAnswer"), requestId });
  }
}

function toApiError(body, { text = "", ...known }) {
  const error = body?.error ?? {};
  const message =
    error.message ?? body?.detail ?? (text.slice(0, 500).trim() || label("badAnswer"));
  return new ApiError({
    ...known,
    message: String(message),
    code: error.code ?? null,
    param: error.param ?? null,
  });
}
