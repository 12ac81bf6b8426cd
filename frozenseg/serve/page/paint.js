/** Paint a layer: a table of colours by rank, one pass over the pixels, and names on top. */

import { readableOn } from "./colours.js";
import { borders, innerPoints, scaled } from "./map.js";

const DIMMED = rgba([8, 12, 18], 0.78);
const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

/** A layer at the size of a canvas, ready to be painted again and again. */
export class Sheet {
  /** unit: canvas pixels per page pixel, which scales the lines and letters. */
  constructor(layer, width, height, unit) {
    Object.assign(this, { layer, width, height, unit });
    this.map = scaled(layer.ranks, layer.width, layer.height, width, height);
    this.border = borders(this.map, width, height, Math.max(1, Math.round(1.5 * unit)));
    this.points = innerPoints(this.map, width, height, layer.segments.length);
    this.pixels = new ImageData(width, height);
    this.words = new Uint32Array(this.pixels.data.buffer);
  }

  /**
   * Paint the layer. look: { opacity, threshold, outline, labels, hovered, isolated }; the last two
   * are ranks, or 0 for none.
   */
  paint(context, look) {
    const { map, border, words } = this;
    const fills = colourTable(this.layer, look);
    const count = this.layer.segments.length + 1;
    for (let at = 0; at < map.length; at++) words[at] = fills[map[at] + border[at] * count];
    context.putImageData(this.pixels, 0, 0);
    if (look.labels) this.write(context, look);
  }

  /** Write names where their segments are widest, for large segments first, if there is room. */
  write(context, look) {
    const size = 13 * this.unit;
    context.font = `600 ${size}px ${FONT}`;
    context.textBaseline = "middle";
    const taken = [];
    const order = this.layer.segments.filter(
      (one) => this.layer.shows(one, look.threshold) && (!look.isolated || one.rank === look.isolated),
    );
    order.sort((one, other) => other.area - one.area);
    for (const { name, rank, colour } of order) {
      const point = this.points[rank];
      // On a smaller region, the name would hide all of it; pointing at the region shows the name.
      if (!point || point.room < 0.5 * size) continue;
      const text = name.length > 24 ? name.slice(0, 23) + "…" : name;
      const [width, height] = [context.measureText(text).width + size, 1.7 * size];
      const left = Math.max(2, Math.min(point.x - width / 2, this.width - width - 2));
      const top = Math.max(2, Math.min(point.y - height / 2, this.height - height - 2));
      const box = [left, top, left + width, top + height];
      if (taken.some((other) => overlap(box, other))) continue;
      taken.push(box);
      context.fillStyle = `rgb(${colour.join(",")})`;
      context.beginPath();
      context.roundRect(left, top, width, height, height / 2);
      context.fill();
      context.fillStyle = readableOn(colour);
      context.fillText(text, left + size / 2, top + height / 2 + 0.05 * size);
    }
  }
}

/** Return the colour of each rank, inside (first half) and at its border (second half), as RGBA. */
function colourTable(layer, { opacity, threshold, outline, hovered, isolated }) {
  const count = layer.segments.length + 1;
  const table = new Uint32Array(2 * count);
  if (isolated) table.fill(DIMMED);
  for (const segment of layer.segments) {
    const { rank, colour } = segment;
    if (!layer.shows(segment, threshold)) continue;
    if (isolated && rank !== isolated) continue;
    const fill = isolated ? 0 : rank === hovered ? Math.min(0.9, opacity + 0.2) : opacity;
    table[rank] = rgba(colour, fill);
    table[rank + count] = table[rank];
    if (outline || rank === isolated) table[rank + count] = rgba(colour, 1);
    if (rank === hovered && !isolated) table[rank + count] = rgba([255, 255, 255], 1);
  }
  return table;
}

/** Return a pixel of ImageData as one number; all machines that run browsers are little-endian. */
function rgba([red, green, blue], alpha) {
  return ((Math.round(255 * alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function overlap([left, top, right, bottom], [left2, top2, right2, bottom2]) {
  return left < right2 && left2 < right && top < bottom2 && top2 < bottom;
}
