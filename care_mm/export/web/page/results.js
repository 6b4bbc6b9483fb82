// From the outputs of the model to predictions in pixels of the image, as MM computes them.
//
// A view is the size at which the page shows an image: {width, height} of the image, and
// {columns, rows}: for each pixel shown, the x and y of the image's pixel. Class maps and masks are
// computed for the pixels of the view alone, which are all pixels of a small image.

const MAX_SIDE = 1280;

export function viewOf(width, height) {
  const factor = Math.min(1, MAX_SIDE / Math.max(width, height));
  const pick = (side) => {
    const shown = Math.max(1, Math.round(side * factor));
    return Int32Array.from({ length: shown }, (_, i) => Math.floor(((i + 0.5) * side) / shown));
  };
  return { width, height, columns: pick(width), rows: pick(height) };
}

export function predictionsOf(outputs, input, view, about) {
  if (about.task === "classifier") return classify(outputs.logits.data);
  if (about.task === "segmentor") return segment(outputs, input, view, about);
  return detect(outputs, input, view, about);
}

/** Classification: {scores}, the softmax of the logits. */
function classify(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const exponentials = Array.from(logits, (value) => Math.exp(value - top));
  const sum = exponentials.reduce((a, b) => a + b);
  return { scores: exponentials.map((value) => value / sum) };
}

/** Segmentation: {classMap}, the class of each pixel of the view, and {shares} of the classes. */
function segment(outputs, input, view, about) {
  const { data, dims } = outputs.logits ?? outputs.labels;
  const [channels, width] = [outputs.logits ? dims[1] : 0, dims[dims.length - 1]];
  const plane = width * dims[dims.length - 2];
  const xs = between(input.content[0], view.width, view.columns, about.align_corners);
  const ys = between(input.content[1], view.height, view.rows, about.align_corners);
  const classMap = new Uint16Array(xs.length * ys.length);
  const row = new Float32Array(xs.length);
  const best = new Float32Array(xs.length);
  const counts = new Map();
  ys.forEach((y, i) => {
    const labels = classMap.subarray(i * xs.length, (i + 1) * xs.length);
    if (!channels) {
      labelsBetween(data, width, y, xs, labels);
    } else if (channels === 1) {
      interpolate(data, 0, width, y, xs, row);
      row.forEach((value, x) => (labels[x] = 1 / (1 + Math.exp(-value)) > about.threshold));
    } else {
      best.fill(-Infinity);
      for (let c = 0; c < channels; c++) {
        interpolate(data, c * plane, width, y, xs, row);
        for (let x = 0; x < row.length; x++) {
          if (row[x] > best[x]) {
            best[x] = row[x];
            labels[x] = c;
          }
        }
      }
    }
    for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  });
  const shares = [...counts].map(([label, count]) => ({ label, share: count / classMap.length }));
  return { classMap, shares: shares.sort((a, b) => b.share - a.share) };
}

/** Return the two neighbours and the weight of the second one, for a resize in torch. */
function between(from, to, picked, alignCorners = false) {
  return Array.from(picked, (i) => {
    const place = alignCorners
      ? (i * (from - 1)) / Math.max(to - 1, 1)
      : Math.max(((i + 0.5) * from) / to - 0.5, 0);
    const first = Math.min(Math.floor(place), from - 1);
    return { first, second: Math.min(first + 1, from - 1), weight: place - first };
  });
}

/** Interpolate a row of a plane that begins at an offset. */
function interpolate(data, offset, width, y, xs, row) {
  const upper = offset + y.first * width;
  const lower = offset + y.second * width;
  for (let i = 0; i < xs.length; i++) {
    const { first, second, weight } = xs[i];
    const above = data[upper + first] * (1 - weight) + data[upper + second] * weight;
    const below = data[lower + first] * (1 - weight) + data[lower + second] * weight;
    row[i] = above * (1 - y.weight) + below * y.weight;
  }
}

