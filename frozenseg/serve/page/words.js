/**
 * Names as text, in the grammar of `frozenseg demo --vocabulary`: classes stand between ";" (or
 * lines), synonyms between ",", and a name in double quotes may hold either.
 */

/** The classes of a text, each a list of its names. */
export function parseWords(text) {
  const classes = [];
  let names = [];
  let name = "";
  let quoted = false;
  const endName = () => {
    const clean = name.replace(/\s+/g, " ").trim();
    if (clean) names.push(clean);
    name = "";
  };
  const endClass = () => {
    endName();
    if (names.length) classes.push(names);
    names = [];
  };
  for (const letter of text) {
    if (letter === '"') quoted = !quoted;
    else if (!quoted && letter === ",") endName();
    else if (!quoted && (letter === ";" || letter === "\n")) endClass();
    else name += letter;
  }
  endClass();
  return classes;
}

/** The text of one class, the inverse of `parseWords`. */
export function formatNames(names) {
  return names.map((name) => (/[,;]/.test(name) ? `"${name}"` : name)).join(", ");
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
