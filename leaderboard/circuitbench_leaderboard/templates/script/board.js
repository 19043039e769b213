// ---- what is shown -------------------------------------------------------------------------
const { methods, tasks, metrics } = data;
const byLabel = new Map([...methods].reverse().map((method) => [method.label, method])); // the board's own before others
const [task, model] = [(row) => (row.where ? row.where[0] : ""), (row) => (row.where ? row.where[1] : "")];
const estimate = (value) => value && {
  mean: value[0], iqm: value[1], mark: data.marks[value[2] ?? 0], limits: value.length > 3 ? value.slice(3) : null,
};
const standings = data.standings.map(([method, where, done, expected, sources, ...values]) => ({
  method: methods[method], where: typeof where === "number" ? tasks[where] : null, done, expected, sources,
  values: values.map(estimate), scope: typeof where === "number" ? "task" : "overall", tier: where === null ? "" : where, rank: null,
}));
const ranked = (row) => !row.method.source; // the board is of one version and ablation; others have no place
const plainMetrics = metrics.filter((metric) => !metric.minor);
const runs = new Map(); // they arrive after the first screen, with the tables below

const firstOf = (metric) => (metric.better === "lower" ? "ascending" : "descending");
const sorted = { // columns that several tables have
  method: { label: "Method", first: "ascending", key: (row) => lower(row.method.label), cell: (row) => name(row.method) },
  task: { label: "Task", first: "ascending", key: (row) => lower(task(row)), cell: (row) => placed(row, "task", row.where && tasks.indexOf(row.where), task(row)) },
  model: { label: "Model", first: "ascending", key: (row) => lower(model(row)), cell: (row) => placed(row, "model", model(row), model(row)) },
};

// A task or model, which leads to its card.
function placed(row, kind, value, label) {
  if (!row.where) return text("all", "place");
  return html("td", { class: "place" }, html("button", { type: "button", class: "link", [`data-${kind}`]: value, "aria-haspopup": "dialog" }, label));
}

const CHECKED = {
  verified: "Submitted; one run of each task was repeated here and gave the same",
  claimed: "Submitted, and not repeated here or not with the same numbers",
};

function name(method) {
  const cell = html("th", { scope: "row" }, html("button", { type: "button", class: "link name", "data-method": method.label, "aria-haspopup": "dialog" }, method.title ?? method.label));
  if (method.title && method.title !== method.label) cell.append(" ", html("small", {}, method.label));
  if (method.source) cell.append(" ", html("span", { class: "tag foreign", title: method.source }, method.tag));
  if (method.checked) cell.append(" ", html("span", { class: `tag ${method.checked}`, title: CHECKED[method.checked] }, method.checked));
  if (method.link) cell.append(" ", paper(method, "↗"));
  return cell;
}

function paper(method, label) {
  const about = method.paper || method.link;
  return html("a", { class: "paper", href: method.link, rel: "noopener noreferrer", target: "_blank", title: about, "aria-label": `Paper: ${about}` }, label);
}

function runsOf(row, coverage) {
  const button = html("button", { type: "button", class: "link runs-of", title: "Show these runs" },
    coverage, html("span", { class: "sr" }, ` runs of ${row.method.label}: show`));
  button.addEventListener("click", () => showRuns(row));
  return html("td", { class: "num" }, button);
}

// ---- main table ----------------------------------------------------------------------------
let chosen = null; // the metric that places the methods
let scale = 1; // what a whole bar is worth

function number(metric, value) {
  const kinds = ["num", value?.mark, metric.minor && "minor", metric === chosen && "chosen"];
  const cell = html("td", { class: kinds.filter(Boolean).join(" ") });
  if (!value) {
    cell.append(none());
    return cell;
  }
  const share = (x) => (100 * x) / scale;
  if (metric === chosen) {
    const track = html("span", { class: "track", "aria-hidden": "true" },
      html("span", { class: "fill", style: `width:${share(Math.max(0, value.mean)).toFixed(1)}%` }));
    if (value.limits) {
      const [low, high] = value.limits.map(share);
      track.append(html("span", { class: "whisker", style: `left:${low.toFixed(1)}%;width:${(high - low).toFixed(1)}%` }));
    }
    cell.append(track, " ");
  }
  const limits = value.limits ? `; 95 % interval of the mean ${value.limits.map((x) => format(x, 3)).join(" to ")}` : "";
  cell.append(html("span", { class: "value", title: `interquartile mean ${format(value.iqm, metric.digits)}${limits}` }, format(value.mean, metric.digits)), " ");
  const mark = sign(value.mark);
  if (mark || !metric.cost) cell.append(mark || html("span", { class: "mark" })); // so that numbers stay in line
  return cell;
}

