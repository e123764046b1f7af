// Filters of the examples; a span and its source light up together; a link opens the prompt it leads into.
const filters = [...document.querySelectorAll("[data-filter]")];
const articles = [...document.querySelectorAll("article")];

function applyFilters() {
  let shown = 0;
  for (const article of articles) {
    const fits = filters.every((f) => !f.value || article.dataset[f.dataset.filter] === f.value);
    article.hidden = !fits;
    shown += fits;
  }
  const output = document.querySelector(".filters output");
  if (output) output.textContent = `${shown} shown`;
}

for (const filter of filters) filter.addEventListener("change", applyFilters);
applyFilters();

for (const article of articles) {
  const light = (event, on) => {
    const part = event.target.closest("[data-span]");
    if (!part) return;
    for (const other of article.querySelectorAll(`[data-span="${part.dataset.span}"]`)) {
      other.classList.toggle("on", on);
    }
  };
  article.addEventListener("mouseover", (event) => light(event, true));
  article.addEventListener("mouseout", (event) => light(event, false));
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (details && !details.open) {
    details.open = true;
    target.scrollIntoView({ block: "center" });
  }
}
window.addEventListener("hashchange", openTarget);
openTarget();
