// The form: method, its parameters, and how counts are interpreted. The server validates; its messages appear at the field.

import { state } from "./address.js";
import { byId, h } from "./dom.js";

const CHOSEN = { class_map: "Class map", normalize: "Normalize", absent: "Absent classes", denominator: "Frequency denominator" };

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

const choice = (values, first, value) => h("select", {}, options([["", first], ...values.map((each) => [each, each])], value));

/** Show a field for each parameter; `changed(name, value)` is called when the user changes one. */
export function showForm({ methods, choices }, splits, changed) {
  const parameters = state();
  const current = (name) => parameters.get(name) ?? "";
  const method = methods.find((each) => each.name === parameters.get("method")) ?? methods[0];
  const add = (name, label, control, hint = "") => fields.push(field(name, label, control, hint, changed));
  const fields = [];
  add("method", "Method", h("select", {}, options(methods.map(({ name }) => [name, name]), method.name)), method.summary);
  fields.push(h("p", { class: "formula" }, h("code", {}, method.formula), h("span", { class: "hint" }, ` ${method.reference}`)));
  for (const parameter of method.parameters) {
    const control = parameter.name in choices
      ? choice(choices[parameter.name], `default (${parameter.default})`, current(parameter.name))
      : text(current(parameter.name), parameter.required ? "required" : String(parameter.default));
    add(parameter.name, parameter.name, control, `${parameter.description}; ${parameter.range}`);
  }
  const names = new Set([...splits, ...parameters.getAll("split")]);
  if (names.size) add("split", "Split", choice([...names], "all samples", current("split")));
  add("ignore_index", "Ignored ids", text(current("ignore_index"), "as configured"), "list such as 255,254, or none");
  add("crop", "Random crops", text(current("crop"), "whole images"), "height x width, such as 512x512; needs counts on a grid");
  if (current("crop")) {
    add("scale", "Scale before the crop", text(current("scale"), "1"), "factor or range, such as 0.5:2");
    add("cat_max_ratio", "Largest share of a class", text(current("cat_max_ratio"), "1"), "crops above it are drawn again");
  }
  for (const [name, label] of Object.entries(CHOSEN)) {
    add(name, label, choice(choices[name], name === "class_map" ? "as configured" : `default (${choices[name][0]})`, current(name)));
  }
  // Other parameters of a link stay in effect, so they are shown, too.
  const shown = new Set(["dataset", "version", "method", "split", "ignore_index", "crop", ...Object.keys(CHOSEN), ...method.parameters.map(({ name }) => name)]);
  if (current("crop")) for (const name of ["scale", "cat_max_ratio"]) shown.add(name);
  for (const [name, value] of parameters) {
    if (!shown.has(name)) add(name, name, text(value), "set by the link; clear the field to remove it");
  }
  const focused = document.activeElement?.id;
  byId("question").replaceChildren(...fields);
  if (focused?.startsWith("p-")) byId(focused)?.focus();
}

/** Show a problem at the fields of the parameters that it names, or else above the form. */
export function showProblem(problem) {
  const remaining = [];
  for (const { parameter, message } of problem.errors) {
    const errorText = byId(`p-${parameter}-error`);
    if (!errorText) remaining.push(`${parameter}: ${message}`);
    else {
      errorText.textContent = message;
      byId(`p-${parameter}`).setAttribute("aria-invalid", "true");
    }
  }
  if (!problem.errors.length) remaining.push(problem.message);
  else if (!remaining.length) remaining.push("Some parameters are invalid. Correct the marked fields.");
  byId("problem").textContent = remaining.join(" ");
}
