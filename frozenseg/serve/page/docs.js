/** Show /openapi.json as a plain page: requests and answers of the service, by address. */

import { byId, make } from "./dom.js";

const METHODS = ["get", "post", "put", "delete"];

async function start() {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`The description could not be loaded (status ${response.status}).`);
  const api = await response.json();
  byId("title").textContent = `${api.info.title} over HTTP, version ${api.info.version}`;
  byId("about").replaceChildren(...prose(api.info.description));
  const operations = Object.entries(api.paths).flatMap(([path, methods]) => {
    return METHODS.filter((method) => method in methods).map((method) => {
      return { path, method, ...methods[method] };
    });
  });
  byId("contents").replaceChildren(
    ...operations.map((operation) => {
      return make("li", {}, make("a", { href: `#${anchor(operation)}`, textContent: operation.path }));
    }),
  );
  byId("operations").replaceChildren(...operations.map((operation) => section(api, operation)));
  // The section that the address names did not exist yet when the browser looked for it.
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

function section(api, operation) {
  const { path, method, summary, description, responses = {} } = operation;
  const body = bodyOf(api, operation);
  const fields = [...parametersOf(operation), ...(body?.fields ?? [])];
  return make(
    "section",
    { id: anchor(operation), className: "card operation" },
    make(
      "h2",
      {},
      make("span", { className: "method", textContent: method.toUpperCase() }),
      make("code", { textContent: path }),
    ),
    ...prose(summary),
    ...prose(description),
    ...(fields.length ? [make("h3", { textContent: body ? `Fields (${body.type})` : "Parameters" })] : []),
    ...(fields.length ? [table(fields)] : []),
    make("h3", { textContent: "Answers" }),
    table(Object.entries(responses).map(([status, one]) => answer(status, one))),
    make("h3", { textContent: "With curl" }),
    make("pre", { tabIndex: 0 }, make("code", { textContent: curl(operation, fields) })),
  );
}

/** Return the parameters of a query or a path: [{ name, kind, about, required, example }]. */
function parametersOf({ parameters = [] }) {
  return parameters.map(({ name, required, description, schema, example }) => {
    return { name, required, kind: kindOf(schema), about: description, example: example ?? schema?.default };
  });
}

/** Return the type and the fields of a request's body, or null if it has none. */
function bodyOf(api, { requestBody }) {
  const [type, content] = Object.entries(requestBody?.content ?? {})[0] ?? [];
  if (!type) return null;
  const schema = resolve(api, content.schema);
  const fields = Object.entries(schema.properties ?? {}).map(([name, given]) => {
    const field = resolve(api, given);
    const { description, examples = [] } = field;
    const required = (schema.required ?? []).includes(name);
    return { name, required, kind: kindOf(field), about: description, example: examples[0], form: true };
  });
  return { type, fields };
}

function answer(status, { description, content = {} }) {
  const kinds = Object.keys(content);
  const example = Object.values(content)[0]?.example;
  const about = example ? `${description} ${JSON.stringify(example)}` : description;
  return { name: status, kind: kinds.join(", "), about };
}

function resolve(api, schema = {}) {
  if (!schema.$ref) return schema;
  return schema.$ref.split("/").slice(1).reduce((place, key) => place[key], api);
}

/** Describe in a few words which values a field takes. */
function kindOf(schema = {}) {
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kindOf).filter((kind) => kind !== "null").join(" or ");
  if (schema.type === "array") return `several: ${kindOf(schema.items)}`;
  if (isFile(schema)) return "file";
  const bounds = "minimum" in schema && "maximum" in schema ? ` ${schema.minimum}-${schema.maximum}` : "";
  const fallback = schema.default === undefined ? "" : ` (default: ${schema.default})`;
  return `${schema.type ?? "any"}${bounds}${fallback}`;
}

const isFile = ({ format, contentMediaType }) => format === "binary" || Boolean(contentMediaType);

function table(fields) {
  const rows = fields.map(({ name, required, kind, about }) => {
    const head = make("th", { scope: "row" }, make("code", { textContent: name }), required ? " (required)" : "");
    return make(
      "tr",
      {},
      head,
      make("td", { className: "kind", textContent: kind }),
      make("td", {}, ...marked(about)),
    );
  });
  return make("table", { className: "fields" }, make("tbody", {}, ...rows));
}

/** Return a curl command for this address, with the required fields. */
function curl({ path, method }, fields) {
  const parts = [`curl ${location.origin}${path}`];
  if (method !== "get") parts[0] = `curl -X ${method.toUpperCase()} ${location.origin}${path}`;
  for (const { name, required, kind, example, form } of fields) {
    if (!required || !form) continue;
    parts.push(`-F ${name}=${kind.includes("file") ? "@picture.jpg" : `'${example ?? "..."}'`}`);
  }
  return parts.join(" \\\n  ");
}

/** Split a text of the description into paragraphs. */
const prose = (text = "") => text.split(/\n\s*\n/).filter(Boolean).map((part) => make("p", {}, ...marked(part)));

/** Set the words between backquotes in a text as code. */
function marked(text = "") {
  return text.split("`").map((part, at) => (at % 2 ? make("code", { textContent: part }) : part));
}

const anchor = ({ method, path }) => `${method}${path.replace(/[^a-z0-9]+/gi, "-")}`;

start().catch((error) => {
  byId("operations").replaceChildren(make("p", { className: "help warn", textContent: error.message }));
});
