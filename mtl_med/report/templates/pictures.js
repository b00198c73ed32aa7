// The viewer of photographs: layers on and off, and how strong they are.
"use strict";
(() => {
  const begin = () => {
    for (const root of document.querySelectorAll(".viewer")) {
      const layers = [...root.querySelectorAll(".viewer-layer")];
      root.querySelectorAll(".viewer-show").forEach((box, number) => {
        box.addEventListener("change", () => (layers[number].hidden = !box.checked));
        layers[number].hidden = !box.checked;
      });
      const slider = root.querySelector(".viewer-strength");
      slider?.addEventListener("input", () => {
        for (const layer of layers) layer.style.opacity = slider.value / 100;
        slider.parentElement.querySelector("output").textContent = `${slider.value} %`;
      });
    }
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
