/** Files of the displayed result: the overlay, masks, COCO JSON, and cut-outs. */

import { paintedSize } from "./map.js";
import { Sheet } from "./paint.js";
import { writeIds } from "./png.js";
import { encode } from "./rle.js";
import { zip } from "./zip.js";

// Small pictures are enlarged until their longer side has at least this many pixels, so that the
// names on them can be read.
const LONG_SIDE = 1200;

/** Return the picture with the layer over it, at least at its own size. look: see `Sheet.paint`. */
export async function overlay(picture, layer, look) {
  const long = Math.max(layer.width, layer.height);
  const [width, height] = paintedSize(layer.width, layer.height, (LONG_SIDE * layer.width) / long, Infinity);
  const unit = Math.max(1, Math.max(width, height) / LONG_SIDE);
  const [under, over] = [new OffscreenCanvas(width, height), new OffscreenCanvas(width, height)];
  const context = under.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.image, 0, 0, width, height);
  new Sheet(layer, width, height, unit).paint(over.getContext("2d"), { ...look, hovered: 0 });
  context.drawImage(over, 0, 0);
  return under.convertToBlob({ type: "image/png" });
}

/** Return a PNG with the number of the segment at each pixel: R + 256 G + 65536 B, 0 for none. */
export function masks(layer, look) {
  const ids = new Int32Array(layer.segments.length + 1);
  for (const segment of shown(layer, look)) ids[segment.rank] = segment.id;
  return writeIds(layer.width, layer.height, Int32Array.from(layer.ranks, (rank) => ids[rank]));
}

/**
 * Return the segments in a COCO format. For the panoptic layer it is the panoptic format, whose
 * `file_name` is that of `masks`; otherwise it is the detection format, with one annotation and RLE
 * for each segment.
 */
export function coco(view, picture, layer, classes, look) {
  const segments = shown(layer, look);
  const image = { id: 1, file_name: picture.name, width: layer.width, height: layer.height };
  const categories = classes.map(({ id, names, is_thing: isThing }) => {
    return { id: id + 1, name: names[0], isthing: Number(isThing), synonyms: names.slice(1) };
  });
  const annotation = (segment) => {
    const { id, classId, score, area, rank } = segment;
    const [left, top, right, bottom] = segment.box ?? boxOf(layer.ranks, layer.width, rank);
    const bbox = [left, top, right - left, bottom - top];
    const certain = score === null ? {} : { score };
    return { id, category_id: classId + 1, ...certain, area, bbox, iscrowd: 0 };
  };
  const file = fileName(picture, view, "png");
  const annotations =
    view === "panoptic"
      ? [{ image_id: 1, file_name: file, segments_info: segments.map(annotation) }]
      : segments.map((segment) => ({
          ...annotation(segment),
          image_id: 1,
          segmentation: encode(alone(layer, segment), layer.width, layer.height, segment.rank),
        }));
  const text = JSON.stringify({ images: [image], annotations, categories });
  return new Blob([text], { type: "application/json" });
}

/** Return segments as pictures with a transparent background: one PNG, or a ZIP of several. */
export async function cutOuts(picture, layer, look) {
  const segments = shown(layer, look).filter(({ rank }) => !look.isolated || rank === look.isolated);
  const source = new OffscreenCanvas(layer.width, layer.height);
  const context = source.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture.image, 0, 0, layer.width, layer.height);
  const files = [];
  for (const segment of segments) {
    const blob = await cutOut(context, layer, segment);
    if (blob) files.push({ name: `${segment.rank}_${safe(segment.label)}.png`, blob });
  }
  if (files.length === 1) return files[0];
  const parts = files.map(async ({ name, blob }) => {
    return { name, bytes: new Uint8Array(await blob.arrayBuffer()) };
  });
  return { name: null, blob: zip(await Promise.all(parts)) };
}

/** Save a Blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser needs the address until it has started to save.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Return the name of a file about a picture, such as "scene_1_panoptic.png". */
export function fileName(picture, what, ending) {
  return `${safe(picture.name.replace(/\.[^.]*$/, ""))}_${what}.${ending}`;
}

/** Return the picture inside a segment, cropped to its box; null if the segment has no pixels. */
async function cutOut(context, layer, segment) {
  const map = alone(layer, segment);
  const [left, top, right, bottom] = boxOf(map, layer.width, segment.rank);
  if (right <= left) return null;
  const [width, height] = [right - left, bottom - top];
  const pixels = context.getImageData(left, top, width, height);
  for (let at = 0; at < width * height; at++) {
    const place = (top + Math.floor(at / width)) * layer.width + left + (at % width);
    if (map[place] !== segment.rank) pixels.data[4 * at + 3] = 0;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Return the box [x0, y0, x1, y1] of a rank, x1 and y1 exclusive; x1 <= x0 if it is absent. */
function boxOf(map, width, rank) {
  let [left, top, right, bottom] = [width, Infinity, 0, 0];
  for (let at = map.indexOf(rank); at >= 0 && at < map.length; at++) {
    if (map[at] !== rank) continue;
    const [x, y] = [at % width, Math.floor(at / width)];
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
  }
  return [left, top, right, bottom];
}

/** Return the map of ranks of one segment, without the others that may cover it. */
function alone(layer, segment) {
  return layer.compose((other) => other === segment);
}

function shown(layer, { threshold }) {
  return layer.segments.filter((segment) => layer.shows(segment, threshold));
}

/** Change a text into a file name that every file system accepts. */
const safe = (name) => name.replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[._]+/, "").slice(0, 80) || "segment";
