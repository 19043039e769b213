// ---- the first screen -----------------------------------------------------------------------
// A heat map of methods and tasks, and quality against cost, of one tier of tasks.
let tier = all("#tiers [aria-pressed=true]")[0].dataset.tier;
const cells = new Map(); // method -> task's index -> its standing there
const indexOf = new Map(tasks.map((where, i) => [where, i]));
for (const row of standings) if (row.where) {
  if (!cells.has(row.method)) cells.set(row.method, new Map());
  cells.get(row.method).set(indexOf.get(row.where), row);
}
const tiers = all("#tiers button").map((button) => button.dataset.tier).filter(Boolean); // the easy ones first
const tierAt = (i) => data.aboutTasks[i].tier;
const tasksOf = (wanted) => tasks.map((_, i) => i).filter((i) => wanted === "" || tierAt(i) === wanted)
  .sort((a, b) => tiers.indexOf(tierAt(a)) - tiers.indexOf(tierAt(b)) || a - b);
const tiersOf = (chosenTasks) => tiers.map((one) => [one, chosenTasks.filter((i) => tierAt(i) === one)]).filter(([, its]) => its.length);

const valueOf = (method, i, metric) => cells.get(method)?.get(i)?.values[metrics.indexOf(metric)]?.mean ?? null;
function meanOver(method, chosenTasks, ...measures) {
  let sum = 0;
  for (const i of chosenTasks) for (const measure of measures) {
    const value = valueOf(method, i, measure);
    if (value === null) return null;
    sum += value;
  }
  return chosenTasks.length ? sum / chosenTasks.length : null;
}
const costMetrics = data.cost.map((key) => metrics.find((metric) => metric.key === key)).filter(Boolean);
const COST = { label: "Oracle queries, training included", unit: "", digits: 0, better: "lower" };

const taskLabel = (i, among) => among.some((j) => j !== i && tasks[j][0] === tasks[i][0]) ? `${tasks[i][0]} / ${tasks[i][1]}` : tasks[i][0];

function overview() {
  const shown = methodsShown();
  sentence(...shown);
  heat(...shown);
  frontier(...shown);
}

// The methods on the chosen tier, the best first; its tasks; which way is up.
function methodsShown() {
  const chosenTasks = tasksOf(tier);
  const sign = chosen.better === "lower" ? -1 : 1;
  const rows = methods.filter((method) => !method.source && cells.has(method)).map((method) => ({
    method, mean: meanOver(method, chosenTasks, chosen), cost: meanOver(method, chosenTasks, ...costMetrics),
  })).filter(({ method }) => chosenTasks.some((i) => cells.get(method).has(i)));
  rows.sort((a, b) => (a.mean === null) - (b.mean === null) || sign * (b.mean - a.mean) || a.method.label.localeCompare(b.method.label));
  return [rows, chosenTasks, sign];
}

function sentence(everyone, chosenTasks, sign) {
  const [track, ...others] = data.tracks.filter((one) => everyone.some(({ method }) => method.track === one));
  const rows = everyone.filter(({ method }) => method.track === track); // tracks are not compared
  const [best] = rows;
  if (!best || best.mean === null) return;
  const ranked = rows.filter(({ mean }) => mean !== null);
  const near = ranked.filter((row) => row !== best && sign * (best.mean - row.mean) <= 0.01);
  const cheapest = [best, ...near].filter(({ cost }) => cost !== null).sort((a, b) => a.cost - b.cost)[0];
  const called = (method) => html("button", { type: "button", class: "link", "data-method": method.label }, titleOf(method));
  const many = near.length === 1 ? "comes" : "come";
  const parts = [
    `On ${chosenTasks.length} ${tier ? `${tier} ` : ""}task${chosenTasks.length === 1 ? "" : "s"} whose circuits are known, `, called(best.method),
    ` does best${others.length ? ` of those with ${track}` : ""} (${chosen.label} ${format(best.mean, chosen.digits)}); ${near.length || "none"} of ${ranked.length - 1} other methods ${many} within .01 of it`,
  ];
  if (cheapest && near.length) parts.push(...(cheapest.method === best.method ? [", and none of them asks fewer queries"] : [", and ", called(cheapest.method), " asks the fewest queries of these"]),
    ` (${format(cheapest.cost, 0)} a run, training included)`);
  $("sentence").replaceChildren(...parts, ".", ...bestOfTiers(rows, chosenTasks, sign, called));
}

