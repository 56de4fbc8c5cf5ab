// Asks for spans of the past and draws them. Text is set as text, never as HTML. What is looked at stands in the address.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const FILTERS = { trades: ["mode", "symbol", "side"], orders: ["mode", "symbol", "side", "status"], signals: ["symbol", "side", "veto"], decisions: [], journal: [] };
const LIMITS = { cpu: 20, memory: 10, io: 15 };
const FOLLOW_MS = 2000;

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
const length = (ms) => ms < 120_000 ? `${(ms / 1000).toFixed(0)} s` : ms < 7_200_000 ? `${(ms / 60_000).toFixed(0)} min` : ms < 172_800_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${(ms / 86_400_000).toFixed(1)} days`;

// --- what is looked at --------------------------------------------------------------------------------------

let view = Object.fromEntries(new URLSearchParams(location.search));
let span = null;
let page = null;
let sorted = null;

function go(changes, record = true) {
  view = Object.fromEntries(Object.entries({ ...view, ...changes }).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  history[record ? "pushState" : "replaceState"](null, "", `${location.pathname}?${new URLSearchParams(view)}`);
  return show();
}

addEventListener("popstate", () => { view = Object.fromEntries(new URLSearchParams(location.search)); show(); });

const pick = (names) => new URLSearchParams(names.filter((name) => view[name]).map((name) => [name, view[name]]));

// The newest question alone is answered: of two clicks the later counts, whichever answer comes first.
const asked = new Map();
async function ask(name, address) {
  asked.get(name)?.abort();
  const control = new AbortController();
  asked.set(name, control);
  for (let trial = 0; ; trial += 1) {
    const answer = await fetch(address, { signal: control.signal });
    if (answer.status === 503 && answer.headers.get("Retry-After") && trial < 20) {
      await new Promise((after) => setTimeout(after, Math.min(2000, 200 * (trial + 1))));
      continue;
    }
    if (answer.status === 400) throw new Error((await answer.text()).trim());
    const value = await answer.json();
    if (value.trouble) throw new Error(value.trouble);
    return value;
  }
}

async function part(name, address, build, box) {
  try {
    build(await ask(name, address));
  } catch (error) {
    if (error.name === "AbortError") return;
    byId(box).replaceChildren(make("p", { class: "trouble" }, error.message));
    if (name === "span") byId("span-says").textContent = error.message;
  }
}

function show() {
  const query = pick(["range", "from", "to", "symbol"]);
  for (const button of byId("ranges").children) button.setAttribute("aria-pressed", String(!view.from && (view.range ?? "1h") === button.dataset.range));
  byId("follow").checked = !view.from;
  return Promise.all([part("span", `/span?${query}`, drawSpan, "charts"), part("equity", "/equity", drawEquity, "equity"), showTable()]);
}

// --- charts -------------------------------------------------------------------------------------------------

const ROOM = { left: 4, right: 74, top: 8, bottom: 18 };

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

function plot(chart) {
  const { title, unit, lines, tall, band, limits = [], step, low: floor } = chart;
  const figure = make("figure", { class: `plot${tall ? " tall" : ""}` });
  const says = make("span", { class: "says" });
  figure.append(make("figcaption", {}, make("b", {}, title), ...(lines.length > 1 ? lines.map((line, at) => make("span", {}, make("i", { class: `key-line c${at}` }), line.name)) : []), says));
  const values = [...lines.flatMap((line) => line.points.map((point) => point[1])), ...(band ?? []).flatMap((one) => [one[1], one[2]])].filter((one) => one !== null && one !== undefined);
  if (!values.length) {
    says.textContent = "nothing known of this span";
    return { figure, cursor() {} };
  }
  const width = Math.max(byId("charts").clientWidth, 280), height = tall ? 240 : 120;
  let low = floor ?? Math.min(...values), high = Math.max(...values, ...limits);
  if (high === low) { high += Math.abs(high) * 1e-3 || 1; low -= floor === undefined ? Math.abs(low) * 1e-3 || 1 : 0; }
  const begin = span.from, end = Math.max(span.to, begin + 1);
  const x = (ms) => ROOM.left + (ms - begin) / (end - begin) * (width - ROOM.left - ROOM.right);
  const y = (value) => ROOM.top + (high - value) / (high - low) * (height - ROOM.top - ROOM.bottom);
  const digits = high - low < 1 ? 4 : 2;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: between ${number(Math.min(...values), digits)} and ${number(Math.max(...values), digits)} ${unit}` });
  for (const level of [low, (low + high) / 2, high]) {
    svg.append(draw("line", { class: "grid", x1: ROOM.left, x2: width - ROOM.right, y1: y(level), y2: y(level) }),
      draw("text", { x: width - ROOM.right + 6, y: y(level) + 4 }, number(level, digits)));
  }
  // The day stands at the page's head; of longer spans here too, where there is room.
  const narrow = width < 600, long = end - begin > 86_400_000;
  const label = (ms) => long ? narrow ? new Date(ms).toLocaleDateString() : clock(ms, true) : new Date(ms).toLocaleTimeString([], { hour12: false });
  for (const [share, anchor] of narrow ? [[0, "start"], [1, "end"]] : [[0, "start"], [0.5, "middle"], [1, "end"]])
    svg.append(draw("text", { class: "axis", x: ROOM.left + share * (width - ROOM.left - ROOM.right), y: height - 4, "text-anchor": anchor }, label(begin + share * (end - begin))));
  for (const limit of limits) svg.append(draw("line", { class: "limit", x1: ROOM.left, x2: width - ROOM.right, y1: y(limit), y2: y(limit) }));
  const longest = 2.5 * step;
  if (band) for (const piece of stretches(band.map((one) => [one[0], one[1], one[2]]), longest)) {
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
  for (const event of span.events)
    svg.append(draw("line", { class: `event event-${event.kind}`, x1: x(event.at_ms), x2: x(event.at_ms), y1: ROOM.top, y2: height - ROOM.bottom }, draw("title", {}, `${clock(event.at_ms)} ${event.kind}: ${event.text}`)));
  const cursor = draw("line", { class: "cursor", x1: -9, x2: -9, y1: ROOM.top, y2: height - ROOM.bottom });
  const chosen = draw("rect", { class: "chosen", y: ROOM.top, height: height - ROOM.top - ROOM.bottom, x: -9, width: 0 });
  svg.append(cursor, chosen);
  figure.append(svg);
  const at = (event) => {
    const box = svg.getBoundingClientRect(), share = ((event.clientX - box.left) / box.width * width - ROOM.left) / (width - ROOM.left - ROOM.right);
    return begin + Math.min(1, Math.max(0, share)) * (end - begin);
  };
  let from = null;
  svg.addEventListener("pointerdown", (event) => { if (event.button === 0) { from = at(event); svg.setPointerCapture(event.pointerId); } });
  svg.addEventListener("pointermove", (event) => {
    const now = at(event);
    for (const one of plots) one.cursor(now);
    if (from !== null) {
      chosen.setAttribute("x", x(Math.min(from, now)));
      chosen.setAttribute("width", Math.abs(x(now) - x(from)));
    }
  });
  svg.addEventListener("pointerup", (event) => {
    const now = at(event), start = from;
    from = null;
    chosen.setAttribute("width", 0);
    if (start !== null && Math.abs(x(now) - x(start)) > 6) zoom(Math.min(start, now), Math.max(start, now));
  });
  svg.addEventListener("pointerleave", () => { if (from === null) for (const one of plots) one.cursor(null); });
  svg.addEventListener("dblclick", () => go({ from: null, to: null }));
  return {
    figure,
    cursor(ms) {
      const there = ms !== null;
      cursor.setAttribute("x1", there ? x(ms) : -9);
      cursor.setAttribute("x2", there ? x(ms) : -9);
      if (!there) { says.textContent = ""; return; }
      const near = lines.map((line) => {
        const found = line.points.findLast((point) => point[0] <= ms);
        return found && found[1] !== null && ms - found[0] <= longest ? `${lines.length > 1 ? `${line.name} ` : ""}${number(found[1], digits)}` : "–";
      });
      says.textContent = `${clock(ms)}: ${near.join(", ")} ${unit}`;
    },
  };
}

