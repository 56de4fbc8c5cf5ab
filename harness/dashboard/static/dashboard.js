// Draws the newest state that the dashboard sends. Text is set as text, never as HTML. A part of the page is built
// anew only when what it shows has changed, so that links keep their focus.
"use strict";

const byId = (id) => document.getElementById(id);
const MARKS = { good: "●", bad: "■", busy: "◐", calm: "○", unknown: "?" };
const VERDICTS = { proven: ["good", "✓"], refuted: ["bad", "✗"], unproven: ["busy", "?"] };
const SVG = "http://www.w3.org/2000/svg";

let state = null;
let arrived = 0;
const shown = new Map();

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const text = (id, value) => { if (byId(id).textContent !== value) byId(id).textContent = value; };
const trouble = (reason) => make("p", { class: "trouble" }, reason);
// Beside the live clock, for all times of the page: those of the browser's computer.
const zone = () => new Intl.DateTimeFormat("en", { timeZoneName: "shortOffset" }).formatToParts(new Date())
  .find((one) => one.type === "timeZoneName").value.replace("GMT", "UTC").replace(/\+0$/, "");
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
const when = (seconds) => {
  const date = new Date(seconds * 1000);
  return date.toDateString() === new Date(state.at * 1000).toDateString() ? clock(seconds)
    : `${date.toLocaleDateString()} ${clock(seconds)}`;
};
const number = (value, digits = 0) =>
  value === null || value === undefined ? "?" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function span(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 100) return `${seconds.toFixed(0)} s`;
  if (seconds < 6000) return `${(seconds / 60).toFixed(0)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

// Seconds since the state was received: the clocks of the two ends need not agree.
const since = () => (performance.now() - arrived) / 1000;

function part(name, value, build) {
  const key = JSON.stringify(value);
  if (shown.get(name) === key) return;
  shown.set(name, key);
  build(value);
}

function health({ tone, title, lines }) {
  const box = byId("health");
  box.className = `health ${{ good: "well", busy: "warned", calm: "calm", bad: "ill" }[tone]}`;
  box.replaceChildren(lines.length
    ? make("div", {}, make("p", { class: "title" }, `${MARKS[tone]} ${title}`), make("ul", {}, ...lines.map((one) => make("li", {}, one))))
    : `✓ ${title}`);
}

function figures(items) {
  byId("figures").replaceChildren(...items.map((item) => {
    const card = make("section", { class: "card", "aria-label": item.name }, make("h2", {}, item.name),
      make("p", { class: "big" }, item.value, ...(item.unit ? [make("span", { class: "unit-of" }, item.unit)] : [])),
      make("p", { class: "note" }, item.note));
    const known = (item.points || []).filter((one) => one !== null);
    if (known.length > 1) {
      card.classList.add("sparked");
      const top = Math.max(...known, 1e-9);
      const path = known.map((one, at) => `${at ? "L" : "M"}${(at / (known.length - 1) * 100).toFixed(2)} ${(28 - one / top * 26).toFixed(2)}`).join("");
      card.append(draw("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" }, draw("path", { d: path })));
    }
    return card;
  }));
}

const triangle = (x, y, up, kind) => draw("path", { d: up ? `M${x} ${y + 3}l5 9h-10z` : `M${x} ${y - 3}l5 -9h-10z`, class: `marker-${kind}` });
const cross = (x, y) => draw("path", { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, class: "veto" });
const ring = (x, y) => draw("circle", { cx: x, cy: y, r: 4, class: "signal" });

function mark(shape, words) {
  return make("span", {}, draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, shape), words);
}

function price(value) {
  const box = byId("price");
  if (value.trouble) {
    text("price-last", "");
    box.replaceChildren(trouble(value.trouble));
    byId("price-key").replaceChildren();
    return;
  }
  const points = value.lines.flat();
  const prices = points.map((one) => one[1]);
  const low = Math.min(...prices), high = Math.max(...prices), last = prices[prices.length - 1];
  const digits = high >= 1000 ? 2 : high >= 1 ? 3 : 6;
  byId("price-last").replaceChildren(make("span", { class: "note" }, `${value.symbol} `), number(last, digits));
  const width = Math.max(box.clientWidth, 280), height = width < 600 ? 230 : 290;
  const left = 4, right = 12 + 7.2 * number(high, digits).length, top = 16, bottom = 24;
  const pad = Math.max((high - low) * 0.12, high * 1e-6);
  const begin = points[0][0], end = Math.max(value.until, begin + 1000);
  const x = (ts) => left + (ts - begin) / (end - begin) * (width - left - right);
  const y = (one) => top + (high + pad - one) / (high - low + 2 * pad) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label":
    `Price of ${value.symbol}: ${number(last, digits)} now, between ${number(low, digits)} and ${number(high, digits)} in ${span((end - begin) / 1000)}`
    + (value.lines.length > 1 ? `, with ${value.lines.length - 1} gaps` : "") });
  for (const step of [0, 0.5, 1]) {
    const level = low + (high - low) * step;
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
    svg.append(draw("text", { x: width - right + 8, y: y(level) + 4 }, number(level, digits)));
    if (high === low) break;
  }
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]])
    svg.append(draw("text", { x: left + share * (width - left - right), y: height - 6, "text-anchor": anchor }, clock((begin + share * (end - begin)) / 1000)));
  for (const line of value.lines) {
    // A line of one point is a dot.
    const steps = line.length > 1 ? line : [line[0], line[0]];
    svg.append(draw("path", { class: "trace", d: steps.map((one, at) => `${at ? "L" : "M"}${x(one[0]).toFixed(1)} ${y(one[1]).toFixed(1)}`).join("") }));
  }
  for (const one of value.signals) {
    const shape = one.note ? cross(x(one.ts), y(one.price)) : ring(x(one.ts), y(one.price));
    shape.append(draw("title", {}, `${clock(one.ts / 1000)} signal ${one.side} at ${number(one.price, digits)}${one.note ? `, vetoed: ${one.note}` : ""}`));
    svg.append(shape);
  }
  for (const one of value.fills) {
    const shape = triangle(x(one.ts), y(one.price), one.side === "BUY", one.side);
    shape.append(draw("title", {}, `${clock(one.ts / 1000)} filled ${one.side} ${one.note} at ${number(one.price, digits)}`));
    svg.append(shape);
  }
  svg.append(draw("circle", { class: "last", cx: x(points[points.length - 1][0]), cy: y(last), r: 3.5 }));
  box.replaceChildren(svg);
  const { bought, sold, signals, vetoed, since_ms } = value.tally || {};
  byId("price-key").replaceChildren(
    mark(triangle(8, 2, true, "BUY"), `${number(bought)} bought`), mark(triangle(8, 17, false, "SELL"), `${number(sold)} sold`),
    mark(ring(8, 8), `${number(signals)} signals`), mark(cross(8, 8), `${number(vetoed)} of them vetoed`),
    make("span", {}, since_ms === undefined ? "not counted" : `since ${clock(since_ms / 1000)}`));
}

// A bar whose full length is `full`, with a line at `limit` where that is not its end.
function meter(name, value, words, share, limit, over) {
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("i"));
  bar.firstChild.style.width = `${Math.min(100, share * 100)}%`;
  if (limit < 1) {
    bar.append(make("u"));
    bar.lastChild.style.left = `${limit * 100}%`;
  }
  return make("div", { class: `meter${over ? " over" : ""}` },
    make("p", { class: "row" }, make("span", {}, name), make("span", {}, make("b", {}, value), ` ${words}`)), bar);
}

function pressure(value) {
  byId("pressure").replaceChildren(...(value.trouble ? [trouble(value.trouble)] : value.rows.map((row) =>
    meter(row.name, `${number(row.value, 1)} %`, row.over ? `above the limit of ${row.limit} %` : `of ${row.limit} %`,
      row.value / (2 * row.limit), 0.5, row.over))));
}

function exposure(value) {
  if (value.trouble) return byId("exposure").replaceChildren(trouble(value.trouble));
  const rows = value.rows.map((row) => {
    const digits = row.unit ? 2 : 0;
    return meter(row.name, number(row.value, digits), `${row.over ? "above the cap of" : "of"} ${number(row.cap)} ${row.unit}`.trim(), row.value / row.cap, 1, row.over);
  });
  return byId("exposure").replaceChildren(...rows, ...(value.note ? [trouble(value.note)] : []));
}

function books(value) {
  if (value.trouble) return byId("books").replaceChildren(trouble(value.trouble));
  const signs = new Map([[true, ["good", "✓"]], [false, ["bad", "✗"]], [null, ["unknown", "?"]]]);
  return byId("books").replaceChildren(
    make("p", { class: `big ${value.tone}` }, make("span", { class: "mark", "aria-hidden": "true" }, MARKS[value.tone]), value.word),
    make("p", { class: "note" }, `as of the heartbeat at ${when(value.at)}`),
    make("ul", { class: "lines" }, ...value.lines.map((line) => {
      const [tone, sign] = signs.get(line.ok);
      return make("li", {}, make("span", { class: `ok ${tone}`, "aria-hidden": "true" }, sign),
        make("span", {}, line.ok ? `${line.left} = ${line.right}` : line.says), make("span", {}, line.ok ? number(line.number) : ""));
    })),
    make("p", { class: "counts" }, make("span", {}, "this run:"), ...value.counts.map((one) => make("span", {}, `${one.name} `, make("b", {}, number(one.value))))));
}

function decisions(value) {
  if (value.trouble) return byId("decisions").replaceChildren(make("p", { class: "note" }, `No soak has decided anything here (${value.trouble}).`));
  if (!value.rows.length) return byId("decisions").replaceChildren(make("p", { class: "note" }, "The decision log is empty."));
  return byId("decisions").replaceChildren(make("ol", { class: "decisions" }, ...value.rows.map((row) => make("li", {},
    make("time", { datetime: new Date(row.at * 1000).toISOString() }, when(row.at)), make("span", { class: "action" }, row.action),
    make("span", { class: "rung" }, row.state), make("span", { class: "reason" }, row.reason)))));
}

function verdicts(value) {
  if (value.trouble) return byId("verdicts").replaceChildren(make("p", { class: "note" }, `No proof run to show (${value.trouble}).`));
  const { proven, unproven, refuted } = value.counts;
  return byId("verdicts").replaceChildren(
    make("p", { class: `big ${value.tone}` }, make("span", { class: "mark", "aria-hidden": "true" }, MARKS[value.tone]), value.word),
    make("p", { class: "note" }, `${number(proven)} ${proven === 1 ? "proof" : "proofs"} proven, ${number(unproven)} unproven, ${number(refuted)} refuted`
      + (value.at ? `, ${when(value.at)}` : "")),
    make("ul", { class: "verdicts" }, ...value.rows.map((row) => {
      const [kind, sign] = VERDICTS[row.verdict];
      const words = `${row.clause} ${sign} ${row.verdict}`;
      return make("li", { class: kind }, row.href ? make("a", { href: row.href }, words) : words);
    })),
    ...(value.planned.length ? [make("p", { class: "note" }, `Planned, not built: ${value.planned.join(" ")}`)] : []));
}

function render() {
  part("health", state.health, health);
  part("mode", state.mode, (mode) => {
    byId("mode").className = `card mode${mode.word === "LIVE" ? " live" : ""}${mode.runs ? "" : " down"}`;
    text("mode-word", mode.word === "LIVE" ? "⚠ LIVE" : mode.word);
    text("mode-feed", mode.feed ? `on ${mode.feed}` : "");
    text("mode-says", mode.says);
  });
  part("unit", state.unit, (unit) => {
    byId("unit").className = `card unit ${unit.tone}`;
    text("unit-mark", MARKS[unit.tone]);
    text("unit-word", unit.word);
    text("unit-says", unit.says + (unit.restarts ? `; ${unit.restarts} automatic restarts since it was started by hand` : ""));
  });
  part("figures", state.figures, figures);
  part("price", state.price, price);
  part("pressure", state.pressure, pressure);
  part("exposure", state.exposure, exposure);
  part("books", state.books, books);
  part("decisions", state.decisions, decisions);
  part("verdicts", state.verdicts, verdicts);
  const engine = `hybrid-engine ${state.engine}`.trim();
  text("engine", engine);
  document.title = `${MARKS[state.unit.tone]} ${state.mode.word}${state.mode.feed ? ` on ${state.mode.feed}` : ""} ${state.unit.word} – ${engine}`;
}

function age() {
  if (!state) return;
  const old = since(), lost = old > Math.max(3, 3 * state.refresh_secs);
  document.body.dataset.link = lost ? "lost" : "live";
  text("link-says", lost ? `no news for ${span(old)}: what is shown is old` : `live, ${clock(state.at)} ${zone()}`);
  if (lost && shown.get("health") !== "lost") {
    shown.set("health", "lost");
    health({ tone: "bad", title: "No news", lines: ["The dashboard cannot be reached; everything below is old."] });
  }
  const unit = state.unit;
  text("unit-since", unit.since ? `since ${when(unit.since)}, ${span(state.at - unit.since + old)}${unit.pid ? `, process ${unit.pid}` : ""}` : "");
}

function listen() {
  const source = new EventSource("/events");
  source.onmessage = (message) => {
    state = JSON.parse(message.data);
    arrived = performance.now();
    render();
    age();
  };
  // A connection that breaks is opened again by the browser, one that is refused is not.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

addEventListener("resize", () => { if (state) price(state.price); });
setInterval(age, 500);
listen();
