// Heat maps: one small picture for each class, whose tiles are the more opaque the larger the share of the class.

import { state } from "./address.js";
import { dataset, get, Problem } from "./api.js";
import { byId, h } from "./dom.js";
import { percent, plural } from "./numbers.js";

const SELECTION = ["split", "group", "class_map", "ignore_index", "num_classes", "unexpected"];
const GOLDEN_ANGLE = 137.508; // degrees: the hues of any number of consecutive ids differ

/** Return a function from a class id to a color: that of the class map or palette, or a hue of its own. */
function colors({ class_map: classMap, counting }) {
  const isOwn = [null, classMap?.name].includes(state().get("class_map"));
  const known = new Map(isOwn ? (classMap?.colors ?? []).map((color, id) => [id, color]) : []);
  if (!classMap) for (const [red, green, blue, id] of counting.palette?.colours ?? []) known.set(id, [red, green, blue]);
  // White and black are invisible in one of the two themes.
  const isVisible = (color) => color && Math.max(...color) > 60 && Math.min(...color) < 200;
  return (id) => (isVisible(known.get(id)) ? `rgb(${known.get(id)})` : `hsl(${(id * GOLDEN_ANGLE) % 360} 70% 45%)`);
}

function picture({ id, name, share }, color) {
  const largest = Math.max(...share.flat());
  const label = `${name}: up to ${percent(largest)} of a tile`;
  const canvas = h("canvas", { width: share[0].length, height: share.length, role: "img", "aria-label": label, "data-id": id });
  const context = canvas.getContext("2d");
  context.fillStyle = color;
  share.forEach((row, y) => row.forEach((value, x) => {
    context.globalAlpha = largest ? value / largest : 0; // null, a tile without counted pixels, is 0
    context.fillRect(x, y, 1, 1);
  }));
  return h("figure", {}, canvas, h("figcaption", {}, name, h("span", { class: "hint" }, ` ≤ ${percent(largest)}`)));
}

/** Show the heat maps of the version in `answer`; nothing for a dataset without a grid. */
export async function heatMaps(answer) {
  const { configuration } = await get(dataset(answer.dataset));
  if (!configuration.counting?.grid) return [];
  const parameters = new URLSearchParams([...state()].filter(([name]) => SELECTION.includes(name)));
  parameters.set("version", String(answer.version));
  try {
    const { classes, grid, images } = await get(`${dataset(answer.dataset, "/heatmap")}?${parameters}`);
    const colorOf = colors(configuration);
    return [
      h("p", { class: "hint" }, `Share of each class in the tiles of a ${grid} grid, over ${plural(images, "image")}; each picture has its own scale.`),
      h("div", { id: "maps" }, classes.map((row) => picture(row, colorOf(row.id)))),
    ];
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return [h("p", { class: "hint" }, error.message)];
  }
}

/** Replace the pictures, and hide their section where there are none. */
export function showHeatMaps(elements) {
  byId("positions").hidden = !elements.length;
  byId("heatmaps").replaceChildren(...elements);
}