/** Resize labels: a pixel has the class that most of it is made of. */
function labelsBetween(data, width, y, xs, labels) {
  xs.forEach((x, i) => {
    const weights = new Map();
    for (const [row, vertical] of [[y.first, 1 - y.weight], [y.second, y.weight]]) {
      for (const [column, horizontal] of [[x.first, 1 - x.weight], [x.second, x.weight]]) {
        const label = data[row * width + column];
        weights.set(label, (weights.get(label) ?? 0) + vertical * horizontal);
      }
    }
    const ranked = [...weights].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    labels[i] = ranked[0][0];
  });
}

/**
 * Detection: {instances}, each with label, score, box (x1, y1, x2, y2 in pixels of the image) and,
 * above the score of the config's drawings, a function mask() for a model that has masks.
 */
function detect(outputs, input, view, about) {
  const [scaleX, scaleY] = input.scale;
  const instances = [];
  outputs.valid.data.forEach((valid, i) => {
    if (!valid) return;
    const [x1, y1, x2, y2] = outputs.boxes.data.slice(4 * i, 4 * i + 4);
    const box = [x1 / scaleX, y1 / scaleY, x2 / scaleX, y2 / scaleY];
    const score = outputs.scores.data[i];
    const instance = { label: Number(outputs.labels.data[i]), score, box };
    if (outputs.masks) instance.mask = () => pasted(outputs.masks, i, box, view, about);
    if (outputs.mask_logits) {
      instance.mask = () => enlarged(outputs.mask_logits, i, input, view, about);
    }
    instances.push(instance);
  });
  return { instances };
}

/** Place the mask of a box in the view: one byte for each pixel. */
function pasted({ data, dims }, index, [x1, y1, x2, y2], view, about) {
  const [, height, width] = dims;
  const mask = new Uint8Array(view.columns.length * view.rows.length);
  const at = (x, y) =>
    x < 0 || y < 0 || x >= width || y >= height ? 0 : data[(index * height + y) * width + x];
  view.rows.forEach((row, i) => {
    if (row < Math.floor(y1) - 1 || row >= Math.ceil(y2) + 1) return;
    const v = ((row + 0.5 - y1) / (y2 - y1)) * height - 0.5;
    const [top, down] = [Math.floor(v), v - Math.floor(v)];
    view.columns.forEach((column, j) => {
      if (column < Math.floor(x1) - 1 || column >= Math.ceil(x2) + 1) return;
      const u = ((column + 0.5 - x1) / (x2 - x1)) * width - 0.5;
      const [left, right] = [Math.floor(u), u - Math.floor(u)];
      const above = at(left, top) * (1 - right) + at(left + 1, top) * right;
      const below = at(left, top + 1) * (1 - right) + at(left + 1, top + 1) * right;
      const value = above * (1 - down) + below * down;
      mask[i * view.columns.length + j] = value >= about.mask_threshold;
    });
  });
  return mask;
}

/** Resize the mask of an input twice, as RTMDet-Ins does: to the input, then to the image. */
function enlarged({ data, dims }, index, input, view, about) {
  const [, height, width] = dims;
  const stride = about.mask_stride;
  const axis = (side, scale, picked) => {
    const full = side * stride;
    // As floating point has it in Python, a factor of one third included.
    return {
      coarse: between(side, full, Int32Array.from({ length: full }, (_, i) => i)),
      fine: between(full, Math.ceil(full * (1 / scale)), picked),
    };
  };
  const xs = axis(width, input.scale[0], view.columns);
  const ys = axis(height, input.scale[1], view.rows);
  const wide = new Float32Array(width * stride * height * stride);
  const row = new Float32Array(width * stride);
  ys.coarse.forEach((y, i) => {
    interpolate(data, index * width * height, width, y, xs.coarse, row);
    wide.set(row, i * row.length);
  });
  const line = new Float32Array(view.columns.length);
  const mask = new Uint8Array(line.length * view.rows.length);
  ys.fine.forEach((y, i) => {
    interpolate(wide, 0, width * stride, y, xs.fine, line);
    const to = i * line.length;
    line.forEach((value, j) => {
      mask[to + j] = 1 / (1 + Math.exp(-value)) > about.mask_threshold;
    });
  });
  return mask;
}
