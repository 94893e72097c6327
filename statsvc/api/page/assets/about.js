// Details of a version: unreadable label maps, objects, groups, findings of the doctor, differences, and other versions.

import { address, state } from "./address.js";
import { dataset, get, Problem } from "./api.js";
import { differences } from "./differences.js";
import { h, link, table } from "./dom.js";
import { objectsAndGroups } from "./groups.js";
import { grouped, plural, signed, when } from "./numbers.js";

/** Return the response of a path, or a paragraph with the reason why there is none. */
const getOrExplain = async (path) => {
  try {
    return await get(path);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return h("p", { class: "hint" }, error.message);
  }
};

const findingItem = (finding) => h("li", { class: finding.level },
  h("strong", {}, `${finding.level}: `), finding.saw, " ", h("span", { class: "hint" }, finding.do),
  finding.files.length ? h("details", {}, h("summary", {}, plural(finding.count, "file")), h("ul", {}, finding.files.map((name) => h("li", {}, h("code", {}, name))))) : "");

function failureTable(page, failed) {
  if (page instanceof Element) return page;
  const more = failed - page.samples.length;
  return [
    table("Unreadable label maps", ["file", "reason"], page.samples.map((sample) => [sample.path, sample.error])),
    more > 0 ? h("p", { class: "hint" }, `… and ${grouped(more)} more`) : "",
  ];
}

function findingList(report) {
  if (report instanceof Element) return report;
  return report.findings.length ? h("ul", { class: "findings" }, report.findings.map(findingItem)) : h("p", {}, "No problems found.");
}

function versionTable(versions, go) {
  const rows = versions.map((version, k) => {
    const previous = versions[k + 1];
    const parameters = state();
    parameters.set("version", String(version.number));
    const change = (name) => (previous ? signed(version[name] - previous[name]) : "");
    return [link(address(parameters), () => go(parameters), String(version.number)), version.tags.join(", "), when(version.created_at),
      grouped(version.samples), change("samples"), grouped(version.pixels), change("pixels"), grouped(version.failed)];
  });
  return table("Versions", ["#version", "tags", "published", "#images", "#change", "#pixels", "#change", "#unreadable"], rows);
}

/** Return the details of the version in `answer`; `go(parameters)` shows another version. */
export async function versionDetails(answer, versions, go) {
  const [doctor, more, changes, failed] = await Promise.all([
    getOrExplain(`${dataset(answer.dataset, "/doctor")}?version=${answer.version}`),
    objectsAndGroups(answer),
    differences(answer, versions),
    answer.failed ? getOrExplain(`${dataset(answer.dataset, "/samples")}?status=failed&version=${answer.version}`) : null,
  ]);
  return [
    ...(failed ? [h("h2", {}, "Unreadable label maps"), failureTable(failed, answer.failed)].flat() : []),
    ...more,
    h("h2", {}, "Data quality"), findingList(doctor),
    ...changes,
    h("h2", {}, "Versions"), versionTable(versions, go),
  ];
}
