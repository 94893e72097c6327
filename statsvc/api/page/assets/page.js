// The page: everything shown follows from the parameters in the URL and the responses of the server.

import { versionDetails } from "./about.js";
import { address, normalizeUrl, state } from "./address.js";
import { allDatasets, dataset, follow, get, getWithWarnings, post, Problem, token } from "./api.js";
import { showClasses } from "./classes.js";
import { methodComparison } from "./compare.js";
import { byId, h } from "./dom.js";
import { options, showForm, showProblem } from "./form.js";
import { heatMaps, showHeatMaps } from "./heatmaps.js";
import { grouped, when } from "./numbers.js";
import { copyable, showUse } from "./use.js";

const RETRY_MS = 3000;
const POLL_MS = 3000;

const known = { datasets: [], methods: [], choices: {} };
let shownVersion = null; // the version that is shown, or that a rejected request was about
let requestCount = 0; // a response to an older request is discarded
let followed = null; // the AbortController of the job that is followed
let jobDataset = null; // the dataset of that job
let isPolling = false;
let retryTimer; // one timer, however many requests failed

const current = () => known.datasets.find((each) => each.name === state().get("dataset"));

/** Show other parameters. The fragment names versions of a dataset that are compared. */
function go(parameters) {
  const isSame = parameters.get("dataset") === state().get("dataset");
  history.pushState(null, "", address(parameters) + (isSame ? location.hash : ""));
  return show();
}

function changed(name, value) {
  const parameters = state();
  if (value === "") parameters.delete(name);
  else parameters.set(name, value);
  if (name === "method") {
    for (const method of known.methods) for (const { name: own } of method.parameters) parameters.delete(own);
    // alpha has no default: start with 0.5, the square root.
    if (value === "power") parameters.set("alpha", "0.5");
  }
  if (name === "dataset") for (const other of ["version", "split", "class_map", "ignore_index", "crop", "scale", "cat_max_ratio"]) parameters.delete(other);
  return go(parameters);
}

async function watch(id) {
  followed?.abort();
  jobDataset = state().get("dataset");
  followed = new AbortController();
  const { signal } = followed;
  try {
    for await (const job of follow(id, signal)) {
      const { done = 0, total = 0, stage = job.state } = job.progress ?? {};
      const text = job.finished_at
        ? `Scan ${job.state}${job.version ? `, version ${job.version}` : ""}${job.error ? `. ${job.error}` : ""}`
        : `${job.state === "running" ? stage : job.state}: ${grouped(done)} of ${grouped(total)}`;
      const [warning] = job.warnings.slice(-1);
      byId("job").replaceChildren(h("span", {}, warning ? `${text}. Warning: ${warning}` : text), job.finished_at ? "" : h("progress", { max: total || 1, value: done, "aria-label": "Label maps counted" }));
      if (job.finished_at) await refresh();
    }
  } catch (error) {
    if (!signal.aborted) byId("job").textContent = error.message;
  }
}

async function startScan() {
  try {
    const job = await post("jobs", { dataset: state().get("dataset") });
    await watch(job.id);
  } catch (error) {
    if (error.status === 401) askToken(error);
    else if (error instanceof Problem) showProblem(error);
    else throw error;
  }
}

function retryLater() {
  clearTimeout(retryTimer);
  retryTimer = setTimeout(start, RETRY_MS);
}

const showOnly = (id) => { for (const each of ["ask", "start", "shown"]) byId(each).hidden = each !== id; };

function askToken(problem) {
  showOnly("ask");
  byId("choice").hidden = true;
  byId("token-problem").textContent = token.get() ? problem.message : "";
  byId("token").focus();
}

function showFailure(error) {
  if (error.status === 401) return askToken(error);
  if (!(error instanceof Problem)) throw error;
  byId("problem").textContent = error.message;
  if (error.status === 0 || error.status >= 500) retryLater();
}

function showStart() {
  showOnly("start");
  byId("choice").hidden = true;
  byId("start").replaceChildren(
    h("h1", {}, "No dataset yet"),
    h("p", {}, "Scan a folder of label maps on the server, with the home directory of the server:"),
    copyable("On the command line", "statsvc scan path/to/label/maps --name NAME"),
    copyable("Over HTTP, for a folder below one of the server's roots", `curl -X POST ${location.origin}/datasets -H 'content-type: application/json' -d '{"name": "NAME", "source": "/path/to/label/maps"}'`),
    h("p", { class: "hint" }, "This page shows the dataset as soon as it is registered."));
  retryLater();
}

/** Return the dataset in the URL, or another one if it does not exist. */
function chosenDataset() {
  const parameters = state();
  const requested = parameters.get("dataset");
  const chosen = current() ?? known.datasets.find((each) => each.version) ?? known.datasets[0];
  byId("news").textContent = requested && chosen.name !== requested ? `There is no dataset ${requested}; showing ${chosen.name}.` : "";
  if (chosen.name !== requested) {
    parameters.set("dataset", chosen.name);
    history.replaceState(null, "", address(parameters));
  }
  return chosen;
}

