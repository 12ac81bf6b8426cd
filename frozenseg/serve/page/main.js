/** The page: send a picture and words to the service, and show its answer. */

import { ServiceError, call, segment } from "./api.js";
import { watchCamera } from "./camera.js";
import { Chips } from "./chips.js";
import { bindControls, showControls } from "./controls.js";
import { announce, byId, make, oncePerFrame } from "./dom.js";
import { layersOf } from "./layer.js";
import * as notices from "./notices.js";
import { fetchExample, meanColours, openPicture, watchDropsAndPastes } from "./picture.js";
import { Result } from "./result.js";
import { readFragment, writeFragment } from "./settings.js";
import { exampleWords, guesser } from "./words.js";

const { settings, words } = readFragment(location.hash);
const result = new Result(settings);
const chips = new Chips(() => {
  borrowed = false;
  keepLink();
  showReady();
});
let offer = null; // what the service offers: models, lists, examples
let model = null;
let picture = null;
let running = null; // AbortController of the request in progress
let borrowed = false; // whether the words are those of an example, and the next one replaces them

const link = () => location.pathname + writeFragment(settings, chips.words);
const keepLink = oncePerFrame(() => history.replaceState(null, "", link()));

/** Show a picture; `example`: its name if it is one of the service's. Returns true on success. */
async function take(file, example = "") {
  notices.hideError();
  let opened;
  try {
    opened = await openPicture(file, model?.limits);
  } catch (error) {
    return fail(error);
  }
  running?.abort();
  if (picture) URL.revokeObjectURL(picture.image.src);
  picture = opened;
  settings.example = example;
  document.body.classList.add("with-picture");
  byId("more-examples").append(byId("examples-box"));
  byId("examples-title").textContent = "Examples";
  result.stage.setPicture(picture);
  result.clear();
  keepLink();
  showReady();
  announce(`${picture.name}: ${picture.width} by ${picture.height} pixels.`);
  return true;
}

async function takeExample(example) {
  if (!chips.words.length || borrowed) {
    chips.set(exampleWords(example.vocabulary, offer.lists));
    borrowed = true;
  }
  try {
    if (await take(await fetchExample(example), example.name)) await run();
  } catch (error) {
    fail(error);
  }
}

/** Ask the service for the segments, and show them. */
async function run() {
  chips.commit();
  if (!picture) return fail(new ServiceError("Choose a picture first."));
  if (!chips.words.length) return fail(new ServiceError("Enter at least one name to look for."));
  notices.hideError();
  running?.abort();
  const mine = (running = new AbortController());
  notices.showProgress(() => mine.abort());
  try {
    const asked = picture;
    const answer = await segment(asked.file, chips.words, mine.signal, notices.askToken);
    const layers = await layersOf(answer, (layer) => meanColours(asked, layer));
    if (mine === running && !mine.signal.aborted) showAnswer(answer, layers);
  } catch (error) {
    if (error.name === "AbortError") announce("Stopped.");
    else if (mine === running) fail(error);
  } finally {
    if (mine === running) {
      running = null;
      notices.hideProgress();
    }
  }
}

function showAnswer(answer, layers) {
  notices.showNote(answer.note ?? model?.note);
  result.set(picture, answer, layers);
  byId("seconds").textContent = `${answer.seconds.toFixed(2)} s`;
  announce(result.summary());
  keepLink();
  // On a phone the words are below the picture, so scroll back to the result.
  const stage = byId("stage");
  if (stage.getBoundingClientRect().top < 0) stage.scrollIntoView({ block: "start" });
}

function fail(error) {
  // Errors in the page itself are shown too, so that the user knows why nothing happens.
  if (!(error instanceof ServiceError)) console.error(error);
  const again = error.status === 503 || error.status === 0;
  const wait = error.retryAfter ? ` (in ${error.retryAfter} s)` : "";
  notices.showError(error.message + wait, again && model ? run : null);
  if (again && !model) byId("retry").hidden = !(byId("retry").onclick = () => location.reload());
}

/** Show whether the button can be pressed, and whether that is the next step. */
function showReady() {
  byId("run").disabled = !model;
  byId("run").classList.toggle("ready", Boolean(picture && chips.words.length));
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.origin + link());
    announce("The link is copied. It contains the words and the settings, but no picture.");
    byId("copy-link").classList.add("done");
    setTimeout(() => byId("copy-link").classList.remove("done"), 1500);
  } catch {
    // Browsers allow a page to write to the clipboard only over https or on the same machine.
    notices.showError("The link could not be copied. You can copy it from the address bar.");
  }
}

function bind() {
  bindControls(settings, (key) => {
    keepLink();
    if (key === "view") result.showView();
    else result.show();
  });
  byId("run").addEventListener("click", run);
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = "";
  });
  for (const choose of document.querySelectorAll("[data-choose]")) {
    choose.addEventListener("click", () => byId("file").click());
  }
  watchDropsAndPastes(take);
  watchCamera(take, (line) => notices.showError(line));
  byId("close-error").addEventListener("click", notices.hideError);
  byId("copy-link").addEventListener("click", copyLink);
  document.addEventListener("keydown", (event) => {
    const asked = document.querySelector("dialog[open]");
    if (event.key === "Escape" && !asked) result.isolate(0);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !asked) run();
  });
}

/** Ask what the service offers; while its model is loading, ask again after a pause. */
async function askForModels() {
  for (;;) {
    try {
      return await call("/v1/models", {}, notices.askToken);
    } catch (error) {
      if (error.status !== 503) throw error;
      byId("model-knows").textContent = error.message;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 2)));
    }
  }
}

async function start() {
  offer = await askForModels();
  const { models, lists, examples } = offer;
  [model] = models;
  notices.showModel(model);
  chips.guess = guesser(lists);
  chips.offer(lists);
  byId("examples").replaceChildren(...examples.map(exampleButton));
  byId("examples-box").hidden = !examples.length;
  showReady();
  const linked = examples.find(({ name }) => name === settings.example);
  if (linked && !picture) takeExample(linked);
}

function exampleButton(example) {
  const image = make("img", { src: example.image, alt: "", width: 96, height: 72 });
  const button = make("button", { type: "button", className: "example" }, image, example.name);
  button.addEventListener("click", () => takeExample(example));
  return button;
}

chips.set(words);
bind();
result.clear();
showReady();
start().catch(fail);
