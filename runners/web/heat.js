// Heat maps in the colours of lit-od: 0.5 of the way at the threshold, the last colour from twice it on.
import {cropBox} from "../js/lit_od.js";

const STEPS = [[0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96], [207, 68, 70], [237, 105, 37],
  [251, 155, 6], [247, 209, 61], [252, 255, 164]];
const OPAQUE = 0.75;

/** Draw a map into a canvas of its own size. */
export function drawHeat(canvas, map, [height, width], threshold) {
  canvas.height = height;
  canvas.width = width;
  const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
  for (let place = 0; place < map.length; place++) {
    const heat = threshold > 0 ? Math.min(Math.max(map[place] / (2 * threshold), 0), 1) : Number(map[place] > 0);
    const at = heat * (STEPS.length - 1), low = Math.min(Math.floor(at), STEPS.length - 2), share = at - low;
    for (let c = 0; c < 3; c++) picture.data[4 * place + c] = STEPS[low][c] * (1 - share) + STEPS[low + 1][c] * share;
    picture.data[4 * place + 3] = 255 * OPAQUE * Math.min(2 * heat, 1);
  }
  context.putImageData(picture, 0, 0);
}

/** Lay a canvas over the part of an image that the model sees. */
export function place(canvas, height, width, preparation, prepared) {
  const [left, top, right, bottom] = prepared ? [0, 0, width, height] : cropBox(height, width, preparation);
  canvas.style.left = `${100 * left / width}%`;
  canvas.style.top = `${100 * top / height}%`;
  canvas.style.width = `${100 * (right - left) / width}%`;
  canvas.style.height = `${100 * (bottom - top) / height}%`;
}
