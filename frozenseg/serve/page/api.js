/** Requests to the service. Error messages are those of the service. */

/**
 * A request that was refused; the message is one plain line. `status`: the HTTP status of the
 * service's answer, 0 if it does not answer, null if the page itself refused; `retryAfter`: seconds
 * after which another attempt may succeed, or null.
 */
export class ServiceError extends Error {
  constructor(line, status = null, retryAfter = null) {
    super(line);
    Object.assign(this, { status, retryAfter });
  }
}

// The token is kept only in memory, so that it is forgotten when the page is closed.
let token = null;

/**
 * Send a request, and return the JSON that the service answers. `askToken(again)` returns a promise
 * of the token that the service requires, or of null to give up; `again` says that the last token
 * was refused.
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

/** Request the segments of a picture. words: [{ names, isThing }]; signal: stops the request. */
export function segment(file, words, signal, askToken) {
  const form = new FormData();
  form.set("image", file, file.name || "picture.png");
  form.set("vocabulary", JSON.stringify(words.map(({ names }) => names)));
  form.set("things", JSON.stringify(words.filter(({ isThing }) => isThing).map(({ names }) => names)));
  // The page applies the threshold itself, so that moving it needs no further request.
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
