// The class table: sortable by any column, with bars on a logarithmic or linear scale.

import { byId, h, scrolled } from "./dom.js";
import { grouped, percent, plural, significant } from "./numbers.js";

const KEYS = { id: "#id", name: "name", pixels: "#pixels", frequency: "#share", images: "#images", weight: "#weight", loss_share: "#loss share" };

let answer = null; // the response of `GET /weights` that is shown
let scale = "log";
let order = { key: "id", down: false };

/** Return the length of a bar, 0 to 1. On a linear scale, bars of rare classes are too short to see. */
function barLength(value, values) {
  const positive = values.filter((each) => each > 0);
  if (!(value > 0) || !positive.length) return 0;
  const largest = Math.max(...positive);
  if (scale === "linear") return value / largest;
  const smallest = Math.min(...positive);
  const decades = Math.max(1, Math.ceil(Math.log10(largest / smallest) + 0.25));
  return Math.max(0.01, 1 + Math.log10(value / largest) / decades);
}

function bar(value, values, kind) {
  const width = 100 * barLength(value, values);
  return h("progress", { class: `bar ${kind}`, max: 100, value: width.toFixed(2), "aria-hidden": "true" });
}

function draw() {
  const rows = [...answer.classes];
  const sign = order.down ? -1 : 1;
  rows.sort((a, b) => {
    const [x, y] = [a[order.key], b[order.key]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.id - b.id;
  });
  const shares = rows.map((row) => row.frequency);
  const weights = rows.map((row) => row.weight);
  const head = Object.entries(KEYS).map(([key, label]) => {
    const sorted = key === order.key ? (order.down ? "descending" : "ascending") : "none";
    const sortByColumn = () => {
      order = { key, down: key === order.key ? !order.down : !["id", "name"].includes(key) };
      draw();
      byId(`sort-${key}`).focus();
    };
    const mark = { descending: " ↓", ascending: " ↑", none: "" }[sorted];
    return h("th", { scope: "col", class: label.startsWith("#") && "number", "aria-sort": sorted },
      h("button", { type: "button", class: "sort", id: `sort-${key}`, onclick: sortByColumn }, label.replace(/^#/, "") + mark));
  });
  const body = rows.map((row) => h("tr", { class: row.ignored ? "ignored" : row.pixels === 0 && "absent" },
    h("td", { class: "number" }, String(row.id)),
    h("th", { scope: "row" }, row.name, row.ignored ? h("span", { class: "tag" }, "ignored") : row.pixels === 0 ? h("span", { class: "tag" }, "absent") : null),
    h("td", { class: "number" }, grouped(row.pixels)),
    h("td", { class: "number barred" }, percent(row.frequency), bar(row.frequency, shares, "share")),
    h("td", { class: "number" }, grouped(row.images)),
    h("td", { class: "number barred" }, significant(row.weight, 4), bar(row.weight, weights, "weight")),
    h("td", { class: "number" }, typeof row.loss_share === "number" ? percent(row.loss_share) : "–")));
  const classTable = h("table", {}, h("caption", { class: "unseen" }, "Classes with their pixels and weights"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  byId("classes").replaceChildren(scrolled("Classes", classTable));
  const sentence = [`${plural(answer.pixels, "pixel")} counted`];
  if (answer.images !== null) sentence.push(`in ${plural(answer.images, "image")}`);
  if (answer.ignored_pixels) sentence.push(`and ${grouped(answer.ignored_pixels)} ignored`);
  const mean = typeof answer.expected_weight === "number" ? ` Mean weight of a counted pixel: ${significant(answer.expected_weight, 4)}.` : "";
  byId("foot").textContent = `${sentence.join(" ")}.${mean}`;
}

/** Show the classes of a response of `GET /weights`. */
export function showClasses(response) {
  answer = response;
  draw();
}

byId("scale").addEventListener("change", (event) => { scale = event.target.value; draw(); });
