// What to copy: the question that is shown, for a trainer, a shell and curl; and the answer as a file.

import { state } from "./address.js";
import { download, token } from "./api.js";
import { at, h, link } from "./dom.js";

const WORDS = new Set(["dataset", "method", "split"]); // text in Python, also where it looks like a number
const quoted = (text) => /^[\w.,:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
const python = (text) => (/^-?\d+(\.\d+)?(e-?\d+)?$/i.test(text) ? text : JSON.stringify(text));

/** Return a title, a text and the button that copies it. */
export function copyable(title, text) {
  const button = h("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return h("div", { class: "copyable" }, h("div", { class: "titled" }, h("h3", {}, title), button), h("pre", {}, h("code", {}, text)));
}

/** Show the lines to copy, with the version that was answered: it never changes. */
export function showUse(answer, failed) {
  const pinned = new URLSearchParams(state());
  pinned.set("version", String(answer.version));
  const server = location.href.replace(/[?#].*$/, "").replace(/\/$/, "");
  const words = [...pinned].map(([name, value]) => `${name}=${WORDS.has(name) ? JSON.stringify(value) : python(value)}`);
  const flags = [...pinned].filter(([name]) => name !== "dataset").map(([name, value]) => `--${name.replaceAll("_", "-")} ${quoted(value)}`);
  const header = token.get() ? '-H "Authorization: Bearer $STATSVC_TOKEN" ' : "";
  const save = async (format) => {
    const blob = await download(`weights?${pinned}&format=${format}`);
    const made = h("a", { href: URL.createObjectURL(blob), download: `${answer.dataset}-${answer.method}-v${answer.version}.${format}` });
    made.click();
    URL.revokeObjectURL(made.href);
  };
  at("use").replaceChildren(
    h("h2", { id: "use-title" }, "Use these weights"),
    copyable("In a trainer", `weights = statsvc.class_weights(${JSON.stringify(server)}, ${words.join(", ")})`),
    copyable("On the command line", `statsvc weights ${quoted(answer.dataset)} ${flags.join(" ")} --url ${server}`),
    copyable("Over HTTP", `curl ${header}'${server}/weights?${pinned}'`),
    token.get() ? h("p", { class: "hint" }, "All three read the token from the environment: STATSVC_TOKEN.") : "",
    h("p", {}, "Download: ", ["json", "csv", "npy"].map((format) => [link(`weights?${pinned}&format=${format}`, () => save(format).catch(failed), format), " "]),
      h("span", { class: "hint" }, `Version ${answer.version} never changes; leave it out to follow the dataset.`)));
}