// Who does best on each tier, where several are shown: seldom the same.
function bestOfTiers(rows, chosenTasks, sign, called) {
  const within = tiersOf(chosenTasks);
  if (within.length < 2) return [];
  const said = within.flatMap(([one, its]) => {
    const means = rows.map(({ method }) => [method, meanOver(method, its, chosen)]).filter(([, mean]) => mean !== null);
    if (!means.length) return [];
    const best = Math.max(...means.map(([, mean]) => sign * mean)) * sign;
    const first = means.filter(([, mean]) => format(mean, chosen.digits) === format(best, chosen.digits));
    const who = first.length === 1 ? called(first[0][0]) : `${first.length} methods`;
    return [", ", `${one} `, who, ` (${format(best, chosen.digits)})`];
  });
  return [" Best by tier: ", ...said.slice(1), "."];
}

// How dark a cell is: shares of 0 to 1 as they are, anything else between the extremes shown.
function shading(values, sign) {
  const low = Math.min(...values), high = Math.max(...values);
  if (sign > 0 && low >= -1 && high <= 1) return (value) => Math.max(0, value);
  return (value) => high > low ? (sign > 0 ? value - low : high - value) / (high - low) : 1;
}

const brief = (value) => Math.abs(value) < 10 ? format(value, 2).replace(/^(-?)0\./, "$1.") : short(Math.round(value));

function heat(rows, chosenTasks, sign) {
  const table = $("heat");
  const values = rows.flatMap(({ method }) => chosenTasks.map((i) => valueOf(method, i, chosen))).filter((value) => value !== null);
  const shade = shading(values, sign);
  const tracks = data.tracks.filter((track) => rows.some(({ method }) => method.track === track));
  const within = tiersOf(chosenTasks);
  const means = within.length > 1 ? within : []; // of one tier it is the mean of the row
  const begins = (i, c) => means.length && (c === 0 || tierAt(i) !== tierAt(chosenTasks[c - 1])) ? "begins" : "";
  const gridcell = (value, about, more) => {
    if (value === null) return html("td", { role: "gridcell", class: `empty ${more.class}`, tabindex: "-1" }, html("span", { "aria-label": "none" }, "–"));
    const share = shade(value);
    return html("td", {
      role: "gridcell", tabindex: "-1", ...more, class: `${share > 0.76 ? "dark" : share > 0.58 ? "middling" : ""} ${more.class}`,
      style: `--share:${(100 * share).toFixed(0)}%`, title: `${about}: ${chosen.label} ${format(value, chosen.digits)}`,
    }, brief(value));
  };
  const head = html("tr", { role: "row" }, html("td", {}), html("th", { scope: "col", class: "mean" }, html("span", {}, "mean")),
    ...means.map(([one, its]) => html("th", { scope: "col", role: "columnheader" },
      html("button", { type: "button", tabindex: "-1", "data-of-tier": one, title: `mean of ${its.length} tasks` }, html("span", {}, one)))),
    ...chosenTasks.map((i, c) => html("th", { scope: "col", role: "columnheader", class: begins(i, c) },
      html("button", { type: "button", tabindex: "-1", "data-task": i, title: data.aboutTasks[i].title ?? "" }, html("span", {}, taskLabel(i, chosenTasks).replace("@drawn", ""))))));
  const body = html("tbody", {});
  for (const track of tracks) {
    if (tracks.length > 1) body.append(html("tr", { class: "track-name" }, html("th", { scope: "rowgroup", colspan: chosenTasks.length + means.length + 2 }, html("span", {}, track))));
    for (const { method, mean } of rows.filter((row) => row.method.track === track)) body.append(html("tr", { role: "row", "data-label": method.label },
      html("th", { scope: "row", role: "rowheader" }, html("button", { type: "button", tabindex: "-1", "data-method": method.label, title: method.label }, titleOf(method))),
      html("td", { class: "mean" }, mean === null ? "–" : brief(mean)),
      ...means.map(([one, its]) => gridcell(meanOver(method, its, chosen), `${titleOf(method)} on the ${one} tier`, { class: "of-tier" })),
      ...chosenTasks.map((i, c) => gridcell(valueOf(method, i, chosen), `${titleOf(method)} on ${tasks[i].join(" / ")}`, { "data-cell": i, class: begins(i, c) }))));
  }
  table.replaceChildren(html("caption", { class: "sr" }, `${chosen.label} of each method on each task; arrow keys move, Enter opens`), html("thead", {}, head), body);
  const first = stops(table)[0]?.[0];
  if (first) first.tabIndex = 0;
  const range = sign > 0 ? "Darker is better." : "Darker is better (lower).";
  $("heat-note").textContent = `${chosen.label}, mean over seeds. ${range} ${means.length ? "The first columns are means over tiers. " : ""}A cell leads to its runs, a name to its card.`;
}

