// The page: its address says what is asked, and what is shown follows from the address and the server's answers.

import { dataset, download, follow, get, post, Problem, token } from "./api.js";
import { at, h, link, scrolled, table } from "./dom.js";
import { grouped, percent, plural, signed, significant, when } from "./numbers.js";

const LABELS = {
  method: "Method",
  split: "Split",
  ignore_index: "Ignored ids",
  class_map: "Class map",
  normalize: "Normalize",
  absent: "Absent classes",
  denominator: "Shares of",
};
const DESCRIBED = { ignore_index: "255,254 or none", method: "" };
const SHOWN = Object.keys(LABELS);

const known = { datasets: [], methods: [], choices: {}, versions: [] };
let answer = null; // of GET /weights, what the table shows
let drawn = null; // the dataset's version that is shown, or that a refused question was about
let scale = "log";
let order = { key: "id", down: false };
let asked = 0; // of questions; an answer to an older one is dropped
let following = null; // the AbortController of the job that is followed

const state = () => new URLSearchParams(location.search);
const current = () => known.datasets.find((one) => one.name === state().get("dataset"));
const address = (parameters) => `?${parameters}`;

function go(parameters, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", address(parameters));
  return show();
}

function changed(name, value) {
  const parameters = state();
  if (value === "") parameters.delete(name);
  else parameters.set(name, value);
  if (name === "method") {
    for (const method of known.methods) for (const one of method.parameters) parameters.delete(one.name);
    // A parameter without a default has to be there: begin in the middle, the square root.
    if (value === "power") parameters.set("alpha", "0.5");
  }
  if (name === "dataset") for (const other of ["version", "split", "class_map", "ignore_index"]) parameters.delete(other);
  return go(parameters);
}

// The form

const options = (values, chosen) => values.map(([value, text]) => h("option", { value, selected: value === chosen }, text));

function field(name, label, control, hint) {
  const id = `p-${name}`;
  control.id = id;
  control.name = name;
  control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  control.addEventListener("change", () => changed(name, control.value.trim()));
  return h("p", { class: "field" },
    h("label", { for: id }, label), control,
    h("span", { class: "hint", id: `${id}-hint` }, hint ?? ""),
    h("span", { class: "error", id: `${id}-error`, role: "alert" }));
}

function question() {
  const parameters = state();
  const version = known.versions.find((one) => String(one.number) === parameters.get("version") || one.tags.includes(parameters.get("version"))) ?? known.versions[0];
  const method = known.methods.find((one) => one.name === (parameters.get("method") ?? known.methods[0].name)) ?? known.methods[0];
  const chooser = h("select", {}, options(known.methods.map((one) => [one.name, one.name]), method.name));
  const fields = [field("method", LABELS.method, chooser, method.summary)];
  fields.push(h("p", { class: "formula" }, h("code", {}, method.formula), method.reference ? h("span", { class: "hint" }, ` ${method.reference}`) : null));
  for (const one of method.parameters) {
    const value = parameters.get(one.name) ?? "";
    const hint = `${one.description}; ${one.range}`;
    const control = one.name in known.choices
      ? h("select", {}, options([["", `default (${one.default})`], ...known.choices[one.name].map((word) => [word, word])], value))
      : h("input", { value, placeholder: one.default === null ? "needed" : String(one.default), spellcheck: "false", autocomplete: "off" });
    fields.push(field(one.name, one.name, control, hint));
  }
  const splits = version?.splits ?? [];
  if (splits.length || parameters.has("split")) {
    const names = [...new Set([...splits, ...(parameters.has("split") ? [parameters.get("split")] : [])])];
    fields.push(field("split", LABELS.split, h("select", {}, options([["", "all together"], ...names.map((name) => [name, name])], parameters.get("split") ?? ""))));
  }
  const ignored = h("input", { value: parameters.get("ignore_index") ?? "", placeholder: "the dataset's", spellcheck: "false", autocomplete: "off" });
  fields.push(field("ignore_index", LABELS.ignore_index, ignored, DESCRIBED.ignore_index));
  for (const name of ["class_map", "normalize", "absent", "denominator"]) {
    const first = name === "class_map" ? "the dataset's" : `default (${known.choices[name][0]})`;
    fields.push(field(name, LABELS[name], h("select", {}, options([["", first], ...known.choices[name].map((word) => [word, word])], parameters.get(name) ?? ""))));
  }
  // What a link may ask beyond these stays, and is told.
  const shown = new Set(["dataset", "version", ...SHOWN, ...method.parameters.map((one) => one.name)]);
  for (const [name, value] of parameters) {
    if (!shown.has(name)) fields.push(field(name, name, h("input", { value, spellcheck: "false", autocomplete: "off" }), "from the link; empty it to leave it out"));
  }
  const focused = document.activeElement?.id;
  at("question").replaceChildren(...fields);
  if (focused?.startsWith("p-")) at(focused)?.focus();
}

