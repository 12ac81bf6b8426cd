/** Encode names as vectors: CLIP's tokenizer, and the mean vector over templates. */

/**
 * Return CLIP's tokenizer: a function from a text to its tokens, a BigInt64Array (length), padded
 * with zeros (Radford et al., arXiv 2103.00020; byte-pair encoding: Sennrich et al., arXiv
 * 1508.07909). `merges`: pairs of parts to join, in order of priority.
 */
export function tokenizer(merges, length) {
  const letters = byteLetters();
  const ranks = new Map(merges.map((pair, rank) => [pair, rank]));
  const alphabet = [...letters.values()];
  const parts = [...alphabet, ...alphabet.map((letter) => letter + END), ...merges.map((pair) => pair.replace(" ", ""))];
  const numbers = new Map(parts.map((part, number) => [part, number]));
  return (text) => {
    const clean = text.replace(/\s+/g, " ").trim().toLowerCase();
    const tokens = [parts.length];
    for (const word of clean.match(WORDS) ?? []) {
      const spelled = [...new TextEncoder().encode(word)].map((byte) => letters.get(byte));
      spelled.push(spelled.pop() + END);
      tokens.push(...merged(spelled, ranks).map((part) => numbers.get(part)));
    }
    tokens.push(parts.length + 1);
    if (tokens.length > length) throw new Error(`“${text}” is too long for the text encoder.`);
    return BigInt64Array.from({ length }, (_, place) => BigInt(tokens[place] ?? 0));
  };
}

/**
 * Return the unit vector of a name: the mean over all templates, as in section 3.1.4 of the CLIP
 * paper. `encode`: a function from a list of texts to their vectors, each a Float32Array.
 */
export async function vectorOf(name, templates, encode) {
  const vectors = await encode(templates.map((template) => template.replaceAll("{}", name)));
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) unit(vector).forEach((value, place) => (sum[place] += value));
  return unit(sum);
}

/** Normalise a name; names with equal results, also plurals, are the same name to the model. */
export function singular(name) {
  const text = name.normalize("NFKC").toLowerCase().replace(/[\s_\-\u2010-\u2015]+/g, " ").trim();
  for (const [ending, stem] of ENDINGS)
    if (text.endsWith(ending) && text.length > ending.length + 1) return text.slice(0, -ending.length) + stem;
  return /[^s]s$/.test(text) && text.length > 3 ? text.slice(0, -1) : text;
}

const END = "</w>";
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;
const ENDINGS = [["ies", "y"], ["ches", "ch"], ["shes", "sh"], ["sses", "ss"], ["xes", "x"]];

/** Return a character for each byte: itself if it is printable, else one from code point 256 on. */
function byteLetters() {
  const printed = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const others = bytes.filter((byte) => !printed(byte));
  return new Map([
    ...bytes.filter(printed).map((byte) => [byte, String.fromCodePoint(byte)]),
    ...others.map((byte, number) => [byte, String.fromCodePoint(256 + number)]),
  ]);
}

/** Join the neighbouring pair that comes first in `ranks`, again and again until none is left. */
function merged(parts, ranks) {
  for (;;) {
    let best = null;
    for (let place = 1; place < parts.length; place++) {
      const pair = `${parts[place - 1]} ${parts[place]}`;
      if (ranks.has(pair) && (best === null || ranks.get(pair) < ranks.get(best))) best = pair;
    }
    if (best === null) return parts;
    const next = [];
    for (const part of parts) {
      if (next.length && `${next.at(-1)} ${part}` === best) next.push(next.pop() + part);
      else next.push(part);
    }
    parts = next;
  }
}

function unit(vector) {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  return vector.map((value) => value / length);
}
