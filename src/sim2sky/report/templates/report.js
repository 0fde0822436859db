// Draws the figures from the JSON beside them, in the colours of the page: a string "--name" is a variable of the style.
(() => {
  "use strict";
  const darkness = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };

  const resolve = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((item) => resolve(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, style)]));
    return value;
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const drawn = [...document.querySelectorAll("[data-figure]")].map((place) => {
      const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
      const { data, layout } = resolve(figure, style);
      if (touch.matches) {  // a finger scrolls the page, it does not zoom the plot
        layout.dragmode = false;
        for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key].fixedrange = true;
      }
      return window.Plotly.react(place, data, layout, config);
    });
    Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = "yes"; });
  };

  const printed = (on) => () => {
    document.documentElement.toggleAttribute("data-print", on);
    for (const part of document.querySelectorAll("details")) if (on) part.open = true;
    draw();
  };

  darkness.addEventListener("change", draw);
  window.addEventListener("beforeprint", printed(true));
  window.addEventListener("afterprint", printed(false));
  document.addEventListener("DOMContentLoaded", draw);
})();
