/** The page: pictures and words in, segments with names out. The model runs in worker.js. */

import { classColours, readableOn, segmentColours, toHex } from "../../../frozenseg/serve/page/colours.js";

const EXAMPLES = [1, 2, 3, 4, 5, 6].map((number) => `../../images/scene_${number}.png`);
const LARGEST = 1600; // larger pictures are reduced to this longer side for the view, in pixels
const SHARP = 960; // smaller pictures are enlarged to about this longer side, for sharp names
const BLEND = 0.6;

const element = (id) => document.getElementById(id);
const view = element("view");
const worker = new Worker("worker.js", { type: "module" });
let picture = null; // ImageData
let asked = 0; // number of the last request
let result = null;
let ready = false;

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") begin(data);
  else if (data.kind === "failed") fail(`The model cannot be loaded: ${data.message}.`);
  else if (data.kind === "loading") element("seconds").textContent = `loading ${data.what}`;
  else if (data.number !== asked) return; // the answer to an earlier request
  else if (data.kind === "error") fail(data.message);
  else show(data);
};
worker.onerror = () => fail("The thread for the model cannot be started.");

function begin({ about, classes, bytes }) {
  ready = true;
  const { window: [height, width], precision } = about;
  element("about").textContent = `${about.family}, ${(bytes / 1e6).toFixed(0)} MB (${precision}), ${width} × ${height} pixels, in this page`;
  const lines = (kind) => classes.filter(({ isThing }) => isThing === kind).map(({ names }) => names.join(", ")).join("\n");
  if (!element("things").value && !element("stuff").value) {
    element("things").value = lines(true);
    element("stuff").value = lines(false);
  }
  element("go").disabled = false;
  element("every-pixel").closest("label").hidden = !about.results.includes("semantic");
  ask();
}

/** Read the classes in both fields: [{ names, isThing }]. */
function classes() {
  const used = new Set();
  return ["things", "stuff"].flatMap((id) =>
    element(id).value.split("\n").map((line) => {
      const names = line.split(",").map((name) => name.trim()).filter((name) => name && !used.has(name));
      names.forEach((name) => used.add(name));
      return { names: [...new Set(names)], isThing: id === "things" };
    }).filter(({ names }) => names.length),
  );
}

function ask() {
  if (!ready || !picture) return;
  const wanted = classes();
  if (!wanted.length) return fail("Name at least one class.");
  element("error").hidden = true;
  document.body.classList.add("busy");
  element("seconds").textContent = "segmenting";
  asked += 1;
  result = { classes: wanted };
  worker.postMessage({ number: asked, image: picture, classes: wanted, everyPixel: element("every-pixel").checked });
}

function fail(message) {
  document.body.classList.remove("busy");
  element("error").textContent = message;
  element("error").hidden = false;
  element("seconds").textContent = "";
}

async function open(source) {
  try {
    const bitmap = await createImageBitmap(source);
    const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0, width, height);
    picture = context.getImageData(0, 0, width, height);
    element("found").replaceChildren();
    draw(picture);
    ask();
  } catch {
    fail("This file is not a picture that the browser can read.");
  }
}

function show(data) {
  document.body.classList.remove("busy");
  element("seconds").textContent = `${data.seconds.toFixed(1)} s`;
  const counts = new Array(data.segments.length + 1).fill(0);
  const sums = counts.map(() => [0, 0, 0]);
  const at = places(data);
  for (let pixel = 0; pixel < at.length; pixel++) {
    const id = data.ids[at[pixel]];
    counts[id] += 1;
    for (let channel = 0; channel < 3; channel++) sums[id][channel] += picture.data[4 * pixel + channel];
  }
  const present = data.segments.map((_, number) => number).filter((number) => counts[number + 1]);
  const order = present.sort((one, other) => counts[other + 1] - counts[one + 1]);
  const byClass = [...new Set(order.map((number) => data.segments[number].classId))];
  const grounds = byClass.map((classId) => {
    const number = order.find((place) => data.segments[place].classId === classId);
    return sums[number + 1].map((sum) => sum / Math.max(1, counts[number + 1]));
  });
  const hues = classColours(grounds);
  const ofClass = new Map(byClass.map((classId, place) => [classId, hues[place]]));
  const colours = segmentColours(order.map((number) => data.segments[number]), ofClass);
  const segments = order.map((number, place) => ({
    id: number + 1,
    name: result.classes[data.segments[number].classId].names[0],
    colour: colours[place],
    share: counts[number + 1] / at.length,
    score: data.segments[number].score,
  }));
  result = { ...result, at, ids: data.ids, segments };
  paint(null);
  element("found").replaceChildren(...segments.map(row));
}

