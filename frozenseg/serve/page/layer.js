/**
 * The answer of the service as layers: panoptic, semantic and instance results in the same form.
 *
 * A layer has segments and a map of ranks: 0 where nothing was found, and r at the pixels of
 * `segments[r - 1]`. Everything on the page is drawn from such maps.
 */

import { fromBase64 } from "./bytes.js";
import { classColours, segmentColours } from "./colours.js";
import { readIds } from "./png.js";
import { eachRun } from "./rle.js";

export const VIEWS = ["panoptic", "semantic", "instances"];

export class Layer {
  /**
   * segments: [{ id, classId, name, isThing, score, area, box }], where `id` is the segment's
   * number in a PNG of masks and `score` is null if the model gives none.
   * compose: a function that takes a predicate of segments and returns the map of ranks of the
   * segments for which it holds.
   */
  constructor(width, height, segments, compose) {
    Object.assign(this, { width, height, segments, compose });
    const same = grouped(segments);
    segments.forEach((segment, at) => {
      const group = same.get(segment.name);
      segment.rank = at + 1;
      segment.hidden = false;
      segment.label = group.length > 1 ? `${segment.name} ${group.indexOf(segment) + 1}` : segment.name;
    });
    this.recompose(() => true);
  }

  /** Make the map of the shown segments anew, so that what lies under a hidden one appears. */
  recompose(shown = (segment) => !segment.hidden) {
    this.ranks = this.compose(shown);
  }

  at(rank) {
    return this.segments[rank - 1] ?? null;
  }

  /** Whether a segment is shown: it is not hidden, and its score (if any) is high enough. */
  shows(segment, threshold) {
    return !segment.hidden && (segment.score ?? 1) >= threshold;
  }
}

/**
 * Return the layers of an answer of `format=map`; those that the model does not produce are absent.
 * ground: see `colour`.
 */
export async function layersOf(answer, ground) {
  const classes = new Map(answer.classes.map((one) => [one.id, one]));
  const size = [answer.width, answer.height];
  const layers = {};
  if (answer.panoptic) {
    const segments = answer.panoptic.segments.map((one) => segmentOf(one, one.id, classes));
    layers.panoptic = await mapLayer(size, answer.panoptic.ids, segments);
  }
  if (answer.semantic) {
    const segments = answer.semantic.classes.map((one) => segmentOf(one, one.class_id + 1, classes));
    layers.semantic = await mapLayer(size, answer.semantic.ids, segments);
  }
  if (answer.instances) layers.instances = instanceLayer(size, answer.instances, classes);
  colour(Object.values(layers), ground);
  return layers;
}

function segmentOf(one, id, classes) {
  const { names, is_thing: isThing } = classes.get(one.class_id);
  const { class_id: classId, score = null, area, box = null } = one;
  return { id, classId, name: names[0], isThing, score, area, box };
}

async function mapLayer([width, height], png, segments) {
  const { ids } = await readIds(fromBase64(png));
  const rankOf = new Map(segments.map((segment, at) => [segment.id, at + 1]));
  const ranks = Uint16Array.from(ids, (id) => rankOf.get(id) ?? 0);
  // The segments of these maps do not overlap, so hiding one uncovers nothing.
  return new Layer(width, height, segments, () => ranks);
}

/** Instances overlap; the one with the better score lies on top. */
function instanceLayer([width, height], instances, classes) {
  const order = [...instances].sort((one, other) => other.score - one.score);
  const segments = order.map((one, at) => segmentOf(one, at + 1, classes));
  const compose = (shown) => {
    const ranks = new Uint16Array(width * height);
    for (let at = order.length - 1; at >= 0; at--) {
      if (!shown(segments[at])) continue;
      eachRun(order[at].segmentation.counts, (start, end) => {
        for (let place = start; place < end; place++) {
          ranks[(place % height) * width + Math.floor(place / height)] = at + 1;
        }
      });
    }
    return ranks;
  };
  return new Layer(width, height, segments, compose);
}

/** Give all segments colours. `ground(layer)`: the picture's mean colour under each segment. */
function colour(layers, ground) {
  // Colours are chosen for the classes of the first layer first, and for large segments first.
  const unders = new Map();
  for (const layer of layers) {
    const under = ground(layer);
    const order = layer.segments.map((segment, at) => ({ ...segment, under: under[at] }));
    order.sort((one, other) => other.area - one.area);
    for (const { classId, under } of order) if (!unders.has(classId)) unders.set(classId, under);
  }
  const chosen = classColours([...unders.values()]);
  const ofClass = new Map([...unders.keys()].map((classId, at) => [classId, chosen[at]]));
  for (const { segments } of layers) {
    const colours = segmentColours(segments, ofClass);
    segments.forEach((segment, at) => (segment.colour = colours[at]));
  }
}

function grouped(segments) {
  const groups = new Map();
  for (const segment of segments) {
    groups.set(segment.name, [...(groups.get(segment.name) ?? []), segment]);
  }
  return groups;
}
