// ---- plots of methods -----------------------------------------------------------------------
const families = [...new Set(methods.map((method) => method.family))].sort();
const colourOf = (method) => ROLE_COLOURS[families.indexOf(method.family) % ROLE_COLOURS.length];
const titleOf = (method) => method.title ?? method.label;
const TRACK_SHAPES = { "no training": "circle", "trained on the model it is scored on": "square" };

// The shape says on what a method was trained, the colour its family.
function marker(method, x, y) {
  const shape = TRACK_SHAPES[method.track] ?? "triangle";
  const look = { class: "point", fill: colourOf(method) };
  if (shape === "circle") return svg("circle", { ...look, cx: x, cy: y, r: 5 });
  if (shape === "square") return svg("rect", { ...look, x: x - 4.5, y: y - 4.5, width: 9, height: 9 });
  return svg("path", { ...look, d: `M${x} ${y - 6}L${x + 6} ${y + 5}H${x - 6}Z` });
}

// An axis from numbers: where they lie between 0 and 1, and where its marks are.
function axis(values, logarithmic) {
  const of = logarithmic ? (value) => Math.log10(Math.max(1, value)) : (value) => value;
  let low = Math.min(...values.map(of)), high = Math.max(...values.map(of));
  if (logarithmic) [low, high] = [Math.floor(low), Math.max(Math.ceil(high), Math.floor(low) + 1)];
  else {
    const margin = 0.06 * (high - low) || 0.5 * Math.abs(high) || 0.5;
    [low, high] = [low - margin, high + margin];
  }
  const marks = [];
  if (logarithmic) for (let power = low; power <= high; power += Math.ceil((high - low) / 6)) marks.push(10 ** power);
  else {
    const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * unit).find((size) => size >= rough);
    for (let mark = Math.ceil(low / step) * step; mark <= high; mark += step) marks.push(Number(mark.toPrecision(6)));
  }
  return { at: (value) => (of(value) - low) / (high - low), marks };
}

const short = (value) => Math.abs(value) >= 10000 ? new Intl.NumberFormat("en", { notation: "compact" }).format(value) : String(value);

// How wide a plot is drawn in a place, so that its letters keep their size on any screen.
const widthOf = (place) => Math.max(300, Math.min(760, Math.round(place.clientWidth) || 560));

// Points `{method, x, y}`; `across` and `up` are metrics (label, unit, digits, better); `lines` are
// lists of those to join by a line. A point shows its name when hovered or focused, its card when clicked.
function plot(place, points, across, up, lines, about) {
  const width = widthOf(place), height = Math.round(width * (width < 420 ? 0.85 : 0.7));
  const [left, right, top, bottom] = [54, 16, 14, 44];
  const spread = points.map(({ x }) => x).filter((x) => x > 0);
  const logarithmic = points.every(({ x }) => x >= 0) && Math.max(...spread) / Math.min(...spread) > 30;
  const xs = axis(points.map(({ x }) => x), logarithmic), ys = axis(points.map(({ y }) => y), false);
  const x = (value) => left + xs.at(value) * (width - left - right);
  const y = (value) => top + (1 - ys.at(value)) * (height - top - bottom);
  const named = ({ label, unit, better }) => [label, unit && `(${unit})`, better === "lower" && "← lower is better"].filter(Boolean).join(" ");
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": about });
  for (const mark of xs.marks) picture.append(
    svg("line", { class: "rule", x1: x(mark), x2: x(mark), y1: top, y2: height - bottom }),
    svg("text", { x: x(mark), y: height - bottom + 15, "text-anchor": "middle" }, logarithmic && mark === 1 ? "≤ 1" : short(mark)));
  for (const mark of ys.marks) picture.append(
    svg("line", { class: "rule", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
    svg("text", { x: left - 7, y: y(mark) + 3.5, "text-anchor": "end" }, short(mark)));
  picture.append(
    svg("text", { class: "title", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, named(across)),
    svg("text", { class: "title", x: 13, y: (top + height - bottom) / 2, transform: `rotate(-90 13 ${(top + height - bottom) / 2})`, "text-anchor": "middle" }, named(up)));
  for (const [i, line] of lines.entries()) {
    let path = "";
    line.forEach((point, j) => { path += j ? `H${x(point.x)}V${y(point.y)}` : `M${x(point.x)} ${y(point.y)}`; });
    picture.append(svg("path", { class: "step", d: `${path}H${width - right}`, "stroke-dasharray": ["", "7 4", "2 4"][i] ?? "" }));
  }
  const tip = svg("g", { class: "tip", "aria-hidden": "true" });
  for (const point of points) {
    const said = `${titleOf(point.method)}: ${up.label} ${format(point.y, up.digits)}, ${across.label} ${format(point.x, across.digits)}`;
    const [px, py] = [x(point.x), y(point.y)];
    const shown = svg("g", { tabindex: "0", role: "button", "aria-label": said, "data-method": point.method.label, "aria-haspopup": "dialog" },
      svg("circle", { class: "target", cx: px, cy: py, r: 11 }), marker(point.method, px, py));
    const show = () => {
      const lines = [titleOf(point.method), `${format(point.y, up.digits)} · ${format(point.x, across.digits)}${across.unit ? ` ${across.unit}` : ""}`];
      const wide = 7 * Math.max(...lines.map((line) => line.length)) + 14;
      const tx = Math.max(left, Math.min(px + 10, width - wide - 2)), ty = py < 60 ? py + 12 : py - 44;
      tip.replaceChildren(svg("rect", { x: tx, y: ty, width: wide, height: 36, rx: 5 }),
        svg("text", { class: "strong", x: tx + 7, y: ty + 14 }, lines[0]), svg("text", { x: tx + 7, y: ty + 29 }, lines[1]));
    };
    for (const event of ["pointerenter", "focus"]) shown.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) shown.addEventListener(event, () => tip.replaceChildren());
    shown.addEventListener("click", () => openMethod(point.method));
    shown.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      openMethod(point.method);
    });
    picture.append(shown);
  }
  picture.append(tip);
  const present = families.filter((family) => points.some(({ method }) => method.family === family));
  const tracks = [...new Set(points.map(({ method }) => method.track))];
  const signs = { circle: "●", square: "■", triangle: "▲" };
  const legend = html("ul", { class: "legend" },
    ...present.map((family) => html("li", {}, html("i", { class: "filled", style: `background:${ROLE_COLOURS[families.indexOf(family) % ROLE_COLOURS.length]}` }), family)),
    ...(tracks.length > 1 ? tracks.map((track) => html("li", {}, `${signs[TRACK_SHAPES[track] ?? "triangle"]} ${track}`)) : []));
  place.replaceChildren(picture, legend);
}

// Those that no other is both cheaper and better than, the cheapest first.
function undominated(points, sign) {
  const found = [];
  for (const point of [...points].sort((a, b) => a.x - b.x || sign * (b.y - a.y)))
    if (!found.length || sign * (point.y - found.at(-1).y) > 1e-12) found.push(point);
  return found;
}
