// The page: images in, verdicts and heat maps out, a threshold to be moved. `?model=URL` opens a model at once;
// `&prepared` takes images as they are, and refuses other sizes than the model's.
import {drawHeat, place} from "./heat.js";
import {decode, firstLine, open} from "./scorer.js";

const by = id => document.getElementById(id);
const parameters = new URLSearchParams(location.search);
const prepared = parameters.has("prepared");

/** Images of this page in their order, with what was found of each; scores and maps are the model's own numbers. */
export const items = [];
let model = null, threshold = 0, working = false, stream = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made[key] = value;
  made.append(...children);
  return made;
}

function trouble(text) {
  by("trouble").textContent = text;
  by("trouble").hidden = !text;
}

const digits = value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
const isOutlier = item => !(item.score <= threshold);

// ---- the model

async function use(name, load) {
  trouble("");
  by("facts").textContent = `Opening ${name} …`;
  try {
    const next = await open(new Uint8Array(await load()));
    await model?.close();
    model = next;
  } catch (error) {
    trouble(`${name}: ${firstLine(error)}`);
    describe();
    return; // the old model stays
  }
  describe();
  move(model.facts.threshold);
  for (const item of items) Object.assign(item, {done: false, error: null});
  for (const id of ["pick", "watch"]) by(id).disabled = false;
  by("pick-model").classList.remove("main");
  by("pick").classList.add("main");
  by("bar").hidden = false;
  by("heat-choice").hidden = model.facts.pixelThreshold === null;
  work();
}

function describe() {
  if (!model) {
    by("facts").textContent = "Choose a model file of lit-od compile. Images stay in this browser.";
    return;
  }
  const {manifest, preparation} = model.facts;
  by("facts").textContent = `${manifest.name}: ${manifest.detector.kind}, calibrated on ` +
    `${manifest.calibration.images.toLocaleString("en")} images of ${preparation.size.join(" × ")} ${preparation.mode}. ` +
    "Images stay in this browser.";
}

// ---- the threshold

function move(value) {
  threshold = value;
  if (by("threshold").value === "" || Number(by("threshold").value) !== value) by("threshold").value = value;
  by("slider").value = Math.round(1000 * value / reach());
  by("slider").setAttribute("aria-valuetext", digits(value));
  for (const item of items) show(item);
  refresh();
}

/** The slider's end: twice the model's threshold, or beyond the largest score. */
function reach() {
  const largest = Math.max(0, ...items.filter(item => item.done && !item.error).map(item => item.score));
  return Math.max(2 * model.facts.threshold, 1.1 * largest) || 1;
}

/** The threshold of pixels, which is that of images where an image's score is the peak of its map. */
const ofPixels = () => model.facts.pixelThreshold === model.facts.threshold ? threshold : model.facts.pixelThreshold;

// ---- scoring, one image after the other

async function work() {
  if (working) return;
  working = true;
  for (let item; model && (item = items.find(each => !each.done)); ) {
    const from = model;
    try {
      const bitmap = await decode(item.file);
      const started = performance.now();
      const found = await from.score(bitmap, bitmap.height, bitmap.width, {prepared});
      Object.assign(item, found, {height: bitmap.height, width: bitmap.width, milliseconds: performance.now() - started});
      bitmap.close();
    } catch (error) {
      if (from === model) item.error = firstLine(error);
    }
    if (from !== model) continue; // another model came meanwhile
    item.done = true;
    show(item);
    refresh();
    await new Promise(done => setTimeout(done)); // the page is drawn
  }
  working = false;
  if (model && items.length) move(threshold); // the slider reaches the largest score
}

function add(files) {
  const models = files.filter(file => file.name.endsWith(".onnx"));
  if (models.length) use(models[0].name, () => models[0].arrayBuffer());
  for (const file of files) {
    if (file.name.endsWith(".onnx")) continue;
    const item = {file, name: file.name, url: URL.createObjectURL(file), card: element("li"), done: false, error: null};
    items.push(item);
    by("cards").append(item.card);
    show(item);
  }
  refresh();
  if (model) work();
  else if (!models.length) trouble("Choose a model first: the images wait for it.");
}

// ---- what is seen

function show(item) {
  const state = !item.done ? "waiting" : item.error ? "broken" : isOutlier(item) ? "outlier" : "normal";
  const parts = [];
  if (item.done && !item.error) parts.push(shot(item));
  parts.push(element("h2", {textContent: item.name}), badge(state));
  if (item.error) parts.push(element("p", {className: "small", textContent: item.error}));
  else if (item.done) parts.push(numbers(item));
  item.card.className = `card ${state}`;
  item.card.replaceChildren(...parts);
}

function badge(state) {
  const text = {waiting: "… waiting", broken: "✕ not scored", outlier: "▲ outlier", normal: "● normal"}[state];
  return element("span", {className: "verdict", textContent: text});
}

