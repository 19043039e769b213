// ---- cards of methods, tasks and models ------------------------------------------------------
const card = $("card");
let cardOpener = null;

let cardsContent = null;
async function cardsFile() {
  const [name] = data.cards;
  if (!cardsContent) {
    await load(data.cards);
    if (!arrived.has(name)) throw new Error(`What cards show is not here: the file ${data.folders.cards}/${name} is missing, blocked or damaged. It belongs beside this page.`);
    cardsContent = JSON.parse(arrived.get(name));
    arrived.delete(name);
  }
  return cardsContent;
}

function showCard(address, title, content) {
  if (!card.open) cardOpener = document.activeElement;
  card.dataset.card = address;
  $("card-title").textContent = title;
  $("card-body").replaceChildren(...content.filter(Boolean));
  if (!card.open) card.showModal();
  history.replaceState(null, "", `#${address}`);
  card.scrollTop = 0;
  $("card-title").focus();
}

const jump = (kind, value, label) => html("button", { type: "button", class: "link", [`data-${kind}`]: value }, label);
const taskLink = (i) => jump("task", i, tasks[i].join(" / "));
const line = (...parts) => html("p", { class: "note" }, ...parts);
const folded = (title, content, open) => html("details", open ? { open: "" } : {}, html("summary", {}, title), content);
const listed = (values) => listTable(["", ""], Object.entries(values).map(([name, value]) => [name, shown(value)]));

function about({ family, paper: words, link }, ...more) {
  const parts = [family, ...more].filter(Boolean);
  const made = line(parts.join(" · "));
  if (words || link) made.append(parts.length ? " · " : "", link ? paper({ paper: words, link }, words || link) : words);
  return made;
}

// What needs what, in words of the reader.
const NEEDS = {
  counterfactuals: "counterfactual prompts", gradients: "gradients", training: "training", mlps: "MLPs as units",
  edges: "access to edges", rules: "other backward rules than the gradient", spans: "prompts that name positions",
};

function openMethod(method) {
  const overall = standings.find((row) => row.method === method && row.scope === "overall");
  const index = metrics.indexOf(chosen);
  const own = [...(cells.get(method) ?? [])].map(([i, row]) => ({ i, value: row.values[index]?.mean ?? null, best: bestOn(i) }))
    .filter(({ value }) => value !== null).sort((a, b) => Math.abs(b.best - b.value) - Math.abs(a.best - a.value));
  const worst = own.filter(({ value, best }) => Math.abs(best - value) > 0.005).slice(0, 3);
  const needs = (method.needs ?? []).map((need) => NEEDS[need] ?? need);
  const body = [
    about(method, method.unit && `scores ${method.unit}`, method.track, needs.length ? `needs ${needs.join(", ")}` : "needs nothing but ablations", method.checked),
    method.source && html("p", { class: "notice" }, `${method.source}.`),
    overall && chips(Object.fromEntries(metrics.map((metric, i) => [metric.key, overall.values[i]?.mean]))),
  ];
  const fails = html("div", {}, html("h3", {}, "Where it fails"));
  if (worst.length) fails.append(html("p", {}, "Tasks on which it falls furthest behind the best:"), html("ul", { class: "plain" }, ...worst.map(({ i, value, best }) =>
    html("li", {}, taskLink(i), ` ${chosen.label} ${format(value, 3)} (best there: ${format(best, 3)})`))));
  if (method.weakest) fails.append(html("p", {}, "Roles whose heads it misses most (recall among the R best ranked):"), html("ul", { class: "plain" }, ...method.weakest.map(([i, role, recall]) =>
    html("li", {}, `${role} in `, taskLink(i), ` ${format(recall, 2)}`))));
  if (!worst.length && !method.weakest) fails.append(html("p", {}, "Nowhere on this board: it is the best, or as good, on every task, and misses no role."));
  const everywhere = folded("All tasks", listOf(["Task", chosen.label, "Best there"], own.sort((a, b) => a.i - b.i).map(({ i, value, best }) => [taskLink(i), format(value, 3), format(best, 3)])), false);
  const settings = method.settings ? folded("Hyperparameters", listed(method.settings), true) : line("It has no hyperparameters.");
  const button = html("button", { type: "button" }, "Show its runs");
  button.addEventListener("click", () => { card.close(); showRuns({ method, where: null }); });
  body.push(html("div", { class: "split" }, html("div", {}, fails, everywhere), html("div", {}, html("h3", {}, "Settings"), settings)), html("p", {}, button));
  showCard(`method=${encodeURIComponent(method.label)}`, method.title && method.title !== method.label ? `${method.title} (${method.label})` : method.label, body);
}

