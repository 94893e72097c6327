// Methods side by side: the weights that each gives for the counts that are shown.

import { state } from "./address.js";
import { get, Problem } from "./api.js";
import { h, table } from "./dom.js";
import { percent, significant } from "./numbers.js";

const ALPHA = "0.25"; // of `power`, which has no default; with 0.5 and 1 it is two of the other methods

/** Return a table of the weights of every method, and why a method has none. */
export async function compared(methods, answer) {
  const question = state();
  for (const one of methods.flatMap((method) => method.parameters)) question.delete(one.name);
  question.delete("recipe");
  question.set("version", String(answer.version));
  const found = await Promise.all(methods.filter((method) => method.kind === "weights").map(async ({ name }) => {
    const own = new URLSearchParams(question);
    own.set("method", name);
    if (name === "power") own.set("alpha", ALPHA);
    try {
      return { name, weights: (await get(`weights?${own}`)).classes.map((one) => one.weight) };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return { name, why: error.message };
    }
  }));
  const answered = found.filter((one) => one.weights);
  const heads = answered.map(({ name }) => `#${name}${name === "power" ? ` ${ALPHA}` : ""}`);
  const ratio = answered.map(({ weights }) => {
    const positive = weights.filter((weight) => weight > 0);
    return positive.length ? `${significant(Math.max(...positive) / Math.min(...positive), 3)}×` : "–";
  });
  const rows = answer.classes.map((one, k) => [one.name, percent(one.frequency), ...answered.map(({ weights }) => significant(weights[k], 3))]);
  return [
    table("Weights by method", ["class", "#share", ...heads], [["largest ÷ smallest", "", ...ratio], ...rows]),
    ...found.filter((one) => one.why).map(({ name, why }) => h("p", { class: "hint" }, `${name}: ${why}`)),
  ];
}