let plots = [];

function drawSpan(found) {
  span = found;
  const { series, buckets, step_ms: step } = found;
  const of = (name) => series.at_ms.map((at, index) => [at, series[name][index]]);
  const symbols = found.symbols.includes(found.symbol) || !found.symbol ? found.symbols : [found.symbol, ...found.symbols];
  byId("symbol").replaceChildren(...symbols.map((symbol) => make("option", symbol === found.symbol ? { selected: "" } : {}, symbol)));
  const steps = Math.max(series.step_ms, 1);
  plots = [
    { title: `Price of ${found.symbol || "?"}`, unit: "", tall: true, step, band: buckets.map(([at, , low, high]) => [at, low, high]), lines: [{ name: "last", points: buckets.map(([at, , , , last]) => [at, last]) }] },
    { title: "Ticks stored", unit: "a second", step, low: 0, lines: [{ name: "ticks", points: buckets.map(([at, ticks]) => [at, ticks / Math.max(1, Math.min(step, found.to - at)) * 1000]) }] },
    { title: "Memory", unit: "MiB", step: steps, low: 0, lines: [{ name: "resident", points: of("rss_mib") }] },
    { title: "Pressure", unit: "%", step: steps, low: 0, lines: ["cpu", "memory", "io"].map((name) => ({ name: `${name} (limit ${LIMITS[name]})`, points: of(name) })), limits: [] },
    { title: "Rung: one of so many ticks is processed", unit: "", step: steps, low: 0, lines: [{ name: "rung", points: of("sample_every"), stepped: true }] },
    { title: "Event-loop lag, p99", unit: "ms", step: steps, low: 0, lines: [{ name: "lag", points: of("lag_ms") }] },
  ].map(plot);
  byId("charts").replaceChildren(...plots.map((one) => one.figure));
  const ticks = buckets.reduce((sum, one) => sum + one[1], 0);
  byId("span-says").textContent = `${clock(found.from, true)} to ${clock(found.to, true)} (${length(found.to - found.from)}), ${number(ticks)} ticks`;
  byId("charts-note").textContent = `${found.sampled ? "Lows and highs are of a sample of the ticks; zoom in for all of them. " : ""}Of memory, pressure, rung and lag is known what was seen since the dashboard started.`;
  byId("events").replaceChildren(found.events.length ? make("ul", { class: "events" }, ...found.events.slice(-60).reverse().map((event) =>
    make("li", {}, make("time", { datetime: new Date(event.at_ms).toISOString() }, clock(event.at_ms)), make("b", {}, event.kind), make("span", {}, event.text))))
    : make("p", { class: "note" }, "Nothing that is known of in this span."));
  drawFeed(found.feed);
  drawVetoes(found);
}