function bestOn(i) {
  const values = [...cells.values()].map((own) => own.get(i)?.values[metrics.indexOf(chosen)]?.mean ?? null).filter((value) => value !== null);
  return chosen.better === "lower" ? Math.min(...values) : Math.max(...values);
}

const listOf = (heads, rows) => html("table", { class: "small" },
  html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head)))),
  html("tbody", {}, ...rows.map((fields) => html("tr", {}, ...fields.map((field) => html("td", {}, field))))));

async function openTask(i) {
  const [name, model] = tasks[i];
  const said = data.aboutTasks[i];
  const head = [about(said, said.tier && `tier ${said.tier}`), line("On the model ", jump("model", model, said.model?.title ? `${said.model.title} (${model})` : model), ".")];
  const title = said.title && said.title !== name ? `${said.title} (${name})` : name;
  const place = [...cells].map(([method, own]) => [method, own.get(i)?.values[metrics.indexOf(chosen)]?.mean ?? null]).filter(([, value]) => value !== null)
    .sort((a, b) => (chosen.better === "lower" ? 1 : -1) * (a[1] - b[1]));
  const leaders = html("div", {}, html("h3", {}, "Methods on it"), listOf(["Method", chosen.label], place.slice(0, 8).map(([method, value]) => [jump("method", method.label, titleOf(method)), format(value, 3)])));
  const address = `task=${tasks[i].map(encodeURIComponent).join("/")}`;
  showCard(address, title, [...head, leaders]);
  let content;
  try {
    const { circuits } = await cardsFile();
    content = [...head, html("div", { class: "split" }, circuitOf(circuits[i]), html("div", {}, healthOf(circuits[i]), leaders))];
  } catch (error) {
    content = [...head, html("p", { class: "reason", role: "alert" }, error.message), leaders];
  }
  if (card.open && card.dataset.card === address) showCard(address, title, content);
}

async function openModel(name) {
  const on = tasks.map((_, i) => i).filter((i) => tasks[i][1] === name);
  if (!on.length) return;
  const said = data.aboutTasks[on[0]].model ?? {};
  const head = [about(said), html("div", {}, html("h3", {}, "Tasks on it"), html("ul", { class: "plain" }, ...on.map((i) => html("li", {}, taskLink(i)))))];
  const address = `model=${encodeURIComponent(name)}`;
  const title = said.title && said.title !== name ? `${said.title} (${name})` : name;
  showCard(address, title, head);
  let more;
  try {
    const { circuits } = await cardsFile();
    const all = on.filter((i) => circuits[i].shape);
    const known = circuits[all[0]];
    // Each task's heads in a colour of their own; a head of several tasks has the last one's.
    const roles = Object.fromEntries(all.map((i) => [tasks[i][0], { heads: [...new Set(Object.values(circuits[i].truth.roles ?? {}).flatMap((role) => role.heads))] }]));
    more = known ? [line(`${known.shape[0]} layers of ${known.shape[1]} heads.`), html("div", { class: "split" },
      circuitOf({ truth: { roles }, shape: known.shape }, "Heads of its circuits, by task"), folded("Where it comes from", listed(known.provenance), true))] : [];
  } catch (error) {
    more = [html("p", { class: "reason", role: "alert" }, error.message)];
  }
  if (card.open && card.dataset.card === address) showCard(address, title, [...head, ...more]);
}

function healthOf({ health }) {
  if (!health) return "";
  const rows = health.checks.map(([name, value, limit, passed]) => [name, String(Number(value.toPrecision(3))), limit, passed ? "ok" : "FAILED"]);
  return html("div", {}, html("h3", {}, `Health gate (${health.ablation} ablation): ${health.passed ? "passed" : "FAILED"}`),
    folded(`${rows.length} checks`, listOf(["Check", "Value", "Limit", ""], rows), false));
}

