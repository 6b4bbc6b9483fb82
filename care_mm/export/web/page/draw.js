// Draw predictions over an image, in the colours of the config's visualizer.

const UNNAMED = [255, 255, 255];

export const nameOf = (label, about) => about.classes[label] ?? String(label);
export const colourOf = (label, about) => about.palette[label] ?? UNNAMED;
export const cssOf = (label, about) => `rgb(${colourOf(label, about).join()})`;
export const percent = (value) => `${(100 * value).toFixed(1)} %`;

const SHARP = 640; // small images are enlarged to about this side, for lines and text to be sharp

/** Draw an image and its predictions; instances at or below the score are left out. */
export function draw(canvas, image, predictions, view, about, scoreThr) {
  const layer = document.createElement("canvas");
  [layer.width, layer.height] = [view.columns.length, view.rows.length];
  const pixels = layer.getContext("2d", { willReadFrequently: true });
  pixels.drawImage(image, 0, 0, layer.width, layer.height);
  if (predictions.classMap) blend(pixels, about, 0.6, (pixel) => predictions.classMap[pixel]);
  const shown = (predictions.instances ?? []).filter(({ score }) => score > scoreThr);
  for (const { label, mask } of shown) {
    if (!mask) continue;
    const inside = mask();
    blend(pixels, about, 0.45, (pixel) => (inside[pixel] ? label : -1));
  }
  const factor = Math.max(1, Math.round(SHARP / Math.max(layer.width, layer.height)));
  [canvas.width, canvas.height] = [layer.width * factor, layer.height * factor];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  const zoom = canvas.width / view.width;
  shown.forEach((instance) => drawBox(context, instance, about, zoom));
  drawLabels(context, shown, about, zoom);
}

/** Mix the colour of each pixel's label into a canvas, no stronger than `most`; below 0 is none. */
function blend(context, about, most, labelOf) {
  const alpha = Math.min(about.alpha, most);
  const { width, height } = context.canvas;
  const pixels = context.getImageData(0, 0, width, height);
  const { data } = pixels;
  for (let i = 0; i < width * height; i++) {
    const label = labelOf(i);
    if (label < 0) continue;
    const colour = colourOf(label, about);
    for (let c = 0; c < 3; c++) {
      data[4 * i + c] = data[4 * i + c] * (1 - alpha) + colour[c] * alpha;
    }
  }
  context.putImageData(pixels, 0, 0);
}

function drawBox(context, { label, box }, about, zoom) {
  const { width, height } = context.canvas;
  const [x1, y1, x2, y2] = box.map((side) => side * zoom);
  const thickness = Math.min(Math.max(width, height) / 400, Math.min(x2 - x1, y2 - y1) / 16);
  context.lineWidth = Math.max(1, Math.round(thickness));
  context.strokeStyle = cssOf(label, about);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

/** Write labels where they cover no object; there are none for a single class. */
function drawLabels(context, instances, about, zoom) {
  if (about.classes.length === 1) return;
  const { width, height } = context.canvas;
  const boxes = instances.map(({ box }) => box.map((side) => side * zoom));
  const written = [];
  context.textBaseline = "middle";
  instances.forEach(({ label, score }, own) => {
    const text = `${nameOf(label, about)} ${(100 * score).toFixed(0)}`;
    const usual = Math.max(12, Math.round(Math.max(width, height) / 50));
    for (const size of [usual, Math.max(9, Math.round(0.75 * usual))]) {
      context.font = `${size}px system-ui, sans-serif`;
      const sides = [context.measureText(text).width + 4, size + 4];
      const place = placeOf(sides, boxes, own, written, [width, height]);
      if (!place) continue;
      written.push(place);
      context.fillStyle = "rgb(20 20 20)";
      context.fillRect(place[0], place[1], ...sides);
      context.fillStyle = "white";
      context.fillText(text, place[0] + 2, place[1] + sides[1] / 2);
      return;
    }
  });
}

const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** Return the first free place of a label at its box, or in it if it is a tenth of it at most. */
export function placeOf([w, h], boxes, own, written, [width, height]) {
  const [x1, y1, x2, y2] = boxes[own];
  const corners = [[x1, y1 - h - 1], [x2 - w, y1 - h - 1], [x1, y2 + 1], [x2 - w, y2 + 1],
    [x2 + 1, y1], [x1 - w - 1, y1], [x2 + 1, y2 - h], [x1 - w - 1, y2 - h]];
  const isRoomy = w <= x2 - x1 && h <= y2 - y1 && w * h <= 0.1 * (x2 - x1) * (y2 - y1);
  if (isRoomy) corners.push([x1, y1]);
  return corners.map(([x, y]) => [x, y, x + w, y + h]).find((place, index) =>
    place[0] >= 0 && place[1] >= 0 && place[2] <= width && place[3] <= height &&
    !written.some((other) => meet(place, other)) &&
    !boxes.some((box, number) => !(index === 8 && number === own) && meet(place, box)));
}
