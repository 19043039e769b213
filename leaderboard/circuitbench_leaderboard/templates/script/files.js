// ---- downloads ------------------------------------------------------------------------------
function save(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = html("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function offer(place, files) {
  place.append("Download ", ...Object.entries(files).map(([kind, make]) => {
    const button = html("button", { type: "button", class: "link", "data-file": kind }, kind, html("span", { class: "sr" }, ` of ${place.dataset.name ?? place.id}`));
    button.addEventListener("click", make);
    return button;
  }));
}

// Text that no spreadsheet takes for a formula.
function csvField(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const plain = String(value).replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, " ");
  const safe = /^\s*[=+\-@]/.test(plain) ? `'${plain}` : plain;
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv(rows) {
  const keys = [...new Set(rows.flatMap(Object.keys))];
  return [keys, ...rows.map((row) => keys.map((key) => row[key]))].map((fields) => fields.map(csvField).join(",")).join("\n") + "\n";
}

const identity = ({ method }) => ({ method: method.label, title: method.title, family: method.family, track: method.track });

const boardRows = () => board.shown.map((row) => {
  const made = { place: row.rank, ...identity(row), task: task(row) || "all", model: model(row) || "all" };
  metrics.forEach((metric, i) => {
    const value = row.values[i];
    made[metric.key] = value?.mean ?? null;
    if (value?.limits) [made[`${metric.key}_low`], made[`${metric.key}_high`]] = value.limits;
    if (value?.mark) made[`${metric.key}_mark`] = value.mark;
  });
  return { ...made, runs: `${row.done} of ${row.expected}`, version: row.sources };
});

const runRows = () => runList.shown.map((row) => ({
  run: row.id, ...identity(row), task: task(row), model: model(row), seed: row.seed, status: row.status,
  ...Object.fromEntries(plainMetrics.map((metric, i) => [metric.key, row.values[i]])),
}));

const tables = { "circuitbench-leaderboard": boardRows, "circuitbench-runs": runRows };
const asFiles = (name) => ({
  CSV: () => save(`${name}.csv`, "text/csv", csv(tables[name]())),
  JSON: () => save(`${name}.json`, "application/json", `${JSON.stringify({ ranked_by: chosen.key, source: data.source, rows: tables[name]() }, null, 1)}\n`),
});

// What stands in braces in BibTeX.
const braced = (value) => `{${String(value).replace(/[\\{}]/g, "").replace(/[&%$#_]/g, "\\$&")}}`;

function bibtex() {
  const entries = [["software", "circuitbench", {
    author: "{The circuitbench developers}", title: "{circuitbench: how well does a method find the circuit inside a transformer?}",
    version: braced(data.version), note: braced(data.source ? `Leaderboard of circuitbench ${data.source}` : "Leaderboard"),
  }]];
  const used = new Map();
  for (const method of new Set(board.shown.map((row) => row.method))) {
    if (!method.paper) continue;
    const about = `${method.paper}\n${method.link ?? ""}`;
    if (!used.has(about)) used.set(about, []);
    used.get(about).push(method);
  }
  const keys = new Set();
  for (const [about, ours] of used) {
    const [words, link] = about.split("\n");
    const [, who, year] = /^(.*?)\s*(\d{4})?$/.exec(words);
    const base = `${who.normalize("NFD").replace(/[^A-Za-z ]/g, "").split(" ")[0].toLowerCase() || "paper"}${year ?? ""}`;
    let key = base;
    for (let i = 0; keys.has(key); i += 1) key = `${base}${String.fromCharCode(97 + (i % 26))}`;
    keys.add(key);
    const fields = { author: braced(who.replace(/ et al\.?$/, " and others")) };
    if (year) fields.year = braced(year);
    const arxiv = /arxiv\.org\/abs\/([\d.]+)/.exec(link), doi = /doi\.org\/(.+)$/.exec(link);
    if (arxiv) Object.assign(fields, { eprint: braced(arxiv[1]), archiveprefix: "{arXiv}" });
    if (doi) fields.doi = `{${doi[1].replace(/[{}]/g, "")}}`;
    if (link) fields.url = `{${link.replace(/[{}]/g, "")}}`;
    fields.note = braced(`Method in circuitbench: ${ours.map((method) => `${titleOf(method)} (${method.label})`).join("; ")}`);
    entries.push(["misc", key, fields]);
  }
  return entries.map(([kind, key, fields]) => `@${kind}{${key},\n${Object.entries(fields).map(([name, value]) => `  ${name} = ${value}`).join(",\n")}\n}\n`).join("\n");
}

offer($("board-files"), { ...asFiles("circuitbench-leaderboard"), BibTeX: () => save("circuitbench.bib", "text/plain", bibtex()) });
offer($("run-files"), asFiles("circuitbench-runs"));

// A picture of the page as a file of its own: the styles that it has here are written into it.
const PAINTED = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-weight", "font-family"];

function standalone(picture) {
  const copy = picture.cloneNode(true);
  const originals = [picture, ...all("*", picture)], copies = [copy, ...all("*", copy)];
  originals.forEach((original, i) => {
    const style = getComputedStyle(original);
    for (const name of PAINTED) copies[i].setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex", "role", "aria-haspopup", "data-method"]) copies[i].removeAttribute(name);
  });
  const [, , width, height] = picture.getAttribute("viewBox").split(" ");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.prepend(svg("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).getPropertyValue("--card") }));
  return new XMLSerializer().serializeToString(copy);
}

function heatPicture() {
  const rows = all("tr[data-label]", $("heat"));
  const heads = all("thead button", $("heat")).map((button) => button.textContent);
  const [size, tall, left, top] = [38, 20, 220, 120];
  const picture = svg("svg", { viewBox: `0 0 ${left + heads.length * size + 10} ${top + rows.length * tall + 10}` });
  heads.forEach((head, i) => picture.append(svg("text", { x: left + i * size + size / 2, y: top - 8, transform: `rotate(-50 ${left + i * size + size / 2} ${top - 8})` }, head)));
  rows.forEach((row, r) => {
    picture.append(svg("text", { x: left - 8, y: top + r * tall + 14, "text-anchor": "end" }, row.cells[0].textContent));
    all("[role=gridcell]", row).forEach((cell, i) => {
      const style = getComputedStyle(cell);
      picture.append(svg("rect", { x: left + i * size, y: top + r * tall, width: size - 1, height: tall - 1, style: `fill:${style.backgroundColor}` }),
        svg("text", { x: left + i * size + size / 2, y: top + r * tall + 14, "text-anchor": "middle", style: `fill:${style.color}` }, cell.textContent));
    });
  });
  return picture;
}

const pictures = { heat: heatPicture, frontier: () => all("svg", $("frontier"))[0], scatter: () => all("svg", $("scatter"))[0] };

function pictureText(name) {
  const picture = pictures[name]();
  if (!picture) return null;
  if (picture.isConnected) return standalone(picture);
  const aside = html("div", { class: "aside plot" }, picture); // styles are computed of what is in the page
  document.body.append(aside);
  const text = standalone(picture);
  aside.remove();
  return text;
}

async function bitmap(text) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = html("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

for (const place of all("[data-picture]")) {
  const { picture, name } = place.dataset;
  offer(place, {
    SVG: () => { const text = pictureText(picture); if (text) save(`${name}.svg`, "image/svg+xml", text); },
    PNG: async () => { const text = pictureText(picture); if (text) save(`${name}.png`, "image/png", await bitmap(text)); },
  });
}
