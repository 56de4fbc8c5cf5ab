// Asks for spans of the past and shows them; plots.js draws the charts. What is looked at stands in the address.
"use strict";

const FILTERS = { trades: ["mode", "symbol", "side"], orders: ["mode", "symbol", "side", "status"], signals: ["symbol", "side", "veto"], decisions: ["contains"], journal: ["contains"] };
const LIMITS = { cpu: 20, memory: 10, io: 15 };
const OF_SPAN = ["range", "from", "to", "symbol"];
const ADD_UP_MS = 250;
const SPAN_MS_MIN = 1000;
// How often the newest span is asked for again: no oftener than it shows anything new.
const FOLLOW_MS = 2000, FOLLOW_MS_MAX = 30_000;

const length = (ms) => ms < 120_000 ? `${(ms / 1000).toFixed(0)} s` : ms < 7_200_000 ? `${(ms / 60_000).toFixed(0)} min` : ms < 172_800_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${(ms / 86_400_000).toFixed(1)} days`;

// --- what is looked at --------------------------------------------------------------------------------------

let view = Object.fromEntries(new URLSearchParams(location.search));
let span = null;
let page = null;
let sorted = null;

function go(changes, record = true) {
  view = Object.fromEntries(Object.entries({ ...view, ...changes }).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  history[record ? "pushState" : "replaceState"](null, "", `${location.pathname}?${new URLSearchParams(view)}`);
  return show(Object.keys(changes));
}

addEventListener("popstate", () => { view = Object.fromEntries(new URLSearchParams(location.search)); show(); });

// The server adds fills up part by part, a part for each time that it is asked.
let added = 0;
async function addUp() {
  added = performance.now();
  for (let whole = false; !whole;) {
    whole = true;
    await part("equity", "/equity", (found) => { whole = found.whole; drawEquity(found); }, "equity");
    if (!whole) await new Promise((after) => setTimeout(after, ADD_UP_MS));
  }
}

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

// changed: what of the address, so that a part that looks the same is not asked for; all of it for none.
function show(changed = []) {
  const spanned = !changed.length || changed.some((name) => OF_SPAN.includes(name));
  const tabled = !changed.length || changed.some((name) => !["range", "symbol"].includes(name));
  const table = tabled ? showTable() : null;
  if (!spanned) return table;
  const query = pick(OF_SPAN);
  for (const button of byId("ranges").children) button.setAttribute("aria-pressed", String(!view.from && (view.range ?? "1h") === button.dataset.range));
  byId("follow").checked = !view.from;
  // What takes longest comes last.
  return part("span", `/span?${query}`, drawSpan, "charts").then(() => changed.length ? table : Promise.all([table, addUp()]));
}

// --- the span -----------------------------------------------------------------------------------------------

let plots = [];
let equity = null;
// The time that the pointer is at; the charts of the next answer show it too.
let pointed = null;

function drawSpan(found) {
  span = found;
  const { series, buckets, step_ms: step } = found;
  const of = (name) => series.at_ms.map((at, index) => [at, series[name][index]]);
  const symbols = found.symbols.includes(found.symbol) || !found.symbol ? found.symbols : [found.symbol, ...found.symbols];
  // A list that somebody has open is left alone.
  if (symbols.join("\n") !== [...byId("symbol").options].map((one) => one.value).join("\n")) byId("symbol").replaceChildren(...symbols.map((symbol) => make("option", { value: symbol }, symbol)));
  byId("symbol").value = found.symbol;
  const steps = Math.max(series.step_ms, 1);
  const shown = { from: found.from, to: found.to, events: found.events, chosen: zoom, back: () => go({ from: null, to: null }), pointed: (ms) => { pointed = ms; for (const one of plots) one.cursor(ms); } };
  plots = [
    { key: "price", title: `Price of ${found.symbol || "?"}`, unit: "", tall: true, step, band: buckets.map(([at, , low, high]) => [at, low, high]), lines: [{ name: "last", points: buckets.map(([at, , , , last]) => [at, last]) }] },
    { title: "Ticks stored", unit: "a second", step, low: 0, lines: [{ name: "ticks", points: buckets.map(([at, ticks]) => [at, ticks / Math.max(1, Math.min(step, found.to - at)) * 1000]) }] },
    { title: "Memory", unit: "MiB", step: steps, low: 0, lines: [{ name: "resident", points: of("rss_mib") }] },
    { title: "Pressure", unit: "%", step: steps, low: 0, lines: ["cpu", "memory", "io"].map((name) => ({ name: `${name} (limit ${LIMITS[name]})`, points: of(name) })) },
    { title: "Rung: one of so many ticks is processed", unit: "", step: steps, low: 0, lines: [{ name: "rung", points: of("sample_every"), stepped: true }] },
    { title: "Event-loop lag, p99", unit: "ms", step: steps, low: 0, lines: [{ name: "lag", points: of("lag_ms") }] },
  ].map((chart) => plot({ ...shown, ...chart }));
  const box = byId("charts");
  place(box, plots.map((one) => one.figure));
  for (const one of plots) one.paint();
  if (pointed !== null) for (const one of plots) one.cursor(pointed);
  Object.assign(box.dataset, { shows: `${found.from} ${found.to} ${found.symbol}`, by: library && !paper.matches ? "plotly" : "plain" });
  byId("ledger").textContent = found.ledger ? `The engine's database: ${found.ledger}` : "";
  const ticks = buckets.reduce((sum, one) => sum + one[1], 0);
  byId("span-says").textContent = `${clock(found.from, true)} to ${clock(found.to, true)} (${length(found.to - found.from)}), ${number(ticks)} ticks`;
  byId("charts-note").textContent = [
    found.sampled ? "Lows and highs are of a sample of the ticks; zoom in for all of them." : "",
    `Memory, pressure, rung and lag are known since ${found.known_from === null ? "now" : clock(found.known_from, true)}, where the dashboard ran.`,
    found.kept || found.notices.length ? "" : "They are forgotten with the dashboard's next restart: it was started without --state-dir.",
    document.querySelector("meta[name=charts]").content ? "" : "These charts are plain; make install CHARTS=1, or pip install 'hybrid-harness[charts]', brings plotly's.",
  ].filter(Boolean).join(" ");
  byId("notices").replaceChildren(...found.notices.map((notice) => make("p", { class: "trouble" }, notice)));
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
      const words = make("span", {}, one.reason ? make("a", { href: `?${new URLSearchParams({ ...view, at: "", table: "signals", f_veto: one.reason })}#table-title` }, one.reason) : "traded: no veto");
      return make("li", { class: `meter${one.reason ? " over" : ""}` }, make("p", { class: "row" }, words, make("span", {}, make("b", {}, number(one.signals)), ` ${number(one.signals / total * 100, 1)} %`)), bar);
    })));
}