function drawFeed(feed) {
  const fact = (name, value) => make("span", {}, `${name} `, make("b", {}, value));
  byId("feed").replaceChildren(make("p", { class: "facts" }, fact("mode", feed.mode || "?"), fact("source", feed.source ?? "none"),
    fact("since", feed.since ? clock(feed.since) : "?"), fact("clock skew", feed.clock_skew_ms === null ? "?" : `${number(feed.clock_skew_ms)} ms`),
    ...["gaps", "duplicates", "reconnects", "parse_errors", "foreign"].map((name) => fact(name.replace("_", " "), number(feed[name])))),
  ...feed.bars.map((bar) => make("p", { class: "trouble" }, `${bar.source} is barred until ${clock(bar.until)}: its venue said wait`)));
}

function drawVetoes({ vetoes, vetoes_from: from }) {
  const total = vetoes.reduce((sum, one) => sum + one.signals, 0);
  if (!total) return byId("vetoes").replaceChildren(make("p", { class: "note" }, "No signal in this span."));
  const most = Math.max(...vetoes.map((one) => one.signals));
  return byId("vetoes").replaceChildren(make("p", { class: "note" }, `${number(total)} signals since ${clock(from)}`),
    make("ul", { class: "bars" }, ...vetoes.map((one) => {
      const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("i"));
      bar.firstChild.style.width = `${one.signals / most * 100}%`;
      const words = make("span", {}, one.reason || "traded: no veto");
      return make("li", { class: `meter${one.reason ? " over" : ""}` }, make("p", { class: "row" }, words, make("span", {}, make("b", {}, number(one.signals)), ` ${number(one.signals / total * 100, 1)} %`)), bar);
    })));
}

