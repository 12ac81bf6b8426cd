/** COCO's compressed run-length codes: runs of 0 and 1 in column order, packed as text. */

/** Call `inside(start, end)` for each run of 1 in a code, with pixels numbered in column order. */
export function eachRun(counts, inside) {
  const runs = [];
  let start = 0;
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let part;
    do {
      part = counts.charCodeAt(at++) - 48;
      value |= (part & 31) << shift;
      shift += 5;
    } while (part & 32);
    if (part & 16) value |= -1 << shift;
    // From the fourth run on, a run is stored as its difference to the run two places before it.
    if (runs.length > 2) value += runs[runs.length - 2];
    if (runs.length % 2) inside(start, start + value);
    start += value;
    runs.push(value);
  }
}

/** Return the code of the pixels of `map` (height x width) that are equal to `value`. */
export function encode(map, width, height, value) {
  const runs = [];
  let run = 0;
  let inside = false;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x; y < height; y++, at += width) {
      if ((map[at] === value) !== inside) {
        runs.push(run);
        run = 0;
        inside = !inside;
      }
      run++;
    }
  }
  runs.push(run);
  return { size: [height, width], counts: pack(runs) };
}

function pack(runs) {
  let text = "";
  for (let at = 0; at < runs.length; at++) {
    let value = at > 2 ? runs[at] - runs[at - 2] : runs[at];
    for (let more = true; more; ) {
      const part = value & 31;
      value >>= 5;
      more = part & 16 ? value !== -1 : value !== 0;
      text += String.fromCharCode(48 + (more ? part | 32 : part));
    }
  }
  return text;
}
