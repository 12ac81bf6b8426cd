/** Resize a picture to the network's input, with the same filter as the package. */

/**
 * Return { pixels, size } for a window [height, width]: `pixels` is a Float32Array (3, height,
 * width) with the picture at its top left, and `size` is the picture's [height, width] in it.
 */
export function toWindow({ data, width, height }, window) {
  const scale = Math.min(window[0] / height, window[1] / width);
  const size = [height, width].map((length, axis) =>
    Math.min(window[axis], Math.max(1, Math.floor(length * scale + 0.5))),
  );
  const small = resize(data, [height, width], size);
  const pixels = new Float32Array(3 * window[0] * window[1]);
  for (let channel = 0; channel < 3; channel++)
    for (let row = 0; row < size[0]; row++)
      for (let column = 0; column < size[1]; column++)
        pixels[(channel * window[0] + row) * window[1] + column] = small[4 * (row * size[1] + column) + channel];
  return { pixels, size };
}

/** Resize RGBA bytes from size `from` [height, width] to `to`, with a triangle filter per axis. */
function resize(data, from, to) {
  const wide = along(data, from[0], 4 * from[1], 4, taps(from[1], to[1]));
  // Along the vertical axis, the positions are the rows of the picture.
  return along(wide, 1, from[0] * 4 * to[1], 4 * to[1], taps(from[0], to[0]));
}

/** Filter `count` lines of `length` bytes, whose positions are `step` bytes apart. */
function along(data, count, length, step, filters) {
  const result = new Uint8ClampedArray(count * filters.length * step);
  let at = 0;
  for (let line = 0; line < count; line++)
    for (const { first, weights } of filters)
      for (let byte = 0; byte < step; byte++) {
        let sum = 0;
        for (let tap = 0; tap < weights.length; tap++)
          sum += weights[tap] * data[line * length + (first + tap) * step + byte];
        result[at++] = Math.floor(sum + 0.5);
      }
  return result;
}

/** Return, for each new position, the first old position under its triangle, and the weights. */
function taps(from, to) {
  const scale = from / to;
  const support = Math.max(1, scale);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(from, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let old = first; old < last; old++) weights.push(Math.max(0, 1 - Math.abs(old + 0.5 - centre) / support));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}
