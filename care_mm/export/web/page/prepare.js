// From an image to the input of the model: the steps of the config's test pipeline.
//
// An image is {width, height, data}; data holds RGB, row by row, one byte each.

/** Drop the alpha channel of an ImageData. */
export function rgbOf({ width, height, data }) {
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, j = 0; j < rgb.length; i += 4, j += 3) {
    rgb[j] = data[i];
    rgb[j + 1] = data[i + 1];
    rgb[j + 2] = data[i + 2];
  }
  return { width, height, data: rgb };
}

/**
 * Run the steps, normalise and pad.
 *
 * Returns the tensor's data (1, 3, height, width), its size, the size before padding, and the
 * factors by which x and y were scaled.
 */
export function prepare(image, about) {
  const scale = [1, 1];
  for (const step of about.preparation) image = STEPS[step.step](image, step, scale);
  const content = [image.width, image.height];
  const [width, height] = paddedSize(content, about.padding);
  const data = new Float32Array(3 * width * height);
  if (about.padding) data.fill(about.padding.value);
  const mean = about.mean ?? [0, 0, 0];
  const std = about.std ?? [1, 1, 1];
  for (let channel = 0; channel < 3; channel++) {
    const source = about.channels === "BGR" ? 2 - channel : channel;
    for (let y = 0; y < image.height; y++) {
      let to = (channel * height + y) * width;
      let from = y * image.width * 3 + source;
      for (let x = 0; x < image.width; x++, to++, from += 3) {
        data[to] = (image.data[from] - mean[channel]) / std[channel];
      }
    }
  }
  return { data, width, height, content, scale };
}

function paddedSize([width, height], padding) {
  if (!padding) return [width, height];
  if (padding.size) {
    width = Math.max(width, padding.size[0]);
    height = Math.max(height, padding.size[1]);
  }
  return [multiple(width, padding.divisor), multiple(height, padding.divisor)];
}

const multiple = (side, divisor) => Math.ceil(side / divisor) * divisor;

// Steps

const STEPS = {
  resize(image, { size, keep, filter }, scale) {
    let [width, height] = size;
    if (keep) {
      const [long, short] = [Math.max(...size), Math.min(...size)];
      const sides = [image.width, image.height];
      const factor = Math.min(long / Math.max(...sides), short / Math.min(...sides));
      [width, height] = sides.map((side) => Math.floor(side * factor + 0.5));
    }
    return scaled(image, width, height, filter, scale);
  },

  resize_edge(image, { edge, size, filter }, scale) {
    const { width: w, height: h } = image;
    const wide = edge === "width" || (edge === "short" && w < h) || (edge === "long" && w > h);
    const [width, height] = wide
      ? [size, Math.floor((size * h) / w)]
      : [Math.floor((size * w) / h), size];
    return scaled(image, width, height, filter, scale);
  },

  resize_to_multiple(image, { divisor, filter }) {
    const [width, height] = [multiple(image.width, divisor[0]), multiple(image.height, divisor[1])];
    return resized(image, width, height, filter);
  },

  crop(image, { size }) {
    const [width, height] = [Math.min(size[0], image.width), Math.min(size[1], image.height)];
    const left = halfToEven((image.width - width) / 2);
    const top = halfToEven((image.height - height) / 2);
    return placed(image, width, height, -left, -top, [0, 0, 0]);
  },

  pad(image, { size, square, divisor, rgb }) {
    let [width, height] = size ?? [image.width, image.height];
    if (square) width = height = Math.max(width, height);
    [width, height] = [multiple(width, divisor), multiple(height, divisor)];
    return placed(image, width, height, 0, 0, rgb);
  },
};

/** Round as Python does. */
function halfToEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** Return a canvas of one colour with the image at (left, top). */
function placed(image, width, height, left, top, rgb) {
  const data = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < data.length; i++) data[i] = rgb[i % 3];
  const begin = Math.max(0, -left);
  const end = Math.min(image.width, width - left);
  for (let y = Math.max(0, -top); y < Math.min(image.height, height - top); y++) {
    const row = image.data.subarray((y * image.width + begin) * 3, (y * image.width + end) * 3);
    data.set(row, ((y + top) * width + begin + left) * 3);
  }
  return { width, height, data };
}

