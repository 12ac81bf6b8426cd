/**
 * Read and write label maps as PNG, exactly.
 *
 * A canvas is not used for this: browsers that guard against fingerprinting change the pixels that
 * a page reads back from it, and a changed pixel would belong to another segment.
 */

import { crc32, deflate, inflate, join } from "./bytes.js";

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const RGB = 2;

/** Read the ids of an 8-bit RGB PNG: { width, height, ids }, where id = R + 256 G + 65536 B. */
export async function readIds(bytes) {
  const { header, data } = chunks(bytes);
  const [width, height] = [header.getUint32(0), header.getUint32(4)];
  if (header.getUint8(8) !== 8 || header.getUint8(9) !== RGB || header.getUint8(12) !== 0) {
    throw new Error("The service sent a map in a format that this page cannot read.");
  }
  const pixels = unfilter(await inflate(data), 3 * width, height);
  const ids = new Int32Array(width * height);
  for (let at = 0, pixel = 0; at < ids.length; at++, pixel += 3) {
    ids[at] = pixels[pixel] | (pixels[pixel + 1] << 8) | (pixels[pixel + 2] << 16);
  }
  return { width, height, ids };
}

/** Write ids (height x width) as a PNG, and return it as a Blob; the inverse of `readIds`. */
export async function writeIds(width, height, ids) {
  const stride = 3 * width + 1;
  const rows = new Uint8Array(stride * height);
  for (let y = 0, at = 0; y < height; y++) {
    let place = y * stride;
    // Filter 2 stores the difference to the row above, which is 0 nearly everywhere in a label map.
    rows[place++] = 2;
    for (let x = 0; x < width; x++, at++) {
      const above = y ? ids[at - width] : 0;
      rows[place++] = (ids[at] & 255) - (above & 255);
      rows[place++] = ((ids[at] >> 8) & 255) - ((above >> 8) & 255);
      rows[place++] = ((ids[at] >> 16) & 255) - ((above >> 16) & 255);
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, RGB);
  const parts = [
    SIGNATURE,
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("IDAT", await deflate(rows)),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts, { type: "image/png" });
}

function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let header = null;
  for (let at = SIGNATURE.length; at < bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") header = new DataView(bytes.buffer, bytes.byteOffset + at + 8, length);
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  return { header, data: join(parts) };
}

function chunk(kind, content) {
  const named = join([Uint8Array.from(kind, (letter) => letter.charCodeAt(0)), content]);
  const ends = new DataView(new ArrayBuffer(8));
  ends.setUint32(0, content.length);
  ends.setUint32(4, crc32(named));
  return join([new Uint8Array(ends.buffer, 0, 4), named, new Uint8Array(ends.buffer, 4, 4)]);
}

/** Undo PNG's filters (section 9 of the PNG specification) for pixels of three bytes. */
function unfilter(rows, stride, height) {
  // The filters need three zero bytes left of each row, and a row of zeros above the first one.
  const wide = stride + 3;
  const out = new Uint8Array(wide * (height + 1));
  for (let y = 0; y < height; y++) {
    const source = y * (stride + 1);
    const row = (y + 1) * wide + 3;
    FILTERS[rows[source]](out, row, row + stride, wide, rows, source + 1 - row);
  }
  const pixels = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const row = (y + 1) * wide + 3;
    pixels.set(out.subarray(row, row + stride), y * stride);
  }
  return pixels;
}

/** Each fills `out` from `from` to `to`; the filtered byte for index `at` is `rows[at + shift]`. */
const FILTERS = [
  (out, from, to, wide, rows, shift) => {
    for (let at = from; at < to; at++) out[at] = rows[at + shift];
  },
  (out, from, to, wide, rows, shift) => {
    for (let at = from; at < to; at++) out[at] = rows[at + shift] + out[at - 3];
  },
  (out, from, to, wide, rows, shift) => {
    for (let at = from; at < to; at++) out[at] = rows[at + shift] + out[at - wide];
  },
  (out, from, to, wide, rows, shift) => {
    for (let at = from; at < to; at++) {
      out[at] = rows[at + shift] + ((out[at - 3] + out[at - wide]) >> 1);
    }
  },
  (out, from, to, wide, rows, shift) => {
    for (let at = from; at < to; at++) {
      const [left, up, corner] = [out[at - 3], out[at - wide], out[at - wide - 3]];
      const toLeft = Math.abs(up - corner);
      const toUp = Math.abs(left - corner);
      const toCorner = Math.abs(left + up - 2 * corner);
      const nearest = toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
      out[at] = rows[at + shift] + nearest;
    }
  },
];
