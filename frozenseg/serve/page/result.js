/** The result of a picture: which view and segments are shown, and the files made from them. */

import { offerViews, showControls } from "./controls.js";
import { announce, byId } from "./dom.js";
import { coco, cutOuts, fileName, masks, overlay, save } from "./downloads.js";
import { VIEWS } from "./layer.js";
import { Stage } from "./stage.js";
import { Table } from "./table.js";

export class Result {
  constructor(settings) {
    this.settings = settings;
    this.clear = () => this.set(null, null, {});
    const onHover = (rank) => this.hover(rank);
    const onPick = (rank) => this.isolate(rank);
    this.stage = new Stage({ onHover, onPick });
    this.table = new Table({
      onHover,
      onPick,
      onHide: () => this.recompose(),
      onColour: () => this.show(),
    });
    for (const [kind, make] of Object.entries(DOWNLOADS)) {
      byId(`download-${kind}`).addEventListener("click", async () => {
        const [blob, what, ending] = await make(this);
        save(blob, fileName(this.picture, what, ending));
      });
    }
  }

  /** Set the answer for a picture and its layers; if the answer is null, there is no result. */
  set(picture, answer, layers) {
    Object.assign(this, { picture, answer, layers });
    document.body.classList.toggle("with-result", Boolean(answer));
    if (answer) offerViews(layers);
    this.showView();
  }

  get layer() {
    return this.layers[this.settings.view] ?? null;
  }

  /** The argument `look` of `Sheet.paint`. */
  get look() {
    return { ...this.settings, hovered: this.hovered, isolated: this.isolated };
  }

  /** Show the view of the settings, or the first one for which there is a layer. */
  showView() {
    const { settings, layers } = this;
    if (!this.layer && this.answer) settings.view = VIEWS.find((view) => view in layers);
    this.hovered = this.isolated = 0;
    showControls(settings);
    this.layer?.recompose();
    this.stage.setLayer(this.layer, this.look);
    this.table.setLayer(this.layer);
    this.show();
    byId("overlay").setAttribute("aria-label", `The picture and its segments. ${this.summary()}`);
  }

  /** Show the layer as the settings say; this is fast enough for each move of a slider. */
  show() {
    this.stage.show(this.look);
    this.table.show(this.look);
  }

  hover(rank) {
    if (rank === this.hovered) return;
    this.hovered = rank;
    this.show();
  }

  /** Show only one segment; show all again if it is the only one already, or if the rank is 0. */
  isolate(rank) {
    const alone = rank === this.isolated ? 0 : rank;
    if (alone === this.isolated) return;
    this.isolated = alone;
    this.recompose();
    this.table.reveal(alone);
    announce(alone ? `Only ${this.layer.at(alone).label} is shown.` : "All segments are shown.");
  }

  /** Make the map anew, after segments that may cover others were hidden or shown. */
  recompose() {
    const alone = this.isolated;
    this.layer.recompose((segment) => (alone ? segment.rank === alone : !segment.hidden));
    this.stage.refresh();
    this.show();
  }

  /** Describe the shown segments in one line. */
  summary() {
    if (!this.layer) return "";
    const shown = this.layer.segments.filter((one) => this.layer.shows(one, this.settings.threshold));
    const names = [...new Set(shown.map(({ name }) => name))].slice(0, 12).join(", ");
    return `${shown.length} ${shown.length === 1 ? "segment" : "segments"}: ${names || "nothing found"}.`;
  }
}

// Each returns a Blob and, for the file's name, what the file holds and its suffix.
const DOWNLOADS = {
  overlay: async ({ picture, layer, look }) => [await overlay(picture, layer, look), "overlay", "png"],
  masks: async ({ layer, look }) => [await masks(layer, look), look.view, "png"],
  coco: async ({ picture, layer, look, answer }) => {
    return [coco(look.view, picture, layer, answer.classes, look), look.view, "json"];
  },
  cutouts: async ({ picture, layer, look }) => {
    const { name, blob } = await cutOuts(picture, layer, look);
    return name ? [blob, name.replace(/\.png$/, ""), "png"] : [blob, "cutouts", "zip"];
  },
};