const board = new Listing($("standings"), [
  { label: "#", about: "Place by the chosen metric, shared where =; by AP, near ties count as ties; incomplete methods have none", kind: "num", first: "ascending", key: (row) => row.rank, cell: (row) => text(row.rank === null ? "–" : `${row.rank}${row.shared ? "=" : ""}`, "num rank") },
  sorted.method, { ...sorted.task, kind: "place" }, { ...sorted.model, kind: "place" },
  { label: "Family", first: "ascending", key: (row) => lower(row.method.family), cell: (row) => html("td", {}, html("span", { class: "tag" }, row.method.family)) },
  ...metrics.map((metric, i) => ({
    label: metric.label, unit: metric.unit, about: metric.about, kind: metric.minor ? "num minor" : "num", first: firstOf(metric), metric,
    key: (row) => row.values[i]?.mean ?? null, cell: (row) => number(metric, row.values[i]),
  })),
  { label: "Runs", about: "Finished runs of those the comparison rests on", kind: "num", first: "ascending", key: (row) => row.done, cell: (row) => runsOf(row, `${row.done}/${row.expected}`) },
  { label: "Version", about: "Of circuitbench, and the commit of its source", first: "ascending", key: (row) => lower(row.sources), cell: (row) => html("td", { class: "mono", title: row.sources }, row.sources) },
], standings, (row, cells) => {
  const made = html("tr", { class: row.done < row.expected || !row.expected || !ranked(row) ? "incomplete" : "" }, ...cells);
  Object.assign(made.dataset, { scope: row.scope, task: task(row), model: model(row), label: row.method.label });
  return made;
});

function place(key) {
  const column = board.columns.findIndex(({ metric }) => metric?.key === key);
  chosen = board.columns[column].metric;
  const value = board.columns[column].key;
  // A place that was won inside near ties is shown as a tie.
  const near = metrics.findIndex(({ key: other }) => other === data.placing[key]);
  const placing = standings.every((row) => value(row) === null || row.values[near]) ? (row) => value(row) === null ? null : row.values[near].mean : value;
  const sign = chosen.better === "lower" ? -1 : 1;
  // Tracks are never mixed in one ranking.
  const scopeOf = (row) => [row.scope === "overall" ? 0 : 1, ranked(row) ? 0 : 1, row.tier, task(row), model(row), data.tracks.indexOf(row.method.track)].join("\n");
  scale = Math.max(1, ...standings.map(value));
  board.rows = standings; // equals stay in the order of names
  board.order(placing, firstOf(chosen));
  // Within each task by place: tasks keep together until a heading is clicked.
  const groups = new Map();
  for (const row of board.rows) groups.set(scopeOf(row), [...(groups.get(scopeOf(row)) ?? []), row]);
  for (const group of groups.values()) {
    const values = group.filter(ranked).map(placing).filter((x) => x !== null);
    for (const row of group) {
      const own = ranked(row) ? placing(row) : null;
      row.rank = own === null ? null : 1 + values.filter((x) => sign * (x - own) > 1e-12).length;
      row.shared = own !== null && values.filter((x) => Math.abs(x - own) <= 1e-12).length > 1;
    }
  }
  board.rows = [...groups.keys()].sort().flatMap((scope) => groups.get(scope));
  board.heads.forEach((head, i) => {
    head.classList.toggle("chosen", i === column);
    head.removeAttribute("aria-sort");
  });
  board.heads[column].setAttribute("aria-sort", firstOf(chosen));
  board.forget();
  board.render();
}

// ---- runs ----------------------------------------------------------------------------------
const runList = new Listing($("run-table"), [
  { label: "Run", first: "ascending", key: (row) => row.id, cell: (row) => html("td", {}, html("button", { type: "button", class: "link mono open", "aria-haspopup": "dialog" }, row.id.slice(0, 8))) },
  sorted.method, sorted.task, sorted.model,
  { label: "Seed", kind: "num", first: "ascending", key: (row) => row.seed, cell: (row) => text(String(row.seed), "num") },
  { label: "Status", first: "ascending", key: (row) => row.status, cell: (row) => html("td", {}, html("span", { class: `tag ${row.status}` }, row.status)) },
  ...plainMetrics.map((metric, i) => ({
    label: metric.label, unit: metric.unit, about: metric.about, kind: "num", first: firstOf(metric),
    key: (row) => row.values[i], cell: (row) => text(row.values[i] === null ? "–" : format(row.values[i], metric.digits), "num"),
  })),
], [], (row, cells) => {
  const made = html("tr", {}, ...cells);
  Object.assign(made.dataset, { run: row.id, label: row.method.label });
  return made;
});
runList.table.setAttribute("aria-busy", true); // until they are there