function scaled(image, width, height, filter, scale) {
  scale[0] = width / image.width;
  scale[1] = height / image.height;
  return resized(image, width, height, filter);
}

// Resampling, as OpenCV and Pillow do it: OpenCV reads two or four pixels, Pillow all that an
// output pixel covers.

const cubic = (a) => (x) => {
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
};
const linear = (x) => Math.max(0, 1 - Math.abs(x));
const product = (weight, value) => weight * value;
const same = (value) => value;
// Pillow's weights are integers of 22 bits.
const halfUp = (value) => Math.floor(value / 2 ** 22 + 0.5);
// OpenCV's bilinear resize has integers of 11 bits as weights, and cuts off bits on the way.
const cut = (weight, value) => (weight * (value >> 4)) >> 16;
const shift = (sum) => (sum + 2) >> 2;
// Pillow rounds between the two directions.
const pillow = { Between: Uint8ClampedArray, between: halfUp, after: halfUp, bits: 22 };
const opencv = { Between: Float32Array, between: same, after: same, vertical: product };
const FILTERS = {
  "cv2-bilinear": { kernel: linear, radius: 1, ...opencv, after: shift, vertical: cut, bits: 11 },
  "cv2-bicubic": { kernel: cubic(-0.75), radius: 2, ...opencv },
  "pillow-bilinear": { kernel: linear, radius: 1, ...pillow, vertical: product, covers: true },
  "pillow-bicubic": { kernel: cubic(-0.5), radius: 2, ...pillow, vertical: product, covers: true },
};

/** Resize an image. */
export function resized(image, width, height, name) {
  if (width === image.width && height === image.height) return image;
  if (width < 1 || height < 1) throw new Error("The image is too narrow for this model.");
  const filter = FILTERS[name];
  const { between, after, vertical } = filter;
  const columns = taps(image.width, width, filter);
  const rows = taps(image.height, height, filter);
  const length = width * 3;
  const wide = new filter.Between(length * image.height);
  for (let y = 0; y < image.height; y++) {
    const row = y * image.width * 3;
    for (let x = 0; x < width; x++) {
      const { indices, weights } = columns[x];
      let [r, g, b] = [0, 0, 0];
      for (let k = 0; k < indices.length; k++) {
        const from = row + indices[k] * 3;
        r += weights[k] * image.data[from];
        g += weights[k] * image.data[from + 1];
        b += weights[k] * image.data[from + 2];
      }
      const to = y * length + x * 3;
      wide[to] = between(r);
      wide[to + 1] = between(g);
      wide[to + 2] = between(b);
    }
  }
  const data = new Uint8ClampedArray(length * height);
  const sums = new Float64Array(length);
  for (let y = 0; y < height; y++) {
    const { indices, weights } = rows[y];
    sums.fill(0);
    for (let k = 0; k < indices.length; k++) {
      const from = indices[k] * length;
      for (let i = 0; i < length; i++) sums[i] += vertical(weights[k], wide[from + i]);
    }
    data.set(sums.map(after), y * length); // which clips, and rounds what is left
  }
  return { width, height, data };
}

/** Return, for each output pixel of a row, the input pixels that it is made of. */
function taps(from, to, { kernel, radius, covers, bits }) {
  const step = from / to;
  const stretch = covers ? Math.max(step, 1) : 1;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * step - 0.5;
    const indices = [];
    const weights = [];
    const last = Math.floor(centre + radius * stretch);
    for (let k = Math.ceil(centre - radius * stretch); k <= last; k++) {
      if (covers && (k < 0 || k >= from)) continue;
      const weight = kernel((k - centre) / stretch);
      if (weight === 0) continue;
      indices.push(Math.min(Math.max(k, 0), from - 1));
      weights.push(weight);
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const scale = (weight) =>
      bits ? Math.round((weight / total) * 2 ** bits) : weight / total;
    return { indices, weights: weights.map(scale) };
  });
}
