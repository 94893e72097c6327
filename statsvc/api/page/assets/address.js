// The address of the page: the parameters of `GET /weights` under their own names, so that a link shows the same.

export const state = () => new URLSearchParams(location.search);

export const address = (parameters) => `?${parameters}`;

/** Write what may be asked in several ways in one: `ignore` is another name, and repeated ids are one list. */
export function tidy() {
  const parameters = state();
  const ignored = [...parameters.getAll("ignore_index"), ...parameters.getAll("ignore")];
  if (ignored.length < 2 && !parameters.has("ignore")) return;
  parameters.delete("ignore");
  parameters.set("ignore_index", ignored.join(","));
  history.replaceState(null, "", address(parameters));
}