function drawEquity(found) {
  const modes = Object.entries(found.modes);
  if (!modes.length) return byId("equity").replaceChildren(make("p", { class: "note" }, "There is no fill yet."));
  const tile = (name, value) => make("div", {}, make("p", { class: "note" }, name), make("p", { class: `big${Number(value) < 0 ? " bad" : ""}` }, value));
  const says = !found.whole ? "Fills are still being added up." : found.disagreements.length ? found.disagreements.join("; ") : "The fills add up to the engine's positions, to the last digit.";
  const shown = span;
  const parts = modes.flatMap(([mode, line]) => {
    const { now, points } = line;
    const parts = [make("p", { class: "mode-of" }, `${mode}, ${number(line.fills)} fills`), make("div", { class: "tiles" }, tile("equity", now.equity), tile("realised", now.realised), tile("unrealised", now.unrealised), tile("fees", now.fees), tile("deepest drawdown", line.drawdown))];
    if (points.length > 1) {
      span = { from: points[0].at, to: points[points.length - 1].at, events: [] };
      const of = (name) => points.map((point) => [point.at, Number(point[name])]);
      parts.push(plot({ title: `Equity of ${mode}`, unit: "", step: Infinity, lines: [{ name: "equity", points: of("equity") }, { name: "realised", points: of("realised") }, { name: "unrealised", points: of("unrealised") }] }).figure);
      span = shown;
    }
    return parts;
  });
  return byId("equity").replaceChildren(make("p", { class: found.disagreements.length ? "trouble" : "note" }, says), ...parts);
}

// --- tables -------------------------------------------------------------------------------------------------

const NUMBERS = ["id", "qty", "price", "fees", "cash", "filled", "size"];
const LONG = ["text", "reason", "detail", "transitions"];

const cell = (name, value) => {
  if (value === null || value === undefined) return "";
  if (name === "time") return clock(value, true);
  return name === "transitions" ? String(value).replace(/at (\d+)/g, (_, ms) => `at ${clock(Number(ms))}`) : String(value);
};

function showTable() {
  const name = view.table in FILTERS ? view.table : "trades";
  for (const button of byId("tables").children) button.setAttribute("aria-pressed", String(button.dataset.table === name));
  byId("order").value = view.order === "oldest" ? "oldest" : "newest";
  if (byId("filters").dataset.table !== name) {
    byId("filters").dataset.table = name;
    byId("filters").replaceChildren(...FILTERS[name].map((filter) => make("label", {}, `${filter} `, make("input", { type: "text", "data-filter": filter, autocomplete: "off" })), ));
  }
  for (const input of byId("filters").querySelectorAll("input")) if (input !== document.activeElement) input.value = view[`f_${input.dataset.filter}`] ?? "";
  const query = new URLSearchParams(FILTERS[name].filter((one) => view[`f_${one}`]).map((one) => [one, view[`f_${one}`]]));
  if (view.order === "oldest") query.set("order", "oldest");
  byId("csv").href = `/table/${name}.csv?${query}${query.size ? "&" : ""}rows=20000`;
  if (view.at) query.set("at", view.at);
  return part("table", `/table/${name}.json?${query}`, (found) => { page = found; sorted = null; drawTable(); }, "table");
}