function refused(problem) {
  const left = [];
  for (const { parameter, message } of problem.errors ?? []) {
    const name = parameter === "ignore" ? "ignore_index" : parameter;
    const place = at(`p-${name}-error`);
    if (!place) left.push(`${parameter}: ${message}`);
    else {
      place.textContent = message;
      at(`p-${name}`).setAttribute("aria-invalid", "true");
    }
  }
  if (!problem.errors?.length) left.push(problem.message);
  at("problem").textContent = left.join(" ");
}

// The table of classes

const KEYS = { id: "#id", name: "name", pixels: "#pixels", frequency: "#share", images: "#images", weight: "#weight", loss_share: "#share of the loss" };

/** Return how far a bar reaches, from 0 to 1: rare classes are seen on a logarithmic scale only. */
function reach(value, values) {
  const positive = values.filter((one) => one > 0);
  if (!(value > 0) || !positive.length) return 0;
  const most = Math.max(...positive);
  if (scale === "linear") return value / most;
  const least = Math.min(...positive);
  const decades = Math.max(1, Math.ceil(Math.log10(most / least) + 0.25));
  return Math.max(0.01, 1 + Math.log10(value / most) / decades);
}

function bar(value, values, kind) {
  const width = 100 * reach(value, values);
  return h("progress", { class: `bar ${kind}`, max: 100, value: width.toFixed(2), "aria-hidden": "true" });
}

