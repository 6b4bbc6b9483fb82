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
  if (predictions.classMap) blend(pixels, about, (pixel) => predictions.classMap[pixel]);
  const shown = (predictions.instances ?? []).filter(({ score }) => score > scoreThr);
  for (const { label, mask } of shown) {
    if (!mask) continue;
    const inside = mask();
    blend(pixels, about, (pixel) => (inside[pixel] ? label : -1));
  }
  const factor = Math.max(1, Math.round(SHARP / Math.max(layer.width, layer.height)));
  [canvas.width, canvas.height] = [layer.width * factor, layer.height * factor];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  const zoom = canvas.width / view.width;
  shown.forEach((instance) => drawBox(context, instance, about, zoom));
}

/** Mix the colour of each pixel's label into a canvas; a label below 0 has none. */
function blend(context, about, labelOf) {
  const { width, height } = context.canvas;
  const pixels = context.getImageData(0, 0, width, height);
  const { data } = pixels;
  for (let i = 0; i < width * height; i++) {
    const label = labelOf(i);
    if (label < 0) continue;
    const colour = colourOf(label, about);
    for (let c = 0; c < 3; c++) {
      data[4 * i + c] = data[4 * i + c] * (1 - about.alpha) + colour[c] * about.alpha;
    }
  }
  context.putImageData(pixels, 0, 0);
}

function drawBox(context, { label, score, box }, about, zoom) {
  const { width, height } = context.canvas;
  const [x1, y1, x2, y2] = box.map((side) => side * zoom);
  const side = Math.max(width, height);
  context.lineWidth = Math.max(1, side / 400);
  context.strokeStyle = cssOf(label, about);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  const size = Math.max(9, Math.round(side / 40));
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const text = `${nameOf(label, about)}: ${(100 * score).toFixed(1)}`;
  const length = context.measureText(text).width;
  const [x, y] = [Math.max(0, Math.min(x1, width - length - 4)), Math.max(0, y1)];
  context.fillStyle = "rgb(0 0 0 / 0.8)";
  context.fillRect(x, y, length + 4, size + 3);
  context.fillStyle = "white";
  context.fillText(text, x + 2, y + 2);
}
