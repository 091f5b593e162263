"use strict";
// Canvas and not plotly: a press of the wheel redraws three slices with boxes and 1,600 cells in a few milliseconds.
const $ = (id) => document.getElementById(id);
const C = JSON.parse($("content").textContent);
const AXES = ["depth", "height", "width"], PLANES = ["axial", "coronal", "sagittal"];
// across, down, whether down is turned: the head is on top
const VIEWS = [[2, 1, false], [2, 0, true], [1, 0, true]];
const COLOURS = { A: "#e69f00", B: "#56b4e9", neither: "#cc79a7" };  // Okabe and Ito 2008
const FEASIBLE = "rgba(240, 228, 66, 0.38)", MARKED = [0, 158, 115];
const percent = (share) => share > 0 && share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;
const nearest = (values, value) => values.reduce((best, one, n) => Math.abs(one - value) < Math.abs(values[best] - value) ? n : best, 0);
const state = { at: C.shape.map((n) => Math.floor(n / 2)), window: "soft tissue", threshold: 0, ratio: {}, place: 0 };
const planes = [];
let volume, maps = {};

function make(tag, attributes = {}, ...inside) {
  const svg = ["svg", "rect", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

async function bytes(id) {
  const packed = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  $(id).remove();
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function asSet() {
  state.threshold = C.thresholds.indexOf(C.settings["crops.foreground_threshold"]);
  for (const kind of C.kinds) state.ratio[kind.name] = C.ratios.indexOf(kind.ratio);
}

// ---- sliders, shares, histograms
function sliders() {
  const own = C.kinds.map((kind) => kind.ratio), one = own.every((ratio) => ratio === own[0]);
  for (const kind of one ? C.kinds.slice(0, 1) : C.kinds) {
    const id = `ratio-${kind.name}`, path = `crops.min_foreground_ratio${one ? "" : `_${kind.name}`}: `;
    const label = make("label", { for: id }, path, make("output", { id: `${id}-said`, for: id }));
    const slider = make("input", { type: "range", id, min: 0, max: C.ratios.length - 1, step: 1 });
    slider.addEventListener("input", () => {
      for (const moved of one ? C.kinds : [kind]) state.ratio[moved.name] = +slider.value;
      draw();
    });
    $("ratio-sliders").append(make("div", {}, label, slider));
  }
  $("threshold").max = C.thresholds.length - 1;
  $("threshold").addEventListener("input", () => { state.threshold = +$("threshold").value; draw(); });
  $("as-set").addEventListener("click", () => { asSet(); draw(); });
}

function showSliders() {
  const hu = `${C.thresholds[state.threshold]} HU`;
  $("threshold").value = state.threshold;
  $("threshold").setAttribute("aria-valuetext", hu);
  $("threshold-said").textContent = hu;
  for (const kind of C.kinds) {
    const slider = $(`ratio-${kind.name}`);
    if (!slider) continue;
    const ratio = String(C.ratios[state.ratio[kind.name]]);
    slider.value = state.ratio[kind.name];
    slider.setAttribute("aria-valuetext", ratio);
    $(`ratio-${kind.name}-said`).textContent = ratio;
  }
  const what = C.settings["crops.foreground"] === "body" ? "the largest part above it, filled," : "what lies above it";
  const tissues = C.tissues[state.threshold].map(([name, share]) => `${name} ${percent(share)}`).join(", ");
  $("consists").textContent = `At ${hu} ${what} is ${percent(C.foreground[state.threshold])} of the scan`
    + (tissues ? `; of this, by its labels: ${tissues}.` : ".");
}

function histogram(kind) {
  const shares = kind.shares[state.threshold], ratio = C.ratios[state.ratio[kind.name]], holds = shares[state.ratio[kind.name]];
  const figure = make("figure", { id: `histogram-${kind.name}` });
  const edge = kind.edges.length > 1 ? `${kind.edges[0]} to ${kind.edges.at(-1)}` : kind.edge;
  const title = `${kind.name} crops of ${edge} voxels: ${percent(holds)} of the positions are feasible`;
  const caption = make("figcaption", { "data-share": holds }, title);
  const W = 440, H = 150, left = 48, top = 14, wide = W - left - 10, high = H - top - 34;
  const bars = [...Array(20).keys()].map((n) => {
    const from = shares[C.ratios.indexOf(n / 20)], to = n < 19 ? shares[C.ratios.indexOf((n + 1) / 20)] : 0;
    return Math.max(0, from - to);
  });
  const most = Math.max(...bars, 0.01), svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  bars.forEach((share, n) => {
    const height = share / most * high, x = left + n / 20 * wide;
    const bar = make("rect", { x: x + 1, y: top + high - height, width: wide / 20 - 2, height, class: n / 20 < ratio - 1e-9 ? "bar below" : "bar" });
    bar.append(make("title", {}, `ratio ${n / 20} to ${(n + 1) / 20}: ${percent(share)} of the positions`));
    svg.append(bar);
  });
  const mark = left + ratio * wide;
  svg.append(make("line", { x1: left, x2: left + wide, y1: top + high, y2: top + high, class: "axis" }),
    make("line", { x1: mark, x2: mark, y1: top - 4, y2: top + high, class: "mark" }));
  for (const tick of [0, 0.25, 0.5, 0.75, 1])
    svg.append(make("text", { x: left + tick * wide, y: top + high + 13, "text-anchor": "middle" }, String(tick)));
  svg.append(make("text", { x: left + wide / 2, y: H - 5, "text-anchor": "middle" }, "foreground ratio of the crop (dashed: least asked)"),
    make("text", { x: left - 4, y: top + 8, "text-anchor": "end" }, percent(most)),
    make("text", { x: left - 4, y: top + high, "text-anchor": "end" }, "0"));
  figure.append(caption, svg);
  return figure;
}

// ---- crops
const places = () => C.places[state.place];
function crops() {
  let before = 0;
  for (const one of C.places.slice(0, state.place)) before += one.crops.length;
  const own = C.places.length ? places().crops : [];
  const globals = own.filter((row) => row.kind === "global");
  return own.map((row, n) => {
    const corner = AXES.map((axis) => row[`corner_${axis}`]), global = row.kind === "global";
    const within = (outer) => AXES.every((axis) => row[`corner_${axis}`] >= outer[`corner_${axis}`]
      && row[`corner_${axis}`] + row.size <= outer[`corner_${axis}`] + outer.size);
    const order = row.parent === 1 ? [1, 0] : [0, 1], inside = order.find((which) => globals[which] && within(globals[which]));
    const of = global ? "AB"[n] : inside === undefined ? "neither" : "AB"[inside];
    return { row, corner, global, of, name: global ? of : String(n - globals.length + 1), share: C.cropShares.map((all) => all[before + n]) };
  });
}

function table() {
  const global = C.kinds[0].name, T = C.thresholds[state.threshold];
  const heads = ["crop", "low corner", "edge", "body", "own", `above ${T} HU`, `least ratio`, "overlap", "as drawn"];
  $("columns").replaceChildren(make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head))));
  $("rows").replaceChildren(...crops().map((crop) => {
    const ratio = C.ratios[state.ratio[crop.global ? global : "local"]], share = crop.share[state.threshold];
    const show = make("button", { type: "button", style: `border: ${crop.global ? "3px solid" : "2px dashed"} ${COLOURS[crop.of]}` },
      `${crop.global ? "global" : "local"} ${crop.name}`);
    show.addEventListener("click", () => { state.at = crop.corner.map((low) => Math.floor(low + crop.row.size / 2)); draw(); });
    const overlap = crop.global ? `IoU ${crop.row.iou.toFixed(3)}`
      : `${percent(crop.row.containment)} in a global${crop.of === "neither" ? "" : `, whole in ${crop.of}`}`;
    const cells = [crop.corner.join(", "), `${crop.row.size} voxels, ${[...new Set(crop.row.edges_mm)].length > 1 ? crop.row.edges_mm.join(" x ") : crop.row.edges_mm[0]} mm`, crop.row.ratio.toFixed(3), crop.row.ratio_own.toFixed(3),
      share.toFixed(3), share >= ratio ? `holds ${ratio}` : `below ${ratio}`, overlap, crop.row.violation ? "missed its ratio" : ""];
    return make("tr", {}, make("td", {}, show), ...cells.map((cell) => make("td", {}, cell)));
  }));
}

