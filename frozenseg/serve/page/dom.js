/** Small helpers for the document. */

/** Return the element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `properties` are set on it, and the entries of `attributes` become attributes.
 * Text is always inserted as text and never as markup, whatever class names or messages contain.
 */
export function make(tag, properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Make an icon from the sprite in index.html. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Return a function that runs `action` once before the next frame, however often it is called. */
export function oncePerFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  };
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("live").textContent = text;
}
