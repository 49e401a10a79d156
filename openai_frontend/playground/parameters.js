// The settings panel: from its fields to a request body's, with what is wrong named at the field.

import { byId, growWithText } from "./dom.js";
import { label } from "./labels.js";

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
const EXAMPLE_TOOLS = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Current weather of a city",
      parameters: {
        type: "object",
        properties: { city: { type: "string", description: "Name of the city" } },
        required: ["city"],
      },
    },
  },
];

/** A field holds what cannot be sent; `field` is where to look. */
export class FieldError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The fields of a request that the panel decides on. Empty fields are left to the server. */
export function readParameters() {
  const body = {};
  for (const name of NUMBERS) {
    const field = byId(name);
    const { low, high } = { low: field.min, high: field.max };
    if (!field.checkValidity())
      throw new FieldError(field, label("badNumber", { name, low, high }));
    if (field.value !== "") body[name] = field.valueAsNumber;
  }
  const stop = byId("stop_strings").value.split("\n").filter(Boolean);
  if (stop.length) body.stop = stop;
  const tools = readTools();
  if (tools.length) body.tools = tools;
  body.chat_template_kwargs = { enable_thinking: byId("thinking").checked };
  return body;
}

export function systemMessages() {
  const content = byId("system").value.trim();
  return content ? [{ role: "system", content }] : [];
}

export function insertExampleTools() {
  const field = byId("tools");
  field.value = JSON.stringify(EXAMPLE_TOOLS, null, 2);
  growWithText(field);
  showToolsError();
}

/** Tell beside the field what is wrong with it, if anything. */
export function showToolsError() {
  const message = byId("tools-error");
  let text = "";
  try {
    readTools();
  } catch (error) {
    text = error.message;
  }
  message.textContent = text;
  message.hidden = !text;
  byId("tools").setAttribute("aria-invalid", String(Boolean(text)));
}

function readTools() {
  const field = byId("tools");
  if (!field.value.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(field.value);
  } catch (error) {
    throw new FieldError(field, label("toolsNotJson", { reason: error.message }));
  }
  const isTool = (tool) => typeof tool?.function?.name === "string";
  if (!Array.isArray(tools) || !tools.every(isTool)) {
    throw new FieldError(field, label("toolsNotList"));
  }
  return tools;
}
