// ---- details of runs -----------------------------------------------------------------------
// They lie in files beside the page, each one call of `circuitbench` with a JSON text. A page
// that is opened as a file may load such a script, but may not fetch.
const arrived = new Map();
Object.defineProperty(globalThis, "circuitbench", { value: (name, content) => arrived.set(name, content) });
const known = new Map(data.details.map(([name]) => [name, data.folders.details]));
for (const [name] of [data.cards, data.rest]) known.set(name, data.folders.cards);
const address = (name) => {
  if (!known.has(name)) throw new TypeError(`not a file of this page: ${name}`);
  return `${known.get(name)}/${encodeURIComponent(name)}`;
};
const policy = globalThis.trustedTypes?.createPolicy("details", { createScriptURL: address });

function load([name, integrity]) {
  const inside = document.querySelector(`script[data-details="${name}"]`);
  if (inside) arrived.set(name, inside.textContent);
  if (arrived.has(name)) return Promise.resolve();
  const script = html("script");
  // Browsers check it for pages from a server; for files they would refuse every script.
  if (location.protocol !== "file:") script.integrity = integrity;
  return new Promise((resolve) => {
    script.addEventListener("load", resolve);
    script.addEventListener("error", resolve);
    script.src = policy ? policy.createScriptURL(name) : address(name);
    document.head.append(script);
  }).finally(() => script.remove());
}

const read = new Map(); // details file -> its content
async function detailsOf(run) {
  const file = data.details[run.chunk];
  const [name] = file;
  if (!read.has(name)) {
    await load(file);
    if (!arrived.has(name)) throw new Error(`The details of this run are not here: the file ${data.folders.details}/${name} is missing, blocked or damaged. It belongs beside this page.`);
    read.set(name, JSON.parse(arrived.get(name)));
    arrived.delete(name);
  }
  const { shared, runs } = read.get(name);
  const found = runs[run.id];
  const [truth, spec, versions, hardware] = ["truth", "spec", "versions", "hardware"].map((part) => shared[found[part]]);
  return { ...run, ...found, truth, versions, hardware, spec: { ...spec, seed: run.seed } };
}

// ---- one run -------------------------------------------------------------------------------
const dialog = $("run");
let opener = null;

function rolesOf(run) {
  return Object.entries(run.truth.roles ?? {}).map(([name, role], i) => ({
    name, ...role, colour: ROLE_COLOURS[i % ROLE_COLOURS.length],
  }));
}

function ranksOf(scores) {
  const flat = scores.flat();
  return scores.map((layer) => layer.map((score) => flat.filter((other) => other > score).length + 1));
}

