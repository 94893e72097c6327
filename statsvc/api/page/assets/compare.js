// Comparison of methods: the weights of every method for the counts that are shown.

import { state } from "./address.js";
import { get, Problem } from "./api.js";
import { h, table } from "./dom.js";
import { percent, significant } from "./numbers.js";

const ALPHA = "0.25"; // for `power`, which has no default; 0.5 and 1 would repeat two other methods

/** Return a table of the weights of every method, and the reasons why methods are not available. */
export async function methodComparison(methods, answer) {
  const parameters = state();
  for (const { name } of methods.flatMap((method) => method.parameters)) parameters.delete(name);
  parameters.delete("recipe");
  parameters.set("version", String(answer.version));
  const results = await Promise.all(methods.filter((method) => method.kind === "weights").map(async ({ name }) => {
    const request = new URLSearchParams(parameters);
    request.set("method", name);
    if (name === "power") request.set("alpha", ALPHA);
    try {
      return { name, weights: (await get(`weights?${request}`)).classes.map((row) => row.weight) };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return { name, reason: error.message };
    }
  }));
  const available = results.filter((result) => result.weights);
  const headings = available.map(({ name }) => `#${name}${name === "power" ? ` ${ALPHA}` : ""}`);
  const ratio = available.map(({ weights }) => {
    const positive = weights.filter((weight) => weight > 0);
    return positive.length ? `${significant(Math.max(...positive) / Math.min(...positive), 3)}×` : "–";
  });
  const rows = answer.classes.map((row, k) => [row.name, percent(row.frequency), ...available.map(({ weights }) => significant(weights[k], 3))]);
  return [
    table("Weights by method", ["class", "#share", ...headings], [["largest ÷ smallest", "", ...ratio], ...rows]),
    ...results.filter((result) => result.reason).map(({ name, reason }) => h("p", { class: "hint" }, `${name}: ${reason}`)),
  ];
}
