// The pictures and videos that wait to be sent: read as data URLs, shown, counted, removable.

import { element, icon } from "./dom.js";
import { bytes, label } from "./labels.js";

const KINDS_BY_ENDING = {
  png: "image",
  jpg: "image",
  jpeg: "image",
  webp: "image",
  gif: "image",
  bmp: "image",
  tif: "image",
  tiff: "image",
  mp4: "video",
  webm: "video",
  mov: "video",
  mkv: "video",
  avi: "video",
};
const UNKNOWN_PICTURES = ["image/svg+xml", "image/heic", "image/heif", "image/avif"];

export class Attachments {
  /** `usedBytes()`: media already in the chat; `onChange(errors)`: after every change. */
  constructor(list, maxBytes, usedBytes, onChange) {
    this.#list = list;
    this.#maxBytes = maxBytes;
    this.#usedBytes = usedBytes;
    this.#onChange = onChange;
  }

  #list;
  #maxBytes;
  #usedBytes;
  #onChange;
  #items = [];
  #reading = Promise.resolve();

  get items() {
    return [...this.#items];
  }

  get mediaBytes() {
    return this.#items.reduce((sum, { url }) => sum + url.length, 0);
  }

  /** Resolves when no file is being read any more. */
  get settled() {
    return this.#reading;
  }

  /** Files are read one after another, so that they keep their order. */
  add(files) {
    const added = [...files];
    this.#reading = this.#reading.then(async () => {
      const errors = [];
      for (const file of added) {
        try {
          await this.#addFile(file);
        } catch (error) {
          errors.push(error.message);
        }
      }
      this.#onChange(errors);
    });
    return this.#reading;
  }

  /** Hand the items over to a message. */
  take() {
    const items = this.#items;
    this.#items = [];
    this.#list.replaceChildren();
    this.#list.hidden = true;
    return items;
  }

  clear() {
    for (const item of this.take()) URL.revokeObjectURL(item.preview);
  }

  async #addFile(file) {
    const kind = kindOf(file);
    if (!kind) throw new Error(label("notMedia", { name: file.name }));
    const encoded = Math.ceil(file.size / 3) * 4;
    if (encoded + this.mediaBytes + this.#usedBytes() > this.#maxBytes) {
      const values = { name: file.name, size: bytes(file.size), limit: bytes(this.#maxBytes) };
      throw new Error(label("tooLarge", values));
    }
    const url = await readDataUrl(file, kind);
    const item = {
      kind,
      url,
      name: file.name,
      size: file.size,
      preview: URL.createObjectURL(file),
    };
    this.#items.push(item);
    this.#list.append(this.#card(item));
    this.#list.hidden = false;
  }

  #card(item) {
    const remove = element(
      "button",
      {
        type: "button",
        class: "remove",
        "aria-label": label("remove", { name: item.name }),
        title: label("remove", { name: item.name }),
        click: () => {
          this.#items = this.#items.filter((other) => other !== item);
          URL.revokeObjectURL(item.preview);
          card.remove();
          this.#list.hidden = !this.#items.length;
          this.#onChange([]);
        },
      },
      icon("close"),
    );
    const card = element("li", { class: "attachment" }, thumbnail(item), caption(item), remove);
    return card;
  }
}

/** A picture or video small enough to show beside text. */
export function thumbnail(item) {
  if (item.kind === "video") {
    return element("video", {
      src: item.preview,
      controls: true,
      muted: true,
      preload: "metadata",
    });
  }
  const hide = (event) => event.target.classList.add("no-preview"); // TIFF, in most browsers
  return element("img", { src: item.preview, alt: item.name, error: hide });
}

export function caption(item) {
  return element(
    "span",
    { class: "caption" },
    element("span", { class: "file-name" }, item.name),
    element("span", { class: "file-size" }, bytes(item.size)),
  );
}

function kindOf(file) {
  const [major] = file.type.split("/");
  if (major === "image") return UNKNOWN_PICTURES.includes(file.type) ? null : "image";
  if (major === "video") return "video";
  const ending = file.name.split(".").at(-1).toLowerCase();
  return file.type ? null : (KINDS_BY_ENDING[ending] ?? null);
}

function readDataUrl(file, kind) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(new Error(label("unreadable", { name: file.name })));
    reader.onload = () => {
      if (!file.size) return reader.onerror();
      const data = reader.result.slice(reader.result.indexOf(",") + 1);
      const type = /^(image|video)\/[\w.+-]+$/.test(file.type) ? file.type : `${kind}/unknown`;
      resolve(`data:${type};base64,${data}`);
    };
    reader.readAsDataURL(file);
  });
}
