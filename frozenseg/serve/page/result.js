/** The result of a picture: which view and segments are seen, and the files made of them. */

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

  /** Take the answer about a picture and its layers; without layers there is no result. */
  set(picture, answer, layers) {
    Object.assign(this, { picture, answer, layers });
    document.body.classList.toggle("with-result", Boolean(answer));
    if (answer) offerViews(layers);
    this.showView();
  }

  get layer() {
    return this.layers[this.settings.view] ?? null;
  }

  /** What `Sheet.paint` wants to know. */
  get look() {
    return { ...this.settings, hovered: this.hovered, isolated: this.isolated };
  }

  /** Show the view of the settings, or the first that the model makes. */
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

  /** Show the layer as the settings say; cheap enough for each move of a slider. */
  show() {
    this.stage.show(this.look);
    this.table.show(this.look);
  }

  hover(rank) {
    if (rank === this.hovered) return;
    this.hovered = rank;
    this.show();
  }

  /** Show one segment alone, or all again if it is alone already or there is none. */
  isolate(rank) {
    const alone = rank === this.isolated ? 0 : rank;
    if (alone === this.isolated) return;
    this.isolated = alone;
    this.recompose();
    this.table.reveal(alone);
    announce(alone ? `Only ${this.layer.at(alone).label} is shown.` : "All segments are shown.");
  }

  /** Make the map anew, because the segments that cover others have changed. */
  recompose() {
    const alone = this.isolated;
    this.layer.recompose((segment) => (alone ? segment.rank === alone : !segment.hidden));
    this.stage.refresh();
    this.show();
  }

  /** What is seen, in one line. */
  summary() {
    if (!this.layer) return "";
    const shown = this.layer.segments.filter((one) => this.layer.shows(one, this.settings.threshold));
    const names = [...new Set(shown.map(({ name }) => name))].slice(0, 12).join(", ");
    return `${shown.length} ${shown.length === 1 ? "segment" : "segments"}: ${names || "nothing found"}.`;
  }
}

// Each gives a Blob, and what it is and its ending for the name of the file.
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
