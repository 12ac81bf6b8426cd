/** The segments as a table: sort, hide, recolour, isolate. */

import { fromHex, toHex } from "./colours.js";
import { byId, icon, make } from "./dom.js";
import { percent } from "./stage.js";

export class Table {
  /** callbacks: onHover(rank), onPick(rank), and onHide(), onColour() after a segment changed. */
  constructor(callbacks) {
    this.callbacks = callbacks;
    this.body = byId("segments").tBodies[0];
    this.order = { key: "area", down: true };
    for (const header of byId("segments").querySelectorAll("[data-sort]")) {
      header.querySelector("button").addEventListener("click", () => this.sortBy(header.dataset.sort));
    }
    byId("hide-all").addEventListener("click", () => this.hideAll());
    this.rows = [];
  }

  setLayer(layer) {
    this.layer = layer;
    this.rows = (layer?.segments ?? []).map((segment) => this.row(segment));
    this.sort();
  }

  /** Update the rows to `look`; see `Sheet.paint`. */
  show({ threshold, hovered, isolated }) {
    let count = 0;
    for (const { segment, row, name, eye } of this.rows) {
      row.hidden = (segment.score ?? 1) < threshold;
      count += !row.hidden;
      row.classList.toggle("hovered", segment.rank === hovered);
      row.classList.toggle("isolated", segment.rank === isolated);
      row.classList.toggle("off", segment.hidden);
      name.setAttribute("aria-pressed", segment.rank === isolated);
      eye.setAttribute("aria-pressed", !segment.hidden);
    }
    const all = this.rows.length;
    byId("segment-count").textContent = count < all ? `${count} of ${all}` : `${all}`;
    byId("no-segments").hidden = count > 0;
    byId("segments").hidden = !count;
    const hidden = this.rows.some(({ segment }) => segment.hidden);
    byId("hide-all").setAttribute("aria-pressed", !hidden);
  }

  /** Bring the row of an isolated segment into view, without moving the page. */
  reveal(rank) {
    const found = this.rows.find(({ segment }) => segment.rank === rank);
    if (!found) return;
    const box = byId("segments-box");
    const [row, frame] = [found.row.getBoundingClientRect(), box.getBoundingClientRect()];
    if (row.top < frame.top + 40 || row.bottom > frame.bottom) box.scrollTop += row.top - frame.top - 60;
  }

  row(segment) {
    const { label, colour, score, area, rank } = segment;
    const share = percent(area / (this.layer.width * this.layer.height));
    const eye = make("button", {
      type: "button",
      className: "eye",
      title: `Show ${label}`,
      attributes: { "aria-label": `Show ${label}`, "aria-pressed": true },
    });
    eye.append(icon("eye"), icon("eye-off"));
    const swatch = make("input", {
      type: "color",
      value: toHex(colour),
      title: `Colour of ${label}`,
      attributes: { "aria-label": `Colour of ${label}` },
    });
    const name = make("button", { type: "button", className: "name", textContent: label, title: label });
    const row = make(
      "tr",
      {},
      make("td", {}, eye),
      make("td", {}, swatch),
      make("th", { scope: "row" }, name),
      make("td", { className: "number", textContent: score === null ? "–" : score.toFixed(2) }),
      make("td", { className: "number", textContent: share }),
    );
    const { onHover, onPick, onHide, onColour } = this.callbacks;
    eye.addEventListener("click", () => {
      segment.hidden = !segment.hidden;
      onHide();
    });
    swatch.addEventListener("input", () => {
      segment.colour = fromHex(swatch.value);
      onColour();
    });
    name.addEventListener("click", () => onPick(rank));
    row.addEventListener("pointerenter", () => onHover(rank));
    row.addEventListener("pointerleave", () => onHover(0));
    row.addEventListener("focusin", () => onHover(rank));
    row.addEventListener("focusout", () => onHover(0));
    return { segment, row, name, eye };
  }

  sortBy(key) {
    // At first, numbers are sorted from the largest on, and names from A on.
    const down = this.order.key === key ? !this.order.down : key !== "label";
    this.order = { key, down };
    this.sort();
  }

  sort() {
    const { key, down } = this.order;
    const sign = down ? -1 : 1;
    this.rows.sort(({ segment: one }, { segment: other }) => {
      const [left, right] = [one[key] ?? 0, other[key] ?? 0];
      return sign * (key === "label" ? left.localeCompare(right, "en", { numeric: true }) : left - right);
    });
    this.body.replaceChildren(...this.rows.map(({ row }) => row));
    for (const header of byId("segments").querySelectorAll("[data-sort]")) {
      const way = down ? "descending" : "ascending";
      header.setAttribute("aria-sort", header.dataset.sort === key ? way : "none");
    }
  }

  hideAll() {
    const hidden = this.rows.some(({ segment }) => segment.hidden);
    for (const { segment } of this.rows) segment.hidden = !hidden;
    this.callbacks.onHide();
  }
}
