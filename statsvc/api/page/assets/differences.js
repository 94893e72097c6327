// Differences between two versions, or two splits of a version: one distance, and the classes that change most.

import { state } from "./address.js";
import { dataset, get, Problem } from "./api.js";
import { h, table } from "./dom.js";
import { options } from "./form.js";
import { grouped, percent, relative, signed, significant } from "./numbers.js";

const SHOWN = 20;
const OF_SIDES = new Set(["dataset", "version", "split", "group"]); // parameters of the page that the sides replace
const HEADINGS = ["class", "#change of share", "#share", "#change of pixels", "#change of images", "#change of weight", "#weight"];

/** Return `[value, label]` of what can be compared, in the notation of the API: versions, then splits. */
function sides(answer, versions) {
  const shown = state().get("split") ?? state().get("group");
  const name = (number, split) => (split ? `${number}/${split}` : String(number));
  const label = (number, split) => (split ? `version ${number}, ${split}` : `version ${number}`);
  const listed = versions.map(({ number, tags }) => [name(number, shown), [label(number, shown), ...tags].join(" · ")]);
  const splits = versions.find((version) => version.number === answer.version)?.splits ?? [];
  for (const split of [...(shown ? [null] : []), ...splits]) {
    if (split !== shown) listed.push([name(answer.version, split), split ? label(answer.version, split) : `version ${answer.version}, all samples`]);
  }
  return { listed, current: name(answer.version, shown) };
}

/** Return the sides that the URL's fragment names, or the version that is shown and the one before it. */
function chosenSides({ listed, current }) {
  const values = listed.map(([value]) => value);
  const fragment = new URLSearchParams(location.hash.slice(1));
  const chosen = (name, fallback) => (values.includes(fragment.get(name)) ? fragment.get(name) : fallback);
  const others = [...values.slice(values.indexOf(current) + 1), ...values].filter((value) => value !== current);
  return { from: chosen("from", others[0]), to: chosen("to", current) };
}

const differs = ({ from, to }) => from !== to;
const size = ({ from, to, change }) => (from === to ? 0 : change === null ? Infinity : Math.abs(change));

function row(difference) {
  const { share, pixels, images, weight } = difference;
  const both = (value, form) => [...new Set([value.from, value.to])].map((each) => (each === null ? "–" : form(each))).join(" → ");
  const change = (value) => (value.change === null && value.from === 0 ? "new" : relative(value.change));
  const more = ({ from, to }) => (from === null || to === null ? "–" : signed(to - from));
  return [difference.name, change(share), both(share, percent), more(pixels), more(images), change(weight), both(weight, (each) => significant(each, 4))];
}

function results({ distance, classes, warnings }) {
  const changed = classes.filter((each) => ["pixels", "images", "share", "weight"].some((key) => differs(each[key])));
  changed.sort((a, b) => size(b.share) - size(a.share) || size(b.weight) - size(a.weight) || a.id - b.id);
  const draw = (number) => table("Differences of each class", HEADINGS, changed.slice(0, number).map(row));
  const box = h("div", {}, changed.length ? draw(SHOWN) : "");
  const all = h("button", { type: "button", class: "quiet", onclick: () => { box.replaceChildren(draw(changed.length)); all.remove(); } }, `Show all ${grouped(changed.length)} classes`);
  return [
    h("p", { role: "status" }, "Jensen–Shannon distance of the shares of pixels: ", h("strong", { id: "distance" }, significant(distance, 3)), h("span", { class: "hint" }, " 0: equal shares, 1: no class in common")),
    warnings.length ? h("ul", { class: "hint" }, warnings.map((warning) => h("li", {}, warning))) : "",
    changed.length ? "" : h("p", {}, "No class differs."),
    box,
    changed.length > SHOWN ? all : "",
  ];
}

/** Return a section that compares versions and splits of the dataset in `answer`; nothing if it has one version only. */
export async function differences(answer, versions) {
  const available = sides(answer, versions);
  if (answer.version === null || available.listed.length < 2) return [];
  const chosen = chosenSides(available);
  const shown = h("div", { id: "differences" });
  let requestCount = 0; // a response to an older request is discarded
  const show = async () => {
    const turn = ++requestCount;
    const parameters = new URLSearchParams([...state()].filter(([name]) => !OF_SIDES.has(name)));
    for (const [side, value] of Object.entries(chosen)) parameters.set(side, value);
    let elements;
    try {
      elements = results(await get(`${dataset(answer.dataset, "/diff")}?${parameters}`));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      elements = [h("p", { class: "error", role: "alert" }, error.message)];
    }
    if (turn === requestCount) shown.replaceChildren(...elements);
  };
  const choice = (side, label) => h("span", { class: "choice" }, h("label", { for: `differences-${side}` }, label), " ",
    h("select", { id: `differences-${side}`, onchange: (event) => {
      chosen[side] = event.target.value;
      history.replaceState(null, "", `${location.search}#${new URLSearchParams(chosen)}`);
      show();
    } }, options(available.listed, chosen[side])));
  await show();
  return [h("h2", {}, "Differences"), h("p", { class: "sides" }, choice("from", "From"), choice("to", "To")), shown];
}