function drawEquity(found) {
  equity = found;
  const modes = Object.entries(found.modes);
  if (!modes.length) return byId("equity").replaceChildren(make("p", { class: "note" }, "There is no fill yet."));
  const tile = (name, value) => make("div", {}, make("p", { class: "note" }, name), make("p", { class: `big${Number(value) < 0 ? " bad" : ""}` }, value));
  const says = !found.whole ? "Fills are still being added up." : found.disagreements.length ? found.disagreements.join("; ") : "The fills add up to the engine's positions, to the last digit.";
  const paints = [];
  const parts = modes.flatMap(([mode, line]) => {
    const { now, points } = line;
    const parts = [make("p", { class: "mode-of" }, `${mode}, ${number(line.fills)} fills`), make("div", { class: "tiles" }, tile("equity", now.equity), tile("realised", now.realised), tile("unrealised", now.unrealised), tile("fees", now.fees), tile("deepest drawdown", line.drawdown))];
    if (points.length > 1) {
      const of = (name) => points.map((point) => [point.at, Number(point[name])]);
      const shown = { from: points[0].at, to: points[points.length - 1].at, events: [], chosen: zoom, back: () => go({ from: null, to: null }), pointed: (ms) => one.cursor(ms) };
      const one = plot({ ...shown, title: `Equity of ${mode}`, unit: "", step: Infinity, lines: ["equity", "realised", "unrealised"].map((name) => ({ name, points: of(name) })) });
      paints.push(one.paint);
      parts.push(one.figure);
    }
    return parts;
  });
  byId("equity").replaceChildren(make("p", { class: found.disagreements.length ? "trouble" : "note" }, says), ...parts);
  for (const paint of paints) paint();
}

// --- tables -------------------------------------------------------------------------------------------------

const NUMBERS = ["id", "qty", "price", "fees", "cash", "filled", "size"];
const LONG = ["text", "reason", "detail", "transitions"];

const cell = (name, value) => {
  if (value === null || value === undefined) return "";
  if (name === "time") return clock(value, true);
  return name === "transitions" ? transitions(String(value)) : String(value);
};

