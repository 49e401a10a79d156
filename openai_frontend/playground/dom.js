// Building blocks of the page. Text from people and models only ever becomes text nodes.

export const byId = (id) => document.getElementById(id);

/** element("p", {class: "note", hidden: true}, "text", childNode): functions become listeners. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Writing equal text again would drop the reader's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** As tall as its text, up to the limit that the style sheet sets. */
export function growWithText(textarea) {
  textarea.style.height = "auto";
  textarea.style.height = `${textarea.scrollHeight + 2}px`;
}

export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Plain http from another machine: browsers hide the clipboard there, but not this old command.
  const carrier = element("textarea", { class: "unseen", readonly: true });
  carrier.value = text;
  document.body.append(carrier);
  carrier.select();
  const copied = document.execCommand("copy");
  carrier.remove();
  if (!copied) throw new Error("the browser refused to copy");
}

/** A preference; a browser that stores nothing has none. */
export function recall(name) {
  try {
    return localStorage.getItem(`playground.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`playground.${name}`);
    else localStorage.setItem(`playground.${name}`, value);
  } catch {
    // It lasts until the page closes, then.
  }
}
