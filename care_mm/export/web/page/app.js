// The page: takes images, runs the model and shows what it predicts.

import { cssOf, draw, nameOf, percent } from "./draw.js";
import { Model } from "./model.js";
import { prepare, rgbOf } from "./prepare.js";
import { predictionsOf, viewOf } from "./results.js";

const TOP = 5; // classes in the list of a classifier
const MAX_PIXELS = 16e6; // canvases of some phones hold no more
const element = (id) => document.getElementById(id);
// Scripts find the last prediction here, as plain numbers.
const state = (window.careMM = { about: null, model: null, last: null, camera: null });

async function start() {
  state.about = await (await loaded("about.json")).json();
  const { about } = state;
  element("title").textContent = { classifier: "Image classification",
    segmentor: "Semantic segmentation", detector: "Object detection" }[about.task];
  document.title = element("title").textContent;
  element("threshold").value = about.score_thr;
  element("threshold-value").textContent = about.score_thr;
  element("threshold-row").hidden = about.task !== "detector";
  const bytes = new Uint8Array(await (await loaded("model.onnx")).arrayBuffer());
  state.model = await Model.open(bytes, new URLSearchParams(location.search).get("backend"));
  element("status").textContent = `Ready: ${state.model.label}`;
  element("camera").disabled = element("example").disabled = false;
}

async function loaded(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing next to this page.`);
  return response;
}

/** Predict on an ImageBitmap and show the result. */
async function predict(bitmap, name) {
  const { about, model } = state;
  const begin = performance.now();
  const image = rgbOf(pixelsOf(bitmap));
  const input = prepare(image, about);
  if (about.shape && (about.shape[0] !== input.height || about.shape[1] !== input.width)) {
    throw new Error(`The model accepts images of ${about.shape[1]} x ${about.shape[0]} pixels ` +
      `only, and this one was resized to ${input.width} x ${input.height}.`);
  }
  const ran = performance.now();
  const outputs = await model.run(input);
  const done = performance.now();
  const view = viewOf(image.width, image.height);
  const predictions = predictionsOf(outputs, input, view, about);
  const ms = { total: performance.now() - begin, model: done - ran };
  state.last?.bitmap.close();
  state.last = { name, input, ...predictions, view, ms, backend: model.backend, bitmap };
  show();
}

/** Return the ImageData of a bitmap. */
function pixelsOf(bitmap) {
  const factor = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.round(bitmap.width * factor));
  const height = Math.max(1, Math.round(bitmap.height * factor));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function show() {
  const { about, last, model } = state;
  const threshold = Number(element("threshold").value);
  const canvas = element("canvas");
  draw(canvas, last.bitmap, last, last.view, about, threshold);
  canvas.hidden = false;
  element("stage").querySelector("p").hidden = true;
  const { total, model: inModel } = last.ms;
  element("status").textContent =
    `${total.toFixed(0)} ms per image, ${inModel.toFixed(0)} ms of it in the model; ${model.label}`;
  element("results").replaceChildren(...rows(last, about, threshold).map(item));
}

/** Return [label, text] for each line of the list. */
function rows({ scores, shares, instances }, about, threshold) {
  if (scores) {
    const ranked = scores.map((score, label) => [label, score]).sort((a, b) => b[1] - a[1]);
    return ranked.slice(0, TOP).map(([label, score]) => [label, percent(score)]);
  }
  if (shares) return shares.map(({ label, share }) => [label, percent(share)]);
  const counts = new Map();
  for (const { label, score } of instances) {
    if (score > threshold) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

function item([label, text]) {
  const line = document.createElement("li");
  const colour = document.createElement("i");
  const name = document.createElement("b");
  const figure = document.createElement("span");
  colour.style.background = cssOf(label, state.about);
  name.textContent = nameOf(label, state.about);
  figure.textContent = text;
  line.append(colour, name, figure);
  return line;
}

function say(error) {
  console.error(error);
  element("message").textContent = error?.message ?? String(error);
  element("message").hidden = false;
  if (state.model) element("status").textContent = `Ready: ${state.model.label}`;
}

let queue = Promise.resolve();

/** Run a task after those before it; show its error. */
function enqueue(task) {
  queue = queue.then(async () => {
    if (task !== start && !state.model) return; // its message stays
    element("message").hidden = true;
    try {
      await task();
    } catch (error) {
      say(error);
    }
  });
  return queue;
}

/** Predict on a file or a response's body; as OpenCV, ignore colour profiles. */
async function predictBlob(blob, name) {
  let bitmap;
  try {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new Error(`${name} is not an image that this browser can read.`);
  }
  element("status").textContent = "Predicting ...";
  await new Promise((resolve) => setTimeout(resolve)); // the text appears first
  await predict(bitmap, name);
}

// Camera

async function startCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the camera to pages from https:// or localhost only.");
  }
  const video = { facingMode: "environment" };
  const stream = await navigator.mediaDevices.getUserMedia({ video });
  state.camera = stream;
  element("camera").textContent = "Stop";
  element("video").srcObject = stream;
  await element("video").play();
  watch(stream);
}

async function watch(stream) {
  while (state.camera === stream) {
    await enqueue(async () => {
      if (state.camera === stream) await predict(await createImageBitmap(element("video")), "camera");
    });
    if (!element("message").hidden) stopCamera();
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  state.camera?.getTracks().forEach((track) => track.stop());
  state.camera = null;
  element("camera").textContent = "Camera";
}

// Events

/** Predict on a file of the user, in place of the camera. */
function choose(file) {
  stopCamera();
  enqueue(() => predictBlob(file, file.name));
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) choose(target.files[0]);
  target.value = ""; // the same file can be chosen again
});
element("example").addEventListener("click", () => {
  stopCamera();
  enqueue(async () => predictBlob(await (await loaded("example.png")).blob(), "example.png"));
});
element("camera").addEventListener("click", () => {
  if (state.camera) stopCamera();
  else enqueue(startCamera);
});
element("threshold").addEventListener("input", ({ target }) => {
  element("threshold-value").textContent = target.value;
  if (state.last) show();
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    element("stage").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}

if (!window.careUnsupported) enqueue(start);
