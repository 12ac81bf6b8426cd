/** A ZIP archive of files that are compressed already, such as PNG. */

import { crc32, join } from "./bytes.js";

const NAMES_ARE_UTF8 = 1 << 11;
// ZIP counts years from 1980; a fixed date makes the same content the same archive.
const FIRST_OF_JANUARY_1980 = (1 << 5) | 1;

/** An archive, as a Blob, of `files`: [{ name, bytes }]. */
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

/** Numbers in little-endian order: groups of 4 bytes each and of 2 bytes each take turns. */
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
