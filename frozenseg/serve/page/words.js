/**
 * Names as text, in the grammar of `frozenseg demo --vocabulary`: classes are separated by ";" (or
 * line breaks), synonyms by ",", and a name in double quotes may contain either. Quotes within such
 * a name are doubled, as in CSV; quotes inside an unquoted name are part of it.
 */

// The text between two separators: a name in quotes, or any other name.
const NAME = /[^\S\n]*"((?:[^"]|"")+)"[^\S\n]*(?=[,;\n]|$)|[^,;\n]*/y;

/** Parse a text into classes, each a list of its names. */
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

/** Whether a text that is being typed ends inside a quoted name. */
export const endsInQuotes = (text) => /(^|[,;\n])[^\S\n]*"(?:[^"]|"")*$/.test(text);

/** Return the text of one class; the inverse of `parseWords`. */
export function formatNames(names) {
  return names.map((name) => (/^"|[,;]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join(", ");
}

/** Normalise a name, so that different spellings of it become equal. */
export function plain(name) {
  return name.normalize("NFC").toLowerCase().replace(/\s+/g, " ").trim();
}

/**
 * Return a function that says whether a class (a list of names) is a thing, by the service's lists.
 * The first of its names that is in any list decides, by the first list that contains it. A class
 * that is in no list is considered a thing, as in the service itself.
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
 * Return the words of an example: [{ names, isThing }]. If one list contains all its classes, that
 * list decides which are things: a tree is a thing in one data set and stuff in another.
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
