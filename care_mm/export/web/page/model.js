// The ONNX file in onnxruntime-web: WebGPU where the browser has it, else WebAssembly.

const FOLDER = new URL("./onnxruntime-web/", import.meta.url);
const RUNTIMES = {
  webgpu: { module: "ort.webgpu.min.mjs", wasm: "ort-wasm-simd-threaded.asyncify" },
  wasm: { module: "ort.wasm.min.mjs", wasm: "ort-wasm-simd-threaded" },
};
export const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };

export class Model {
  /**
   * Open a file in the best backend that works.
   *
   * wanted is "wasm", "webgpu" or null; bytes is the file.
   */
  static async open(bytes, wanted) {
    const model = new Model();
    model.bytes = bytes;
    const gpu = wanted !== "wasm" && (await hasWebGPU());
    try {
      await model.use(gpu ? "webgpu" : "wasm");
    } catch (error) {
      if (!gpu) throw error;
      console.warn("WebGPU failed, WebAssembly is used:", error);
      await model.use("wasm");
    }
    return model;
  }

  async use(backend) {
    const { module, wasm } = RUNTIMES[backend];
    this.ort = await import(await moduleUrl(module));
    const { env } = this.ort;
    env.logLevel = "error"; // warnings are about its own optimisations
    env.wasm.wasmPaths = {
      mjs: await moduleUrl(`${wasm}.mjs`),
      wasm: new URL(`${wasm}.wasm`, FOLDER).href,
    };
    // More threads need shared memory, which a page has with COOP and COEP headers only.
    this.threads = globalThis.crossOriginIsolated
      ? Math.min(4, Math.ceil((navigator.hardwareConcurrency || 1) / 2))
      : 1;
    env.wasm.numThreads = this.threads;
    const executionProviders = backend === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
    const options = { executionProviders, logSeverityLevel: 3 };
    this.session = await this.ort.InferenceSession.create(this.bytes, options);
    this.backend = backend;
  }

  /** Run an input of prepare.js; return {name: {data, dims}}. */
  async run(input) {
    try {
      return await this.runOnce(input);
    } catch (error) {
      if (this.backend !== "webgpu") throw error;
      console.warn("WebGPU failed, WebAssembly is used:", error);
      await this.use("wasm");
      return this.runOnce(input);
    }
  }

  async runOnce({ data, width, height }) {
    const image = new this.ort.Tensor("float32", data, [1, 3, height, width]);
    const tensors = await this.session.run({ image });
    const outputs = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      outputs[name] = { data: await tensor.getData(), dims: tensor.dims };
      tensor.dispose();
    }
    return outputs;
  }

  /** The backend for people. */
  get label() {
    if (this.backend === "webgpu") return NAMES.webgpu;
    return `${NAMES.wasm}, ${this.threads} ${this.threads === 1 ? "thread" : "threads"}`;
  }
}

async function hasWebGPU() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

/** Return a URL to import; servers that do not know .mjs send a type that browsers refuse. */
async function moduleUrl(name) {
  const url = new URL(name, FOLDER).href;
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${name} is missing next to this page.`);
  if (/javascript/.test(response.headers.get("content-type") ?? "")) return url;
  const type = "text/javascript";
  return URL.createObjectURL(new Blob([await response.text()], { type }));
}
