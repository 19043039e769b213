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

  const format = (value, digits) =>
    value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  // ---- sorting -------------------------------------------------------------------------------
  function keyOf(row, column) {
    const cell = row.cells[column];
    if (!("sort" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  }

  function sortRows(table, column, direction) {
    const body = table.tBodies[0];
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...rows.map(([, row]) => row));
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
  }

  for (const table of all("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button").addEventListener("click", () => {
        const higherIsBetter = head.classList.contains("chosen") || isQuality(head.dataset.metric);
        const first = higherIsBetter ? "descending" : "ascending";
        const other = higherIsBetter ? "ascending" : "descending";
        sortRows(table, head.cellIndex, head.getAttribute("aria-sort") === first ? other : first);
      });
    }
  }
  function isQuality(key) {
    return [...$("by-metric").options].some((option) => option.value === key);
  }

  // ---- filtering -----------------------------------------------------------------------------
  const filters = { task: $("by-task"), model: $("by-model"), family: $("by-family") };
  const chosen = (name) => {
    const value = filters[name].value;
    return value.startsWith("=") ? value.slice(1) : null;
  };

  const averaged = () => filters.task.value === "overall" && chosen("model") === null;

  // The method whose runs were asked for by a button; typing in the search field lets go of it.
  let only = null;

  function passes(row) {
    if (only !== null && row.dataset.label !== only) return false;
    const words = $("by-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = [row.dataset.label, row.dataset.task, row.dataset.model, row.dataset.family].join(" ").toLowerCase();
    const fits = ["task", "model", "family"].every((name) => {
      const wanted = chosen(name);
      return wanted === null || row.dataset[name] === wanted || (row.dataset.scope === "overall" && name !== "family");
    });
    if (!fits || !words.every((word) => text.includes(word))) return false;
    return row.dataset.scope === "run" || (row.dataset.scope === "overall") === averaged();
  }

  function show(table, status, noun) {
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !passes(row);
    const visible = rows.filter((row) => !row.hidden).length;
    status.textContent = `${visible} ${noun}${visible === 1 ? "" : "s"} shown` + (visible ? "" : "; loosen the filters to see more");
  }

  function update() {
    $("standings").classList.toggle("averaged", averaged());
    show($("standings"), $("shown"), "row");
    show($("run-table"), $("runs-shown"), "run");
  }

  function place(metric) {
    const table = $("standings");
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((head) => head.dataset.metric === metric);
    for (const row of table.rows) {
      [...row.cells].forEach((cell, i) => cell.classList.toggle("chosen", i === column));
    }
    const groups = Map.groupBy ? Map.groupBy(table.tBodies[0].rows, scopeOf) : group(table.tBodies[0].rows);
    for (const rows of groups.values()) {
      const values = [...rows].map((row) => keyOf(row, column));
      rows.forEach((row, i) => {
        const above = values.filter((value) => value !== null && value > values[i] + 1e-12).length;
        const rank = values[i] === null ? "" : String(above + 1);
        row.cells[0].dataset.sort = rank;
        row.cells[0].textContent = rank || "–";
      });
    }
    sortRows(table, column, "descending");
    // Within each problem by place: problems keep together until a heading is clicked.
    const body = table.tBodies[0];
    const order = [...new Set([...body.rows].map(scopeOf))].sort();
    body.append(...order.flatMap((scope) => [...body.rows].filter((row) => scopeOf(row) === scope)));
  }
  const scopeOf = (row) => [row.dataset.scope === "overall" ? 0 : 1, row.dataset.task, row.dataset.model].join("\n");
  function group(rows) {
    const groups = new Map();
    for (const row of rows) groups.set(scopeOf(row), [...(groups.get(scopeOf(row)) ?? []), row]);
    return groups;
  }

  for (const select of Object.values(filters)) select.addEventListener("change", update);
  $("by-text").addEventListener("input", () => { only = null; update(); });
  $("by-metric").addEventListener("change", () => place($("by-metric").value));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => { only = null; place($("by-metric").value); update(); }));
  for (const button of all(".runs-of")) {
    button.addEventListener("click", () => {
      const { task, model, label } = button.closest("tr").dataset;
      if (task) filters.task.value = `=${task}`;
      if (model) filters.model.value = `=${model}`;
      $("by-text").value = only = label;
      update();
      $("runs").scrollIntoView();
      $("run-table").querySelector("tbody tr:not([hidden]) button")?.focus({ preventScroll: true });
    });
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

  function open(id) {
    const run = Object.hasOwn(data.runs, id) ? data.runs[id] : null;
    if (!run) return;
    $("run-title").textContent = `${run.label} on ${run.task} / ${run.model}, seed ${run.seed}`;
    const numbers = data.metrics.filter((metric) => typeof run.values[metric.key] === "number")
      .map((metric) => html("li", { title: metric.about }, html("b", {}, format(run.values[metric.key], metric.digits)), metric.label));
    const about = html("p", { class: "note" }, `Run ${id}, ${run.created || "undated"}. Truth: ${run.truth.source ?? "unknown"} (${run.truth.kind ?? "unknown"}, version ${run.truth.version ?? "unknown"}). `);
    if (run.file) about.append(html("a", { href: run.file }, "Record"));
    const left = html("div", {}), right = html("div", {});
    if (run.scores) left.append(headGrid(run));
    if (run.curve.length) right.append(curveChart(run));
    right.append(functional(run), costs(run));
    left.append(facts(run));
    const body = [html("ul", { class: "chips" }, ...numbers)];
    if (run.status !== "done") body.push(html("p", { class: "reason" }, `${run.status}: ${run.reason}`));
    $("run-body").replaceChildren(...body, html("div", { class: "split" }, left, right), command(run), about);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    $("run-title").focus();
    dialog.dataset.run = id;
    history.replaceState(null, "", `#run=${id}`);
  }

  function step(by) {
    const ids = all("#run-table tbody tr:not([hidden])").map((row) => row.dataset.run);
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