// ---- planes
function plane(axis) {
  const canvas = make("canvas", { tabindex: 0, role: "img", id: `plane-${axis}` }), caption = make("figcaption");
  const slider = make("input", { type: "range", min: 0, max: C.shape[axis] - 1, step: 1, id: `slice-${axis}`, "aria-label": `${AXES[axis]}: slice` });
  const [across, down, turned] = VIEWS[axis];
  slider.addEventListener("input", () => move(axis, +slider.value));
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(axis, state.at[axis] + Math.sign(event.deltaY)); }, { passive: false });
  const point = (event) => {
    const box = canvas.getBoundingClientRect(), x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    state.at[across] = clamp(across, Math.floor(x * C.shape[across]));
    move(down, Math.floor((turned ? 1 - y : y) * C.shape[down]));
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });
  canvas.addEventListener("keydown", (event) => {
    const up = turned ? 1 : -1, step = event.shiftKey ? 10 : 1;
    const keys = { ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, up], ArrowDown: [down, -up], PageUp: [axis, 1], PageDown: [axis, -1] };
    if (keys[event.key]) move(keys[event.key][0], state.at[keys[event.key][0]] + step * keys[event.key][1]);
    else if (C.windows["1234".indexOf(event.key)]) { state.window = C.windows["1234".indexOf(event.key)].name; draw(); }
    else return;
    event.preventDefault();
  });
  $("planes").append(make("figure", {}, caption, canvas, slider));
  planes.push({ axis, canvas, caption, slider, across, down, turned, small: document.createElement("canvas") });
}

