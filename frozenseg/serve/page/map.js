/** Label maps at the size of the screen: scaling, borders, and places for names; pure functions. */

/**
 * Return the size [width, height] at which a map is painted for a display that is `target` pixels
 * wide. The map is doubled until it is at least as wide, so that the browser only scales it down,
 * which smooths its jagged edges; it gets at most `most` pixels.
 */
export function paintedSize(width, height, target, most) {
  let factor = 1;
  while (width * factor < target && 4 * factor * factor * width * height <= most) factor *= 2;
  factor = Math.min(factor, Math.sqrt(most / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.round(side * factor)));
}

/**
 * Resize a map. It is first enlarged with Scale2x, as often as the new width allows, which rounds
 * corners without making new labels; then the nearest pixel is taken.
 */
export function scaled(map, width, height, outWidth, outHeight) {
  while (2 * width <= outWidth) {
    map = doubled(map, width, height);
    width *= 2;
    height *= 2;
  }
  if (width === outWidth && height === outHeight) return map;
  const out = new Uint16Array(outWidth * outHeight);
  const columns = Uint32Array.from({ length: outWidth }, (_, x) => ((x + 0.5) * width) / outWidth);
  for (let y = 0, at = 0; y < outHeight; y++) {
    const row = width * Math.floor(((y + 0.5) * height) / outHeight);
    for (let x = 0; x < outWidth; x++) out[at++] = map[row + columns[x]];
  }
  return out;
}

/** Scale2x: a pixel becomes four; one at a corner takes the label of the two neighbours there. */
function doubled(map, width, height) {
  const out = new Uint16Array(4 * width * height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const own = map[at];
      const up = y ? map[at - width] : own;
      const down = y < height - 1 ? map[at + width] : own;
      const left = x ? map[at - 1] : own;
      const right = x < width - 1 ? map[at + 1] : own;
      const corners = up !== down && left !== right;
      const place = 4 * width * y + 2 * x;
      out[place] = corners && left === up ? left : own;
      out[place + 1] = corners && up === right ? right : own;
      out[place + 2 * width] = corners && left === down ? left : own;
      out[place + 2 * width + 1] = corners && down === right ? right : own;
    }
  }
  return out;
}

/** Return 1 where another label is at most `reach` pixels away along a row or column, else 0. */
export function borders(map, width, height, reach) {
  const out = new Uint8Array(map.length);
  const mark = (from, to, step) => {
    for (let at = from; at < to; at++) {
      if (map[at] !== map[at + step]) out[at] = out[at + step] = 1;
    }
  };
  for (let far = 1; far <= reach; far++) {
    for (let y = 0; y < height; y++) mark(y * width, (y + 1) * width - far, far);
    mark(0, (height - far) * width, far * width);
  }
  return out;
}

/**
 * Return, for each label from 0 to `count`, the point farthest from its border: [{ x, y, room }] in
 * pixels of the map, where `room` is the distance to the border; null for a label that is absent.
 */
export function innerPoints(map, width, height, count) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / 360));
  const [w, h] = [Math.floor(width / step), Math.floor(height / step)];
  const small = Uint16Array.from({ length: w * h }, (_, at) => {
    return map[width * step * Math.floor(at / w) + step * (at % w)];
  });
  const room = rooms(small, w, h);
  const points = new Array(count + 1).fill(null);
  small.forEach((label, at) => {
    if (!points[label] || room[at] > room[points[label].at]) points[label] = { at };
  });
  return points.map((point) => {
    if (!point) return null;
    const { at } = point;
    return { x: step * (at % w), y: step * Math.floor(at / w), room: step * room[at] };
  });
}

/** Return the chamfer distance (steps of 1 and 1.4) of each pixel to another label or the edge. */
function rooms(map, w, h) {
  const room = new Float32Array(w * h);
  const pass = (from, to, turn) => {
    const at = (x, y, here) => {
      if (x < 0 || y < 0 || x >= w || y >= h) return 0;
      return map[y * w + x] === map[here] ? room[y * w + x] : 0;
    };
    for (let here = from; here !== to; here += turn) {
      const [x, y] = [here % w, Math.floor(here / w)];
      const nearest = Math.min(
        at(x - turn, y, here) + 1,
        at(x, y - turn, here) + 1,
        at(x - turn, y - turn, here) + 1.4,
        at(x + turn, y - turn, here) + 1.4,
      );
      room[here] = turn > 0 ? nearest : Math.min(room[here], nearest);
    }
  };
  pass(0, w * h, 1);
  pass(w * h - 1, -1, -1);
  return room;
}