/** Return, for each pixel of the picture, the index of the corresponding pixel in the result. */
function places({ width, height }) {
  const columns = Array.from({ length: picture.width }, (_, column) => Math.floor(((column + 0.5) * width) / picture.width));
  const at = new Int32Array(picture.width * picture.height);
  for (let row = 0; row < picture.height; row++) {
    const first = Math.floor(((row + 0.5) * height) / picture.height) * width;
    for (let column = 0; column < picture.width; column++) at[row * picture.width + column] = first + columns[column];
  }
  return at;
}

function row(segment) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const key = document.createElement("i");
  key.style.background = toHex(segment.colour);
  const share = document.createElement("span");
  const score = segment.score === undefined ? "" : ` · ${segment.score.toFixed(2)}`;
  share.textContent = `${(100 * segment.share).toFixed(1)} %${score}`;
  share.title = "share of the picture, and score";
  button.type = "button";
  button.append(key, segment.name, share);
  for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => paint(segment.id));
  for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => paint(null));
  item.append(button);
  return item;
}

/** Draw the picture with its segments; if `chosen` is the id of one, all others are paler. */
function paint(chosen) {
  const { at, ids, segments } = result;
  const image = new ImageData(new Uint8ClampedArray(picture.data), picture.width);
  const colours = new Map(segments.map(({ id, colour }) => [id, colour]));
  const width = picture.width;
  for (let pixel = 0; pixel < at.length; pixel++) {
    const id = ids[at[pixel]];
    const edge = (pixel % width && ids[at[pixel - 1]] !== id) || (pixel >= width && ids[at[pixel - width]] !== id);
    const colour = edge ? [255, 255, 255] : colours.get(id);
    const blend = chosen !== null && id !== chosen ? BLEND / 4 : BLEND;
    if (colour) for (let channel = 0; channel < 3; channel++)
      image.data[4 * pixel + channel] += (colour[channel] - image.data[4 * pixel + channel]) * blend;
  }
  draw(image);
  segments.filter(({ id, share }) => share > 0.005 && (chosen === null || id === chosen)).forEach(label);
}

/** Show an image of the picture's size; small ones are enlarged, so that names are sharp. */
function draw(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const zoom = Math.max(1, Math.round(SHARP / Math.max(image.width, image.height)));
  view.width = zoom * image.width;
  view.height = zoom * image.height;
  view.getContext("2d").drawImage(canvas, 0, 0, view.width, view.height);
}

/** Write a segment's name in the middle of its longest run in its median row of pixels. */
function label({ id, name, colour }) {
  const context = view.getContext("2d");
  const { at, ids } = result;
  const { width, height } = picture;
  const rows = new Array(height).fill(0);
  for (let pixel = 0; pixel < at.length; pixel++) if (ids[at[pixel]] === id) rows[Math.floor(pixel / width)] += 1;
  const total = rows.reduce((sum, count) => sum + count, 0);
  let before = 0;
  const row = rows.findIndex((count) => (before += count) >= total / 2);
  let best = [0, 0];
  for (let column = 0, length = 0; column < width; column++) {
    length = ids[at[row * width + column]] === id ? length + 1 : 0;
    if (length > best[0]) best = [length, column - length / 2];
  }
  const zoom = view.width / width;
  const size = Math.max(12, Math.round(Math.max(view.width, view.height) / 36));
  context.font = `600 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(name).width + size;
  const left = Math.min(view.width - wide, Math.max(0, zoom * best[1] - wide / 2));
  const top = Math.min(view.height - 1.5 * size, Math.max(0, zoom * row - 0.75 * size));
  context.fillStyle = toHex(colour);
  context.beginPath();
  context.roundRect(left, top, wide, 1.5 * size, 0.4 * size);
  context.fill();
  context.fillStyle = readableOn(colour);
  context.textBaseline = "middle";
  context.fillText(name, left + size / 2, top + 0.8 * size);
}

async function openExample(address) {
  for (const button of element("examples").children) button.setAttribute("aria-pressed", String(button.value === address));
  const answer = await fetch(address);
  if (answer.ok) await open(await answer.blob());
}

element("examples").append(...EXAMPLES.map((address, number) => {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = address;
  image.alt = `Example ${number + 1}`;
  button.type = "button";
  button.className = "example";
  button.value = address;
  button.append(image);
  button.addEventListener("click", () => openExample(address));
  return button;
}));
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
element("every-pixel").addEventListener("change", ask);
element("file").addEventListener("change", ({ target }) => target.files[0] && open(target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) open(file);
});
openExample(EXAMPLES[1]);
