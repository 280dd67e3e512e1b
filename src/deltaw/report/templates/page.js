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
    spec.config.legend.columns = narrow ? 1 : wide === 1 ? 2 : wide === 2 ? 4 : 5;
    const stage = document.createElement("div");
    vegaEmbed(stage, spec, { mode: "vega-lite", renderer: "svg", actions: false }).then(function () {
      holder.replaceChildren(stage);
      if (!narrow && holder.scrollWidth > holder.clientWidth) draw(holder, true);  // a legend in one column
    }, function (error) { console.error(holder.id, error); });
  }
  const holders = Array.from(document.querySelectorAll(".chart"));
  const near = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) { if (entry.isIntersecting) draw(entry.target); });
  }, { rootMargin: "800px" });
  holders.forEach(function (holder) { near.observe(holder); });
  let waiting;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(function () { holders.filter((h) => h.dataset.columns).forEach((h) => draw(h)); }, 200);
  });
})();
