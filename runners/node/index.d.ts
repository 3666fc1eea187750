import type {ModelFacts, Pixels} from "../js/lit_od.js";
export type {ModelFacts, Pixels, Preparation} from "../js/lit_od.js";

export interface Verdict {
  /** Higher is more outlying. */
  score: number;
  pValue: number;
  isOutlier: boolean;
  /** Rows of the model's height and width; null where it has no maps. */
  map: Float32Array | null;
}

/** A model file that is open. */
export class Model {
  private constructor();
  readonly facts: ModelFacts;
  readonly shape: [height: number, width: number, channels: number];
  readonly hasMap: boolean;
  /** Score an image: a path, the bytes of a file, or decoded pixels; `prepared` refuses another size than the model's. */
  score(image: string | Uint8Array | Pixels, options?: {prepared?: boolean}): Promise<Verdict>;
  close(): Promise<void>;
}

/** Open a model file; an Error says in one line why it cannot be. */
export function open(path: string): Promise<Model>;
