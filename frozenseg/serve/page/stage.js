/** The picture in the middle, the layer over it, and the pointer's actions on them. */

import { byId, oncePerFrame } from "./dom.js";
import { paintedSize } from "./map.js";
import { Sheet } from "./paint.js";

// More pixels than this make no visible difference on a screen, and slow down each redraw.
const MOST_PIXELS = 2.5e6;

export class Stage {
  /** onHover(rank), onPick(rank): called with the segment at the pointer or click, 0 for none. */
  constructor({ onHover, onPick }) {
    this.box = byId("stage");
    this.canvas = byId("overlay");
    this.context = this.canvas.getContext("2d");
    this.tip = byId("tip");
    this.layer = this.sheet = null;
    this.look = {};
    this.redraw = oncePerFrame(() => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.onMove(event, onHover));
    this.canvas.addEventListener("pointerleave", () => this.onLeave(onHover));
    this.canvas.addEventListener("click", (event) => onPick(this.rankAt(event)));
    byId("compare").addEventListener("input", () => this.clip());
    new ResizeObserver(() => this.refresh()).observe(this.canvas);
  }

  /** Show a picture without a layer. */
  setPicture({ image, width, height }) {
    image.id = "picture";
    image.alt = "";
    byId("picture").replaceWith(image);
    this.box.style.setProperty("--ratio", width / height);
    this.box.hidden = false;
    this.setLayer(null, this.look);
  }

  /** Show a layer, or none. */
  setLayer(layer, look) {
    this.layer = layer;
    this.canvas.hidden = !layer;
    this.show(look);
    this.refresh();
  }

  /** Change how the layer is shown; see `Sheet.paint`. */
  show(look) {
    this.look = look;
    byId("comparison").hidden = !(look.compare && this.layer);
    this.clip();
    this.redraw();
  }

  /** Make the map at screen size anew, after the layer, its ranks or the page's size changed. */
  refresh() {
    this.sheet = null;
    this.redraw();
  }

  draw() {
    if (!this.layer) return;
    if (!this.sheet) {
      const width = this.canvas.clientWidth;
      if (!width) return;
      const { layer, canvas } = this;
      const target = width * devicePixelRatio;
      // For a picture larger than the screen, 1.5 pixels per screen pixel (along each axis) are
      // enough for smooth edges.
      const enough = layer.width > target ? (2.25 * target ** 2 * layer.height) / layer.width : Infinity;
      const most = Math.min(MOST_PIXELS, enough);
      [canvas.width, canvas.height] = paintedSize(layer.width, layer.height, target, most);
      this.sheet = new Sheet(layer, canvas.width, canvas.height, canvas.width / width);
    }
    this.sheet.paint(this.context, this.look);
  }

  /** Return the rank of the shown segment under a pointer, or 0. */
  rankAt({ offsetX, offsetY }) {
    if (!this.sheet) return 0;
    const { width, height, map } = this.sheet;
    const x = Math.floor((offsetX / this.canvas.clientWidth) * width);
    const y = Math.floor((offsetY / this.canvas.clientHeight) * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return 0;
    const segment = this.layer.at(map[y * width + x]);
    return segment && this.layer.shows(segment, this.look.threshold) ? segment.rank : 0;
  }

  onMove(event, onHover) {
    const rank = this.rankAt(event);
    if (rank !== this.look.hovered) onHover(rank);
    this.tip.hidden = !rank;
    if (!rank) return;
    this.tip.textContent = describe(this.layer, this.layer.at(rank));
    // The tooltip stays inside the picture, on the side of the pointer that has room.
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const left = Math.min(event.offsetX + 16, width - this.tip.offsetWidth - 4);
    const below = event.offsetY + 20;
    const top = below + this.tip.offsetHeight < height ? below : event.offsetY - this.tip.offsetHeight - 12;
    this.tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  }

  onLeave(onHover) {
    this.tip.hidden = true;
    onHover(0);
  }

  /** Show "before" left of the handle, and "after" right of it. */
  clip() {
    const value = this.look.compare ? byId("compare").value : 0;
    this.canvas.style.clipPath = `inset(0 0 0 ${value}%)`;
    byId("compare-line").style.left = `${value}%`;
  }
}

/** Describe a segment in one line: name, score, area. */
export function describe(layer, { label, score, area }) {
  const share = percent(area / (layer.width * layer.height));
  const certain = score === null ? "" : `score ${score.toFixed(2)} · `;
  return `${label} · ${certain}${share} (${area.toLocaleString("en")} px)`;
}

/** Format a share as text, such as "7.9 %". */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