// "SUBMITTED 0 at 1764000000000, FILLED 0.3 at 1764000000002": of all but the first only how much later they came.
function transitions(text) {
  const first = Number(text.match(/ at (\d+)/)?.[1]);
  return text.replace(/ at (\d+)/g, (_, ms) => Number(ms) === first ? "" : ` +${later(Number(ms) - first)}`).replaceAll(", ", " \u2192 ");
}

const later = (ms) => ms < 10_000 ? `${number(ms, 0)} ms` : length(ms);

function showTable() {
  const name = Object.hasOwn(FILTERS, view.table ?? "") ? view.table : "trades";
  for (const button of byId("tables").children) button.setAttribute("aria-pressed", String(button.dataset.table === name));
  byId("order").value = view.order === "oldest" ? "oldest" : "newest";
  if (byId("filters").dataset.table !== name) {
    byId("filters").dataset.table = name;
    byId("filters").replaceChildren(...FILTERS[name].map((filter) => make("label", {}, `${filter} `, make("input", { type: "text", "data-filter": filter, autocomplete: "off" })), ));
  }
  for (const input of byId("filters").querySelectorAll("input")) if (input !== document.activeElement) input.value = view[`f_${input.dataset.filter}`] ?? "";
  const query = new URLSearchParams(FILTERS[name].filter((one) => view[`f_${one}`]).map((one) => [one, view[`f_${one}`]]));
  if (view.order === "oldest") query.set("order", "oldest");
  for (const bound of ["from", "to"]) if (view[bound]) query.set(bound, view[bound]);
  byId("csv").href = `/table/${name}.csv?${query}`;
  if (view.at) query.set("at", view.at);
  return part("table", `/table/${name}.json?${query}`, (found) => { page = found; sorted = null; drawTable(); }, "table");
}

function drawTable() {
  const { columns, rows, next_id: next } = page;
  const ordered = sorted === null ? rows : [...rows].sort((a, b) => {
    const [one, two] = [a[sorted.at], b[sorted.at]], numeric = one !== null && two !== null && !isNaN(Number(one)) && !isNaN(Number(two));
    return sorted.sign * (numeric ? Number(one) - Number(two) : String(one ?? "").localeCompare(String(two ?? "")));
  });
  const classes = (name) => NUMBERS.includes(name) ? "number" : LONG.includes(name) ? "long" : name === "order" ? "token" : "";
  byId("table").replaceChildren(
    make("thead", {}, make("tr", {}, ...columns.map((name, at) => {
      const button = make("button", { type: "button" }, name);
      button.onclick = () => { sorted = { at, sign: sorted?.at === at ? -sorted.sign : 1 }; drawTable(); };
      return make("th", { scope: "col", class: classes(name), "aria-sort": sorted?.at === at ? sorted.sign > 0 ? "ascending" : "descending" : "none" }, button);
    }))),
    make("tbody", {}, ...ordered.map((row) => make("tr", {}, ...row.map((value, at) => make("td", { class: classes(columns[at]) }, cell(columns[at], value)))))));
  const among = view.from ? " of this span" : "";
  byId("table-says").textContent = rows.length ? `${rows.length === 1 ? "1 row" : `${rows.length} rows`}${among}` : next === null ? `no rows${among}` : "no rows among those looked through; the next page goes on";
  byId("next").disabled = next === null;
  byId("first").disabled = !view.at;
}

// --- what a person does -------------------------------------------------------------------------------------

function zoom(from, to) {
  return go({ from: Math.max(0, Math.floor(from)), to: Math.ceil(Math.max(to, from + SPAN_MS_MIN)), at: null });
}

function move(share, factor = 1) {
  if (!span) return;
  const wide = span.to - span.from;
  // Whoever follows looks at the newest, which a part about the middle would lose.
  const end = view.from || factor >= 1 ? span.to + wide * (share + (factor - 1) / 2) : span.to;
  zoom(end - wide * factor, end);
}

const range = (name) => go({ range: name, from: null, to: null, ...view.from && { at: null } });
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
function redraw() {
  if (span) drawSpan(span);
  if (equity) drawEquity(equity);
}

let resized = 0;
addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(redraw); });
let followed = performance.now();
setInterval(() => {
  const due = Math.min(Math.max(FOLLOW_MS, span?.step_ms ?? 0), FOLLOW_MS_MAX);
  if (document.hidden || view.from || performance.now() - followed < due) return;
  followed = performance.now();
  part("span", `/span?${pick(["range", "symbol"])}`, drawSpan, "charts");
  if (performance.now() - added > FOLLOW_MS_MAX) addUp();
}, FOLLOW_MS / 4);
show().then(() => requestAnimationFrame(() => setTimeout(() => fetchLibrary(redraw))));
