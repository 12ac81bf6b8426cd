/** Requests to the service. Errors are the service's own lines. */

/**
 * A request that was refused, in one plain line. `status`: of the service's answer, 0 where it does
 * not answer, null where the page itself refused; `retryAfter`: in seconds, or null.
 */
export class ServiceError extends Error {
  constructor(line, status = null, retryAfter = null) {
    super(line);
    Object.assign(this, { status, retryAfter });
  }
}

// Kept in memory only, so that closing the page forgets it.
let token = null;

/**
 * The JSON that the service answers. `askToken(again)` is a promise of the token that a service
 * wants, or of null to give up; `again` says that the last one was refused.
 */
export async function call(path, options, askToken) {
  for (let again = token !== null; ; again = true) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await reach(path, { ...options, headers });
    if (response.status !== 401) return read(response);
    token = await askToken(again);
    if (!token) throw new ServiceError(await line(response), 401);
  }
}

/** Ask for the segments of a picture. words: [{ names, isThing }]; signal: stops the request. */
export function segment(file, words, signal, askToken) {
  const form = new FormData();
  form.set("image", file, file.name || "picture.png");
  form.set("vocabulary", JSON.stringify(words.map(({ names }) => names)));
  form.set("things", JSON.stringify(words.filter(({ isThing }) => isThing).map(({ names }) => names)));
  // The page applies the threshold itself, so that moving it asks nothing of the service.
  form.set("threshold", "0");
  form.set("format", "map");
  return call("/v1/segment", { method: "POST", body: form, signal }, askToken);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Is it still running?", 0);
  }
}

async function read(response) {
  if (response.ok) return response.json();
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  throw new ServiceError(await line(response), response.status, wait >= 0 ? wait : null);
}

async function line(response) {
  const plain = `The service answered with status ${response.status}.`;
  return response.json().then((body) => body.error || plain, () => plain);
}
