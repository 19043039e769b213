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
