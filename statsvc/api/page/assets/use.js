// Code to copy that returns the weights shown: Python, shell and curl; and downloads.

import { state } from "./address.js";
import { download, token } from "./api.js";
import { byId, h, link } from "./dom.js";

const STRINGS = new Set(["dataset", "method", "split"]); // strings in Python, even if they look like numbers
const quoted = (text) => /^[\w.,:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
const python = (text) => (/^-?\d+(\.\d+)?(e-?\d+)?$/i.test(text) ? text : JSON.stringify(text));

/** Copy the text of an element. Browsers have `navigator.clipboard` only with HTTPS and on loopback. */
async function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
}

/** Return a title, a text, and a button that copies the text. */
export function copyable(title, text) {
  const button = h("button", { type: "button", class: "quiet" }, "Copy");
  const code = h("code", {}, text);
  button.addEventListener("click", async () => {
    await copy(code);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return h("div", { class: "copyable" }, h("div", { class: "titled" }, h("h3", {}, title), button), h("pre", {}, code));
}

/** Show code to copy, with a fixed version number so that its result never changes. */
export function showUse(answer, onError) {
  const pinned = new URLSearchParams(state());
  pinned.set("version", String(answer.version));
  const advised = answer.warnings.some(({ code }) => code === "all_splits");
  if (advised) pinned.set("split", "train");
  const server = location.href.replace(/[?#].*$/, "").replace(/\/$/, "");
  const keywords = [...pinned].map(([name, value]) => `${name}=${STRINGS.has(name) ? JSON.stringify(value) : python(value)}`);
  const flags = [...pinned].filter(([name]) => name !== "dataset").map(([name, value]) => `--${name.replaceAll("_", "-")} ${quoted(value)}`);
  const header = token.get() ? '-H "Authorization: Bearer $STATSVC_TOKEN" ' : "";
  const save = async (format) => {
    const blob = await download(`weights?${pinned}&format=${format}`);
    const anchor = h("a", { href: URL.createObjectURL(blob), download: `${answer.dataset}-${answer.method}-v${answer.version}.${format}` });
    anchor.click();
    URL.revokeObjectURL(anchor.href);
  };
  byId("use").replaceChildren(
    h("h2", { id: "use-title" }, "Use these weights"),
    advised ? h("p", { class: "hint" }, "The code and the downloads use split=train, for training. The table above counts all splits.") : "",
    copyable("In a training script", `weights = statsvc.class_weights(${JSON.stringify(server)}, ${keywords.join(", ")})`),
    copyable("On the command line", `statsvc weights ${quoted(answer.dataset)} ${flags.join(" ")} --url ${server}`),
    copyable("Over HTTP", `curl ${header}'${server}/weights?${pinned}'`),
    token.get() ? h("p", { class: "hint" }, "All three read the token from the environment variable STATSVC_TOKEN.") : "",
    h("p", {}, "Download: ", ["json", "csv", "npy"].map((format) => [link(`weights?${pinned}&format=${format}`, () => save(format).catch(onError), format), " "]),
      h("span", { class: "hint" }, `Version ${answer.version} never changes. Leave the version out to use the newest one.`)));
}
