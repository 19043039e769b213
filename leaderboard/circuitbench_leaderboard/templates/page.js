"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("data").textContent);
  const ROLE_COLOURS = ["#de8f05", "#029e73", "#d55e00", "#cc78bc", "#b8ad00", "#949494", "#56b4e9", "#ca9161", "#0173b2"];

  // Elements are made from text only: nothing from a record is ever parsed as markup.
  function element(namespace, tag, attributes = {}, ...children) {
    const made = document.createElementNS(namespace, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const html = (tag, attributes, ...children) =>
    element("http://www.w3.org/1999/xhtml", tag, attributes, ...children);
  const svg = (tag, attributes, ...children) =>
    element("http://www.w3.org/2000/svg", tag, attributes, ...children);

  const formats = new Map();
  function format(value, digits) {
    if (!formats.has(digits)) formats.set(digits, new Intl.NumberFormat("en", {
      minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven", // as the other formats round
    }));
    return formats.get(digits).format(value);
  }

  // ---- tables --------------------------------------------------------------------------------
  // A listing is a table made from data: a row becomes an element when it is first shown, and of
  // many rows the first ones at once, the others while nothing else is to do.
  const AT_ONCE = 40, AT_A_TIME = 400;
  const whenIdle = globalThis.requestIdleCallback ?? ((work) => setTimeout(work, 30));
  const listings = [];

  class Listing {
    // A column has a `label`, `about`, `kind` (class), `first` (direction of the first sort), a
    // `key(row)` to sort by and a `cell(row)`; `make(row, cells)` gives the row's element.
    constructor(table, columns, rows, make) {
      Object.assign(this, { table, columns, rows, make, shown: rows, made: new Map(), waiting: [...rows] });
      this.heads = columns.map((column, i) => {
        const button = html("button", { type: "button", class: "sort" }, column.label);
        if (column.unit) button.append(" ", html("small", {}, `(${column.unit})`));
        button.addEventListener("click", () => {
          const other = column.first === "descending" ? "ascending" : "descending";
          this.sort(i, this.heads[i].getAttribute("aria-sort") === column.first ? other : column.first);
        });
        const head = html("th", { scope: "col", class: column.kind ?? "" }, button);
        if (column.about) head.title = column.about;
        if (column.metric) head.dataset.metric = column.metric.key;
        return head;
      });
      this.body = html("tbody");
      table.append(html("thead", {}, html("tr", {}, ...this.heads)), this.body);
      listings.push(this);
    }

    sort(column, direction) {
      this.order(this.columns[column].key, direction);
      for (const head of this.heads) head.removeAttribute("aria-sort");
      this.heads[column].setAttribute("aria-sort", direction);
      this.render();
    }

    order(key, direction) {
      const sign = direction === "ascending" ? 1 : -1;
      const keyed = this.rows.map((row) => [key(row), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
        return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
      });
      this.rows = keyed.map(([, row]) => row);
    }

    filter(passes) {
      this.passes = passes;
      this.render();
    }

    forget() { // the elements made so far: what they show has changed
      this.made.clear();
    }

    render() {
      this.shown = this.passes ? this.rows.filter(this.passes) : this.rows;
      this.waiting = this.shown.slice(AT_ONCE);
      this.body.replaceChildren(...this.elements(this.shown.slice(0, AT_ONCE)));
      this.later();
    }

    later() {
      this.table.setAttribute("aria-busy", this.waiting.length > 0);
      if (this.scheduled || !this.waiting.length) return;
      this.scheduled = true;
      whenIdle(() => {
        this.scheduled = false;
        this.body.append(...this.elements(this.waiting.splice(0, AT_A_TIME)));
        this.later();
      });
    }

    finish() {
      this.body.append(...this.elements(this.waiting.splice(0)));
      this.later();
    }

    elements(rows) {
      return rows.map((row) => {
        if (!this.made.has(row))
          this.made.set(row, this.make(row, this.columns.map((column) => column.cell(row))));
        return this.made.get(row);
      });
    }
  }

  const SIGNS = {
    best: ["★", "best"],
    tied: ["≈", "tied with the best", "cannot be told from the best"],
    untested: ["?", "differs from the best in too few runs to test"],
  };
  function sign(mark) {
    if (!mark) return "";
    const [text, spoken, title] = SIGNS[mark];
    return html("span", { class: "mark", title: title ?? spoken }, text, html("span", { class: "sr" }, ` ${spoken}`));
  }

  const text = (value, kind = "") => html("td", { class: kind }, value);
  const none = () => html("span", { "aria-label": "none" }, "–");
  const lower = (value) => value.toLowerCase();

  // ---- what is shown -------------------------------------------------------------------------
  const { methods, tasks, metrics } = data;
  const [task, model] = [(row) => (row.where ? row.where[0] : ""), (row) => (row.where ? row.where[1] : "")];
  const estimate = (value) => value && {
    mean: value[0], iqm: value[1], mark: data.marks[value[2] ?? 0], limits: value.length > 3 ? value.slice(3) : null,
  };
  const standings = data.standings.map(([method, where, done, expected, sources, ...values]) => ({
    method: methods[method], where: where === null ? null : tasks[where], done, expected, sources,
    values: values.map(estimate), scope: where === null ? "overall" : "task", rank: null,
  }));
  const plainMetrics = metrics.filter((metric) => !metric.minor);
  const runs = new Map(data.runs.map(([method, where, seed, status, chunk, id, ...values]) => [id, {
    id, method: methods[method], where: tasks[where], seed, status, chunk, values, scope: "run",
  }]));

  const firstOf = (metric) => (metric.better === "lower" ? "ascending" : "descending");
  const sorted = { // columns that several tables have
    method: { label: "Method", first: "ascending", key: (row) => lower(row.method.label), cell: (row) => name(row.method) },
    task: { label: "Task", first: "ascending", key: (row) => lower(task(row)), cell: (row) => text(task(row) || "all", "place") },
    model: { label: "Model", first: "ascending", key: (row) => lower(model(row)), cell: (row) => text(model(row) || "all", "place") },
  };

  function name(method) {
    const cell = html("th", { scope: "row" }, method.label);
    if (method.title) cell.title = method.title;
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
    { label: "#", about: "Place by the chosen metric; incomplete methods have none", kind: "num", first: "ascending", key: (row) => row.rank, cell: (row) => text(row.rank === null ? "–" : String(row.rank), "num rank") },
    sorted.method, { ...sorted.task, kind: "place" }, { ...sorted.model, kind: "place" },
    { label: "Family", first: "ascending", key: (row) => lower(row.method.family), cell: (row) => html("td", {}, html("span", { class: "tag" }, row.method.family)) },
    ...metrics.map((metric, i) => ({
      label: metric.label, unit: metric.unit, about: metric.about, kind: metric.minor ? "num minor" : "num", first: firstOf(metric), metric,
      key: (row) => row.values[i]?.mean ?? null, cell: (row) => number(metric, row.values[i]),
    })),
    { label: "Runs", about: "Finished runs of those the comparison rests on", kind: "num", first: "ascending", key: (row) => row.done, cell: (row) => runsOf(row, `${row.done}/${row.expected}`) },
    { label: "Version", about: "Of circuitbench, and the commit of its source", first: "ascending", key: (row) => lower(row.sources), cell: (row) => html("td", { class: "mono", title: row.sources }, row.sources) },
  ], standings, (row, cells) => {
    const made = html("tr", { class: row.done < row.expected || !row.expected ? "incomplete" : "" }, ...cells);
    Object.assign(made.dataset, { scope: row.scope, task: task(row), model: model(row), label: row.method.label });
    return made;
  });

  function place(key) {
    const column = board.columns.findIndex(({ metric }) => metric?.key === key);
    chosen = board.columns[column].metric;
    const value = board.columns[column].key;
    const sign = chosen.better === "lower" ? -1 : 1;
    const scopeOf = (row) => [row.scope === "overall" ? 0 : 1, task(row), model(row)].join("\n");
    scale = Math.max(1, ...standings.map(value));
    board.rows = standings; // equals stay in the order of names
    board.order(value, firstOf(chosen));
    // Within each task by place: tasks keep together until a heading is clicked.
    const groups = new Map();
    for (const row of board.rows) groups.set(scopeOf(row), [...(groups.get(scopeOf(row)) ?? []), row]);
    for (const group of groups.values()) {
      const values = group.map(value).filter((x) => x !== null);
      for (const row of group)
        row.rank = value(row) === null ? null : 1 + values.filter((x) => sign * (x - value(row)) > 1e-12).length;
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
    { ...sorted.method, cell: (row) => html("th", { scope: "row" }, row.method.label) }, sorted.task, sorted.model,
    { label: "Seed", kind: "num", first: "ascending", key: (row) => row.seed, cell: (row) => text(String(row.seed), "num") },
    { label: "Status", first: "ascending", key: (row) => row.status, cell: (row) => html("td", {}, html("span", { class: `tag ${row.status}` }, row.status)) },
    ...plainMetrics.map((metric, i) => ({
      label: metric.label, unit: metric.unit, about: metric.about, kind: "num", first: firstOf(metric),
      key: (row) => row.values[i], cell: (row) => text(row.values[i] === null ? "–" : format(row.values[i], metric.digits), "num"),
    })),
  ], [...runs.values()], (row, cells) => {
    const made = html("tr", {}, ...cells);
    Object.assign(made.dataset, { run: row.id, label: row.method.label });
    return made;
  });

  // ---- all other tables ----------------------------------------------------------------------
  const byLabel = new Map(methods.map((method) => [method.label, method]));
  data.tables.forEach((content, i) => {
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
        if (j === named) return html("th", { scope: "row" }, row.fields[j]);
        if (key === "coverage") return runsOf(row, row.fields[j]);
        if (!numeric) return text(row.fields[j], "mono");
        const [shown, , mark] = row.fields[j];
        return html("td", { class: `num ${data.marks[mark ?? 0]}` }, shown, sign(data.marks[mark ?? 0]));
      },
    }));
    const listing = new Listing(table, columns, rows, (row, cells) => {
      const made = html("tr", {}, ...cells);
      Object.assign(made.dataset, { task: task(row), model: model(row), label: row.method.label });
      return made;
    });
    $("more").append(details);
    listing.later();
  });

  // ---- filtering -----------------------------------------------------------------------------
  const filters = { task: $("by-task"), model: $("by-model"), family: $("by-family") };
  const wanted = (name) => {
    const value = filters[name].value;
    return value.startsWith("=") ? value.slice(1) : null;
  };

  const averaged = () => filters.task.value === "overall" && wanted("model") === null;

  // The method whose runs were asked for by a button; typing in the search field lets go of it.
  let only = null;

  function passes(row) {
    if (only !== null && row.method !== only) return false;
    const { label, family, title } = row.method;
    const words = lower($("by-text").value).split(/\s+/).filter(Boolean);
    const found = lower([label, task(row), model(row), family, title ?? ""].join(" "));
    const fits = (name, own) => wanted(name) === null || wanted(name) === own;
    if (!fits("family", family) || !words.every((word) => found.includes(word))) return false;
    if (row.where && !(fits("task", task(row)) && fits("model", model(row)))) return false;
    return row.scope === "run" || (row.scope === "overall") === averaged();
  }

  function update() {
    board.table.classList.toggle("averaged", averaged());
    for (const [listing, status, noun] of [[board, $("shown"), "row"], [runList, $("runs-shown"), "run"]]) {
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

  for (const select of Object.values(filters)) select.addEventListener("change", update);
  $("by-text").addEventListener("input", () => { only = null; update(); });
  $("by-metric").addEventListener("change", () => place($("by-metric").value));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => { only = null; place($("by-metric").value); update(); }));

  // ---- details of runs -----------------------------------------------------------------------
  // They lie in files beside the page, each one call of `circuitbench` with a JSON text. A page
  // that is opened as a file may load such a script, but may not fetch.
  const arrived = new Map();
  Object.defineProperty(globalThis, "circuitbench", { value: (name, content) => arrived.set(name, content) });
  const known = new Set(data.details.map(([name]) => name));
  const address = (name) => {
    if (!known.has(name)) throw new TypeError(`not a file of this page: ${name}`);
    return `${data.folder}/${encodeURIComponent(name)}`;
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
      if (!arrived.has(name)) throw new Error(`The details of this run are not here: the file ${data.folder}/${name} is missing, blocked or damaged. It belongs beside this page.`);
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
    const line = html("p", { class: "note" }, [method.title, method.about].filter(Boolean).join(": "));
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

  // ---- paper ---------------------------------------------------------------------------------
  let closed = [];
  addEventListener("beforeprint", () => {
    for (const listing of listings) listing.finish();
    for (const image of all("img[loading=lazy]")) image.loading = "eager";
    closed = all("details:not([open])");
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of closed) details.open = false; });

  // ---- light and dark ------------------------------------------------------------------------
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("circuitbench-theme"); } catch { return null; } })();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("circuitbench-theme", root.dataset.theme); } catch { /* private windows refuse */ }
  });

  place($("by-metric").value);
  update();
  const linked = () => { if (location.hash.startsWith("#run=")) open(decodeURIComponent(location.hash.slice(5))); };
  addEventListener("hashchange", linked);
  linked();
})();
