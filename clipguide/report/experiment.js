"use strict";
// Every text of the run goes through textContent: markup in prompts and names stays text.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60; // cards added at once
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// not Math.min(...values): an engine takes only so many arguments
const extent = (values) => values.reduce(
  ([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

// ---------------------------------------------------------------------------------------- tables

function table(target, headings, rows) {
  // rows: lists of { text, value, note }; a click on a heading sorts by value
  const body = element("tbody");
  const fill = (some) => {
    body.replaceChildren(...some.map((row) => {
      const line = element("tr");
      for (const cell of row) {
        const made = element("td", cell.text, typeof cell.value === "string" ? "words" : "");
        if (cell.note) made.append(" ", element("span", cell.note, "interval"));
        line.append(made);
      }
      return line;
    }));
  };
  const head = element("tr");
  headings.forEach((heading, place) => {
    const words = rows.length && typeof rows[0][place].value === "string";
    const made = element("th", heading, words ? "words" : "");
    made.tabIndex = 0;
    made.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        made.click();
      }
    });
    made.addEventListener("click", () => {
      const up = made.getAttribute("aria-sort") === "descending";
      for (const other of head.children) other.removeAttribute("aria-sort");
      made.setAttribute("aria-sort", up ? "ascending" : "descending");
      fill([...rows].sort((a, b) => compare(a[place].value, b[place].value) * (up ? 1 : -1)));
    });
    head.append(made);
  });
  const top = element("thead");
  top.append(head);
  fill(rows);
  target.replaceChildren(top, body);
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}

function within(low, high, digits) {
  return `[${number(low, digits)}, ${number(high, digits)}]`;
}

function armsTable() {
  const scorers = data.columns;
  const rows = data.arms.map((arm) => [
    { text: arm.name + (arm.error ? ` (${arm.error})` : ""), value: arm.name },
    ...scorers.map((scorer) => {
      const mean = arm.means[scorer];
      if (!mean) return { text: "–", value: null };
      const note = mean.interval ? within(...mean.interval) : "";
      return { text: number(mean.mean), value: mean.mean, note };
    }),
    { text: number(arm.calls, 0), value: arm.calls },
    { text: number(arm.seconds, 2), value: arm.seconds },
  ]);
  table(byId("arms"), ["arm", ...scorers, "denoiser calls", "seconds"], rows);
}

function duelsTable() {
  const chosen = byId("duel-scorer").value;
  const rows = data.duels.filter((duel) => duel.scorer === chosen).map((duel) => [
    { text: duel.a, value: duel.a },
    { text: duel.b, value: duel.b },
    { text: number(duel.win_rate, 1), value: duel.win_rate, note: within(...duel.win_interval, 1) },
    {
      text: number(duel.difference), value: duel.difference,
      note: duel.difference_interval ? within(...duel.difference_interval) : "",
    },
    { text: duel.p_holm.toPrecision(2), value: duel.p_holm },
  ]);
  table(byId("duels"), ["a", "b", "a wins %", "a − b", "p (Holm)"], rows);
}

function hackingTable() {
  const rows = data.hacking.map((gap) => [
    { text: gap.arm, value: gap.arm },
    { text: gap.guiding, value: gap.guiding },
    { text: gap.judge, value: gap.judge },
    { text: number(gap.win_guiding, 1), value: gap.win_guiding },
    { text: number(gap.win_judge, 1), value: gap.win_judge },
    { text: number(gap.gap, 1), value: gap.gap, note: within(...gap.interval, 1) },
  ]);
  const headings = ["arm", "guided by", "judge", "wins % by the guide", "by the judge", "gap"];
  table(byId("hacking"), headings, rows);
}

// ---------------------------------------------------------------------------------------- charts