function drawTable() {
  const { columns, rows, next_id: next } = page;
  const ordered = sorted === null ? rows : [...rows].sort((a, b) => {
    const [one, two] = [a[sorted.at], b[sorted.at]], numeric = one !== null && two !== null && !isNaN(Number(one)) && !isNaN(Number(two));
    return sorted.sign * (numeric ? Number(one) - Number(two) : String(one ?? "").localeCompare(String(two ?? "")));
  });
  const classes = (name) => NUMBERS.includes(name) ? "number" : LONG.includes(name) ? "long" : "";
  byId("table").replaceChildren(
    make("thead", {}, make("tr", {}, ...columns.map((name, at) => {
      const button = make("button", { type: "button" }, name);
      button.onclick = () => { sorted = { at, sign: sorted?.at === at ? -sorted.sign : 1 }; drawTable(); };
      return make("th", { scope: "col", class: classes(name), "aria-sort": sorted?.at === at ? sorted.sign > 0 ? "ascending" : "descending" : "none" }, button);
    }))),
    make("tbody", {}, ...ordered.map((row) => make("tr", {}, ...row.map((value, at) => make("td", { class: classes(columns[at]) }, cell(columns[at], value)))))));
  byId("table-says").textContent = rows.length ? `${rows.length} rows` : next === null ? "no rows" : "no rows among those looked through; the next page goes on";
  byId("next").disabled = next === null;
  byId("first").disabled = !view.at;
}

// --- what a person does -------------------------------------------------------------------------------------

function zoom(from, to) {
  return go({ from: Math.max(0, Math.floor(from)), to: Math.ceil(Math.max(to, from + 100)) });
}

function move(share, factor = 1) {
  if (!span) return;
  const wide = span.to - span.from, middle = span.from + wide / 2 + share * wide;
  zoom(middle - wide * factor / 2, middle + wide * factor / 2);
}

const range = (name) => go({ range: name, from: null, to: null });
byId("ranges").addEventListener("click", (event) => { if (event.target.dataset.range) range(event.target.dataset.range); });
byId("symbol").addEventListener("change", (event) => go({ symbol: event.target.value }));
byId("earlier").onclick = () => move(-0.5);
byId("later").onclick = () => move(0.5);
byId("in").onclick = () => move(0, 0.5);
byId("out").onclick = () => move(0, 2);
byId("follow").onchange = (event) => event.target.checked ? go({ from: null, to: null }) : span && zoom(span.from, span.to);
byId("tables").addEventListener("click", (event) => { if (event.target.dataset.table) go({ table: event.target.dataset.table, at: null }); });
byId("filters").addEventListener("change", (event) => go({ [`f_${event.target.dataset.filter}`]: event.target.value.trim(), at: null }));
byId("order").onchange = (event) => go({ order: event.target.value === "oldest" ? "oldest" : null, at: null });
byId("next").onclick = () => go({ at: page.next_id });
byId("first").onclick = () => go({ at: null });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const keys = { 1: () => range("5m"), 2: () => range("1h"), 3: () => range("24h"), 4: () => range("all"), "+": () => move(0, 0.5), "-": () => move(0, 2), ArrowLeft: () => move(-0.5), ArrowRight: () => move(0.5) };
  if (Object.hasOwn(keys, event.key) && !event.target.closest?.(".scroll")) { event.preventDefault(); keys[event.key](); }
});
addEventListener("resize", () => { if (span) drawSpan(span); });
setInterval(() => { if (!document.hidden && !view.from) part("span", `/span?${pick(["range", "symbol"])}`, drawSpan, "charts"); }, FOLLOW_MS);
show();
