/** The names to look for, as chips that can be added, edited, removed, or set to thing or stuff. */

import { announce, byId, icon, make } from "./dom.js";
import { endsInQuotes, formatNames, parseWords, plain } from "./words.js";

const MINE = "frozenseg.my-words";

export class Chips {
  /** changed(): called each time the user has changed the words. */
  constructor(changed) {
    this.words = []; // [{ names, isThing }]
    this.lists = new Map(); // title -> words
    this.guess = () => true;
    this.place = null; // index at which the chip that is being edited is put back
    this.changed = changed;
    this.list = byId("chips");
    this.input = byId("word");
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.input.addEventListener("input", () => this.onInput());
    byId("lists").addEventListener("change", ({ target }) => this.load(target.value));
    byId("save-words").addEventListener("click", () => this.save());
    byId("clear-words").addEventListener("click", () => {
      this.set([]);
      this.changed();
      this.input.focus();
    });
    this.set([]);
  }

  /** Replace all words by these. */
  set(words) {
    this.words = words.map(({ names, isThing }) => ({ names, isThing }));
    this.place = null;
    this.draw();
  }

  /** Add the classes of a text; names that are already there are left out. */
  add(text) {
    const known = new Set(this.words.flatMap(({ names }) => names.map(plain)));
    for (const names of parseWords(text)) {
      const fresh = names.filter((name, at) => !known.has(plain(name)) && names.indexOf(name) === at);
      if (fresh.length < names.length) announce(`${formatNames(names)}: already there.`);
      fresh.forEach((name) => known.add(plain(name)));
      if (!fresh.length) continue;
      const word = { names: fresh, isThing: this.guess(fresh) };
      this.words.splice(this.place ?? this.words.length, 0, word);
      if (this.place !== null) this.place++;
    }
    this.place = null;
    this.draw();
    this.changed();
  }

  /**
   * Turn the content of the text field into chips. This is not done when the field loses the focus:
   * the layout would shift while the user is clicking a button, and the click would miss it.
   */
  commit() {
    const text = this.input.value;
    this.input.value = "";
    if (text.trim()) this.add(text);
  }

  onKey(event) {
    if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && this.input.value.trim()) {
      event.preventDefault();
      this.commit();
    } else if (event.key === "Backspace" && !this.input.value && this.words.length) {
      event.preventDefault();
      this.change(this.words.length - 1);
    }
  }

  onInput() {
    // A ";" ends a class, except inside an open quote, where it is part of the name.
    const text = this.input.value;
    if (/[;\n]/.test(text) && !endsInQuotes(text)) this.commit();
  }

  /** Put the words of a chip back into the text field. */
  change(at) {
    this.commit();
    const [word] = this.words.splice(at, 1);
    this.place = at;
    this.draw();
    this.input.value = formatNames(word.names);
    this.input.focus();
    this.changed();
  }

  remove(at) {
    this.words.splice(at, 1);
    this.draw();
    this.changed();
    const next = this.list.querySelectorAll(".chip-remove")[Math.min(at, this.words.length - 1)];
    (next ?? this.input).focus();
  }

  turn(at) {
    this.words[at].isThing = !this.words[at].isThing;
    this.draw();
    this.changed();
    this.list.querySelectorAll(".chip-kind")[at].focus();
  }

  draw() {
    this.list.replaceChildren(...this.words.map((word, at) => this.chip(word, at)));
    const count = this.words.length;
    byId("word-count").textContent = count ? `${count} ${count === 1 ? "class" : "classes"}` : "";
    byId("clear-words").hidden = byId("save-words").hidden = byId("kinds").hidden = !count;
  }

  chip({ names, isThing }, at) {
    const [first, ...synonyms] = names;
    const name = make("span", { className: "chip-first", textContent: first });
    const kind = isThing ? "thing" : "stuff";
    return make(
      "li",
      { className: `chip ${kind}` },
      button("chip-kind", `${first} is ${isThing ? "a thing" : "stuff"}; switch`, () => this.turn(at)),
      button(
        "chip-name",
        `Change ${formatNames(names)}`,
        () => this.change(at),
        name,
        synonyms.length ? `, ${formatNames(synonyms)}` : "",
      ),
      button("chip-remove", `Remove ${first}`, () => this.remove(at), icon("close")),
    );
  }

  /** Offer the lists of the service and, if there is one, the list that the user has saved. */
  offer(lists) {
    this.lists = new Map(
      lists.map(({ name, classes }) => [
        name,
        classes.map(({ names, is_thing: isThing }) => ({ names, isThing })),
      ]),
    );
    const mine = stored();
    if (mine.length) this.lists.set("My words", mine);
    const options = [...this.lists].map(([name, words]) => {
      return make("option", { value: name, textContent: `${name} (${words.length})` });
    });
    byId("lists").replaceChildren(make("option", { value: "", textContent: "Lists…" }), ...options);
    this.offered = lists;
  }

  load(name) {
    byId("lists").value = "";
    if (!this.lists.has(name)) return;
    this.set(this.lists.get(name));
    announce(`${name}: ${this.words.length} classes.`);
    this.changed();
  }

  save() {
    try {
      localStorage.setItem(MINE, JSON.stringify(this.words));
      announce("Saved as My words, in this browser.");
    } catch {
      announce("This browser does not store data for this page.");
    }
    this.offer(this.offered ?? []);
    byId("save-words").classList.add("done");
    setTimeout(() => byId("save-words").classList.remove("done"), 1500);
  }
}

function button(className, label, act, ...children) {
  const attributes = { "aria-label": label };
  const element = make("button", { type: "button", className, title: label, attributes }, ...children);
  element.addEventListener("click", act);
  return element;
}

/** Return the words that were saved in this browser; none if they cannot be read. */
function stored() {
  try {
    const words = JSON.parse(localStorage.getItem(MINE)) ?? [];
    return words.filter(({ names, isThing }) => Array.isArray(names) && typeof isThing === "boolean");
  } catch {
    return [];
  }
}
