/**
 * Names as text, in the grammar of `frozenseg demo --vocabulary`: classes stand between ";" (or
 * lines), synonyms between ",", and a name in double quotes may hold either. Quotes within such a
 * name are doubled, as in CSV; those inside another name are part of it.
 */

// What stands between two separators: a name in quotes, or any other.
const NAME = /[^\S\n]*"((?:[^"]|"")+)"[^\S\n]*(?=[,;\n]|$)|[^,;\n]*/y;

/** The classes of a text, each a list of its names. */
export function parseWords(text) {
  const classes = [];
  let names = [];
  for (let at = 0; at <= text.length; at++) {
    NAME.lastIndex = at;
    const [whole, quoted] = NAME.exec(text);
    const name = (quoted?.replaceAll('""', '"') ?? whole).replace(/\s+/g, " ").trim();
    if (name) names.push(name);
    at += whole.length;
    if (text[at] === ",") continue;
    if (names.length) classes.push(names);
    names = [];
  }
  return classes;
}

/** Whether a text that is being typed ends within a name in quotes. */
export const endsInQuotes = (text) => /(^|[,;\n])[^\S\n]*"(?:[^"]|"")*$/.test(text);

/** The text of one class, the inverse of `parseWords`. */
export function formatNames(names) {
  return names.map((name) => (/^"|[,;]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join(", ");
}

/** The form in which two spellings of a name are the same. */
export function plain(name) {
  return name.normalize("NFC").toLowerCase().replace(/\s+/g, " ").trim();
}

/**
 * A function that says whether a class, a list of names, is a thing, by the lists of the service:
 * the first list that knows one of the names decides. What stands in no list is taken for a thing,
 * as the service itself does.
 */
export function guesser(lists) {
  const known = new Map();
  for (const { classes } of lists) {
    for (const { names, is_thing: isThing } of classes) {
      for (const name of names) if (!known.has(plain(name))) known.set(plain(name), isThing);
    }
  }
  return (names) => names.map((name) => known.get(plain(name))).find((is) => is !== undefined) ?? true;
}

/**
 * The words of an example: [{ names, isThing }]. If one list holds all its classes, they are of
 * that list's kinds: a tree is a thing in one data set and stuff in another.
 */
export function exampleWords(text, lists) {
  const given = parseWords(text);
  const whole = lists.find(({ classes }) => {
    const known = new Set(classes.map(({ names }) => formatNames(names)));
    return given.every((names) => known.has(formatNames(names)));
  });
  const guess = guesser(whole ? [whole] : lists);
  return given.map((names) => ({ names, isThing: guess(names) }));
}
