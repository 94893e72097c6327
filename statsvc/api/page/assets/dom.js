// DOM helpers. Strings become text nodes, never HTML: names of classes and files are untrusted.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const byId = (id) => document.getElementById(id);

/** Return a link within the page. `href` must lead to the same state as `go`, for opening it in a new tab. */
export const link = (href, go, ...children) => {
  const click = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go();
  };
  return h("a", { href, onclick: click }, ...children);
};

/** Return a table in a scrollable box. A heading that starts with "#" marks a column of numbers. */
export function table(caption, headings, rows) {
  const number = headings.map((heading) => heading.startsWith("#"));
  const heads = headings.map((heading, k) => h("th", { scope: "col", class: number[k] && "number" }, heading.replace(/^#/, "")));
  const body = rows.map((cells) =>
    h("tr", {}, cells.map((cell, k) => (k ? h("td", { class: number[k] && "number" }, cell) : h("th", { scope: "row", class: number[k] && "number" }, cell)))));
  return scrolled(caption, h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body)));
}

/** Return a box that scrolls sideways, with a hint below it while a part of its contents is cut off. */
export function scrolled(label, ...children) {
  const box = h("div", { class: "scrolled", role: "region", "aria-label": label, tabindex: "0" }, ...children);
  const hint = h("p", { class: "hint sideways", hidden: true }, "Scroll sideways to see all columns →");
  new ResizeObserver(() => { hint.hidden = box.scrollWidth <= box.clientWidth; }).observe(box);
  return h("div", {}, box, hint);
}