// The grid is one stop of the tab key; arrows move in it, Enter opens what is there.
const stops = (table) => [...table.rows].map((row) => all("button, [role=gridcell]", row)).filter((row) => row.length);

$("heat").addEventListener("keydown", (event) => {
  const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const current = event.target.closest("button, [role=gridcell]");
  if (!current) return;
  if (!by) {
    if (event.key === "Enter" && current.dataset.cell !== undefined) current.click();
    return;
  }
  event.preventDefault();
  const rows = stops($("heat"));
  const r = rows.findIndex((row) => row.includes(current));
  const offset = rows[0].length < rows[1]?.length ? 1 : 0; // headings have nothing above the names
  const column = rows[r].indexOf(current) + (r === 0 ? offset : 0) + by[1];
  const next = rows[Math.max(0, Math.min(rows.length - 1, r + by[0]))];
  const target = next[Math.max(0, Math.min(next.length - 1, column - (next === rows[0] ? offset : 0)))];
  current.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
});
$("heat").addEventListener("click", (event) => {
  const heading = event.target.closest("[data-of-tier]");
  if (heading) all("#tiers button").find((button) => button.dataset.tier === heading.dataset.ofTier).click();
  const cell = event.target.closest("[data-cell]");
  if (!cell) return;
  const method = byLabel.get(cell.closest("tr").dataset.label);
  showRuns({ method, where: tasks[cell.dataset.cell] });
});

function frontier(rows, chosenTasks, sign) {
  const points = rows.filter(({ mean, cost }) => mean !== null && cost !== null).map(({ method, mean, cost }) => ({ method, x: cost, y: mean }));
  if (!points.length) {
    $("frontier").replaceChildren(html("p", { class: "note" }, "No method has finished all of these tasks."));
    return;
  }
  // Tracks are never mixed in one ranking: each has its own line.
  const tracks = data.tracks.filter((track) => points.some(({ method }) => method.track === track));
  const lines = tracks.map((track) => undominated(points.filter(({ method }) => method.track === track), sign));
  const best = lines.map((line, i) => `${tracks.length > 1 ? `${tracks[i]}: ` : ""}${line.map(({ method }) => titleOf(method)).join(", ")}`).join("; ");
  plot($("frontier"), points, COST, chosen, lines, `${chosen.label} against oracle queries of ${points.length} methods`);
  const elsewhere = points.some(({ method }) => method.track === data.elsewhere) ? ", on the scored model: what was learnt on other models was paid once" : "";
  $("frontier-note").textContent = `Means over ${chosenTasks.length} task${chosenTasks.length === 1 ? "" : "s"} and seeds; queries of training and discovery together${elsewhere}. ${tracks.length > 1 ? "A line for each track joins" : "The line joins"} the methods that no other beats in both: ${best}.`;
}

for (const button of all("#tiers button")) button.addEventListener("click", () => {
  tier = button.dataset.tier;
  for (const other of all("#tiers button")) other.setAttribute("aria-pressed", other === button);
  overview();
  update();
  explore();
});