function headGrid(run) {
  const roles = rolesOf(run);
  const roleOf = new Map(roles.flatMap((role) => role.heads.map((head) => [head, role])));
  const selected = new Set(run.selected);
  const ranks = ranksOf(run.scores);
  const [layers, heads] = [run.scores.length, run.scores[0].length];
  const [size, left, top] = [24, 34, 6];
  const picture = svg("svg", {
    viewBox: `0 0 ${left + heads * size + 6} ${top + layers * size + 32}`, role: "img",
    "aria-label": `Score of each head of ${layers} layers by ${heads} heads; the table below lists the true heads with their rank.`,
    style: `max-width:${Math.max(22, (heads * size + 40) / 10)}rem`,
  });
  const outlines = [];
  run.scores.forEach((layer, l) => layer.forEach((score, h) => {
    const name = `${l}.${h}`;
    const [x, y] = [left + h * size, top + l * size];
    const height = 1 - Math.log(ranks[l][h]) / Math.log(Math.max(2, layers * heads));
    const role = roleOf.get(name);
    const about = `head ${name}: score ${score}, rank ${ranks[l][h]}` + (role ? `, ${role.name}` : "") + (selected.has(name) ? ", committed" : "");
    const cell = svg("g", {}, svg("title", {}, about), svg("rect", {
      class: "cell", x, y, width: size, height: size,
      "fill-opacity": Math.max(0.02, height),
    }));
    if (selected.has(name)) cell.append(svg("circle", { class: "dot", cx: x + size / 2, cy: y + size / 2, r: 3.4 }));
    picture.append(cell);
    if (role) outlines.push(svg("rect", {
      x: x + 1.5, y: y + 1.5, width: size - 3, height: size - 3, fill: "none", stroke: role.colour, "stroke-width": 3, "pointer-events": "none",
    }));
  }));
  picture.append(...outlines);
  const every = (n) => Math.ceil(n / 16);
  for (let l = 0; l < layers; l += every(layers))
    picture.append(svg("text", { x: left - 6, y: top + l * size + size / 2 + 3.5, "text-anchor": "end" }, String(l)));
  for (let h = 0; h < heads; h += every(heads))
    picture.append(svg("text", { x: left + h * size + size / 2, y: top + layers * size + 13, "text-anchor": "middle" }, String(h)));
  picture.append(
    svg("text", { x: left + (heads * size) / 2, y: top + layers * size + 27, "text-anchor": "middle" }, "head"),
    svg("text", { x: 9, y: top + (layers * size) / 2, transform: `rotate(-90 9 ${top + (layers * size) / 2})`, "text-anchor": "middle" }, "layer"),
  );
  const legend = html("ul", { class: "legend" }, ...roles.map((role) =>
    html("li", {}, html("i", { style: `border-color:${role.colour}` }), role.name)),
    html("li", {}, "● committed"), html("li", {}, "darker: ranked higher"));
  const rows = roles.flatMap((role) => role.heads.map((head) => [role, head]))
    .filter(([, head]) => { const [l, h] = head.split(".").map(Number); return ranks[l]?.[h]; })
    .map(([role, head]) => {
      const [l, h] = head.split(".").map(Number);
      return [head, role.name, `${ranks[l][h]} of ${layers * heads}`, selected.has(head) ? "yes" : "no"];
    });
  const listing = html("details", {}, html("summary", {}, "True heads and their ranks"),
    listTable(["Head", "Role", "Rank", "Committed"], rows));
  return html("div", {}, html("h3", {}, "Scores against the truth"), picture, legend, listing);
}

function curveChart(run) {
  const [width, height, left, bottom, top] = [420, 230, 42, 40, 10];
  const logs = run.curve.map(([queries]) => Math.log10(Math.max(1, queries)));
  const low = Math.floor(Math.min(...logs)), high = Math.max(Math.ceil(Math.max(...logs)), low + 1);
  const x = (log) => left + ((log - low) / (high - low)) * (width - left - 14);
  const y = (value) => top + (1 - value) * (height - top - bottom);
  const last = run.curve.at(-1);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${data.rankedBy} rises to ${last[1].toFixed(3)} after ${last[0]} queries.`,
  });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) picture.append(
    svg("line", { class: "rule", x1: left, x2: width - 14, y1: y(tick), y2: y(tick) }),
    svg("text", { x: left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, String(tick)));
  for (let power = low; power <= high; power += 1) picture.append(
    svg("line", { class: "rule", x1: x(power), x2: x(power), y1: top, y2: height - bottom }),
    svg("text", { x: x(power), y: height - bottom + 14, "text-anchor": "middle" }, (10 ** power).toLocaleString("en")));
  if (run.chance !== null) picture.append(
    svg("line", { class: "chance", x1: left, x2: width - 14, y1: y(run.chance), y2: y(run.chance) }),
    svg("text", { x: width - 16, y: y(run.chance) - 4, "text-anchor": "end" }, "chance"));
  let path = "";
  run.curve.forEach(([, value], i) => {
    path += i ? `H${x(logs[i])}V${y(value)}` : `M${x(logs[i])} ${y(value)}`;
  });
  picture.append(
    svg("path", { class: "step", d: path }),
    svg("circle", { class: "end", cx: x(logs.at(-1)), cy: y(last[1]), r: 4 }),
    svg("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "discovery queries"),
    svg("text", { x: 9, y: (top + height - bottom) / 2, transform: `rotate(-90 9 ${(top + height - bottom) / 2})`, "text-anchor": "middle" }, data.rankedBy));
  return html("div", {}, html("h3", {}, `${data.rankedBy} of the best ranking so far`), picture);
}

function listTable(heads, rows) {
  return html("table", { class: "small" },
    html("thead", {}, html("tr", {}, ...heads.map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...rows.map(([first, ...rest]) =>
      html("tr", {}, html("th", { scope: "row" }, first), ...rest.map((text) => html("td", {}, text))))));
}

const shown = (value) => {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : format(value, 3);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
};

function costs(run) {
  const parts = ["discovery", "training", "evaluation"].filter((part) => run.costs[part]);
  const names = [...new Set(parts.flatMap((part) => Object.keys(run.costs[part])))];
  const amount = (name, value) => {
    if (typeof value !== "number") return shown(value);
    if (name.endsWith("_bytes")) return `${format(value / 2 ** 20, 0)} MiB`;
    return value >= 1e9 ? value.toExponential(2) : shown(value);
  };
  const rows = names.map((name) => [name.replace("_bytes", "").replaceAll("_", " "),
    ...parts.map((part) => amount(name, run.costs[part][name]))]);
  return html("div", {}, html("h3", {}, "Cost"), listTable(["", ...parts], rows));
}

function functional(run) {
  const rows = Object.entries(run.function).filter(([, values]) => values.some((v) => v !== null))
    .map(([ablation, values]) => [ablation, ...values.map((v) => v === null ? "–" : format(v, 3))]);
  if (!rows.length) return "";
  return html("div", {}, html("h3", {}, "Function (needs no truth)"),
    listTable(["Ablation", "Faithfulness", "CPR", "CMD"], rows));
}

function facts(run) {
  const list = (title, values) => html("details", {}, html("summary", {}, title),
    listTable(["", ""], Object.entries(values).map(([name, value]) => [name, typeof value === "number" ? String(value) : shown(value)])));
  return html("div", {}, list("Settings", run.spec), list("Versions", run.versions), list("Hardware", run.hardware));
}

function command(run) {
  const text = html("code", {}, run.command);
  const button = html("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(run.command);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
  });
  return html("div", {}, html("h3", {}, "Run it again"), html("div", { class: "command" }, text, button));
}

async function open(id) {
  await rest;
  const known = runs.get(id);
  if (!known) return;
  dialog.dataset.run = id;
  $("run-title").textContent = `${known.method.label} on ${task(known)} / ${model(known)}, seed ${known.seed}`;
  if (!dialog.open) dialog.showModal();
  history.replaceState(null, "", `#run=${id}`);
  $("run-body").setAttribute("aria-busy", "true");
  let content;
  try {
    content = pictureOf(await detailsOf(known));
  } catch (error) {
    const values = Object.fromEntries(plainMetrics.map((metric, i) => [metric.key, known.values[i]]));
    content = [chips(values), html("p", { class: "reason", role: "alert" }, error.message)];
  }
  if (dialog.dataset.run !== id) return; // another run was opened meanwhile
  $("run-body").replaceChildren(...content);
  $("run-body").setAttribute("aria-busy", "false");
  dialog.scrollTop = 0;
  $("run-title").focus();
}

