#!/usr/bin/env node
// Score images: score.js [--prepared] [--maps DIR] MODEL.onnx IMAGE...
import {writeFile} from "node:fs/promises";
import path from "node:path";
import process from "node:process";
import {parseArgs} from "node:util";

const USAGE = `usage: score.js [--prepared] [--maps DIR] MODEL.onnx IMAGE...

Scores image files of any size that sharp decodes. Prints path,score,p_value,is_outlier, a line an image. --prepared
refuses images of another size than the model's, and takes them as they are. --maps writes the map of each image into a
folder: NAME.f32, float32 in rows. Status 2: a model or an image was refused, as a line on standard error says.
`;

/** @param {unknown} reason */
const firstLine = reason => (reason instanceof Error ? reason.message : String(reason)).split("\n")[0];

/** @param {string} line */
function refuse(line) {
  process.stderr.write(`score.js: ${line}\n`);
  process.exitCode = 2;
}

/** @param {string} field */
const quoted = field => /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;

/**
 * @param {string} file
 * @param {string[]} images
 * @param {{prepared?: boolean, maps?: string}} options
 */
async function score(file, images, {prepared, maps}) {
  const {open} = await import("./index.js"); // late, for --help to be quick
  let model;
  try {
    model = await open(file);
  } catch (error) {
    return refuse(`${file}: ${firstLine(error)}`);
  }
  if (maps && !model.hasMap) return refuse("--maps: this model gives no maps");
  if (maps && new Set(images.map(each => path.basename(each))).size < images.length)
    return refuse("--maps: two images have the same name: score them apart");
  process.stdout.write("path,score,p_value,is_outlier\n");
  for (const image of images)
    try {
      const found = await model.score(image, {prepared});
      if (maps && found.map) await writeFile(path.join(maps, `${path.basename(image)}.f32`), found.map);
      process.stdout.write(`${quoted(image)},${found.score},${found.pValue},${found.isOutlier}\n`);
    } catch (error) {
      refuse(`${image}: ${firstLine(error)}`);
    }
  await model.close();
}

try {
  const options = /** @type {const} */ ({prepared: {type: "boolean"}, maps: {type: "string"}, help: {type: "boolean"}});
  const {values, positionals: [file, ...images]} = parseArgs({options, allowPositionals: true});
  if (values.help) process.stdout.write(USAGE);
  else if (!images.length) refuse("wanted MODEL.onnx and images; --help says more");
  else await score(file, images, values);
} catch (error) {
  refuse(firstLine(error));
}
