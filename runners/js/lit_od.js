// What the runners of Node.js and of the browser share: a model file's manifest, and its preparation of images.

const OUTPUTS = ["score", "p_value", "is_outlier", "map"];
const BITS = 22; // of the weights of a filter, as Pillow has them

/** Read what a model file says of itself. */
export function readModel(file) {
  let manifest = null, graph = null;
  try {
    for (const field of fields(file)) {
      if (field.number === 7) graph = field.bytes;
      if (field.number === 14) {
        const [key, value] = [...fields(field.bytes)].map(each => each.bytes);
        if (text(key) === "lit_od") manifest = JSON.parse(text(value));
      }
    }
  } catch {
    throw new Error("is no ONNX file, or a damaged one");
  }
  if (!manifest || !graph) throw new Error("is no model file that lit-od compiled");
  const threshold = double(graph, "threshold");
  if (manifest.preparation?.overlap) throw new Error("it takes tiles of images, which runners/python cuts");
  if (!Array.isArray(manifest.preparation?.size) || threshold === null) throw new Error("its manifest is of another lit-od");
  return {manifest, preparation: manifest.preparation, threshold, pixelThreshold: double(graph, "pixel_threshold")};
}

/** Throw an Error unless a session takes and gives what a model file does. */
export function requireModel(session) {
  const [given, taken] = [session.outputNames.join(), session.inputNames.join()];
  if (taken !== "image" || (given !== OUTPUTS.join() && given !== OUTPUTS.slice(0, 3).join()))
    throw new Error("its graph is none that lit-od compiled");
}

/** Shape of a prepared image: height, width, channels. */
export const shapeOf = preparation => [...preparation.size, preparation.mode === "grey" ? 1 : 3];

/** True if the model's graph crops and resizes, and takes images of any size. */
export const resizesInGraph = preparation => preparation.resize.startsWith("graph");

/** Throw an Error unless an image is one that the model takes as it is. */
export function requirePrepared({data, height, width, channels}, preparation) {
  const shape = shapeOf(preparation), sized = resizesInGraph(preparation) || (height === shape[0] && width === shape[1]);
  if (!sized || channels !== shape[2] || data instanceof Uint16Array)
    throw new Error(`wanted a prepared image of ${shape.join(" x ")} (h x w x c), 8 bits, got ${height} x ${width} x ${channels}`);
}

/** Convert an upright image, and crop and resize it to the last bit as lit-od does, unless the graph does. */
export function prepare(image, preparation) {
  const [height, width, channels] = shapeOf(preparation), whole = resizesInGraph(preparation);
  if (whole) return {...cutOut(image, preparation, 0, 0, image.height, image.width), channels};
  return {data: fitted(image, preparation, height, width, channels), height, width, channels};
}

/** Convert, crop and resize. */
function fitted(image, preparation, height, width, channels) {
  const [left, top, right, bottom] = cropBox(image.height, image.width, preparation);
  const x = Math.floor(left), y = Math.floor(top);
  const part = cutOut(image, preparation, x, y, Math.ceil(bottom) - y, Math.ceil(right) - x);
  const box = [left - x, top - y, right - x, bottom - y].map(Math.fround);
  const [tall, wide] = [part.height, part.width];
  if (tall === height && wide === width && box.join() === [0, 0, wide, tall].join()) return part.data;
  const bicubic = preparation.resize === "bicubic";
  const across = filter(wide, box[0], box[2], width, bicubic), down = filter(tall, box[1], box[3], height, bicubic);
  const row = width * channels, wholeRow = wide * channels, saved = tall - height;
  if (saved > 0 && saved > 2 * (wide - width)) // as Pillow chooses, for it is faster
    return apply(across, apply(down, part.data, 1, 0, wholeRow), height, wholeRow, channels);
  return apply(down, apply(across, part.data, tall, wholeRow, channels), 1, 0, row);
}

/** Left, top, right and bottom of the part of an upright image that is kept. */
export function cropBox(height, width, preparation) {
  const {crop, crop_fraction: fraction, size} = preparation;
  if (crop) {
    if (height < crop[0] || width < crop[1]) throw new Error(`a crop of ${crop[0]} x ${crop[1]} needs a larger image than ${height} x ${width}`);
    const left = (width - crop[1]) >> 1, top = (height - crop[0]) >> 1;
    return [left, top, left + crop[1], top + crop[0]];
  }
  if (!fraction) return [0, 0, width, height];
  if (resizesInGraph(preparation)) return wholeBox(height, width, size, fraction);
  const scale = fraction * Math.min(height / size[0], width / size[1]);
  const left = Math.max((width - size[1] * scale) / 2, 0), top = Math.max((height - size[0] * scale) / 2, 0);
  return [left, top, width - left, height - top];
}

/** As cropBox, in whole pixels. */
function wholeBox(height, width, size, fraction) {
  const scale = fraction * Math.min(height / size[0], width / size[1]);
  const [tall, wide] = [height, width].map((side, axis) => Math.max(1, Math.min(side, Math.floor(size[axis] * scale + 0.5))));
  const left = (width - wide) >> 1, top = (height - tall) >> 1;
  return [left, top, left + wide, top + tall];
}