function gainChart() {
  const points = data.arms.filter((arm) => arm.seconds !== null && arm.means[data.headline]);
  if (!points.length) return byId("gain").append(element("p", "no times: pictures made elsewhere"));
  const width = 760, height = 320, edge = 56;
  const xs = points.map((arm) => arm.seconds);
  const ys = points.map((arm) => arm.means[data.headline].mean);
  const right = extent(xs)[1] * 1.25, [low, high] = extent(ys);
  const span = high - low || 1;
  const x = (value) => edge + (value / right) * (width - 2 * edge);
  const y = (value) => height - edge - 20 - ((value - low) / span) * (height - 2 * edge - 20);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  svg.append(
    drawn("line", { x1: edge, y1: height - edge, x2: width - edge, y2: height - edge, class: "axis" }),
    drawn("line", { x1: edge, y1: edge / 2, x2: edge, y2: height - edge, class: "axis" }),
    drawn("text", { x: width - edge, y: height - 12, "text-anchor": "end" }, "seconds a picture"),
    drawn("text", { x: 8, y: 16 }, data.headline),
    drawn("text", { x: 4, y: y(high) + 4 }, number(high)),
    drawn("text", { x: 4, y: y(low) + 4 }, number(low)),
    drawn("text", { x: x(right) - 10, y: height - edge + 16, "text-anchor": "end" }, number(right, 1)),
  );
  let lowest = -Infinity; // of the names so far
  const order = points.map((arm, place) => place).sort((p, q) => y(ys[p]) - y(ys[q]));
  for (const place of order) {
    const cx = x(xs[place]), cy = y(ys[place]);
    const before = cx > width / 2; // so that no name leaves the picture
    lowest = Math.max(cy + 4, lowest + 14); // nor stands on another
    const anchor = before ? { x: cx - 8, "text-anchor": "end" } : { x: cx + 8 };
    svg.append(
      drawn("circle", { cx, cy, r: 5, class: "bar" }),
      named({ ...anchor, y: lowest }, points[place].name, 60),
    );
  }
  byId("gain").append(svg);
}

function named(attributes, name, most = 38) {
  // a name that fits; the whole of it when pointed at
  const letters = [...name];
  const short = letters.length > most ? letters.slice(0, most - 1).join("") + "…" : name;
  const made = drawn("text", attributes, short);
  if (short !== name) made.append(drawn("title", {}, name));
  return made;
}

function barRow(svg, y, label, share, text) {
  const start = 260, room = 380;
  svg.append(
    named({ x: start - 8, y: y + 12, "text-anchor": "end" }, label),
    drawn("rect", { x: start, y: y + 2, width: Math.max(0, share * room), height: 12, class: "bar" }),
    drawn("text", { x: start + Math.max(0, share * room) + 6, y: y + 12 }, text),
  );
}

function bars(entries) {
  const height = entries.length * 20 + 4;
  const svg = drawn("svg", { viewBox: `0 0 760 ${height}`, width: 760, height, role: "img" });
  const most = Math.max(...entries.map((entry) => entry.value), 1e-9);
  entries.forEach((entry, place) =>
    barRow(svg, place * 20, entry.label, entry.value / most, number(entry.value)));
  return svg;
}

function categoryCharts() {
  const names = Object.keys(data.categories);
  if (!names.length) byId("categories").append(element("p", "the prompts have no categories"));
  for (const name of names) {
    const entries = Object.entries(data.categories[name])
      .map(([label, value]) => ({ label, value }));
    byId("categories").append(element("h3", name), bars(entries));
  }
}

function distributions() {
  const all = data.arms.flatMap((arm) => arm.samples.map((s) => s.scores[data.headline]));
  const values = all.filter((value) => value !== undefined);
  if (!values.length) return;
  const [low, high] = extent(values), bins = 24;
  for (const arm of data.arms) {
    if (!arm.samples.length) continue;
    const counts = new Array(bins).fill(0);
    for (const sample of arm.samples) {
      const share = (sample.scores[data.headline] - low) / (high - low || 1);
      counts[Math.min(bins - 1, Math.floor(share * bins))] += 1;
    }
    const svg = drawn("svg", { viewBox: "0 0 760 60", width: 760, height: 60, role: "img" });
    const most = Math.max(...counts);
    counts.forEach((count, place) => svg.append(drawn("rect", {
      x: 260 + place * 16, y: 44 - (40 * count) / most, width: 14, height: (40 * count) / most,
      class: "bar",
    })));
    svg.append(
      named({ x: 252, y: 40, "text-anchor": "end" }, arm.name),
      drawn("text", { x: 260, y: 57 }, number(low)),
      drawn("text", { x: 260 + bins * 16, y: 57, "text-anchor": "end" }, number(high)),
    );
    byId("distributions").append(svg);
  }
}

