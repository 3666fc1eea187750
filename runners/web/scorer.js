// A model file in the browser, by onnxruntime-web.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import {prepare, readModel, requireModel, requirePrepared, shapeOf} from "../js/lit_od.js";

const MOST_PIXELS = 89_478_485; // as lit-od: larger images are refused

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
ort.env.logLevel = "fatal"; // errors are thrown

/** Open a model file's bytes; an Error says in one line why they cannot be. */
export async function open(file) {
  const facts = readModel(file);
  let session;
  try {
    session = await ort.InferenceSession.create(file, {executionProviders: ["wasm"], logSeverityLevel: 4});
  } catch (error) {
    throw new Error(`cannot be opened: ${firstLine(error)}`);
  }
  requireModel(session);
  return new Model(facts, session);
}

export const firstLine = error => String(error?.message ?? error).split("\n")[0];

class Model {
  constructor(facts, session) {
    this.facts = facts;
    this.session = session;
    this.shape = shapeOf(facts.preparation);
  }

  /** Score what can be drawn (a bitmap, a video, a canvas); `prepared` takes it as it is, and refuses another size. */
  async score(picture, height, width, {prepared = false} = {}) {
    const {preparation} = this.facts;
    if (prepared) requirePrepared({height, width, channels: this.shape[2]}, preparation);
    const pixels = {data: drawn(picture, height, width), height, width, channels: 4};
    const image = prepare(pixels, prepared ? {...preparation, crop: null, crop_fraction: null} : preparation);
    const dimensions = [1, image.height, image.width, image.channels];
    const found = await this.session.run({image: new ort.Tensor("uint8", image.data, dimensions)});
    return {
      score: Number(found.score.data[0]),
      pValue: Number(found.p_value.data[0]),
      isOutlier: Boolean(found.is_outlier.data[0]),
      map: found.map ? Float32Array.from(found.map.data) : null,
    };
  }

  close() {
    return this.session.release();
  }
}

/** Decode an image file, upright, its colours as they are written. */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  } catch {
    throw new Error("is no image that this browser decodes");
  }
  if (bitmap.width * bitmap.height <= MOST_PIXELS) return bitmap;
  bitmap.close();
  throw new Error("has more than 89,478,485 pixels");
}

const canvas = document.createElement("canvas");

/** RGBA bytes of a picture over white. */
function drawn(picture, height, width) {
  canvas.height = height;
  canvas.width = width;
  const context = canvas.getContext("2d", {alpha: false, willReadFrequently: true});
  if (!context) throw new Error("is too large for this browser");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