const clamp = (axis, value) => Math.max(0, Math.min(C.shape[axis] - 1, value));
function move(axis, value) { state.at[axis] = clamp(axis, value); draw(); }

function pixels({ axis, across, down, turned, small }) {
  const { low, high } = C.windows.find((one) => one.name === state.window), wide = C.shown[across], tall = C.shown[down];
  const grey = C.hu.map((hu) => Math.max(0, Math.min(255, 255 * (hu - low) / (high - low))));
  const marks = $("overlay").value === "voxels" ? C.hu.map((hu) => hu > C.thresholds[state.threshold]) : [];
  const stride = [C.shown[1] * C.shown[2], C.shown[2], 1], start = Math.floor(state.at[axis] / C.by[axis]) * stride[axis];
  small.width = wide; small.height = tall;
  const context = small.getContext("2d"), image = context.createImageData(wide, tall), to = image.data;
  for (let y = 0, n = 0; y < tall; y++) {
    const row = start + (turned ? tall - 1 - y : y) * stride[down];
    for (let x = 0; x < wide; x++, n += 4) {
      const code = volume[row + x * stride[across]], g = grey[code], part = marks[code] ? 0.45 : 0;
      for (let c = 0; c < 3; c++) to[n + c] = g * (1 - part) + MARKED[c] * part;
      to[n + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

function cells(kind, { axis, across, down }, fill) {
  // The map at the corner whose crop is centred nearest to this slice; a cell reaches half-way to the next centre.
  const half = kind.edge / 2, at = state.at[axis] + 0.5;
  const frame = [half, C.shape[across] - half, half, C.shape[down] - half];
  if (at < half - 0.5 || at > C.shape[axis] - half + 0.5) return null;
  const sizes = kind.corners.map((along) => along.length), stride = [sizes[1] * sizes[2], sizes[2], 1];
  const start = state.threshold * sizes[0] * stride[0] + nearest(kind.corners[axis], at - half) * stride[axis];
  const edges = (along) => [along[0], ...along.slice(1).map((v, n) => (v + along[n]) / 2), along.at(-1)].map((v) => v + half);
  const xs = edges(kind.corners[across]), ys = edges(kind.corners[down]);
  for (let y = 0; y < sizes[down]; y++) for (let x = 0; x < sizes[across]; x++)
    if (maps[kind.name][start + y * stride[down] + x * stride[across]] >= state.ratio[kind.name]) fill(xs[x], xs[x + 1], ys[y], ys[y + 1]);
  return frame;
}

function paint(one, boxes) {
  const { axis, canvas, across, down, turned } = one, wide = canvas.clientWidth, dots = window.devicePixelRatio || 1;
  const tall = Math.round(wide * C.shape[down] * C.spacing[down] / (C.shape[across] * C.spacing[across]));
  canvas.width = wide * dots; canvas.height = tall * dots;
  const pen = canvas.getContext("2d");
  pen.scale(dots, dots);
  pixels(one);
  // A display voxel at the far end may reach beyond the scan: it is cut off there.
  const reach = [C.shown[across] * C.by[across] / C.shape[across] * wide, C.shown[down] * C.by[down] / C.shape[down] * tall];
  pen.drawImage(one.small, 0, turned ? tall - reach[1] : 0, reach[0], reach[1]);
  const X = (v) => v / C.shape[across] * wide, Y = (v) => (turned ? 1 - v / C.shape[down] : v / C.shape[down]) * tall;
  const box = (x0, x1, y0, y1) => [X(x0), Math.min(Y(y0), Y(y1)), X(x1) - X(x0), Math.abs(Y(y1) - Y(y0))];
  const kind = C.kinds.find((some) => some.name === $("overlay").value);
  if (kind) {
    pen.fillStyle = FEASIBLE;
    const frame = cells(kind, one, (...edges) => pen.fillRect(...box(...edges)));
    pen.setLineDash([2, 4]); pen.strokeStyle = "#fff";
    if (frame) pen.strokeRect(...box(...frame));
  }
  pen.font = "bold 12px system-ui, sans-serif";
  for (const crop of boxes) {
    const low = crop.corner, size = crop.row.size, cut = state.at[axis] >= low[axis] && state.at[axis] < low[axis] + size;
    if (!cut && !$("beside").checked) continue;
    pen.globalAlpha = cut ? 1 : 0.4;
    pen.setLineDash(crop.global ? [] : [5, 3]);
    pen.lineWidth = crop.global ? (cut ? 3 : 1.5) : (cut ? 2 : 1);
    pen.strokeStyle = pen.fillStyle = COLOURS[crop.of];
    const at = box(low[across], low[across] + size, low[down], low[down] + size);
    pen.strokeRect(...at);
    // Locals are named below and one beside the other, as several may share a corner on the patch grid.
    if (cut) pen.fillText(crop.name, at[0] + 4 + (crop.global ? 14 * "AB".indexOf(crop.name) : 11 * (crop.name - 1) % at[2]), at[1] + (crop.global ? 13 : at[3] - 4));
  }
  pen.globalAlpha = 0.8; pen.lineWidth = 1; pen.setLineDash([]); pen.strokeStyle = "#fff";
  const x = X(state.at[across] + 0.5), y = Y(state.at[down] + 0.5);
  pen.beginPath();
  for (const [a, b, c, d] of [[0, y, x - 8, y], [x + 8, y, wide, y], [x, 0, x, y - 8], [x, y + 8, x, tall]]) { pen.moveTo(a, b); pen.lineTo(c, d); }
  pen.stroke();
  pen.globalAlpha = 1;
  const where = `${PLANES[axis]}: ${AXES[axis]} ${state.at[axis]} of ${C.shape[axis]}`;
  one.caption.textContent = where;
  one.slider.value = state.at[axis];
  const cut = boxes.filter((crop) => state.at[axis] >= crop.corner[axis] && state.at[axis] < crop.corner[axis] + crop.row.size);
  canvas.setAttribute("aria-label", `${where}, cross-hair at ${AXES[across]} ${state.at[across]}, ${AXES[down]} ${state.at[down]}; `
    + `crops cut by this slice: ${cut.map((crop) => `${crop.row.kind} ${crop.name}`).join(", ") || "none"}`);
}

function here() {
  const code = volume[state.at.reduce((n, v, axis) => n * C.shown[axis] + Math.floor(v / C.by[axis]), 0)];
  const said = C.kinds.map((kind) => {
    const sizes = kind.corners.map((along) => along.length), at = kind.corners.map((along, axis) => nearest(along, state.at[axis] + 0.5 - kind.edge / 2));
    const least = maps[kind.name][((state.threshold * sizes[0] + at[0]) * sizes[1] + at[1]) * sizes[2] + at[2]];
    const corner = at.map((n, axis) => kind.corners[axis][n]).join(", ");
    return `${kind.name} crop at ${corner}: ratio at least ${C.ratios[least]}, ${least >= state.ratio[kind.name] ? "feasible" : "not feasible"}`;
  });
  $("here").textContent = `At the cross-hair (${state.at.join(", ")}): about ${C.hu[code]} HU. Nearest on the map: ${said.join("; ")}.`;
}

let asked = 0;
function draw() { if (!asked) asked = requestAnimationFrame(() => { asked = 0; drawNow(); }); }
function drawNow() {
  showSliders();
  $("histograms").replaceChildren(...C.kinds.map(histogram));
  for (const button of $("windows").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.name === state.window));
  const boxes = crops();
  for (const one of planes) paint(one, boxes);
  table();
  here();
}

function once() {
  $("name").textContent = `Crops of ${C.scan}`;
  const steps = C.kinds.map((kind) => `${kind.name} every ${kind.corners.map((along) => along.length > 1
    ? +((along.at(-1) - along[0]) / (along.length - 1)).toFixed(1) : 1).join(" x ")} voxels`).join(", ");
  const settings = Object.entries(C.settings).filter(([, value]) => value !== null).map(([path, value]) => `${path}=${value}`).join("  ");
  const coarser = C.by.some((n) => n > 1) ? `shown coarser, means over ${C.by.join(" x ")} voxels` : "shown voxel by voxel";
  $("facts").textContent = `${C.shape.join(" x ")} voxels of ${C.spacing.join(" x ")} mm (depth, height, width), ${coarser}, HU to the nearest `
    + `4 in soft tissue. Shares count every position of the scan; the map of feasible centres has ${steps}`
    + `${C.kinds.some((kind) => kind.edges.length > 1) ? `, for edges of ${C.kinds.map((kind) => kind.edge).join(" and ")} voxels` : ""}. `
    + `Thresholds and ratios go in the sliders' steps. Settings: ${settings}`;
  $("notes").replaceChildren(...C.notes.map((note) => make("li", {}, note)));
  C.windows.forEach(({ name, low, high }, n) => {
    const button = make("button", { type: "button", "data-name": name, title: `${low} to ${high} HU, key ${n + 1}` }, `${name} (${low} to ${high})`);
    button.addEventListener("click", () => { state.window = name; draw(); });
    $("windows").append(button);
  });
  for (const kind of C.kinds) $("overlay").append(make("option", { value: kind.name }, `feasible centres of ${kind.name} crops`));
  $("overlay").append(make("option", { value: "voxels" }, "voxels above the threshold"), make("option", { value: "" }, "none"));
  C.places.forEach((one, n) => $("place").append(make("option", { value: n }, `step ${one.step}, place ${one.place} in the batch`)));
  for (const id of ["overlay", "beside"]) $(id).addEventListener("change", draw);
  $("place").addEventListener("change", () => { state.place = +$("place").value; draw(); });
  const legend = [["3px solid", COLOURS.A, "global A"], ["3px solid", COLOURS.B, "global B"], ["2px dashed", "currentColor", "local, in the colour of the global it lies in"],
    ["2px dashed", COLOURS.neither, "local in neither"]];
  for (const [line, colour, words] of legend)
    $("legend").append(make("span", { class: "swatch", style: `border: ${line} ${colour}` }), words);
  $("legend").append(make("span", { class: "swatch", style: "background: #e3d82e" }), "feasible centres; dotted: where a centre can lie at all");
  for (const axis of [0, 1, 2]) plane(axis);
}

(async () => {
  once(); sliders(); asSet();
  volume = await bytes("volume");
  for (const kind of C.kinds) maps[kind.name] = await bytes(`map-${kind.name}`);
  const first = crops()[0];
  if (first) state.at = first.corner.map((low) => Math.floor(low + first.row.size / 2));
  drawNow();
  new ResizeObserver(draw).observe($("planes"));
  document.documentElement.dataset.ready = "yes";
})();
