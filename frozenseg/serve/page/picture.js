/** The user's picture: dropped, pasted, chosen, or one of the service's examples. */

import { ServiceError } from "./api.js";

const MEGA = 1e6;

/**
 * Open a picture for display: { file, name, image, width, height }.
 *
 * limits: the limits of the service. They are checked here too, because a server that refuses an
 * upload early often cannot say so to a browser that is still sending. Throws a `ServiceError` with
 * a plain line.
 */
export async function openPicture(file, limits) {
  const name = file.name || "picture.png";
  const megabytes = file.size / 2 ** 20;
  if (limits && megabytes > limits.upload_mb) {
    throw refusal(`${name} has ${megabytes.toFixed(1)} MB; the service takes up to ${limits.upload_mb} MB.`);
  }
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(image.src);
    throw refusal(`${name} is not a picture that this browser can show. PNG, JPEG and WebP work everywhere.`);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  if (limits && width * height > limits.megapixels * MEGA) {
    const size = `${width} x ${height} pixels`;
    throw refusal(`${name} has ${size}; the service takes up to ${limits.megapixels} megapixels.`);
  }
  return { file, name, image, width, height };
}

/** Fetch the picture of an example as a File. */
export async function fetchExample({ name, image }) {
  const response = await fetch(image);
  if (!response.ok) throw refusal(`The example ${name} was not found.`);
  const blob = await response.blob();
  return new File([blob], image.split("/").pop(), { type: blob.type });
}

/** Call `take(file)` for pictures that are dropped anywhere on the page or pasted into it. */
export function watchDropsAndPastes(take) {
  const body = document.body;
  let depth = 0;
  const over = (change) => body.classList.toggle("dropping", (depth = Math.max(0, depth + change)) > 0);
  body.addEventListener("dragenter", () => over(1));
  body.addEventListener("dragleave", () => over(-1));
  body.addEventListener("dragover", (event) => event.preventDefault());
  body.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  body.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}

/** Return the mean colour of the picture under each segment of a layer, from a small copy. */
export function meanColours(picture, layer) {
  const scale = Math.min(1, 200 / Math.max(layer.width, layer.height));
  const [width, height] = [layer.width, layer.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture.image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const sums = new Float64Array(4 * (layer.segments.length + 1));
  for (let at = 0; at < width * height; at++) {
    const x = Math.floor((((at % width) + 0.5) * layer.width) / width);
    const y = Math.floor(((Math.floor(at / width) + 0.5) * layer.height) / height);
    const place = 4 * layer.ranks[y * layer.width + x];
    for (let channel = 0; channel < 3; channel++) sums[place + channel] += data[4 * at + channel];
    sums[place + 3]++;
  }
  return layer.segments.map(({ rank }) => {
    const count = sums[4 * rank + 3];
    return [0, 1, 2].map((channel) => (count ? sums[4 * rank + channel] / count : 128));
  });
}

const refusal = (line) => new ServiceError(line);
