// Replaces each static drawing by the interactive chart of the same definition, when it comes near the window.
(function () {
  "use strict";
  if (!window.vegaEmbed) return;
  function columns(spec, room) {
    return Math.max(1, Math.min(spec.usermeta.columns, Math.floor((room + 26) / spec.usermeta.width)));
  }
  function draw(holder, narrow) {
    const spec = JSON.parse(document.getElementById("spec-" + holder.dataset.name).textContent);
    const wide = columns(spec, holder.clientWidth);
    if (holder.dataset.columns === String(wide) && !narrow) return;
    holder.dataset.columns = String(wide);
    spec.columns = wide;
    spec.config.legend.columns = narrow ? 1 : spec.params ? 3 : wide === 1 ? 2 : wide === 2 ? 4 : 5;
    const stage = document.createElement("div");
    vegaEmbed(stage, spec, { mode: "vega-lite", renderer: "svg", actions: false }).then(function (made) {
      holder.replaceChildren(stage);
      if (spec.params) { views.set(holder.id, made.view); choose(made.view); }
      if (!narrow && holder.scrollWidth > holder.clientWidth) draw(holder, true);  // a legend in one column
    }, function (error) { console.error(holder.id, error); });
  }
  const views = new Map();  // of the pictures that choices change
  const form = document.querySelector(".choices");
  function choose(view) {
    if (form) form.querySelectorAll("select").forEach(function (select) { view.signal(select.name, select.value); });
    return view.runAsync();
  }
  const holders = Array.from(document.querySelectorAll(".chart"));
  const near = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) { if (entry.isIntersecting) draw(entry.target); });
  }, { rootMargin: "800px" });
  holders.forEach(function (holder) { near.observe(holder); });
  if (form) form.addEventListener("change", function () { views.forEach(choose); });
  function unfold() {  // a link to a folded part opens it
    const part = location.hash && document.getElementById(location.hash.slice(1));
    if (part) part.querySelectorAll(":scope > details.part").forEach(function (folded) { folded.open = true; });
  }
  window.addEventListener("hashchange", unfold);
  unfold();
  let waiting;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(function () { holders.filter((h) => h.dataset.columns).forEach((h) => draw(h)); }, 200);
  });
})();
