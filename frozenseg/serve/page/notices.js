/** What the page says while it works and when something fails. */

import { announce, byId } from "./dom.js";

/** Show one line of error until the next attempt. `retry()`: what the retry button does, if any. */
export function showError(line, retry = null) {
  byId("error-line").textContent = line;
  byId("error").hidden = false;
  byId("retry").hidden = !retry;
  byId("retry").onclick = retry;
}

export function hideError() {
  byId("error").hidden = true;
  byId("error-line").textContent = "";
}

let clock = null;

/** Show that the page waits for the service. `stop()`: what the stop button does. */
export function showProgress(stop) {
  const started = performance.now();
  const tell = () => {
    const seconds = (performance.now() - started) / 1000;
    byId("elapsed").textContent = `${seconds.toFixed(1)} s`;
  };
  clearInterval(clock);
  clock = setInterval(tell, 100);
  tell();
  byId("busy").hidden = false;
  byId("stop").onclick = stop;
  // Screen readers announce this word, and not each change of the clock.
  announce("Segmenting.");
}

export function hideProgress() {
  clearInterval(clock);
  byId("busy").hidden = true;
}

/** Ask the user for the service's token; returns a promise of the text, or of null to give up. */
export function askToken(again) {
  const [dialog, field] = [byId("token"), byId("token-text")];
  byId("token-again").hidden = !again;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    form.onsubmit = (event) => {
      event.preventDefault();
      dialog.close("given");
    };
    byId("token-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(dialog.returnValue === "given" ? field.value.trim() : null);
  });
}

/** Show the model's name and what it knows. */
export function showModel({ name, knows, note, device }) {
  byId("model-name").textContent = name;
  byId("model-name").title = `It runs on ${device}.`;
  byId("model-knows").textContent = knows ?? "";
  showNote(note);
}

/** Show a warning about the model, such as that its weights are random; null for none. */
export function showNote(note) {
  byId("note").textContent = note ?? "";
  byId("note").hidden = !note;
}