function numbers(item) {
  return element("dl", {},
    element("dt", {textContent: "score"}), element("dd", {textContent: digits(item.score)}),
    element("dt", {textContent: "p-value"}), element("dd", {textContent: digits(item.pValue)}));
}

function shot(item) {
  item.image ??= element("img", {src: item.url, alt: item.name, className: Math.max(item.height, item.width) < 200 ? "small-image" : ""});
  return frame(item.image, item);
}

/** A picture with the heat map over it. */
function frame(picture, {height, width, map}) {
  const made = element("div", {className: "shot"}, picture);
  made.style.aspectRatio = `${width} / ${height}`;
  made.style.width = `min(100%, ${20 * width / height}rem)`;
  if (map && by("heat").checked) {
    const canvas = element("canvas");
    drawHeat(canvas, map, model.shape, ofPixels());
    place(canvas, height, width, model.facts.preparation, prepared);
    made.append(canvas);
  }
  return made;
}

function refresh() {
  const scored = items.filter(item => item.done && !item.error), broken = items.filter(item => item.error).length;
  const outliers = scored.filter(isOutlier).length, waiting = items.filter(item => !item.done).length;
  const words = [`${items.length} ${items.length === 1 ? "image" : "images"}`, `${outliers} ${outliers === 1 ? "outlier" : "outliers"}`];
  if (broken) words.push(`${broken} not scored`);
  if (waiting) words.push(`${waiting} to go`);
  by("outcome").hidden = !items.length;
  by("summary").textContent = words.join(" · ");
}

function saveCsv() {
  const quoted = text => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const rows = items.filter(item => item.done && !item.error)
    .map(item => `${quoted(item.name)},${item.score},${item.pValue},${isOutlier(item)}\n`);
  const url = URL.createObjectURL(new Blob(["path,score,p_value,is_outlier\n", ...rows], {type: "text/csv"}));
  element("a", {href: url, download: "scores.csv"}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// ---- the camera

async function watch() {
  if (stream) return stopWatching();
  try {
    if (!navigator.mediaDevices) throw new Error("a page has the camera over https or on localhost only");
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    return trouble(`No camera: ${firstLine(error)}`);
  }
  const mine = stream, video = element("video", {muted: true, playsInline: true, srcObject: stream});
  by("watch").textContent = "Stop the camera";
  by("watch").setAttribute("aria-pressed", "true");
  by("camera").hidden = false;
  try {
    await video.play();
    while (mine === stream) await scoreFrame(video, mine);
  } catch (error) {
    if (mine === stream) trouble(`Camera: ${firstLine(error)}`);
  }
  if (mine === stream) stopWatching();
}

async function scoreFrame(video, mine) {
  const height = video.videoHeight, width = video.videoWidth, started = performance.now();
  const found = {...await model.score(video, height, width), height, width};
  if (mine !== stream) return;
  const state = isOutlier(found) ? "outlier" : "normal", took = Math.round(performance.now() - started);
  by("camera").className = `card ${state}`;
  const told = [badge(state), numbers(found), element("p", {className: "small", textContent: `${took} ms a frame`})];
  const before = by("camera").querySelector(".shot");
  if (before) { // a video that is moved in the page stops
    const fresh = frame(element("i"), found).querySelector("canvas");
    before.querySelector("canvas")?.remove();
    if (fresh) before.append(fresh);
    by("camera").replaceChildren(before, ...told);
  } else by("camera").replaceChildren(frame(video, found), ...told);
  await new Promise(requestAnimationFrame);
}

function stopWatching() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  by("camera").hidden = true;
  by("camera").replaceChildren();
  by("watch").textContent = "Use the camera";
  by("watch").setAttribute("aria-pressed", "false");
}

// ---- what the user does

by("pick-model").onclick = () => by("model").click();
by("pick").onclick = () => by("files").click();
by("watch").onclick = watch;
for (const id of ["model", "files"])
  by(id).onchange = event => {
    add([...event.target.files]);
    event.target.value = "";
  };
by("slider").oninput = event => move(Number(event.target.value) / 1000 * reach());
by("threshold").oninput = event => event.target.value !== "" && move(Number(event.target.value));
by("reset").onclick = () => move(model.facts.threshold);
by("heat").onchange = () => items.forEach(show);
by("save").onclick = saveCsv;
by("clear").onclick = () => {
  for (const item of items.splice(0)) URL.revokeObjectURL(item.url);
  by("cards").replaceChildren();
  refresh();
};
document.addEventListener("dragover", event => {
  event.preventDefault();
  by("drop").classList.add("over");
});
document.addEventListener("dragleave", event => event.relatedTarget ?? by("drop").classList.remove("over"));
document.addEventListener("drop", event => {
  event.preventDefault();
  by("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});

if (parameters.has("model")) {
  const name = parameters.get("model");
  use(name, async () => {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    return answer.arrayBuffer();
  });
}
