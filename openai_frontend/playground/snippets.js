// A request as commands that repeat it elsewhere. They name the key's variable, never the key.

/** For a shell: the body travels on standard input, where its length has no limit. */
export function curlCommand(url, body, hasKey) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $ERNIE_API_KEY"` : "";
  const json = JSON.stringify(body, null, 2);
  return (
    `curl -N ${shellQuote(url)} \\\n  -H 'Content-Type: application/json'${key} \\\n` +
    `  --data-binary @- <<'JSON'\n${json}\nJSON\n`
  );
}

/** For the `openai` package; what OpenAI's API does not know goes through extra_body. */
export function pythonScript(baseUrl, body, hasKey) {
  const { top_k, chat_template_kwargs, stream, ...known } = body;
  const extra = { top_k, chat_template_kwargs };
  const lines = Object.entries(known).map(([name, value]) => `    ${name}=${literal(value, 1)},`);
  lines.push("    stream=True,");
  lines.push(`    extra_body=${literal(extra, 1)},`);
  const key = hasKey ? 'os.environ["ERNIE_API_KEY"]' : '"none"';
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(baseUrl)}, api_key=${key})
stream = client.chat.completions.create(
${lines.join("\n")}
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
`;
}

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A JSON value in Python's spelling; JSON's strings and numbers are Python's, too. */
function literal(value, depth = 0) {
  const pad = "    ".repeat(depth + 1);
  const end = "    ".repeat(depth);
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) {
    if (!value.length) return "[]";
    const items = value.map((item) => `${pad}${literal(item, depth + 1)},\n`);
    return `[\n${items.join("")}${end}]`;
  }
  if (typeof value === "object") {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    if (!entries.length) return "{}";
    const items = entries.map(
      ([name, item]) => `${pad}${JSON.stringify(name)}: ${literal(item, depth + 1)},\n`,
    );
    return `{\n${items.join("")}${end}}`;
  }
  return JSON.stringify(value);
}
