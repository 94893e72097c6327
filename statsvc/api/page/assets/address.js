// The URL of the page: its query string has the parameters of `GET /weights`, so a link reproduces what is shown.

export const state = () => new URLSearchParams(location.search);

export const address = (parameters) => `?${parameters}`;

/** Normalize the URL: `ignore` becomes `ignore_index`, and repeated ids become one list. */
export function normalizeUrl() {
  const parameters = state();
  const ignored = [...parameters.getAll("ignore_index"), ...parameters.getAll("ignore")];
  if (ignored.length < 2 && !parameters.has("ignore")) return;
  parameters.delete("ignore");
  parameters.set("ignore_index", ignored.join(","));
  history.replaceState(null, "", address(parameters));
}
