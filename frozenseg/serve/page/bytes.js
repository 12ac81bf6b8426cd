/** Helpers for bytes: base64, zlib streams, CRC-32. */

/** Decode a base64 text to bytes. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** Join several arrays of bytes into one. */
export function join(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Compress `bytes` to a zlib stream, which is the format that browsers call "deflate". */
export function deflate(bytes) {
  return through(bytes, new CompressionStream("deflate"));
}

/** Decompress a zlib stream. */
export function inflate(bytes) {
  return through(bytes, new DecompressionStream("deflate"));
}

async function through(bytes, transform) {
  const stream = new Blob([bytes]).stream().pipeThrough(transform);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Compute the CRC-32 that PNG chunks and files in a ZIP archive need. */
export function crc32(bytes) {
  let crc = ~0;
  for (let at = 0; at < bytes.length; at++) crc = CRC[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});
