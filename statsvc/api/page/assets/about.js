// What else there is to know of a version: label maps that could not be read, the doctor's findings, other versions.

import { address, state } from "./address.js";
import { dataset, get, Problem } from "./api.js";
import { h, link, table } from "./dom.js";
import { grouped, plural, signed, when } from "./numbers.js";

const asked = async (path) => {
  try {
    return await get(path);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return h("p", { class: "hint" }, error.message);
  }
};

const finding = (one) => h("li", { class: one.level },
  h("strong", {}, `${one.level}: `), one.saw, " ", h("span", { class: "hint" }, one.do),
  one.files.length ? h("details", {}, h("summary", {}, plural(one.count, "file")), h("ul", {}, one.files.map((name) => h("li", {}, h("code", {}, name))))) : "");

function unread(found, failed) {
  if (found instanceof Element) return found;
  const more = failed - found.samples.length;
  return [
    table("Label maps that could not be read", ["file", "why"], found.samples.map((one) => [one.path, one.error])),
    more > 0 ? h("p", { class: "hint" }, `… and ${grouped(more)} more`) : "",
  ];
}

function findings(found) {
  if (found instanceof Element) return found;
  return found.findings.length ? h("ul", { class: "findings" }, found.findings.map(finding)) : h("p", {}, "Nothing looks wrong.");
}

function listed(versions, go) {
  const rows = versions.map((one, k) => {
    const before = versions[k + 1];
    const parameters = state();
    parameters.set("version", String(one.number));
    const since = (name) => (before ? signed(one[name] - before[name]) : "");
    return [link(address(parameters), () => go(parameters), String(one.number)), one.tags.join(", "), when(one.created_at),
      grouped(one.samples), since("samples"), grouped(one.pixels), since("pixels"), grouped(one.failed)];
  });
  return table("Versions", ["#version", "tags", "made", "#images", "#±", "#pixels", "#±", "#not read"], rows);
}

/** Return what there is to know of the version that was answered; `go(parameters)` shows another one. */
export async function described(answer, versions, go) {
  const [doctor, failed] = await Promise.all([
    asked(`${dataset(answer.dataset, "/doctor")}?version=${answer.version}`),
    answer.failed ? asked(`${dataset(answer.dataset, "/samples")}?status=failed&version=${answer.version}`) : null,
  ]);
  return [
    ...(failed ? [h("h2", {}, "Not read"), unread(failed, answer.failed)].flat() : []),
    h("h2", {}, "Doctor"), findings(doctor),
    h("h2", {}, "Versions"), listed(versions, go),
  ];
}
