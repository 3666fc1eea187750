"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dashes = ["none", "10 5", "2 4", "10 4 2 4"]; // the next one where there are more sets than colours
  const sets = data.sets.map((each, number) => ({
    name: each.name,
    scores: decoded(each.scores),
    pen: {
      fill: "none",
      stroke: data.colours[number % data.colours.length],
      "stroke-dasharray": dashes[Math.floor(number / data.colours.length) % dashes.length],
    },
  }));
  const slider = document.getElementById("slider");
  const value = document.getElementById("value");
  const problem = document.getElementById("problem");
  const said = document.getElementById("said");
  const body = document.querySelector("#counts tbody");
  const cards = [...document.querySelectorAll("[data-score]")];
  const steps = Number(slider.max);
  const scale = data.axis.log ? Math.log : (number) => number;
  const unscale = data.axis.log ? Math.exp : (number) => number;
  const [low, high] = [scale(data.axis.low), scale(data.axis.high)];
  const width = 1000, height = 220, bins = 80;
  let line;

  // Float64, little endian, whatever the machine's own order.
  function decoded(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 8 }, (_, row) => view.getFloat64(8 * row, true));
  }

  // Number of ascending scores above the threshold; equal ones are not.
  function above(scores, threshold) {
    let [first, last] = [0, scores.length];
    while (first < last) {
      const middle = (first + last) >> 1;
      if (scores[middle] > threshold) last = middle;
      else first = middle + 1;
    }
    return scores.length - first;
  }

  const place = (score) => (scale(score) - low) / (high - low);
  const percent = (share) => (100 * share).toFixed(2);
  const short = (number) => String(Number(number.toPrecision(6)));

  function element(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, text] of Object.entries(attributes)) made.setAttribute(key, text);
    made.append(...children);
    return made;
  }

  function drawChart() {
    const svg = element("svg", { viewBox: `0 0 ${width} ${height + 40}` });
    const shares = sets.map(({ scores }) => {
      const counts = new Array(bins).fill(0);
      for (const score of scores) {
        const bin = Math.floor(place(score) * bins);
        counts[Math.min(bins - 1, Math.max(0, Number.isNaN(bin) ? 0 : bin))] += 1 / scores.length;
      }
      return counts;
    });
    const top = Math.max(...shares.flat());
    shares.forEach((counts, number) => {
      let path = `M0 ${height}`;
      counts.forEach((share, bin) => {
        const y = (height - (share / top) * (height - 8)).toFixed(1);
        path += `L${(bin * width) / bins} ${y}L${((bin + 1) * width) / bins} ${y}`;
      });
      path += `L${width} ${height}`;
      const { pen } = sets[number];
      svg.append(element("path", { d: `${path}Z`, fill: pen.stroke, "fill-opacity": 0.22 }));
      svg.append(element("path", { d: path, ...pen, "stroke-width": 2 }));
    });
    for (let tick = 0; tick <= 4; tick++) {
      const x = (tick * width) / 4;
      const anchor = tick === 0 ? "start" : tick === 4 ? "end" : "middle";
      const text = Number(unscale(low + ((high - low) * tick) / 4).toPrecision(3));
      svg.append(element("text", { x, y: height + 30, "text-anchor": anchor, fill: "currentColor", class: "tick" }, String(text)));
    }
    svg.append(element("line", { x1: 0, x2: width, y1: height, y2: height, stroke: "currentColor", "stroke-opacity": 0.5 }));
    line = element("line", { y1: 0, y2: height, stroke: "currentColor", "stroke-width": 2.5, "stroke-dasharray": "8 4" });
    svg.append(line);
    const chart = document.getElementById("chart");
    chart.append(svg);
    document.getElementById("legend").append(...sets.map(labelled));
    const drag = (event) => {
      const box = svg.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      slider.value = Math.round(share * steps);
      slider.dispatchEvent(new Event("input"));
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      drag(event);
    });
    svg.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) drag(event);
    });
  }

  function labelled({ name, pen }) {
    const label = document.createElement("span");
    const swatch = element("svg", { class: "swatch", viewBox: "0 0 40 12", "aria-hidden": "true" });
    swatch.append(element("line", { x1: 0, x2: 40, y1: 6, y2: 6, ...pen, "stroke-width": 6 }));
    label.append(swatch, name);
    return label;
  }

  function drawTable() {
    sets.forEach((each) => {
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.append(labelled(each));
      row.append(head);
      row.insertCell().textContent = each.scores.length.toLocaleString("en");
      for (let column = 0; column < 5; column++) row.insertCell();
    });
  }

  function show(threshold) {
    const false_ = above(sets[0].scores, threshold);
    const fpr = false_ / sets[0].scores.length;
    const told = [];
    sets.forEach(({ name, scores }, number) => {
      const flagged = above(scores, threshold);
      const rate = flagged / scores.length;
      const cells = body.rows[number].cells;
      cells[2].textContent = flagged.toLocaleString("en");
      cells[3].textContent = percent(rate);
      told.push(`${name} ${percent(rate)} %`);
      if (number === 0) return;
      const precision = flagged ? flagged / (flagged + false_) : 0;
      cells[4].textContent = percent(precision);
      cells[5].textContent = percent(flagged ? (2 * flagged) / (scores.length + flagged + false_) : 0);
      cells[6].textContent = percent((rate + 1 - fpr) / 2);
    });
    for (const card of cards) {
      const outlier = Number(card.dataset.score) > threshold;
      card.classList.toggle("is-outlier", outlier);
      card.querySelector(".verdict").textContent = outlier ? "outlier" : "normal";
    }
    const x = Math.min(1, Math.max(0, place(threshold) || 0)) * width;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    slider.setAttribute("aria-valuetext", `${short(threshold)}: flagged ${told.join(", ")}`);
    problem.textContent = "";
  }

  function set(threshold) {
    value.value = threshold;
    const at = place(threshold);
    slider.value = Math.round(Math.min(1, Math.max(0, Number.isNaN(at) ? 0 : at)) * steps);
    show(threshold);
  }

  slider.addEventListener("input", () => {
    const threshold = unscale(low + ((high - low) * Number(slider.value)) / steps);
    value.value = threshold;
    show(threshold);
  });
  slider.addEventListener("change", () => {
    said.textContent = slider.getAttribute("aria-valuetext");
  });
  value.addEventListener("input", () => {
    const threshold = value.valueAsNumber;
    if (Number.isFinite(threshold)) {
      slider.value = Math.round(Math.min(1, Math.max(0, place(threshold) || 0)) * steps);
      show(threshold);
    } else {
      problem.textContent = "The threshold must be a number, such as " + short(data.threshold);
    }
  });
  document.getElementById("reset").addEventListener("click", () => set(data.threshold));

  // ---- a card, enlarged

  const enlarged = document.getElementById("enlarged");
  const most = 20; // regions in the list

  function figure(title, picture) {
    const made = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = title;
    made.append(caption, picture);
    return made;
  }

  // The image with the outline of its regions, and their boxes in dashes.
  function drawRegions(card, found) {
    const [wide, high] = card.dataset.size.split(" ").map(Number);
    const image = card.querySelector("img");
    const label = `${found.regions.length} regions of ${image.alt}`;
    const svg = element("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": label });
    svg.append(element("image", { href: image.src, width: wide, height: high, preserveAspectRatio: "none" }));
    const pen = { fill: "none", stroke: "#00ffff", "vector-effect": "non-scaling-stroke" };
    svg.append(element("path", { d: found.outline, ...pen, "stroke-width": 2 }));
    for (const { box } of found.regions) {
      const [x, y, right, bottom] = box;
      svg.append(element("rect", { x, y, width: right - x, height: bottom - y, ...pen, "stroke-dasharray": "4 3" }));
    }
    return svg;
  }

  function listRegions(found) {
    const table = document.createElement("table");
    table.createCaption().textContent = found.regions.length > most
      ? `The ${most} regions of the largest peak, of ${found.regions.length}; area and place in the image's own pixels`
      : "Regions; area and place of the peak in the image's own pixels";
    const head = table.createTHead().insertRow();
    for (const word of ["region", "area", "peak", "at x, y"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = word;
      head.append(cell);
    }
    const rows = table.createTBody();
    found.regions.slice(0, most).forEach(({ area, peak, at }, number) => {
      const row = rows.insertRow();
      const cells = [String(number + 1), area.toLocaleString("en"), short(peak), at.join(", ")];
      for (const text of cells) row.insertCell().textContent = text;
    });
    return table;
  }

  function enlarge(card) {
    const views = document.getElementById("enlarged-views");
    const list = document.getElementById("enlarged-regions");
    const found = card.dataset.found && JSON.parse(card.dataset.found);
    const score = Number(card.closest("[data-score]").dataset.score);
    document.getElementById("enlarged-title").textContent = card.querySelector("img").alt;
    document.getElementById("enlarged-facts").textContent =
      `score ${short(score)}, p-value ${short(Number(card.dataset.p))}` +
      (found ? `, ${found.regions.length} ${found.regions.length === 1 ? "region" : "regions"}` : "");
    const figures = [...card.querySelectorAll("img")].map((image) => figure(image.dataset.title, image.cloneNode()));
    if (found) {
      const place = figures.findIndex((each) => each.querySelector("img").dataset.title === "map");
      figures.splice(place + 1, 0, figure("regions", drawRegions(card, found)));
    }
    views.classList.toggle("pixelated", card.classList.contains("pixelated"));
    views.replaceChildren(...figures);
    list.replaceChildren(...(found && found.regions.length ? [listRegions(found)] : []));
    enlarged.showModal();
  }

  for (const card of document.querySelectorAll(".views")) card.addEventListener("click", () => enlarge(card));
  enlarged.addEventListener("click", (event) => {
    if (event.target === enlarged) enlarged.close(); // beside it
  });

  drawChart();
  drawTable();
  set(data.threshold);
})();
