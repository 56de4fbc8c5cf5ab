// Draws the charts of the page about the past: plain ones at once, and plotly's where the server has it, as soon as the
// browser has it too. On paper they are always plain, since those fit any width. Text is set as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const element = (make) => (tag, attributes = {}, ...children) => {
  const made = make(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const make = element((tag) => document.createElement(tag));
const draw = element((tag) => document.createElementNS(SVG, tag));
const number = (value, digits = 2) => value === null || value === undefined ? "?" : Number(value).toLocaleString("en", { maximumFractionDigits: digits });
const clock = (ms, long) => {
  const date = new Date(ms), time = date.toLocaleTimeString([], { hour12: false });
  return long || date.toDateString() !== new Date().toDateString() ? `${date.toLocaleDateString()} ${time}` : time;
};

const ROOM = { left: 4, right: 74, top: 8, bottom: 20 };
const NEAR_PX = 6;

// Parts of a line between gaps: longer than `longest` without a point.
function stretches(points, longest) {
  const found = [];
  let before = null;
  for (const point of points) {
    if (point[1] === null || point[1] === undefined) { before = null; continue; }
    if (before === null || point[0] - before > longest) found.push([]);
    found[found.length - 1].push(point);
    before = point[0];
  }
  return found;
}

// What both ways of drawing have in common. chart: title, unit, tall, step (ms between two points), low (where its scale
// begins), band and lines; from, to and events of what is shown; chosen(from, to) and back() are told of a zoom.
function measured(chart) {
  const { lines, band, tall, step, low: floor } = chart;
  const values = [...lines.flatMap((line) => line.points.map((point) => point[1])), ...(band ?? []).flatMap((one) => [one[1], one[2]])].filter((one) => one !== null && one !== undefined);
  if (!values.length) return null;
  const least = values.reduce((one, other) => Math.min(one, other)), most = values.reduce((one, other) => Math.max(one, other));
  let low = floor ?? least, high = most;
  if (high === low) { high += Math.abs(high) * 1e-3 || 1; low -= floor === undefined ? Math.abs(low) * 1e-3 || 1 : 0; }
  const width = Math.max(byId("charts").clientWidth, 280), height = tall ? 240 : 120;
  const begin = chart.from, end = Math.max(chart.to, begin + 1), digits = high - low < 1 ? 4 : 2;
  const inner = width - ROOM.left - ROOM.right;
  return {
    low, high, width, height, begin, end, digits, longest: 2.5 * step,
    says: `${chart.title}: between ${number(least, digits)} and ${number(most, digits)} ${chart.unit}`.trim(),
    x: (ms) => ROOM.left + (ms - begin) / (end - begin) * inner,
    // The time below the pointer, in a box of any width.
    at: (event, box) => begin + Math.min(1, Math.max(0, ((event.clientX - box.left) / box.width * width - ROOM.left) / inner)) * (end - begin),
  };
}

// The values of one time, and what happened then, in words.
function readout(chart, size, ms) {
  const near = chart.lines.map((line) => {
    const found = line.points.findLast((point) => point[0] <= ms);
    return found && found[1] !== null && ms - found[0] <= size.longest ? `${chart.lines.length > 1 ? `${line.name} ` : ""}${number(found[1], size.digits)}` : "–";
  });
  const events = chart.events.filter((event) => Math.abs(size.x(event.at_ms) - size.x(ms)) < NEAR_PX).map((event) => `${event.kind}: ${event.text}`);
  return [`${clock(ms)}: ${near.join(", ")} ${chart.unit}`.trim(), ...events].join("; ");
}

function caption(chart, says) {
  const names = chart.lines.length > 1 ? chart.lines.map((line, at) => make("span", {}, make("i", { class: `key-line c${at}` }), line.name)) : [];
  return make("figcaption", {}, make("b", {}, chart.title), ...names, says);
}

function plot(chart) {
  const says = make("span", { class: "says" });
  const size = measured(chart);
  if (size === null) {
    says.textContent = "nothing known of this span";
    return { figure: make("figure", { class: `plot${chart.tall ? " tall" : ""}` }, caption(chart, says)), cursor() {}, paint() {} };
  }
  return library && !paper.matches ? withLibrary(chart, size, says) : plainly(chart, size, says);
}

// --- plain --------------------------------------------------------------------------------------------------

function plainly(chart, size, says) {
  const { title, lines, band, step } = chart, { low, high, width, height, begin, end, digits, longest, x } = size;
  const figure = make("figure", { class: `plot${chart.tall ? " tall" : ""}` }, caption(chart, says));
  const y = (value) => ROOM.top + (high - value) / (high - low) * (height - ROOM.top - ROOM.bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": size.says });
  for (const level of [low, (low + high) / 2, high]) {
    svg.append(draw("line", { class: "grid", x1: ROOM.left, x2: width - ROOM.right, y1: y(level), y2: y(level) }),
      draw("text", { x: width - ROOM.right + 6, y: y(level) + 4 }, number(level, digits)));
  }
  // The day stands at the page's head; of longer spans here too, where there is room.
  const narrow = width < 600, long = end - begin > 86_400_000;
  const label = (ms) => long ? narrow ? new Date(ms).toLocaleDateString() : clock(ms, true) : new Date(ms).toLocaleTimeString([], { hour12: false });
  for (const [share, anchor] of narrow ? [[0, "start"], [1, "end"]] : [[0, "start"], [0.5, "middle"], [1, "end"]])
    svg.append(draw("text", { class: "axis", x: ROOM.left + share * (width - ROOM.left - ROOM.right), y: height - 4, "text-anchor": anchor }, label(begin + share * (end - begin))));
  if (band) for (const piece of stretches(band, longest)) {
    const upper = piece.map((one) => `${x(one[0]).toFixed(1)} ${y(one[2]).toFixed(1)}`), lower = piece.map((one) => `${x(one[0]).toFixed(1)} ${y(one[1]).toFixed(1)}`).reverse();
    svg.append(draw("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
  }
  lines.forEach((line, at) => {
    for (const piece of stretches(line.points, longest)) {
      const points = piece.length > 1 ? piece : [piece[0], [piece[0][0] + step / 2, piece[0][1]]];
      const d = points.map((one, index) => line.stepped && index ? `H${x(one[0]).toFixed(1)}V${y(one[1]).toFixed(1)}` : `${index ? "L" : "M"}${x(one[0]).toFixed(1)} ${y(one[1]).toFixed(1)}`).join("");
      svg.append(draw("path", { class: `line c${at}`, d }));
    }
  });
  for (const event of chart.events)
    svg.append(draw("line", { class: `event event-${event.kind}`, x1: x(event.at_ms), x2: x(event.at_ms), y1: ROOM.top, y2: height - ROOM.bottom }, draw("title", {}, `${clock(event.at_ms)} ${event.kind}: ${event.text}`)));
  const cursor = draw("line", { class: "cursor", x1: -9, x2: -9, y1: ROOM.top, y2: height - ROOM.bottom });
  const chosen = draw("rect", { class: "chosen", y: ROOM.top, height: height - ROOM.top - ROOM.bottom, x: -9, width: 0 });
  svg.append(cursor, chosen);
  figure.append(svg);
  const at = (event) => size.at(event, svg.getBoundingClientRect());
  let from = null;
  svg.addEventListener("pointerdown", (event) => { if (event.button === 0) { from = at(event); svg.setPointerCapture(event.pointerId); } });
  svg.addEventListener("pointermove", (event) => {
    const now = at(event);
    chart.pointed(now);
    if (from !== null) {
      chosen.setAttribute("x", x(Math.min(from, now)));
      chosen.setAttribute("width", Math.abs(x(now) - x(from)));
    }
  });
  svg.addEventListener("pointerup", (event) => {
    const now = at(event), start = from;
    from = null;
    chosen.setAttribute("width", 0);
    if (start !== null && Math.abs(x(now) - x(start)) > NEAR_PX) chart.chosen(Math.min(start, now), Math.max(start, now));
  });
  svg.addEventListener("pointerleave", () => { if (from === null) chart.pointed(null); });
  svg.addEventListener("dblclick", () => chart.back());
  return {
    figure,
    cursor(ms) {
      cursor.setAttribute("x1", ms === null ? -9 : x(ms));
      cursor.setAttribute("x2", ms === null ? -9 : x(ms));
      says.textContent = ms === null ? "" : readout(chart, size, ms);
    },
    paint() {},
  };
}

// --- by plotly ----------------------------------------------------------------------------------------------

let library = null;
const paper = matchMedia("print");
const dark = matchMedia("(prefers-color-scheme: dark)");

// Key -> the figure that is on the page: to change one is cheaper than to make one.
const kept = new Map();

// plotly shows a number of milliseconds by the browser's clock, and tells a span as text of that clock.
const instant = (text) => new Date(String(text).replace(" ", "T")).getTime();

function traces(chart, size, colour) {
  const { lines, band, step } = chart, found = [];
  const joined = (pieces) => pieces.flatMap((piece, at) => at ? [[piece[0][0], null], ...piece] : piece);
  if (band) {
    const outline = joined(stretches(band, size.longest).map((piece) => [...piece.map((one) => [one[0], one[2]]), ...[...piece].reverse().map((one) => [one[0], one[1]])]));
    found.push({ x: outline.map((one) => one[0]), y: outline.map((one) => one[1]), fill: "toself", mode: "lines", line: { width: 0 }, fillcolor: colour("trace"), opacity: 0.25 });
  }
  lines.forEach((line, at) => {
    // A point alone is a short line.
    const points = joined(stretches(line.points, size.longest).map((piece) => piece.length > 1 ? piece : [piece[0], [piece[0][0] + Math.min(step, size.end - size.begin) / 2, piece[0][1]]]));
    found.push({ x: points.map((one) => one[0]), y: points.map((one) => one[1]), mode: "lines", line: { width: 1.6, shape: line.stepped ? "hv" : "linear", color: colour(["trace", "busy", "good"][at]) } });
  });
  return found.map((trace) => ({ type: "scatter", hoverinfo: "skip", connectgaps: false, ...trace }));
}

function layout(chart, size, colour) {
  const marks = { start: "good", stop: "soft", crash: "bad", source: "busy" };
  const pad = (size.high - size.low) * 0.06, axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), tickfont: { size: 12, color: colour("soft") } };
  return {
    width: size.width, height: size.height, margin: { l: ROOM.left, r: ROOM.right, t: ROOM.top, b: ROOM.bottom }, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily, color: colour("soft") }, dragmode: "zoom", hovermode: false,
    xaxis: { ...axis, type: "date", range: [size.begin, size.end], nticks: Math.max(3, Math.round(size.width / 160)), tickangle: 0 },
    yaxis: { ...axis, side: "right", range: [size.low - (chart.low === undefined ? pad : 0), size.high + pad], fixedrange: true, nticks: chart.tall ? 6 : 4, exponentformat: "none", separatethousands: true },
    shapes: chart.events.map((event) => ({ type: "line", yref: "paper", x0: event.at_ms, x1: event.at_ms, y0: 0, y1: 1, line: { width: 1.25, color: colour(marks[event.kind] ?? "soft"), dash: event.kind === "source" ? "dash" : "solid" } })),
  };
}

function withLibrary(chart, size, says) {
  let one = kept.get(chart.key ?? chart.title);
  if (!one) {
    one = { canvas: make("div", { class: "canvas", role: "img" }), line: make("div", { class: "pointed", hidden: "" }), figure: make("figure", {}), drawn: false };
    one.box = make("div", { class: "drawing" }, one.canvas, one.line);
    one.box.addEventListener("pointermove", (event) => one.chart.pointed(one.size.at(event, one.box.getBoundingClientRect())));
    one.box.addEventListener("pointerleave", () => one.chart.pointed(null));
    kept.set(chart.key ?? chart.title, one);
  }
  one.chart = chart;
  one.size = size;
  one.figure.className = `plot${chart.tall ? " tall" : ""}`;
  one.figure.replaceChildren(caption(chart, says), one.box);
  one.canvas.setAttribute("aria-label", size.says);
  return {
    figure: one.figure,
    cursor(ms) {
      one.line.hidden = ms === null;
      if (ms !== null) one.line.style.left = `${size.x(ms)}px`;
      says.textContent = ms === null ? "" : readout(chart, size, ms);
    },
    // plotly measures its labels, so the figure has to stand on the page.
    paint() {
      const colours = getComputedStyle(document.documentElement), colour = (name) => colours.getPropertyValue(`--${name}`).trim();
      library.react(one.canvas, traces(chart, size, colour), layout(chart, size, colour), { displayModeBar: false, doubleClick: false, showTips: false });
      if (one.drawn) return;
      one.drawn = true;
      one.canvas.on("plotly_relayout", (change) => {
        if ("xaxis.range[0]" in change) one.chart.chosen(instant(change["xaxis.range[0]"]), instant(change["xaxis.range[1]"]));
      });
      one.canvas.on("plotly_doubleclick", () => one.chart.back());
    },
  };
}

// Puts figures into a box, and leaves it alone where they are there already: a figure that is moved loses the pointer.
function place(box, figures) {
  if (box.children.length !== figures.length || figures.some((figure, at) => box.children[at] !== figure)) box.replaceChildren(...figures);
}

// Asks for plotly once what is there to see is seen; redraw is called when it is there, and whenever colours or paper change.
function fetchLibrary(redraw) {
  for (const query of [paper, dark]) query.addEventListener("change", redraw);
  const address = document.querySelector("meta[name=charts]").content;
  if (!address) return;
  const script = make("script", { src: address });
  script.onload = () => { library = globalThis.Plotly ?? null; redraw(); };
  document.head.append(script);
}