function classes() {
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
    const turn = () => {
      order = { key, down: key === order.key ? !order.down : !["id", "name"].includes(key) };
      classes();
      at(`sort-${key}`).focus();
    };
    const mark = { descending: " ↓", ascending: " ↑", none: "" }[sorted];
    return h("th", { scope: "col", class: label.startsWith("#") && "number", "aria-sort": sorted },
      h("button", { type: "button", class: "sort", id: `sort-${key}`, onclick: turn }, label.replace(/^#/, "") + mark));
  });
  const body = rows.map((row) => h("tr", { class: row.ignored ? "ignored" : row.pixels === 0 && "absent" },
    h("td", { class: "number" }, String(row.id)),
    h("th", { scope: "row" }, row.name, row.ignored ? h("span", { class: "tag" }, "ignored") : row.pixels === 0 ? h("span", { class: "tag" }, "absent") : null),
    h("td", { class: "number" }, grouped(row.pixels)),
    h("td", { class: "number barred" }, percent(row.frequency), bar(row.frequency, shares, "share")),
    h("td", { class: "number" }, row.images === null ? "unknown" : grouped(row.images)),
    h("td", { class: "number barred" }, significant(row.weight, 4), bar(row.weight, weights, "weight")),
    h("td", { class: "number" }, typeof row.loss_share === "number" ? percent(row.loss_share) : "–")));
  const whole = h("table", {}, h("caption", { class: "unseen" }, "Classes with their pixels and weights"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  at("classes").replaceChildren(scrolled("Classes", whole));
  at("foot").textContent = `${grouped(answer.pixels)} pixels counted in ${plural(answer.images, "image")}`
    + (answer.ignored_pixels ? `, ${grouped(answer.ignored_pixels)} more ignored` : "")
    + `. Expected weight of a pixel: ${typeof answer.expected_weight === "number" ? significant(answer.expected_weight, 4) : "–"}.`;
}

// What to copy

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const python = (text) => (/^-?\d+(\.\d+)?(e-?\d+)?$/i.test(text) ? text : JSON.stringify(text));

function copyable(title, text) {
  const button = h("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return h("div", { class: "copyable" }, h("div", { class: "titled" }, h("h3", {}, title), button), h("pre", {}, h("code", {}, text)));
}

function use() {
  const parameters = [...state()];
  const pinned = [...parameters.filter(([name]) => name !== "version"), ["version", String(answer.version)]];
  const server = location.href.replace(/[?#].*$/, "").replace(/\/$/, "");
  const words = pinned.map(([name, value]) => `${name}=${["dataset", "method", "split"].includes(name) ? JSON.stringify(value) : python(value)}`);
  const flags = pinned.filter(([name]) => name !== "dataset").map(([name, value]) => `--${name.replaceAll("_", "-")} ${/^[\w.,:-]+$/.test(value) ? value : quoted(value)}`);
  const query = new URLSearchParams(pinned);
  const save = async (format) => {
    const blob = await download(`weights?${query}&format=${format}`);
    const made = h("a", { href: URL.createObjectURL(blob), download: `${answer.dataset}-${answer.method}-v${answer.version}.${format}` });
    made.click();
    URL.revokeObjectURL(made.href);
  };
  at("use").replaceChildren(
    h("h2", { id: "use-title" }, "Use these weights"),
    copyable("In a trainer", `weights = statsvc.class_weights(${JSON.stringify(server)}, ${words.join(", ")})`),
    copyable("On the command line", `statsvc weights ${answer.dataset} ${flags.join(" ")} --url ${server}`),
    copyable("Over HTTP", `curl ${quoted(`${server}/weights?${query}`)}`),
    h("p", {}, "Download: ", ["json", "csv", "npy"].map((format) => [link(`weights?${query}&format=${format}`, () => save(format).catch(refused), format), " "]),
      h("span", { class: "hint" }, `Version ${answer.version} never changes; leave it out to follow the dataset.`)));
}

// Methods side by side

async function compare(turn) {
  const parameters = state();
  const owned = new Set(known.methods.flatMap((method) => method.parameters.map((one) => one.name)));
  for (const name of [...owned, "method", "recipe"]) parameters.delete(name);
  if (!parameters.has("version")) parameters.set("version", String(answer.version));
  const found = await Promise.all(known.methods.filter((method) => method.kind === "weights").map(async (method) => {
    const query = new URLSearchParams(parameters);
    query.set("method", method.name);
    if (method.name === "power") query.set("alpha", "0.25");
    try {
      return { method, query, weights: (await get(`weights?${query}`)).classes.map((one) => one.weight) };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return { method, query, refused: error.message };
    }
  }));
  if (turn !== asked) return;
  const answered = found.filter((one) => one.weights);
  const rows = answer.classes.map((one, k) => [one.name, percent(one.frequency), ...answered.map(({ weights }) => significant(weights[k], 3))]);
  const spread = ["largest ÷ smallest", "", ...answered.map(({ weights }) => {
    const positive = weights.filter((weight) => weight > 0);
    return positive.length ? `${significant(Math.max(...positive) / Math.min(...positive), 3)}×` : "–";
  })];
  const heads = answered.map(({ method }) => `#${method.name}${method.name === "power" ? " 0.25" : ""}`);
  at("compare").replaceChildren(
    table("Weights by method", ["class", "#share", ...heads], [spread, ...rows]),
    ...found.filter((one) => one.refused).map(({ method, refused: why }) => h("p", { class: "hint" }, `${method.name}: ${why}`)));
}

// The dataset: versions, what the doctor found, jobs

async function about(turn) {
  const chosen = state().get("dataset");
  const [doctor, failed] = await Promise.all([
    get(`${dataset(chosen, "/doctor")}?version=${answer.version}`).catch((error) => error),
    answer.failed ? get(`${dataset(chosen, "/samples")}?status=failed&version=${answer.version}`).catch((error) => error) : null,
  ]);
  if (turn !== asked) return;
  const parts = [];
  if (failed) {
    parts.push(h("h2", {}, "Not read"), failed instanceof Error
      ? h("p", { class: "hint" }, failed.message)
      : table("Label maps that could not be read", ["file", "why"], failed.samples.map((one) => [one.name ?? one.path, one.error])));
  }
  parts.push(h("h2", {}, "Doctor"));
  if (doctor instanceof Error) parts.push(h("p", { class: "hint" }, doctor.message));
  else if (!doctor.findings.length) parts.push(h("p", {}, "Nothing looks wrong."));
  else parts.push(h("ul", { class: "findings" }, doctor.findings.map((one) => h("li", { class: one.level },
    h("strong", {}, `${one.level}: `), one.saw, " ", h("span", { class: "hint" }, one.do),
    one.files.length ? h("details", {}, h("summary", {}, plural(one.count || one.files.length, "file")), h("ul", {}, one.files.map((name) => h("li", {}, h("code", {}, name))))) : null))));
  const rows = known.versions.map((one, k) => {
    const before = known.versions[k + 1];
    const parameters = state();
    parameters.set("version", String(one.number));
    return [link(address(parameters), () => go(parameters), String(one.number)), one.tags.join(", "), when(one.created_at), grouped(one.samples),
      before ? signed(one.samples - before.samples) : "", grouped(one.pixels), before ? signed(one.pixels - before.pixels) : "", grouped(one.failed)];
  });
  parts.push(h("h2", {}, "Versions"), table("Versions", ["#version", "tags", "made", "#images", "#±", "#pixels", "#±", "#not read"], rows));
  at("about").replaceChildren(...parts);
}

async function watch(id) {
  following?.abort();
  following = new AbortController();
  const { signal } = following;
  try {
    for await (const job of follow(id, signal)) {
      const { done = 0, total = 0, stage = job.state } = job.progress ?? {};
      const told = job.finished_at
        ? `Counting ended: ${job.state}${job.version ? `, version ${job.version}` : ""}${job.error ? `. ${job.error}` : ""}`
        : `${job.state === "running" ? stage : job.state}: ${grouped(done)} of ${grouped(total)}`;
      at("job").replaceChildren(h("span", {}, told), job.finished_at ? "" : h("progress", { max: total || 1, value: done, "aria-label": "Label maps done" }));
      if (job.finished_at) await refresh();
    }
  } catch (error) {
    if (!signal.aborted) at("job").textContent = error.message;
  }
}

async function countAgain() {
  try {
    const job = await post("jobs", { dataset: state().get("dataset") });
    await watch(job.id);
  } catch (error) {
    if (error.status === 401) askToken(error);
    else refused(error);
  }
}

// Showing

let waiting; // to begin again: one timer, however many requests failed
function later() {
  clearTimeout(waiting);
  waiting = setTimeout(start, 3000);
}

const visible = (id) => { for (const one of ["ask", "start", "shown"]) at(one).hidden = one !== id; };

function askToken(problem) {
  visible("ask");
  at("choice").hidden = true;
  at("token-problem").textContent = token.get() ? problem.message : "";
  at("token").focus();
}

function failed(error) {
  if (error.status === 401) return askToken(error);
  if (!(error instanceof Problem)) throw error;
  at("problem").textContent = error.message;
  if (error.status === 0) later();
}

function empty() {
  visible("start");
  at("choice").hidden = true;
  at("start").replaceChildren(
    h("h1", {}, "No dataset yet"),
    h("p", {}, "Count a folder of label maps, on the server, under the home that it serves:"),
    copyable("On the command line", "statsvc scan path/to/label/maps --name NAME"),
    copyable("Over HTTP, below one of the server's roots", `curl -X POST ${location.origin}/datasets -H 'content-type: application/json' -d '{"name": "NAME", "source": "/path/to/label/maps"}'`),
    h("p", { class: "hint" }, "This page shows it as soon as it is there."));
  later();
}

async function show() {
  const turn = ++asked;
  const parameters = state();
  if (!current()) {
    const only = known.datasets.find((one) => one.version) ?? known.datasets[0];
    const unknown = parameters.get("dataset");
    at("news").textContent = unknown ? `There is no dataset ${unknown}; this is ${only.name}.` : "";
    parameters.set("dataset", only.name);
    history.replaceState(null, "", address(parameters));
  } else at("news").textContent = "";
  const chosen = current();
  document.title = `${chosen.name} · statsvc`;
  at("dataset").replaceChildren(...options(known.datasets.map((one) => [one.name, one.name]), chosen.name));
  at("problem").textContent = "";
  at("forget").hidden = !token.get();
  try {
    known.versions = (await get(dataset(chosen.name, "/versions"))).versions;
    if (turn !== asked) return;
    const pinned = parameters.get("version") ?? "";
    const numbers = known.versions.map((one) => [String(one.number), `${one.number}${one.tags.length ? ` (${one.tags.join(", ")})` : ""}`]);
    if (pinned && !numbers.some(([number]) => number === pinned)) numbers.unshift([pinned, pinned]);
    at("version").replaceChildren(...options([["", "newest"], ...numbers], pinned));
    at("choice").hidden = false;
    visible("shown");
    question();
    at("title").textContent = chosen.name;
    at("actions").replaceChildren(...(chosen.source ? [h("button", { type: "button", id: "again", onclick: countAgain }, "Count again")] : []));
    if (chosen.job && !chosen.job.finished_at) watch(chosen.job.id);
    at("answered").hidden = true;
    at("about").replaceChildren();
    answer = await get(`weights?${parameters}`);
    if (turn !== asked) return;
    const made = known.versions.find((one) => one.number === answer.version);
    const facts = [["Version", String(answer.version)], ["Made", made ? when(made.created_at) : "–"], ["Images", grouped(answer.images)],
      ["Not read", grouped(answer.failed)], ["Pixels", grouped(answer.pixels)], ["Source", chosen.source ?? "imported"]];
    at("facts").replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    at("warnings").replaceChildren(...answer.warnings.map((one) => h("li", {}, one.message)));
    at("answered").hidden = false;
    // The list may know of a version a moment before the weights do: then it is asked again.
    drawn = pinned ? chosen.version : answer.version;
    classes();
    use();
    await Promise.all([compare(turn), about(turn)]);
  } catch (error) {
    if (turn !== asked) return;
    if ([404, 409, 422].includes(error.status)) {
      drawn = chosen.version;
      refused(error);
    } else failed(error);
  }
}

/** Ask for the list of datasets again; show what is new. */
async function refresh() {
  known.datasets = (await get("datasets?limit=1000")).datasets;
  if (current()?.version !== drawn) await show();
}

async function start() {
  at("problem").textContent = "";
  try {
    const [{ datasets }, { methods }, described] = await Promise.all([get("datasets?limit=1000"), get("methods"), get("openapi.json")]);
    known.datasets = datasets;
    known.methods = methods;
    for (const one of described.paths["/weights"].get.parameters) if (one.schema.enum) known.choices[one.name] = one.schema.enum;
    if (datasets.length) await show();
    else empty();
  } catch (error) {
    failed(error);
  }
}

at("dataset").addEventListener("change", (event) => changed("dataset", event.target.value));
at("version").addEventListener("change", (event) => changed("version", event.target.value));
at("question").addEventListener("submit", (event) => event.preventDefault());
at("scale").addEventListener("change", (event) => { scale = event.target.value; classes(); });
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  at("token").value = "";
  start();
});
at("forget").addEventListener("click", () => { token.forget(); start(); });
addEventListener("popstate", show);
if (matchMedia("(max-width: 760px)").matches) at("panel").open = false;
// A version that another process published: where the page is looked at, it follows.
setInterval(() => { if (!document.hidden && known.datasets.length && !at("shown").hidden) refresh().catch(failed); }, 3000);
start();
