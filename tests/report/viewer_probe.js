// What the tests ask a page with a viewer, run in it by the browser's protocol.
globalThis.probe = (() => {
  const root = document.querySelector(".viewer");
  const find = (selector) => root.querySelector(selector);
  const corner = () => {
    const {left, top} = find(".viewer-canvas").getBoundingClientRect();
    return [left, top];
  };
  const choose = (selector, value) => {
    find(selector).value = value;
    find(selector).dispatchEvent(new Event("change"));
  };
  return {
    find,
    corner,
    choose,
    values: () => Object.fromEntries([...root.querySelectorAll("[data-value]")].map((cell) => [cell.dataset.value, cell.textContent])),
    status: () => find(".viewer-status").textContent,
    ended: () => root.dataset.state === "open" || probe.status().startsWith("The viewer cannot"),
    // Crosshair to a voxel, by the sliders.
    move: (voxel) => {
      ["sagittal", "coronal", "axial"].forEach((plane, axis) => {
        const slider = find(`.viewer-slice[data-plane=${plane}]`);
        slider.value = voxel[axis];
        slider.dispatchEvent(new Event("input"));
      });
    },
    // Middle of a voxel in the window.
    point: (voxel, plane) => root.viewer.pointOf(voxel, plane).map((at, axis) => at + corner()[axis]),
    // Values at the crosshair by NiiVue's own reading of the volumes that it shows.
    read: (names) => {
      const {niivue, images} = root.viewer;
      const mm = niivue.frac2mm(niivue.scene.crosshairPos, 0, true);
      return names.map((name) => images[name].getValue(...images[name].mm2vox(mm)));
    },
    outlineOnly: (label) => {
      for (const box of root.querySelectorAll(".viewer-mask")) box.checked = false;
      find(`[aria-label="${label}"]`).click();
    },
    // Pixels of the axial outlines that have a colour, within `slack`.
    drawn: (colour, slack = 40) => {
      const canvas = find(".viewer-outlines");
      const [left, top, width, height] = root.viewer.tiles().find((item) => item.plane === "axial").tile.leftTopWidthHeight.map(Math.round);
      const {data} = canvas.getContext("2d").getImageData(left, top, width, height);
      const found = [];
      for (let at = 0; at < data.length; at += 4) {
        const near = colour.every((part, number) => Math.abs(part - data[at + number]) < slack);
        if (near && data[at + 3] > 150) found.push([left + ((at / 4) % width) + 0.5, top + Math.floor(at / 4 / width) + 0.5]);
      }
      return found;
    },
  };
})();
