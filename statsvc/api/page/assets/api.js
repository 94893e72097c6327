// Requests to the server that served this page: the token, problems, and the events of a job.

const TOKEN = "statsvc-token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** An error response, or `status` 0 if the server could not be reached. `errors` names rejected parameters. */
export class Problem extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    // no-cache makes the browser revalidate its copy with the ETag for every request.
    response = await fetch(path, { cache: "no-cache", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server cannot be reached. This page retries automatically.");
  }
  if (response.ok) return response;
  let body = {};
  try {
    body = await response.json();
  } catch {
    // The error page of a proxy is not JSON.
  }
  throw new Problem(response.status, body.detail ?? `The request failed with status ${response.status}.`, body.errors);
}

export const get = async (path, options) => (await send(path, options)).json();

/** Return the current content of a path, and the texts of its `Warning` field: why it may be out of date. */
export async function getWithWarnings(path) {
  const response = await send(path, { cache: "no-store" });
  const quoted = (response.headers.get("Warning") ?? "").matchAll(/"([^"]*)"/g);
  return [await response.json(), Array.from(quoted, ([, text]) => text)];
}

/** Return the datasets of all pages of the list. */
export async function allDatasets() {
  const datasets = [];
  for (let next = null; ;) {
    const page = await get(`datasets?${new URLSearchParams({ limit: "1000", ...(next && { after: next }) })}`);
    datasets.push(...page.datasets);
    next = page.next;
    if (!next) return datasets;
  }
}

export const download = async (path) => (await send(path)).blob();

export const post = async (path, body) => {
  const content = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await send(path, { method: "POST", ...content })).json();
};

export const dataset = (name, rest = "") => `datasets/${encodeURIComponent(name)}${rest}`;

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Yield a job after every change until it has ended. Uses fetch because EventSource cannot send a token. */
export async function* follow(id, signal) {
  const path = `jobs/${encodeURIComponent(id)}`;
  for (;;) {
    try {
      const response = await send(`${path}/events`, { signal, cache: "no-store" });
      for await (const job of events(response.body)) {
        yield job;
        if (job.finished_at) return;
      }
    } catch (error) {
      if (signal.aborted || error.status >= 400) throw error;
    }
    await pause(2);
    if (signal.aborted) return;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}
