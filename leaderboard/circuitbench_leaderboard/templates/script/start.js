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
overview();
update();

// ---- the rest: all runs, and the tables below; a large board has megabytes of them -----------
const rest = (async () => {
  await new Promise((resolve) => whenIdle(resolve));
  const [name] = data.rest;
  await load(data.rest);
  if (!arrived.has(name)) {
    const lost = `The runs and the tables below are not here: the file ${data.folders.cards}/${name} is missing, blocked or damaged. It belongs beside this page.`;
    $("runs-shown").textContent = lost;
    $("more").append(html("p", { class: "reason", role: "alert" }, lost));
    runList.table.setAttribute("aria-busy", false);
    return;
  }
  const content = JSON.parse(arrived.get(name));
  arrived.delete(name);
  for (const [method, where, seed, status, chunk, id, ...values] of content.runs)
    runs.set(id, { id, method: methods[method], where: tasks[where], seed, status, chunk, values, scope: "run" });
  runList.rows = [...runs.values()];
  showTables(content.tables);
  update();
})();

let drawn = innerWidth;
addEventListener("resize", () => setTimeout(() => {
  if (drawn === innerWidth) return;
  drawn = innerWidth;
  frontier(...methodsShown());
  explore();
}, 150));
function linked() {
  const [, kind, value] = /^#(run|method|task|model)=(.+)$/.exec(location.hash) ?? [];
  if (!kind) return;
  let words;
  try { words = value.split("/").map(decodeURIComponent); } catch { return; }
  const which = words.join("/");
  if (kind === "run") open(which);
  else if (kind === "model") openModel(which);
  else if (kind === "method" && byLabel.has(which)) openMethod(byLabel.get(which));
  else if (kind === "task") {
    const i = tasks.findIndex((where) => where.join("/") === which);
    if (i >= 0) openTask(i);
  }
}
addEventListener("hashchange", linked);
linked();