/** Convert a box of whole pixels: 16 bits to 8, alpha over white, colours to grey or grey to colours. */
function cutOut(image, preparation, left, top, height, width) {
  const given = image.channels, alpha = given === 2 || given === 4, colours = given > 2 ? 3 : 1;
  const wanted = preparation.mode === "grey" ? 1 : 3, data = new Uint8Array(width * height * wanted);
  const white = image.data instanceof Uint16Array ? 2 ** (preparation.bits ?? 16) - 1 : 255;
  const pixel = [0, 0, 0];
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0, from = ((top + y) * image.width + left) * given; x < width; x++, from += given) {
      for (let c = 0; c < colours; c++) {
        let value = image.data[from + c];
        if (white !== 255) {
          if (value > white) throw new Error(`values above ${white}: wanted 16-bit grey in 0..${white}`);
          value = Math.trunc((value * 255 + (white >> 1)) / white);
        }
        pixel[c] = alpha ? overWhite(value, image.data[from + colours]) : value;
      }
      if (colours === 1) pixel[1] = pixel[2] = pixel[0];
      if (wanted === 3) data[to++] = pixel[0], data[to++] = pixel[1], data[to++] = pixel[2];
      else if (colours === 1) data[to++] = pixel[0];
      else if (preparation.grey === "luminosity") data[to++] = luminosity(...pixel);
      else data[to++] = (19595 * pixel[0] + 38470 * pixel[1] + 7471 * pixel[2] + 0x8000) >> 16;
    }
  return {data, height, width};
}

/** Grey in float32, halves to the even neighbour, as NumPy computes it. */
function luminosity(red, green, blue) {
  const {fround} = Math, sum = fround(fround(fround(0.21) * red) + fround(fround(0.72) * green));
  const value = fround(sum + fround(fround(0.07) * blue)), low = Math.floor(value);
  return value - low === 0.5 ? low + low % 2 : Math.round(value);
}

function overWhite(value, alpha) {
  const mixed = (value * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
  return (((mixed >> 8) + mixed) >> 8) >> 7;
}

function weightAt(x, bicubic) {
  x = Math.abs(x);
  if (!bicubic) return x < 1 ? 1 - x : 0;
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** The weights that bring the pixels from start to end, of `size`, to `wanted` ones. */
function filter(size, start, end, wanted, bicubic) {
  const scale = Math.fround(end - start) / wanted, stretch = Math.max(scale, 1), reach = (bicubic ? 2 : 1) * stretch;
  const made = [];
  for (let place = 0; place < wanted; place++) {
    const centre = start + (place + 0.5) * scale, exact = [];
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0), last = Math.min(Math.trunc(centre + reach + 0.5), size);
    for (let x = first; x < last; x++) exact.push(weightAt((x - centre + 0.5) * (1 / stretch), bicubic));
    const sum = exact.reduce((before, weight) => before + weight, 0) || 1;
    made.push({first, weights: Int32Array.from(exact, each => {
      const weight = each / sum * 2 ** BITS;
      return Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    })});
  }
  return made;
}

/** Filter one side: `step` values lie between its pixels; `lines` runs of `line` values are filtered alike. */
function apply(filters, from, lines, line, step) {
  const length = filters.length * step, to = new Uint8Array(lines * length);
  for (let y = 0; y < lines; y++)
    for (let place = 0; place < filters.length; place++) {
      const {first, weights} = filters[place], start = y * line + first * step, target = y * length + place * step;
      for (let c = 0; c < step; c++) {
        let sum = 1 << (BITS - 1);
        for (let x = 0, at = start + c; x < weights.length; x++, at += step) sum += from[at] * weights[x];
        sum >>= BITS;
        to[target + c] = sum < 0 ? 0 : sum > 255 ? 255 : sum;
      }
    }
  return to;
}

/** The fields of a protobuf message: number, and bytes or value. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= bytes.length || scale > 2 ** 63) throw new Error("truncated");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const take = length => {
    if (length > bytes.length - at) throw new Error("truncated");
    return bytes.subarray(at, at += length);
  };
  while (at < bytes.length) {
    const key = varint(), number = Math.floor(key / 8), type = key % 8;
    if (type === 0) yield {number, value: varint()};
    else if (type === 2) yield {number, bytes: take(varint())};
    else if (type === 1 || type === 5) yield {number, bytes: take(type === 1 ? 8 : 4)};
    else throw new Error("no protobuf");
  }
}

const text = bytes => new TextDecoder("utf-8", {fatal: true}).decode(bytes);

/** A float64 initializer of no dimensions; null where there is none of the name. */
function double(graph, name) {
  for (const field of fields(graph)) {
    if (field.number !== 5) continue;
    const parts = [...fields(field.bytes)];
    const called = parts.find(each => each.number === 8);
    if (!called || text(called.bytes) !== name) continue;
    const data = parts.find(each => each.number === 9 || each.number === 10)?.bytes; // raw, or a list of doubles
    return data?.length === 8 ? new DataView(data.buffer, data.byteOffset, 8).getFloat64(0, true) : null;
  }
  return null;
}
