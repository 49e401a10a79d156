// A small Markdown: paragraphs, headings, lists, code blocks, `code`, **bold** and *italic*.
//
// Everything is built from elements and text nodes, so that no text can become markup, load
// anything or be clicked: links and images stay the text they are.

import { element } from "./dom.js";

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const MAX_EMPHASIS = 200;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;

/**
 * Show `text` in `container`. What an earlier call made of equal blocks stays untouched, so that a
 * growing text costs only its last block and a reader's selection survives.
 */
export function renderMarkdown(container, text, onCode) {
  const blocks = splitBlocks(text);
  const shown = (container.markdownBlocks ??= []);
  let same = 0;
  while (same < blocks.length && shown[same]?.source === blocks[same].source) same += 1;
  for (const block of shown.splice(same)) block.node.remove();
  for (const block of blocks.slice(same)) {
    block.node = buildBlock(block, onCode);
    container.append(block.node);
    shown.push(block);
  }
}

/** [{kind, lines, source, ...}]: `source` identifies the block's look completely. */
export function splitBlocks(text) {
  const blocks = [];
  let open = null;
  const start = (kind, fields = {}) => {
    open = { kind, lines: [], ...fields };
    blocks.push(open);
  };
  for (const line of text.split(/\r?\n/)) {
    if (open?.kind === "code") {
      if (closes(line, open.fence)) open = null;
      else open.lines.push(line);
      continue;
    }
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (fence) {
      start("code", { fence: fence[1], name: fence[2] });
    } else if (heading) {
      start("heading", { level: heading[1].length });
      open.lines.push(heading[2].replace(/\s+#+\s*$/, ""));
      open = null;
    } else if (RULE.test(line)) {
      start("rule");
      open = null;
    } else if (ITEM.test(line)) {
      if (open?.kind !== "list") start("list");
      open.lines.push(line);
    } else if (line.trim() === "") {
      // Items may stand apart; anything else ends here.
      if (open?.kind === "list") open.lines.push(line);
      else open = null;
    } else {
      const isLoose = open?.kind === "list" && open.lines.at(-1) === "" && !/^\s/.test(line);
      if (!open || isLoose) start("paragraph");
      open.lines.push(line);
    }
  }
  for (const block of blocks) {
    block.source = JSON.stringify([block.kind, block.level, block.name, block.lines]);
  }
  return blocks;
}

function closes(line, fence) {
  const mark = line.trim();
  return mark.length >= fence.length && mark === fence[0].repeat(mark.length);
}

function buildBlock(block, onCode) {
  switch (block.kind) {
    case "code":
      return codeBlock(block, onCode);
    case "heading":
      return element(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.lines[0]));
    case "rule":
      return element("hr");
    case "list":
      return list(block.lines);
    default:
      return element("p", {}, ...inline(block.lines.join("\n")));
  }
}

function codeBlock(block, onCode) {
  const source = block.lines.join("\n");
  const code = element("code", {}, source);
  const head = element("div", { class: "code-head" }, element("span", {}, block.name || "text"));
  if (onCode) head.append(onCode(source));
  return element("div", { class: "code-block" }, head, element("pre", { tabindex: "0" }, code));
}

/** Nested by indentation; a line that is no item continues the one before. */
function list(lines) {
  const root = element("div", { class: "list" });
  const levels = [];
  let item = null;
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (!match) {
      if (item && line.trim()) item.append("\n", ...inline(line.trim()));
      continue;
    }
    const indent = match[1].replaceAll("\t", "    ").length;
    while (levels.length > 1 && indent < levels.at(-1).indent) levels.pop();
    const tag = /\d/.test(match[2]) ? "ol" : "ul";
    if (!levels.length || indent > levels.at(-1).indent + 1) {
      const node = element(tag, tag === "ol" ? { start: Number.parseInt(match[2], 10) } : {});
      (item ?? root).append(node);
      levels.push({ indent, node });
    } else if (levels.at(-1).node.localName !== tag) {
      const node = element(tag, tag === "ol" ? { start: Number.parseInt(match[2], 10) } : {});
      levels.at(-1).node.after(node);
      levels.at(-1).node = node;
    }
    item = element("li", {}, ...inline(match[3]));
    levels.at(-1).node.append(item);
  }
  return root;
}

const EMPHASIS = /^\*([^\s*](?:[^*\n]*[^\s*])?)\*(?![\w*])/;

/** Text with `code`, **bold** and *italic* as nodes. A mark without its partner is text. */
export function inline(text) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  let hasNoBold = false;
  for (let at = 0; at < text.length;) {
    if (text[at] === "`") {
      let run = 1;
      while (text[at + run] === "`") run += 1;
      const end = text.indexOf(text.slice(at, at + run), at + run);
      if (end > 0) {
        flush();
        nodes.push(element("code", {}, text.slice(at + run, end)));
        at = end + run;
        continue;
      }
      plain += text.slice(at, at + run);
      at += run;
    } else if (text.startsWith("**", at) && !hasNoBold) {
      const end = text.indexOf("**", at + 2);
      hasNoBold = end < 0;
      if (end > at + 2 && text[at + 2] !== " ") {
        flush();
        nodes.push(element("strong", {}, ...inline(text.slice(at + 2, end))));
        at = end + 2;
      } else {
        plain += "**";
        at += 2;
      }
    } else if (text[at] === "*" && !/[\w*]/.test(text[at - 1] ?? "")) {
      const match = EMPHASIS.exec(text.slice(at, at + MAX_EMPHASIS));
      if (match) {
        flush();
        nodes.push(element("em", {}, match[1]));
      } else {
        plain += "*";
      }
      at += match?.[0].length ?? 1;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  flush();
  return nodes;
}