// The circuit in its model: true heads in the colour of their role, layers upwards, and the true
// edges where the truth names them.
function circuitOf({ truth, shape, accuracy, planting }, heading) {
  if (!shape) return html("p", { class: "note" }, "No run on it has finished.");
  const [layers, heads] = shape;
  const roles = rolesOf({ truth });
  const edges = truth.edges ?? [];
  const [gap, left, top, below] = [26, 42, edges.length ? 40 : 4, edges.length ? 44 : 18];
  const width = left + Math.max(heads, 4) * gap + (edges.length ? 44 : 8), height = top + layers * gap + below;
  const y = (layer) => top + (layers - 1 - layer) * gap + gap / 2;
  const x = (head) => left + head * gap + gap / 2;
  const middle = left + (heads * gap) / 2;
  const places = (node) => {
    const head = /^(\d+)\.(\d+)$/.exec(node), mlp = /^(?:mlp|m)\.?(\d+)$/.exec(node);
    if (head) return [x(Number(head[2])), y(Number(head[1]))];
    if (mlp) return [left + heads * gap + 18, y(Number(mlp[1])) - gap / 2];
    return node === "logits" ? [middle, top - 22] : [middle, height - 30];
  };
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", style: `max-width:${Math.max(16, width / 11)}rem`,
    "aria-label": `${layers} layers of ${heads} heads; ${roles.map((role) => `${role.name}: ${role.heads.join(", ")}`).join("; ")}` });
  for (let l = 0; l < layers; l += 1) {
    picture.append(svg("text", { x: left - 12, y: y(l) + 3.5, "text-anchor": "end" }, String(l)));
    for (let h = 0; h < heads; h += 1) picture.append(svg("circle", { class: "idle", cx: x(h), cy: y(l), r: 2.5 }));
  }
  for (const edge of edges) {
    const [from, to] = edge.split("->").map((end) => places(end.replace(/\.[qkv]$/, "")));
    if (from && to) picture.append(svg("path", { class: "wire", d: `M${from[0]} ${from[1]}C${from[0]} ${(from[1] + to[1]) / 2} ${to[0]} ${(from[1] + to[1]) / 2} ${to[0]} ${to[1]}` }));
  }
  for (const role of roles) for (const name of role.heads) {
    const [l, h] = name.split(".").map(Number);
    picture.append(svg("g", {}, svg("title", {}, `head ${name}: ${role.name}`), svg("circle", { class: "true", cx: x(h), cy: y(l), r: 8.5, fill: role.colour })));
  }
  if (edges.length) for (const [node, words] of [["logits", "logits"], ["embed", "embedding"]]) {
    const [nx, ny] = places(node);
    picture.append(svg("text", { class: "strong", x: nx, y: node === "logits" ? ny - 4 : ny + 12, "text-anchor": "middle" }, words));
  }
  picture.append(svg("text", { x: middle, y: height - 4, "text-anchor": "middle" }, "head"),
    svg("text", { x: 10, y: top + (layers * gap) / 2, transform: `rotate(-90 10 ${top + (layers * gap) / 2})`, "text-anchor": "middle" }, "layer"));
  const known = roles.length ? html("ul", { class: "legend" }, ...roles.map((role) => html("li", {}, html("i", { class: "filled", style: `background:${role.colour}` }),
    `${role.name} (${role.heads.length} head${role.heads.length === 1 ? "" : "s"}${role.needed && role.needed < role.heads.length ? `, ${role.needed} needed` : ""}${role.sign < 0 ? ", works against" : ""})`)))
    : line("Nobody knows its circuit.");
  if (heading) return html("div", {}, html("h3", {}, heading), picture, known);
  const words = [truth.kind && `Truth: ${truth.kind}`, truth.source, truth.ablations?.length && `holds under ${truth.ablations.join(", ")} ablation`, `as drawn for ${planting}`,
    typeof accuracy === "number" && `the model's accuracy is ${format(accuracy, 2)}`].filter(Boolean).join("; ");
  return html("div", {}, html("h3", {}, "The circuit"), picture, known, line(`${words}.`));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-method], button[data-task], button[data-model]");
  if (!button) return;
  const { method, task: where, model: on } = button.dataset;
  if (method !== undefined) openMethod(byLabel.get(method));
  else if (where !== undefined) openTask(Number(where));
  else openModel(on);
});
$("card-close").addEventListener("click", () => card.close());
card.addEventListener("click", (event) => { if (event.target === card) card.close(); });
card.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  cardOpener?.focus();
});
