/** The controls of the result: view, sliders and switches. */

import { byId } from "./dom.js";
import { VIEWS } from "./layer.js";

const SWITCHES = ["outline", "labels", "compare"];
const SLIDERS = ["opacity", "threshold"];
const SEMANTIC_HINT = "The semantic view has no scores.";

/** Bind the controls to `settings`, which they change; `changed(key)` is called after each change. */
export function bindControls(settings, changed) {
  const set = (key, value) => {
    settings[key] = value;
    showControls(settings);
    changed(key);
  };
  for (const view of VIEWS) {
    byId(`view-${view}`).addEventListener("change", () => set("view", view));
  }
  for (const key of SLIDERS) {
    byId(key).addEventListener("input", ({ target }) => set(key, Number(target.value) / 100));
  }
  for (const key of SWITCHES) {
    byId(`switch-${key}`).addEventListener("change", ({ target }) => set(key, target.checked));
  }
}

/** Set the controls to the settings. */
export function showControls(settings) {
  byId(`view-${settings.view}`).checked = true;
  for (const key of SLIDERS) {
    byId(key).value = Math.round(100 * settings[key]);
    byId(`${key}-value`).textContent = key === "opacity" ? `${byId(key).value} %` : settings[key].toFixed(2);
  }
  for (const key of SWITCHES) byId(`switch-${key}`).checked = settings[key];
  byId("threshold").disabled = settings.view === "semantic";
  byId("threshold").title = settings.view === "semantic" ? SEMANTIC_HINT : "";
}

/** Enable the views for which the model gives results. */
export function offerViews(layers) {
  for (const view of VIEWS) byId(`view-${view}`).disabled = !(view in layers);
}