// --------------------------------------------------------------------------------------- gallery

const arms = new Map(data.arms.filter((arm) => arm.samples.length).map((arm) => [arm.name, arm]));
let shown = PAGE;

function options(select, values, labels = values) {
  select.replaceChildren(...values.map((value, place) => {
    const made = element("option", labels[place]);
    made.value = value;
    return made;
  }));
}

function state() {
  return {
    left: byId("left").value, right: byId("right").value, by: byId("scorer").value,
    sort: byId("order").value, category: byId("category").value, text: byId("text").value,
    worst: byId("worst").checked ? "1" : "",
  };
}

function address(extra = {}) {
  // of the gallery as it stands
  const kept = Object.entries({ ...state(), ...extra }).filter(([, value]) => value !== "");
  return "#" + new URLSearchParams(kept).toString();
}

function pairs() {
  const now = state();
  const left = arms.get(now.left).samples, right = arms.get(now.right).samples;
  let some = right.slice(0, left.length).map((sample, place) => ({ place, a: left[place], b: sample }));
  const score = (pair, side) => pair[side].scores[now.by];
  if (now.worst) {
    const ordered = [...some].sort((p, q) => compare(score(p, "b"), score(q, "b")));
    some = ordered.slice(0, Math.max(1, Math.ceil(some.length / 10)));
  }
  if (now.category) some = some.filter((pair) => pair.b.category === now.category);
  const words = now.text.toLowerCase();
  if (words) some = some.filter((pair) => pair.b.prompt.toLowerCase().includes(words));
  const gain = (pair) => score(pair, "b") - score(pair, "a");
  const orders = {
    prompt: (p, q) => p.place - q.place,
    gain: (p, q) => compare(gain(q), gain(p)),
    loss: (p, q) => compare(gain(p), gain(q)),
    best: (p, q) => compare(score(q, "b"), score(p, "b")),
    worst: (p, q) => compare(score(p, "b"), score(q, "b")),
  };
  return some.sort(orders[now.sort]);
}

function picture(sample) {
  const image = element("img");
  image.src = sample.image;
  image.alt = sample.prompt;
  image.loading = "lazy";
  return image;
}

function inside(name, sample) {
  const found = element("details");
  found.append(element("summary", `inside ${name}: previews, gradient, phrases`));
  found.addEventListener("toggle", () => {
    if (!found.open || found.children.length > 1) return;
    for (const { text, image: source } of sample.inside) {
      const figure = element("figure");
      const image = element("img", undefined, "inside");
      image.src = source;
      image.alt = text;
      figure.append(image, element("figcaption", text));
      found.append(figure);
    }
  });
  return found;
}