function chips(values) {
  return html("ul", { class: "chips" }, ...metrics.filter((metric) => typeof values[metric.key] === "number").map((metric) =>
    html("li", { title: metric.about }, html("b", {}, format(values[metric.key], metric.digits)), metric.unit ? `${metric.label} (${metric.unit})` : metric.label)));
}

function pictureOf(run) {
  const about = html("p", { class: "note" }, `Run ${run.id}, ${run.created || "undated"}. Truth: ${run.truth.source ?? "unknown"} (${run.truth.kind ?? "unknown"}, version ${run.truth.version ?? "unknown"}). `);
  if (run.file) about.append(html("a", { href: run.file }, "Record"));
  const left = html("div", {}), right = html("div", {});
  if (run.scores) left.append(headGrid(run));
  if (run.curve.length) right.append(curveChart(run));
  right.append(functional(run), costs(run));
  left.append(facts(run));
  const body = [methodLine(run.method), chips(run.values)];
  if (run.status !== "done") body.push(html("p", { class: "reason" }, `${run.ending}: ${run.reason}`));
  return [...body, html("div", { class: "split" }, left, right), command(run), about];
}

function methodLine(method) {
  const line = html("p", { class: "note" }, [method.title, method.unit && `scores ${method.unit}`].filter(Boolean).join(": "));
  if (method.link) line.append(line.textContent ? ". " : "", paper(method, method.paper || method.link));
  return line.textContent ? line : "";
}

function step(by) {
  const ids = runList.shown.map((run) => run.id);
  const next = ids[(ids.indexOf(dialog.dataset.run) + by + ids.length) % ids.length];
  if (next) open(next);
}

$("run-table").addEventListener("click", (event) => {
  const button = event.target.closest(".open");
  if (!button) return;
  opener = button;
  open(button.closest("tr").dataset.run);
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
dialog.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  opener?.focus();
});
