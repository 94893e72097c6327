// Formatting of numbers and dates. A number other than 0 is never shown as 0.

const grouping = new Intl.NumberFormat("en");
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export const grouped = (number) => (number === null ? "unknown" : grouping.format(number));

export const signed = (number) => (number > 0 ? `+${grouped(number)}` : grouped(number).replace("-", "−"));

/** Return a number with a number of significant digits. */
export function significant(number, digits) {
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size < 1e-4 || size >= 1e15) {
    const [mantissa, exponent] = number.toExponential(digits - 1).split("e");
    const raised = exponent.replace("+", "").replace("-", "⁻").replace(/\d/g, (digit) => SUPERSCRIPT[digit]);
    return `${mantissa}×10${raised}`.replace("-", "−");
  }
  const rounded = Number(number.toPrecision(digits));
  if (size >= 1000) return grouping.format(Math.round(rounded)).replace("-", "−");
  return number.toPrecision(digits).replace("-", "−");
}

/** Return a share, 0 to 1, in percent with three significant digits. */
export function percent(share) {
  const text = significant(100 * share, 3);
  return text === "100" && share < 1 ? "> 99.9 %" : `${text} %`;
}

/** Return a relative change, 0.05 for 5 %, with its sign and three significant digits; a dash if it is unknown. */
export function relative(change) {
  if (change === null) return "–";
  const sign = { 1: "+", [-1]: "−" }[Math.sign(change)] ?? "";
  return `${sign}${significant(100 * Math.abs(change), 3)} %`;
}

const dates = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Return a `time` element's text for an ISO date. */
export const when = (iso) => dates.format(new Date(iso));

export const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
