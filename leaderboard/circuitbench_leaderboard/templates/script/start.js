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
let drawn = innerWidth;
addEventListener("resize", () => setTimeout(() => {
  if (drawn === innerWidth) return;
  drawn = innerWidth;
  overview();
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
