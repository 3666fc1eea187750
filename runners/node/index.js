// Score images with a model file of lit-od, by onnxruntime-node and sharp.
import {readFile} from "node:fs/promises";
import process from "node:process";
import {prepare, readModel, requireModel, requirePrepared, shapeOf} from "../js/lit_od.js";

process.env.ORT_DISABLE_TELEMETRY = "1"; // before ONNX Runtime is loaded
const {default: ort} = await import("onnxruntime-node");
const {default: sharp} = await import("sharp");

/**
 * Open a model file.
 * @param {string} path
 */
export async function open(path) {
  const file = await readFile(path);
  const facts = readModel(file);
  const session = await ort.InferenceSession.create(file, {logSeverityLevel: 4}); // errors are thrown
  requireModel(session);
  return new Model(facts, session);
}

/** A model file that is open. */
export class Model {
  /**
   * @param {import("../js/lit_od.js").ModelFacts} facts
   * @param {import("onnxruntime-node").InferenceSession} session
   */
  constructor(facts, session) {
    this.facts = facts;
    this.session = session;
    this.shape = shapeOf(facts.preparation);
    this.hasMap = session.outputNames.includes("map");
  }

  /**
   * Score an image: a path, the bytes of a file, or decoded pixels. `prepared` takes it as it is, and refuses another
   * size than the model's.
   * @param {string | Uint8Array | import("../js/lit_od.js").Pixels} image
   * @param {{prepared?: boolean}} options
   */
  async score(image, {prepared = false} = {}) {
    const {preparation} = this.facts;
    const pixels = typeof image === "string" || image instanceof Uint8Array ? await decode(image) : image;
    if (prepared) requirePrepared(pixels, preparation);
    const {data, height, width, channels} = prepared ? pixels : prepare(pixels, preparation);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.length);
    const found = await this.session.run({image: new ort.Tensor("uint8", bytes, [1, height, width, channels])});
    return {
      score: Number(found.score.data[0]),
      pValue: Number(found.p_value.data[0]),
      isOutlier: Boolean(found.is_outlier.data[0]),
      map: this.hasMap ? /** @type {Float32Array} */ (found.map.data) : null,
    };
  }

  async close() {
    await this.session.release();
  }
}

/**
 * Decode an image, upright.
 * @param {string | Uint8Array} image
 * @returns {Promise<import("../js/lit_od.js").Pixels>}
 */
async function decode(image) {
  const file = sharp(image), about = await file.metadata();
  const grey = !about.hasAlpha && (about.space === "b-w" || about.space === "grey16");
  const deep = grey && about.depth === "ushort";
  const {data, info} = await file.autoOrient().toColourspace(deep ? "grey16" : grey ? "b-w" : "srgb")
    .raw({depth: deep ? "ushort" : "uchar"}).toBuffer({resolveWithObject: true});
  const values = deep ? new Uint16Array(data.buffer, data.byteOffset, data.length / 2) : data;
  return {data: values, height: info.height, width: info.width, channels: info.channels};
}
