// The page: its address says what is asked, and what is shown follows from the address and the server's answers.

import { described } from "./about.js";
import { address, state, tidy } from "./address.js";
import { dataset, follow, get, post, Problem, token } from "./api.js";
import { showClasses } from "./classes.js";
import { compared } from "./compare.js";
import { at, h } from "./dom.js";
import { options, refused, showForm } from "./form.js";
import { grouped, when } from "./numbers.js";
import { copyable, showUse } from "./use.js";

const known = { datasets: [], methods: [], choices: {} };
let drawn = null; // the dataset's version that is shown, or that a refused question was about
let asked = 0; // of questions; an answer to an older one is dropped
let following = null; // the AbortController of the job that is followed
let waiting; // the timer that begins again: one, however many requests failed

const current = () => known.datasets.find((one) => one.name === state().get("dataset"));

function go(parameters) {
  history.pushState(null, "", address(parameters));
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

/** Return the dataset that the address names; where it names none that there is, one is chosen. */
function chosenDataset() {
  const parameters = state();
  const unknown = parameters.get("dataset");
  const found = current() ?? known.datasets.find((one) => one.version) ?? known.datasets[0];
  at("news").textContent = unknown && found.name !== unknown ? `There is no dataset ${unknown}; this is ${found.name}.` : "";
  if (found.name !== unknown) {
    parameters.set("dataset", found.name);
    history.replaceState(null, "", address(parameters));
  }
  return found;
}

function showChoice(chosen, versions, pinned) {
  at("dataset").replaceChildren(...options(known.datasets.map((one) => [one.name, one.name]), chosen.name));
  const numbers = versions.map((one) => [String(one.number), [one.number, ...one.tags].join(" · ")]);
  if (pinned && !numbers.some(([number]) => number === pinned)) numbers.unshift([pinned, pinned]);
  at("version").replaceChildren(...options([["", "newest"], ...numbers], pinned));
  at("choice").hidden = false;
  at("forget").hidden = !token.get();
}

function showFacts(chosen, answer, made) {
  const facts = [["Version", String(answer.version)], ["Made", made ? when(made.created_at) : "–"], ["Images", grouped(answer.images)],
    ["Not read", grouped(answer.failed)], ["Pixels", grouped(answer.pixels)], ["Source", chosen.source ?? "imported"]];
  at("facts").replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  at("warnings").replaceChildren(...answer.warnings.map((one) => h("li", {}, one.message)));
}

async function show() {
  const turn = ++asked;
  at("problem").textContent = "";
  if (!known.datasets.length) return empty();
  tidy();
  const chosen = chosenDataset();
  const pinned = state().get("version") ?? "";
  document.title = `${chosen.name} · statsvc`;
  try {
    const { versions } = await get(dataset(chosen.name, "/versions"));
    if (turn !== asked) return;
    visible("shown");
    showChoice(chosen, versions, pinned);
    const named = (one) => String(one.number) === pinned || one.tags.includes(pinned);
    showForm(known, (versions.find(named) ?? versions[0])?.splits ?? [], changed);
    at("title").textContent = chosen.name;
    at("actions").replaceChildren(...(chosen.source ? [h("button", { type: "button", id: "again", onclick: countAgain }, "Count again")] : []));
    if (chosen.job && !chosen.job.finished_at) watch(chosen.job.id);
    at("answered").hidden = true;
    at("about").replaceChildren();
    const answer = await get(`weights?${state()}`);
    if (turn !== asked) return;
    // The list may know of a version a moment before the weights do: then it is asked again.
    drawn = pinned ? chosen.version : answer.version;
    showFacts(chosen, answer, versions.find((one) => one.number === answer.version));
    showClasses(answer);
    showUse(answer, failed);
    at("answered").hidden = false;
    const [side, about] = await Promise.all([compared(known.methods, answer), described(answer, versions, go)]);
    if (turn !== asked) return;
    at("compare").replaceChildren(...side);
    at("about").replaceChildren(...about);
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
  try {
    const [{ datasets }, { methods }, api] = await Promise.all([get("datasets?limit=1000"), get("methods"), get("openapi.json")]);
    known.datasets = datasets;
    known.methods = methods;
    for (const one of api.paths["/weights"].get.parameters) if (one.schema.enum) known.choices[one.name] = one.schema.enum;
    await show();
  } catch (error) {
    failed(error);
  }
}

at("dataset").addEventListener("change", (event) => changed("dataset", event.target.value));
at("version").addEventListener("change", (event) => changed("version", event.target.value));
at("question").addEventListener("submit", (event) => event.preventDefault());
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
setInterval(() => { if (!document.hidden && !at("shown").hidden) refresh().catch(failed); }, 3000);
start();
