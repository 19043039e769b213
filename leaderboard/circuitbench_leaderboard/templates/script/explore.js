// ---- any metric against any other -----------------------------------------------------------
// The means of all metrics lie in the file of the cards, which is loaded when the choice is seen.
const [across, up, explored] = [$("across"), $("up"), $("explored")];
let wide = null; // the file's content

function meansOf(measure, method, chosenTasks) {
  let sum = 0;
  for (const i of chosenTasks) {
    const value = wide.byCell.get(`${method} ${i}`)?.[measure] ?? null;
    if (value === null) return null;
    sum += value;
  }
  return sum / chosenTasks.length;
}

async function explore() {
  if (!wide) return;
  const [a, b] = [Number(across.value), Number(up.value)];
  const asMetric = ([key, label, unit, better, digits]) => ({ key, label, unit, better, digits });
  const ours = methods.map((method, i) => [method, i]).filter(([method]) => !method.source);
  const has = (i) => ours.some(([, m]) => [a, b].every((measure) => (wide.byCell.get(`${m} ${i}`)?.[measure] ?? null) !== null));
  const chosenTasks = (explored.value === "" ? tasksOf(tier) : [Number(explored.value)]).filter(has);
  const points = ours.map(([method, m]) => ({ method, x: meansOf(a, m, chosenTasks), y: meansOf(b, m, chosenTasks) }))
    .filter(({ x, y }) => chosenTasks.length && x !== null && y !== null);
  if (points.length < 2) {
    $("scatter").replaceChildren(html("p", { class: "note" }, "Fewer than two methods have both of these metrics here."));
    $("explore-note").textContent = "";
    return;
  }
  const [first, second] = [wide.measures[a], wide.measures[b]].map(asMetric);
  plot($("scatter"), points, first, second, [], `${second.label} against ${first.label} of ${points.length} methods`);
  $("explore-note").textContent = `${points.length} methods that have both on all of ${chosenTasks.length} task${chosenTasks.length === 1 ? "" : "s"}; rank correlation ${format(rankCorrelation(points), 2)}.`;
}

// Spearman's: the correlation of ranks, of equals their mean rank.
function rankCorrelation(points) {
  const ranks = (of) => points.map((point) => {
    const below = points.filter((other) => of(other) < of(point)).length;
    return below + (points.filter((other) => of(other) === of(point)).length + 1) / 2;
  });
  const [a, b] = [ranks(({ x }) => x), ranks(({ y }) => y)];
  const mean = (points.length + 1) / 2;
  const product = (p, q) => p.reduce((sum, value, i) => sum + (value - mean) * (q[i] - mean), 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b)) || 0;
}

async function prepareExploring() {
  if (wide) return;
  try {
    const content = await cardsFile();
    wide = { measures: content.measures, byCell: new Map(content.means.map(([m, i, means]) => [`${m} ${i}`, means])) };
  } catch (error) {
    $("scatter").replaceChildren(html("p", { class: "reason", role: "alert" }, error.message));
    return;
  }
  for (const select of [across, up])
    select.replaceChildren(...wide.measures.map(([key, label, unit], i) => html("option", { value: i, "data-key": key }, unit ? `${label} (${unit})` : label)));
  const find = (key, fallback) => Math.max(0, wide.measures.findIndex((measure) => measure[0] === key)) || fallback;
  across.value = String(find("cmd_resample", wide.measures.length - 1));
  up.value = String(find(chosen.key, 0));
  explored.append(...tasks.map((where, i) => html("option", { value: i }, where.join(" / "))));
  explore();
}
for (const select of [across, up, explored]) select.addEventListener("change", explore);
$("axes").addEventListener("submit", (event) => event.preventDefault());
if ("IntersectionObserver" in globalThis) {
  const seen = new IntersectionObserver((found) => {
    if (!found.some(({ isIntersecting }) => isIntersecting)) return;
    seen.disconnect();
    prepareExploring();
  }, { rootMargin: "200px" });
  seen.observe($("explore"));
} else prepareExploring();
