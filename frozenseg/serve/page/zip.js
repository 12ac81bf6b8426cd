/** Write ZIP archives of files that are already compressed, such as PNG. */

import { crc32, join } from "./bytes.js";

const NAMES_ARE_UTF8 = 1 << 11;
// ZIP counts years from 1980; with a fixed date, the same content gives the same archive.
const FIRST_OF_JANUARY_1980 = (1 << 5) | 1;

/** Return an archive of `files`, [{ name, bytes }], as a Blob. */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const title = new TextEncoder().encode(name);
    const shared = [20, NAMES_ARE_UTF8, 0, 0, FIRST_OF_JANUARY_1980];
    const sizes = [crc32(bytes), bytes.length, bytes.length];
    const local = join([fields([0x04034b50], shared, sizes, [title.length, 0]), title]);
    const entry = fields([0x02014b50], [20, ...shared], sizes, [title.length, 0, 0, 0, 0], [0, offset]);
    directory.push(join([entry, title]));
    parts.push(local, bytes);
    offset += local.length + bytes.length;
  }
  const index = join(directory);
  const count = files.length;
  const end = fields([0x06054b50], [0, 0, count, count], [index.length, offset], [0]);
  return new Blob([...parts, index, end], { type: "application/zip" });
}

/** Encode numbers in little-endian order; groups of 4-byte and of 2-byte numbers alternate. */
function fields(...groups) {
  const bytes = [];
  groups.forEach((group, turn) => {
    const size = turn % 2 ? 2 : 4;
    for (const value of group) {
      for (let byte = 0; byte < size; byte++) bytes.push((value >>> (8 * byte)) & 255);
    }
  });
  return Uint8Array.from(bytes);
}