function card(pair, now) {
  const made = element("article", undefined, "card");
  made.id = `pair-${pair.place}`;
  const both = element("div", undefined, "pair");
  const above = picture(pair.b);
  both.append(picture(pair.a), above);
  const slider = element("input");
  slider.type = "range"; slider.min = 0; slider.max = 100; slider.value = 50;
  slider.setAttribute("aria-label", "left and right of the divide");
  const slide = () => { above.style.clipPath = `inset(0 0 0 ${slider.value}%)`; };
  slider.addEventListener("input", slide);
  slide();
  const link = element("a", `#${pair.place}`);
  link.href = address({ pair: pair.place });
  link.addEventListener("click", () => mark(pair.place)); // also where the address is this already
  const prompt = element("p", pair.b.prompt + " ");
  prompt.append(link);
  made.append(both, slider, prompt);
  for (const [name, sample] of [[now.left, pair.a], [now.right, pair.b]]) {
    const scores = Object.entries(sample.scores).map(([k, v]) => `${k} ${number(v)}`).join(", ");
    made.append(element("p", `${name}: ${scores}, seed ${sample.seed}`, "scores"));
    if (sample.inside.length) made.append(inside(name, sample));
    const more = element("details");
    more.append(element("summary", `settings of ${name}`));
    more.addEventListener("toggle", () => {
      if (more.open && more.children.length === 1) {
        const { settings, control, measured } = arms.get(name);
        const lines = [sample.file];
        if (control) lines.push(`${control[0]} of ${control[1]}: ${JSON.stringify(measured)}, with`);
        more.append(element("pre", [...lines, JSON.stringify(settings, null, 1)].join("\n")));
      }
    });
    made.append(more);
  }
  return made;
}

function mark(place) {
  for (const other of document.querySelectorAll(".target")) other.classList.remove("target");
  const found = byId(`pair-${place}`);
  if (!found) return;
  found.classList.add("target");
  found.scrollIntoView({ block: "center" });
}

function show() {
  const now = state(), some = pairs();
  byId("cards").replaceChildren(...some.slice(0, shown).map((pair) => card(pair, now)));
  byId("count").textContent = `${some.length} pairs`;
  byId("more").hidden = shown >= some.length;
}

function gallery() {
  const names = [...arms.keys()];
  if (!names.length) return;
  options(byId("left"), names);
  options(byId("right"), names);
  options(byId("scorer"), data.columns);
  options(byId("order"), ["prompt", "gain", "loss", "best", "worst"],
    ["prompt", "largest gain of right", "largest loss of right", "best of right", "worst of right"]);
  const samples = arms.get(names[0]).samples;
  const categories = [...new Set(samples.map((sample) => sample.category))].filter(Boolean).sort();
  options(byId("category"), ["", ...categories], ["all", ...categories]);
  restore(names);
  window.addEventListener("hashchange", () => restore(names));
  const changed = () => {
    shown = PAGE;
    history.replaceState(null, "", address());
    show();
  };
  for (const id of ["left", "right", "scorer", "order", "category", "worst"]) {
    byId(id).addEventListener("change", changed);
  }
  byId("text").addEventListener("input", changed);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => { shown += PAGE; show(); });
}

function restore(names) {
  // the gallery that the address asks for
  const wanted = new URLSearchParams(location.hash.slice(1));
  const set = (id, value) => {
    const known = [...byId(id).options].some((option) => option.value === value);
    if (known) byId(id).value = value;
  };
  set("left", wanted.get("left") ?? data.baseline);
  set("right", wanted.get("right") ?? names.find((name) => name !== data.baseline) ?? names[0]);
  set("scorer", wanted.get("by") ?? data.headline);
  set("order", wanted.get("sort") ?? "prompt");
  set("category", wanted.get("category") ?? "");
  byId("text").value = wanted.get("text") ?? "";
  byId("worst").checked = wanted.get("worst") === "1";
  const place = wanted.get("pair");
  shown = PAGE;
  if (place !== null) shown = Math.max(PAGE, pairs().findIndex((p) => p.place === Number(place)) + 1);
  show();
  if (place !== null) mark(Number(place));
}

byId("about").textContent = data.about;
byId("warnings").replaceChildren(...data.warnings.map((line) => element("li", line)));
const scorers = [...new Set(data.duels.map((duel) => duel.scorer))];
options(byId("duel-scorer"), scorers);
if (scorers.includes(data.headline)) byId("duel-scorer").value = data.headline;
byId("duel-scorer").addEventListener("change", duelsTable);
armsTable();
duelsTable();
hackingTable();
gainChart();
distributions();
categoryCharts();
gallery();
