/** Run the model in a separate thread, so that the page stays responsive. */

import { fetchBytes, readAbout, readNpz } from "./files.js";
import { toWindow } from "./picture.js";
import { singular, tokenizer, vectorOf } from "./words.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
const PANOPTIC = ["panoptic_ids", "segment_classes", "segment_scores"];
let ort, model, about, tower;
const known = new Map(); // name -> its vector

// Requests are answered one after another, because a session runs one picture at a time.
let before = start();
onmessage = ({ data }) => (before = before.then(() => answer(data)));

/** Load the runtime and the model, and post the model's metadata and classes to the page. */
async function start() {
  try {
    ort = await import(RUNTIME).catch(() => {
      throw new Error("onnxruntime-web was not found: run `npm install` in the folder of this page");
    });
    // Several threads require HTTP headers that a plain file server does not send.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    const bytes = await fetchBytes("model.onnx");
    about = readAbout(bytes);
    if (!about.results.includes("panoptic")) throw new Error("model.onnx was exported without panoptic results");
    model = await ort.InferenceSession.create(bytes);
    const words = readNpz(await fetchBytes("model.vectors.npz"));
    const dim = words.vectors.shape[1];
    words.names.data.forEach((name, row) => known.set(name, words.vectors.data.slice(row * dim, (row + 1) * dim)));
    postMessage({ kind: "ready", about, classes: classesOf(words), bytes: bytes.length });
  } catch (error) {
    postMessage({ kind: "failed", message: error.message });
  }
}

async function answer({ number, image, classes, everyPixel }) {
  if (!model) return;
  try {
    postMessage({ kind: "result", number, ...(await segment(image, classes, everyPixel)) });
  } catch (error) {
    postMessage({ kind: "error", number, message: error.message });
  }
}

/**
 * Segment a picture. `image`: ImageData. `classes`: [{ names, isThing }]. `everyPixel`: whether to
 * make one segment for each class, so that every pixel has one (semantic), instead of objects
 * (panoptic). Returns { ids, width, height, segments, seconds }: `ids` has the number of the
 * segment at each pixel, 0 for none; segment 1, 2, ... is { classId, score }, or { classId } without
 * a score.
 */
async function segment(image, classes, everyPixel) {
  const text = await embed(classes);
  const start = performance.now();
  const { pixels, size } = toWindow(image, about.window);
  const inputs = {
    pixels: new ort.Tensor("float32", pixels, [1, 3, ...about.window]),
    size: new ort.Tensor("int64", BigInt64Array.from(size.map(BigInt)), [2]),
    ...text,
  };
  const given = Object.fromEntries(model.inputNames.map((name) => [name, inputs[name]]));
  const found = await model.run(given, everyPixel ? ["semantic_ids"] : PANOPTIC);
  const ids = cropped(found[everyPixel ? "semantic_ids" : "panoptic_ids"].data, about.window[1], size);
  const segments = everyPixel ? classes.map((_, classId) => ({ classId })) : segmentsOf(found);
  if (everyPixel) ids.forEach((classId, pixel) => (ids[pixel] = classId + 1));
  return { ids, height: size[0], width: size[1], segments, seconds: (performance.now() - start) / 1000 };
}

/** Crop a map over the window to the picture; the rows of the map are `stride` pixels long. */
function cropped(map, stride, [height, width]) {
  const part = new Int32Array(height * width);
  for (let row = 0; row < height; row++) part.set(map.subarray(row * stride, row * stride + width), row * width);
  return part;
}

function segmentsOf({ segment_classes: classes, segment_scores: scores }) {
  const all = Array.from(classes.data, (classId, place) => ({ classId: Number(classId), score: scores.data[place] }));
  return all.filter(({ classId }) => classId >= 0);
}

/** Return the inputs of the model for the requested classes. */
async function embed(classes) {
  const names = classes.flatMap((group) => group.names);
  for (const name of names) if (!known.has(name)) known.set(name, await vectorOf(name, about.templates, encode));
  const vectors = names.map((name) => known.get(name));
  const index = classes.flatMap((group, number) => group.names.map(() => BigInt(number)));
  const trained = new Set(about.training_names.flat().map(singular));
  const flags = (values) => new ort.Tensor("bool", Uint8Array.from(values, Number), [classes.length]);
  return {
    vectors: new ort.Tensor("float32", Float32Array.from(vectors.flatMap((vector) => [...vector])), [names.length, vectors[0].length]),
    class_index: new ort.Tensor("int64", BigInt64Array.from(index), [names.length]),
    seen: flags(classes.map((group) => group.names.some((name) => trained.has(singular(name))))),
    is_thing: flags(classes.map((group) => group.isThing)),
  };
}

/** Encode texts with the text tower, which is loaded when the first new name is used. */
async function encode(texts) {
  tower ??= loadTower();
  const { session, tokenize } = await tower;
  const tokens = texts.map(tokenize);
  const flat = BigInt64Array.from(tokens.flatMap((row) => [...row]));
  const { vectors } = await session.run({ tokens: new ort.Tensor("int64", flat, [texts.length, tokens[0].length]) });
  const dim = vectors.dims[1];
  return texts.map((_, row) => vectors.data.slice(row * dim, (row + 1) * dim));
}

async function loadTower() {
  postMessage({ kind: "loading", what: "the text tower" });
  const bytes = await fetchBytes("model.text.onnx");
  const { merges, context_length: length } = readAbout(bytes);
  return { session: await ort.InferenceSession.create(bytes), tokenize: tokenizer(merges, length) };
}

function classesOf({ names, class_index: index, is_thing: things }) {
  const classes = Array.from(things.data, (isThing) => ({ names: [], isThing: Boolean(isThing) }));
  names.data.forEach((name, row) => classes[Number(index.data[row])].names.push(name));
  return classes;
}
