/** How a model wants its images, as its manifest says. */
export interface Preparation {
  size: [height: number, width: number];
  mode: "grey" | "rgb";
  resize: "bilinear" | "bicubic" | "graph" | "graph-bicubic";
  crop: [height: number, width: number] | null;
  crop_fraction: number | null;
  grey: "pillow" | "luminosity";
  bits?: number;
}

/** A decoded upright image in rows from the top: grey, grey and alpha, RGB, or RGBA; 16 bits are of grey alone. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray | Uint16Array;
  height: number;
  width: number;
  channels: number;
}

/** What a model file says of itself. */
export interface ModelFacts {
  manifest: any;
  preparation: Preparation;
  threshold: number;
  /** Null where the model has no maps. */
  pixelThreshold: number | null;
}

export function readModel(file: Uint8Array): ModelFacts;
export function requireModel(session: {readonly inputNames: readonly string[]; readonly outputNames: readonly string[]}): void;
export function shapeOf(preparation: Preparation): [height: number, width: number, channels: number];
export function resizesInGraph(preparation: Preparation): boolean;
export function requirePrepared(image: Pixels, preparation: Preparation): void;
export function prepare(image: Pixels, preparation: Preparation): Pixels & {data: Uint8Array};
export function cropBox(height: number, width: number, preparation: Preparation): [left: number, top: number, right: number, bottom: number];