function showChoice(chosen, versions, pinned) {
  byId("dataset").replaceChildren(...options(known.datasets.map((each) => [each.name, each.name]), chosen.name));
  const numbers = versions.map((version) => [String(version.number), [version.number, ...version.tags].join(" · ")]);
  if (pinned && !numbers.some(([number]) => number === pinned)) numbers.unshift([pinned, pinned]);
  byId("version").replaceChildren(...options([["", "newest"], ...numbers], pinned));
  byId("choice").hidden = false;
  byId("forget").hidden = !token.get();
}

function showFacts(chosen, answer, version) {
  const facts = [["Version", String(answer.version)], ["Published", version ? when(version.created_at) : "–"], ["Images", grouped(answer.images)],
    ["Unreadable", grouped(answer.failed)], ["Pixels", grouped(answer.pixels)], ["Source", chosen.source ?? "imported"]];
  const selection = version?.selection;
  if (chosen.pattern) facts.push(["Files", chosen.pattern]);
  if (selection?.skipped.length) facts.push(["Skipped", selection.skipped.map((group) => `${group.pattern} (${grouped(group.files)}, ${group.role ?? "other files"})`).join(", ")]);
  byId("facts").replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  byId("warnings").replaceChildren(...answer.warnings.map((warning) => h("li", {}, warning.message)));
}

function showOutdated(warnings) {
  if (byId("outdated").textContent !== warnings.join("")) byId("outdated").replaceChildren(...warnings.map((warning) => h("p", {}, warning)));
}

/** Forget the job of another dataset, and follow one that has not ended. */
function showJob(chosen) {
  if (jobDataset !== chosen.name) {
    followed?.abort();
    byId("job").replaceChildren();
  }
  if (chosen.job && !chosen.job.finished_at) watch(chosen.job.id);
}

async function show() {
  const turn = ++requestCount;
  byId("problem").textContent = "";
  if (!known.datasets.length) return showStart();
  normalizeUrl();
  const chosen = chosenDataset();
  const pinned = state().get("version") ?? "";
  document.title = `${chosen.name} · statsvc`;
  try {
    const { versions } = await get(dataset(chosen.name, "/versions"));
    if (turn !== requestCount) return;
    showOnly("shown");
    showChoice(chosen, versions, pinned);
    const isPinned = (version) => String(version.number) === pinned || version.tags.includes(pinned);
    showForm(known, (versions.find(isPinned) ?? versions[0])?.splits ?? [], changed);
    byId("title").textContent = chosen.name;
    byId("actions").replaceChildren(...(chosen.source ? [h("button", { type: "button", id: "again", onclick: startScan }, "Scan again")] : []));
    showJob(chosen);
    byId("answered").hidden = true;
    byId("about").replaceChildren();
    const [answer, outdated] = await getWithWarnings(`weights?${state()}`);
    if (turn !== requestCount) return;
    showOutdated(outdated);
    // The list of datasets can be a moment ahead of the weights; the next refresh shows the new version then.
    shownVersion = pinned ? chosen.version : answer.version;
    showFacts(chosen, answer, versions.find((version) => version.number === answer.version));
    showClasses(answer);
    showUse(answer, showFailure);
    byId("answered").hidden = false;
    const [comparison, maps, details] = await Promise.all([methodComparison(known.methods, answer), heatMaps(answer), versionDetails(answer, versions, go)]);
    if (turn !== requestCount) return;
    byId("compare").replaceChildren(...comparison);
    showHeatMaps(maps);
    byId("about").replaceChildren(...details);
  } catch (error) {
    if (turn !== requestCount) return;
    showOutdated([]);
    if ([404, 409, 422].includes(error.status)) {
      shownVersion = chosen.version;
      showProblem(error);
    } else showFailure(error);
  }
}

/** Load the list of datasets again and show a new version. */
async function refresh() {
  known.datasets = await allDatasets();
  if (current()?.version !== shownVersion) return show();
  if (byId("answered").hidden) return;
  const turn = requestCount;
  const [, outdated] = await getWithWarnings(`weights?${state()}`);
  if (turn === requestCount) showOutdated(outdated);
}

async function poll() {
  if (isPolling || document.hidden || byId("shown").hidden) return;
  isPolling = true;
  try {
    await refresh();
  } catch (error) {
    showFailure(error);
  } finally {
    isPolling = false;
  }
}

async function start() {
  try {
    const [datasets, { methods }, api] = await Promise.all([allDatasets(), get("methods"), get("openapi.json")]);
    known.datasets = datasets;
    known.methods = methods;
    for (const { name, schema } of api.paths["/weights"].get.parameters) if (schema.enum) known.choices[name] = schema.enum;
    await show();
  } catch (error) {
    showFailure(error);
  }
}

byId("dataset").addEventListener("change", (event) => changed("dataset", event.target.value));
byId("version").addEventListener("change", (event) => changed("version", event.target.value));
byId("question").addEventListener("submit", (event) => event.preventDefault());
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  start();
});
byId("forget").addEventListener("click", () => { token.forget(); start(); });
addEventListener("popstate", show);
if (matchMedia("(max-width: 760px)").matches) byId("panel").open = false;
// Another process can publish a version: a visible page polls for it.
setInterval(poll, POLL_MS);
start();
