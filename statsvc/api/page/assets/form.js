// The form: method, its parameters, and how the counts are read. The server checks; its words stand beside the field.

import { state } from "./address.js";
import { at, h } from "./dom.js";

const CHOSEN = { class_map: "Class map", normalize: "Normalize", absent: "Absent classes", denominator: "Shares of" };

export const options = (values, chosen) => values.map(([value, text]) => h("option", { value, selected: value === chosen }, text));

function field(name, label, control, hint, changed) {
  const id = `p-${name}`;
  control.id = id;
  control.name = name;
  control.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  control.addEventListener("change", () => changed(name, control.value.trim()));
  return h("p", { class: "field" },
    h("label", { for: id }, label), control,
    h("span", { class: "hint", id: `${id}-hint` }, hint),
    h("span", { class: "error", id: `${id}-error`, role: "alert" }));
}

const text = (value, placeholder = "") => h("input", { value, placeholder, spellcheck: "false", autocomplete: "off" });

const choice = (words, first, value) => h("select", {}, options([["", first], ...words.map((word) => [word, word])], value));

/** Show a field for each parameter; `changed(name, value)` is called where one is given another value. */
export function showForm({ methods, choices }, splits, changed) {
  const parameters = state();
  const given = (name) => parameters.get(name) ?? "";
  const method = methods.find((one) => one.name === parameters.get("method")) ?? methods[0];
  const add = (name, label, control, hint = "") => fields.push(field(name, label, control, hint, changed));
  const fields = [];
  add("method", "Method", h("select", {}, options(methods.map((one) => [one.name, one.name]), method.name)), method.summary);
  fields.push(h("p", { class: "formula" }, h("code", {}, method.formula), h("span", { class: "hint" }, ` ${method.reference}`)));
  for (const one of method.parameters) {
    const control = one.name in choices
      ? choice(choices[one.name], `default (${one.default})`, given(one.name))
      : text(given(one.name), one.required ? "needed" : String(one.default));
    add(one.name, one.name, control, `${one.description}; ${one.range}`);
  }
  const names = new Set([...splits, ...parameters.getAll("split")]);
  if (names.size) add("split", "Split", choice([...names], "all together", given("split")));
  add("ignore_index", "Ignored ids", text(given("ignore_index"), "the dataset's"), "255,254 or none");
  for (const [name, label] of Object.entries(CHOSEN)) {
    add(name, label, choice(choices[name], name === "class_map" ? "the dataset's" : `default (${choices[name][0]})`, given(name)));
  }
  // What a link asks beyond these stays, and is told.
  const shown = new Set(["dataset", "version", "method", "split", "ignore_index", ...Object.keys(CHOSEN), ...method.parameters.map((one) => one.name)]);
  for (const [name, value] of parameters) {
    if (!shown.has(name)) add(name, name, text(value), "from the link; empty it to leave it out");
  }
  const focused = document.activeElement?.id;
  at("question").replaceChildren(...fields);
  if (focused?.startsWith("p-")) at(focused)?.focus();
}

/** Show what the server says of the question, beside the parameters that it names. */
export function refused(problem) {
  const left = [];
  for (const { parameter, message } of problem.errors) {
    const place = at(`p-${parameter}-error`);
    if (!place) left.push(`${parameter}: ${message}`);
    else {
      place.textContent = message;
      at(`p-${parameter}`).setAttribute("aria-invalid", "true");
    }
  }
  if (!problem.errors.length) left.push(problem.message);
  at("problem").textContent = left.join(" ");
}
