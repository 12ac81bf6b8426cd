/**
 * Colours of segments that everybody can tell apart, including people with colour blindness.
 *
 * The distance of two colours is the smallest of their CIELAB distances for full, protan and deutan
 * vision. A class has the same colour in all views; its further objects have similar colours.
 */

// Matrices for linear RGB as seen with full, protan and deutan vision (Machado et al., 2009,
// severity 1).
const VISIONS = [
  [1, 0, 0, 0, 1, 0, 0, 0, 1],
  [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
  [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
];
// Smallest allowed distances between the colours of segments, tried in turn until one can be kept.
const APART = [24, 16, 10, 6, 3, 0];
// A class colour that is closer than this to the picture under it is rated lower.
const FROM_GROUND = 30;
// Colours with at least this distance can be told apart at a glance.
const ENOUGH = 36;

/**
 * Choose a colour [red, green, blue] for each class. `grounds`: the mean colour of the picture
 * under each class, which shines through; the most important classes come first.
 */
export function classColours(grounds) {
  const { views } = candidates();
  const near = new Float32Array(views.length / 9).fill(Infinity);
  return grounds.map((ground) => {
    const under = distances(seen(ground));
    const place = highest(
      near.map((free, at) => {
        const clear = Math.min(1, under[at] / FROM_GROUND);
        // If many colours are far enough from the others, prefer medium chroma and lightness.
        const chroma = Math.hypot(views[9 * at + 1], views[9 * at + 2]);
        const calm = Math.abs(chroma - 52) + Math.abs(views[9 * at] - 68);
        return Math.min(free, ENOUGH) * clear - 0.2 * calm;
      }),
    );
    avoid(near, viewOf(place));
    return candidates().rgb[place];
  });
}

/**
 * Choose colours for all segments of a view. `segments`: [{ classId }]; `ofClass`: a Map from a
 * class to its colour. The first segment of a class gets that colour; its other segments get the
 * most similar colour that is far enough from all others.
 */
export function segmentColours(segments, ofClass) {
  for (const apart of APART) {
    const colours = apartBy(apart, segments, ofClass);
    if (colours) return colours;
  }
  throw new Error("Colours with a distance of 0 can always be found.");
}

/** Convert a colour to "#rrggbb", and back. */
export const toHex = (colour) => "#" + colour.map((part) => part.toString(16).padStart(2, "0")).join("");
export const fromHex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

/** Return black or white, whichever is easier to read on a colour (contrast as in WCAG). */
export function readableOn(colour) {
  const [red, green, blue] = colour.map(linear);
  const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
  return light / 0.05 >= 1.05 / light ? "#000" : "#fff";
}

/** Return the smallest distance of two colours [red, green, blue] over the three visions. */
export function distance(one, other) {
  return between(seen(one), 0, seen(other));
}

function apartBy(apart, segments, ofClass) {
  const near = new Float32Array(candidates().rgb.length).fill(Infinity);
  const colours = new Array(segments.length);
  const likeness = new Map();
  const others = [];
  segments.forEach(({ classId }, number) => {
    if (likeness.has(classId)) return others.push(number);
    const view = seen(ofClass.get(classId));
    likeness.set(classId, distances(view, apartIn));
    colours[number] = ofClass.get(classId);
    avoid(near, view);
  });
  for (const number of others) {
    const unlike = likeness.get(segments[number].classId);
    const place = highest(near.map((free, at) => (free < apart ? -Infinity : -unlike[at])));
    if (place < 0) return null;
    colours[number] = candidates().rgb[place];
    avoid(near, viewOf(place));
  }
  return colours;
}

/** Return the index of the highest value, or -1 if all are -Infinity. */
function highest(values) {
  let place = -1;
  let height = -Infinity;
  for (let at = 0; at < values.length; at++) if (values[at] > height) height = values[(place = at)];
  return place;
}

/** Return the distance of each candidate to a colour, which is given as `seen` returns it. */
function distances(view, measure = between) {
  const { views } = candidates();
  return Float32Array.from({ length: views.length / 9 }, (_, at) => measure(views, 9 * at, view));
}

/** Update `near`, the distance of each candidate to the colours in use, with one more colour. */
function avoid(near, view) {
  const { views } = candidates();
  for (let at = 0; at < near.length; at++) near[at] = Math.min(near[at], between(views, 9 * at, view));
}

function viewOf(place) {
  return candidates().views.subarray(9 * place, 9 * place + 9);
}

let all = null;

/** Return a grid of colours, neither grey nor very dark or bright, and how each one is seen. */
function candidates() {
  if (all) return all;
  const rgb = [];
  for (let number = 0; number < 18 ** 3; number++) {
    const colour = [15 * Math.floor(number / 324), 15 * (Math.floor(number / 18) % 18), 15 * (number % 18)];
    const [light, a, b] = lab(colour.map(linear));
    const chroma = Math.hypot(a, b);
    if (light >= 40 && light <= 88 && chroma >= 28 && chroma <= 76) rgb.push(colour);
  }
  const views = new Float32Array(9 * rgb.length);
  rgb.forEach((colour, at) => views.set(seen(colour), 9 * at));
  return (all = { rgb, views });
}

/** Return a colour in CIELAB as each of the three visions sees it: 9 numbers. */
function seen(colour) {
  const light = colour.map(linear);
  const values = new Float32Array(9);
  VISIONS.forEach((matrix, vision) => {
    const mixed = [0, 3, 6].map((row) =>
      Math.min(1, Math.max(0, matrix[row] * light[0] + matrix[row + 1] * light[1] + matrix[row + 2] * light[2])),
    );
    values.set(lab(mixed), 3 * vision);
  });
  return values;
}

function between(views, at, view) {
  const dichromat = Math.min(apartIn(views, at + 3, view, 3), apartIn(views, at + 6, view, 6));
  return Math.min(apartIn(views, at, view), dichromat);
}

function apartIn(views, at, view, vision = 0) {
  const light = views[at] - view[vision];
  const a = views[at + 1] - view[vision + 1];
  const b = views[at + 2] - view[vision + 2];
  return Math.sqrt(light * light + a * a + b * b);
}

/** Convert an sRGB value, 0-255, to linear light, 0-1 (IEC 61966-2-1). */
function linear(part) {
  const value = part / 255;
  return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
}

/** Convert linear RGB to CIELAB (D65). */
function lab([red, green, blue]) {
  const x = curve((0.412453 * red + 0.35758 * green + 0.180423 * blue) / 0.950456);
  const y = curve(0.212671 * red + 0.71516 * green + 0.072169 * blue);
  const z = curve((0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754);
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

function curve(part) {
  return part > 0.008856 ? Math.cbrt(part) : 7.787 * part + 16 / 116;
}