// ---- all other tables ----------------------------------------------------------------------
const showTables = (contents) => contents.forEach((content, i) => {
  const named = content.columns.findIndex(([key]) => key === "method");
  const table = html("table", {});
  const details = html("details", i ? {} : { open: "" }, html("summary", {}, content.title),
    html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": content.title }, table),
    html("p", { class: "note" }, content.note));
  const rows = content.rows.map((fields) => ({ fields, where: content.where, method: byLabel.get(fields[named]) }));
  const columns = content.columns.map(([key, label, about, numeric, better], j) => ({
    label, about, kind: numeric ? "num" : "", first: better === "higher" ? "descending" : "ascending",
    key: (row) => (numeric ? row.fields[j][1] : lower(row.fields[j])),
    cell: (row) => {
      if (j === named) return row.method ? name(row.method) : html("th", { scope: "row" }, row.fields[j]);
      if (key === "coverage") return runsOf(row, row.fields[j]);
      if (!numeric) return text(row.fields[j], "mono");
      const [shown, , mark] = row.fields[j];
      return html("td", { class: `num ${data.marks[mark ?? 0]}` }, shown, sign(data.marks[mark ?? 0]));
    },
  }));
  const listing = new Listing(table, columns, rows, (row, cells) => {
    const made = html("tr", {}, ...cells);
    Object.assign(made.dataset, { task: task(row), model: model(row), label: row.fields[named] });
    return made;
  });
  $("more").append(details);
  listing.later();
});

// ---- filtering -----------------------------------------------------------------------------
const filters = { task: $("by-task"), model: $("by-model"), family: $("by-family"), track: $("by-track") };
const wanted = (name) => {
  const value = filters[name]?.value ?? "";
  return value.startsWith("=") ? value.slice(1) : null;
};

const averaged = () => filters.task.value === "overall" && wanted("model") === null;

// The method whose runs were asked for by a button; typing in the search field lets go of it.
let only = null;

// The tier whose own ranking is shown; a tier without one is shown in that over all tasks.
const rankedTier = () => standings.some((row) => row.scope === "overall" && row.tier === tier) ? tier : "";
const inTier = (row) => tier === "" || data.aboutTasks[tasks.indexOf(row.where)].tier === tier;

function passes(row) {
  if (only !== null && row.method !== only) return false;
  const { label, family, title, track } = row.method;
  const words = lower($("by-text").value).split(/\s+/).filter(Boolean);
  const found = lower([label, task(row), model(row), family, title ?? ""].join(" "));
  const fits = (name, own) => wanted(name) === null || wanted(name) === own;
  if (!fits("family", family) || !fits("track", track) || !words.every((word) => found.includes(word))) return false;
  if (row.where && !(fits("task", task(row)) && fits("model", model(row)) && inTier(row))) return false;
  if (row.scope === "run") return true;
  if (row.scope === "overall") return averaged() && (row.tier === rankedTier() || !ranked(row));
  return !averaged();
}

function update() {
  board.table.classList.toggle("averaged", averaged());
  for (const [listing, status, noun] of [[board, $("shown"), "row"], [runList, $("runs-shown"), "run"]]) {
    if (listing === runList && !runs.size) continue; // they have not arrived
    listing.filter(passes);
    const visible = listing.shown.length;
    status.textContent = `${visible} ${noun}${visible === 1 ? "" : "s"} shown` + (visible ? "" : "; loosen the filters to see more");
  }
}

function showRuns(row) {
  if (row.where) [filters.task.value, filters.model.value] = row.where.map((name) => `=${name}`);
  $("by-text").value = row.method.label;
  only = row.method;
  update();
  $("runs").scrollIntoView();
  runList.body.querySelector("button")?.focus({ preventScroll: true });
}

for (const select of Object.values(filters)) select?.addEventListener("change", update);
$("by-text").addEventListener("input", () => { only = null; update(); });
$("by-metric").addEventListener("change", () => { place($("by-metric").value); overview(); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(() => { only = null; place($("by-metric").value); overview(); update(); }));
