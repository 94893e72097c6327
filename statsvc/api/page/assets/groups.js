// Objects of each class, and groups of images: cities, sequences, patients.

import { state } from "./address.js";
import { dataset, get, Problem } from "./api.js";
import { h, table } from "./dom.js";
import { grouped, percent, plural, significant } from "./numbers.js";

const SHOWN_GROUPS = 100;
const STRIDES = [16, 32];

/** Return a path below the dataset with the parameters of the page that select counts. */
function path(answer, what, parameters = {}) {
  const request = new URLSearchParams({ ...parameters, version: String(answer.version) });
  for (const name of ["split", "class_map", "ignore_index"]) for (const value of state().getAll(name)) request.append(name, value);
  return `${dataset(answer.dataset, `/${what}`)}?${request}`;
}

const WITHOUT_ROWS = 422;

/** Return the result, or nothing where the version cannot answer: it has no rows. */
const orNothing = async (promise) => {
  try {
    return await promise;
  } catch (error) {
    if (error.status === WITHOUT_ROWS) return null;
    throw error;
  }
};

/** Return elements, or a paragraph with the reason why there are none. */
const orReason = async (elements) => {
  try {
    return await elements;
  } catch (error) {
    if (error instanceof Problem) return [h("p", { class: "error" }, error.message)];
    throw error;
  }
};

const known = (value, form) => (value === null ? "–" : form(value));

async function objects(answer) {
  const histogram = await orNothing(get(path(answer, "histogram")));
  const rows = (histogram?.classes ?? []).filter((row) => row.objects?.count && !row.ignored);
  if (!rows.length) return [];
  return [
    h("h2", {}, "Objects"),
    table("Objects of each class", ["class", "#objects", "#smallest", "#median", ...STRIDES.map((side) => `#below ${side}×${side}`)], rows.map(({ name, objects: sizes }) =>
      [name, grouped(sizes.count), grouped(sizes.smallest), significant(sizes.median, 4), ...STRIDES.map((side) => percent(sizes[`below_${side}`]))])),
    h("p", { class: "hint" }, "Sizes in pixels. A network with an output stride of 32 has one cell or less for an object below 32×32."),
  ];
}

function groupTables({ groups, classes, ungrouped }) {
  const images = groups.reduce((sum, group) => sum + group.images, 0);
  const pixels = groups.reduce((sum, group) => sum + group.pixels, 0);
  const share = (part, whole) => (whole ? percent(part / whole) : "–");
  const rows = groups.slice(0, SHOWN_GROUPS).map((group) => [group.group, grouped(group.images), share(group.images, images), share(group.pixels, pixels),
    ...classes.map(({ id }) => percent(group.shares[id] ?? 0))]);
  const more = [];
  if (groups.length > SHOWN_GROUPS) more.push(`… and ${plural(groups.length - SHOWN_GROUPS, "more group")}.`);
  if (ungrouped) more.push(`${plural(ungrouped, "image")} without a group.`);
  return [
    table("Groups and the class shares of each", ["group", "#images", "#of images", "#of pixels", ...classes.map(({ name }) => `#${name}`)], rows),
    more.length ? h("p", { class: "hint" }, more.join(" ")) : "",
    h("h3", {}, "Weights over the groups"),
    table("Spread of each class over the groups", ["class", "#groups", "largest group", "#its share", "#smallest weight", "#largest weight"], classes.map((row) =>
      [row.name, grouped(row.groups), row.largest_group ?? "–", percent(row.largest_share), known(row.weight_min, (weight) => significant(weight, 4)), known(row.weight_max, (weight) => significant(weight, 4))])),
  ];
}

async function groupsOfImages(answer) {
  const listed = await orNothing(get(path(answer, "groups")));
  const rules = Object.entries(listed?.rules ?? {}).map(([name, rule]) => [name, name, rule]);
  for (const [name, rule] of Object.entries(listed?.suggested ?? {})) if (!rules.some(([, , other]) => other === rule)) rules.push([`${name} (suggested)`, rule, rule]);
  if (!rules.length) return [];
  const shown = h("div");
  const show = async (by) => {
    const tables = await orReason(get(path(answer, "groups", { by })).then(groupTables));
    if (choose.value === by) shown.replaceChildren(...tables.flat());
  };
  const choose = h("select", { id: "group-rule", onchange: (event) => show(event.target.value) }, rules.map(([label, by, rule]) => h("option", { value: by, title: rule }, label)));
  await show(rules[0][1]);
  return [h("h2", {}, "Groups"), h("p", {}, h("label", { for: "group-rule" }, "Group by "), choose), shown];
}

/** Return the objects and the groups of the version in `answer`; nothing where it has none. */
export async function objectsAndGroups(answer) {
  if (answer.version === null) return [];
  return (await Promise.all([objects(answer), groupsOfImages(answer)].map(orReason))).flat();
}
