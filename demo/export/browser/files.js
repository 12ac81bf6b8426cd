/** Read the files that `frozenseg export` writes. */

/** Fetch the bytes of a file beside the page. */
export async function fetchBytes(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} was not found; docs/guides/export.md says how to make it`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Read what is known about a model: JSON in the metadata of its ONNX file, a protobuf message. */
export function readAbout(bytes) {
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue; // metadata_props
    const [key, text] = [...fields(value)].map(([, part]) => new TextDecoder().decode(part));
    if (key === "frozenseg") return JSON.parse(text);
  }
  throw new Error("This file was not written by `frozenseg export`.");
}

/** Read the arrays of an .npz file, by name: { data, shape }. */
export function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("This is not an .npz file.");
  const arrays = {};
  let entry = view.getUint32(end + 16, true);
  for (let count = view.getUint16(end + 10, true); count > 0; count--) {
    const size = view.getUint32(entry + 20, true);
    const lengths = [28, 30, 32].map((place) => view.getUint16(entry + place, true));
    const name = new TextDecoder().decode(bytes.subarray(entry + 46, entry + 46 + lengths[0]));
    const local = view.getUint32(entry + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name.replace(/\.npy$/, "")] = readNpy(bytes.slice(start, start + size));
    entry += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return arrays;
}

/** Yield the fields of a protobuf message that hold bytes: [number, bytes]. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = number();
    const kind = tag % 8;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else {
      const length = number();
      yield [(tag - kind) / 8, bytes.subarray(at, at + length)];
      at += length;
    }
  }
}

function readNpy(bytes) {
  const start = 10 + new DataView(bytes.buffer).getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(10, start));
  const type = /'descr': '[<|]([^']+)'/.exec(header)[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const data = bytes.slice(start).buffer;
  if (type === "f4") return { data: new Float32Array(data), shape };
  if (type === "i8") return { data: new BigInt64Array(data), shape };
  if (type === "b1") return { data: new Uint8Array(data), shape };
  const width = Number(type.slice(1)); // characters of a text, in UTF-32
  const points = new Uint32Array(data);
  const texts = Array.from({ length: shape[0] }, (_, row) =>
    String.fromCodePoint(...points.subarray(row * width, (row + 1) * width).filter((point) => point)),
  );
  return { data: texts, shape };
}
