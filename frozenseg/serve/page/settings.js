/**
 * The user's settings, and the link that contains them.
 *
 * The link has the words and settings in its fragment, which browsers do not send to any server,
 * and never a picture. `example` is the name of one of the service's own examples, or "".
 */

import { VIEWS } from "./layer.js";
import { formatNames, parseWords } from "./words.js";

export const DEFAULTS = {
  view: "panoptic",
  opacity: 0.5,
  threshold: 0.25,
  outline: true,
  labels: true,
  compare: false,
  example: "",
};

/** Read a fragment: { settings, words }; missing or invalid settings get their defaults. */
export function readFragment(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const settings = { ...DEFAULTS };
  for (const key of ["opacity", "threshold"]) {
    const value = Number.parseFloat(given.get(key));
    if (value >= 0 && value <= 1) settings[key] = value;
  }
  for (const key of ["outline", "labels", "compare"]) {
    if (given.has(key)) settings[key] = given.get(key) === "1";
  }
  if (VIEWS.includes(given.get("view"))) settings.view = given.get("view");
  settings.example = given.get("example") ?? "";
  const stuff = new Set((given.get("stuff") ?? "").split(",").filter(Boolean).map(Number));
  const classes = parseWords(given.get("words") ?? "");
  return { settings, words: classes.map((names, at) => ({ names, isThing: !stuff.has(at) })) };
}

/** Return the fragment for settings and words: [{ names, isThing }]. */
export function writeFragment(settings, words) {
  const given = new URLSearchParams();
  if (words.length) given.set("words", words.map(({ names }) => formatNames(names)).join("; "));
  const stuff = words.flatMap(({ isThing }, at) => (isThing ? [] : [at]));
  if (stuff.length) given.set("stuff", stuff.join(","));
  for (const [key, usual] of Object.entries(DEFAULTS)) {
    const value = settings[key];
    if (value !== usual) given.set(key, typeof value === "boolean" ? Number(value) : value);
  }
  return given.size ? "#" + given : "";
}
