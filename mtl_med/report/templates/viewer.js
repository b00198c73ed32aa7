// The viewer of volumes: controls around NiiVue. Values are read from the data of the page and not from the picture.
"use strict";
(() => {
  const PLANES = {axial: {across: 0, up: 1, through: 2}, coronal: {across: 0, up: 2, through: 1}, sagittal: {across: 1, up: 2, through: 0}};
  const NAMES = ["axial", "coronal", "sagittal"]; // in NiiVue's numbers of slice types
  const HEADER = 352; // bytes of a NIfTI file before its voxels
  const SLOPE = 112; // where its header has scl_slope
  const DOSE_FROM = 0.05; // of the highest dose: below it nothing is laid over the CT
  const DIFFERENCE = 0.25; // of the highest dose: the ends of the scale
  // NiiVue takes any opacity but 0 of a colour map as opaque: the stretch in the middle shows the CT.
  const BLUE_RED = {R: [5, 67, 230, 247, 247, 247, 214, 103], G: [48, 147, 240, 247, 247, 235, 96, 0], B: [97, 195, 247, 247, 247, 230, 77, 31], A: [255, 255, 255, 0, 0, 255, 255, 255], I: [0, 64, 121, 122, 133, 134, 192, 255]};
  const DIFFERENCE_FROM = DIFFERENCE * 6 / 128; // of the highest dose: what that stretch hides
  const DASHES = [5, 4];
  let running = null; // a browser gives a page few drawing contexts: one viewer at a time

  const inflate = async (text, format) => {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream(format));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  class Volume {
    constructor(fields, bytes, missing) {
      Object.assign(this, {unit: fields.unit, step: fields.step, decimals: fields.decimals, bytes, missing});
      new DataView(bytes.buffer).setFloat32(SLOPE, fields.step, true);
      this.steps = new Int16Array(bytes.buffer, HEADER);
    }
    text(steps, signed) {
      if (steps === null) return "no value";
      const value = (steps * this.step).toFixed(this.decimals);
      return `${signed && steps > 0 ? "+" : ""}${value} ${this.unit}`;
    }
    at(place) {
      return this.steps[place] === this.missing ? null : this.steps[place];
    }
  }

  // Predicted minus planned, for the picture: 0 where one of them has no value.
  const differenceOf = (planned, predicted) => {
    const bytes = planned.bytes.slice();
    const volume = new Volume(planned, bytes, NaN);
    volume.steps.forEach((_, place) => {
      const known = planned.at(place) !== null && predicted.at(place) !== null;
      volume.steps[place] = known ? Math.max(-32767, Math.min(32767, predicted.steps[place] - planned.steps[place])) : 0;
    });
    return volume;
  };

  // The outline of a mask's slice along the edges of its voxels: closed lines, so that dashes run around.
  const outline = (inside, width, height) => {
    const next = new Map();
    const edge = (x, y, toX, toY) => {
      const key = y * (width + 1) + x;
      if (!next.has(key)) next.set(key, []);
      next.get(key).push(toY * (width + 1) + toX);
    };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inside(x, y)) continue;
        if (y === 0 || !inside(x, y - 1)) edge(x, y, x + 1, y);
        if (x === width - 1 || !inside(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
        if (y === height - 1 || !inside(x, y + 1)) edge(x + 1, y + 1, x, y + 1);
        if (x === 0 || !inside(x - 1, y)) edge(x, y + 1, x, y);
      }
    }
    const path = new Path2D();
    for (const start of next.keys()) {
      while (next.get(start).length) {
        path.moveTo(start % (width + 1), Math.floor(start / (width + 1)));
        let key = next.get(start).pop();
        while (key !== start) {
          path.lineTo(key % (width + 1), Math.floor(key / (width + 1)));
          key = next.get(key).pop();
        }
        path.closePath();
      }
    }
    return path;
  };

  class Viewer {
    constructor(root) {
      this.root = root;
      this.find = (name) => root.querySelector(`.viewer-${name}`);
      this.all = (name) => [...root.querySelectorAll(`.viewer-${name}`)];
      this.find("start").addEventListener("click", () => this.start());
      this.find("stop").addEventListener("click", () => {
        this.stop();
        this.find("start").focus();
      });
    }

    // The data lie in the nearest element around the viewer that has them: several cases may share a document.
    data() {
      for (let element = this.root; element; element = element.parentElement) {
        const found = element.querySelector('script[data-name="volumes"]');
        if (found) return JSON.parse(found.textContent);
      }
      throw new Error("this page holds no volumes");
    }

    async start() {
      const status = this.find("status");
      status.textContent = "Opening ...";
      try {
        if (running) running.stop();
        if (typeof niivueLibrary !== "function") throw new Error("the file niivue.js is not beside this report; copy the whole folder");
        if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser or computer has no WebGL 2");
        running = this;
        await this.load();
        this.find("body").hidden = false;
        await this.draw();
        this.bind();
        this.find("stop").hidden = false;
        if (document.activeElement === this.find("start")) this.find("stop").focus();
        this.find("start").hidden = true;
        status.textContent = "";
        this.root.dataset.state = "open";
      } catch (error) {
        this.stop();
        status.textContent = `The viewer cannot be shown: ${error.message}. The pictures of this page need no viewer.`;
      }
    }

    stop() {
      if (running === this) running = null;
      if (this.listening) this.listening.abort();
      if (this.niivue) {
        this.niivue.cleanup();
        this.niivue.gl.getExtension("WEBGL_lose_context")?.loseContext();
        const canvas = this.find("canvas");
        canvas.replaceWith(canvas.cloneNode());
      }
      this.niivue = this.volumes = this.masks = null;
      this.find("body").hidden = this.find("stop").hidden = true;
      this.find("start").hidden = false;
      this.find("status").textContent = "";
      this.root.dataset.state = "closed";
    }

    async load() {
      const fields = this.data();
      this.size = fields.shape;
      this.index = fields.index;
      this.structures = fields.structures;
      this.volumes = {};
      for (const [name, item] of Object.entries({ct: fields.ct, ...fields.doses})) {
        this.volumes[name] = new Volume(item, await inflate(item.data, "gzip"), fields.missing);
      }
      this.masks = fields.masks ? await inflate(fields.masks, "deflate") : null;
      this.maskBytes = Math.ceil(this.size[0] * this.size[1] * this.size[2] / 8);
      this.paths = new Map();
      const {planned, predicted} = this.volumes;
      const doses = [planned, predicted].filter(Boolean);
      this.topDose = doses.length ? Math.max(...doses.map((dose) => dose.steps.reduce((top, steps) => Math.max(top, steps), 1))) * doses[0].step : 0;
      this.voxel = this.size.map((count) => Math.floor(count / 2));
      if (planned && predicted) {
        this.volumes.difference = differenceOf(planned, predicted);
        this.worst = this.farthest(this.volumes.difference);
      }
      if (doses.length) this.voxel = this.middleOfHighDose(doses[0]);
    }

    middleOfHighDose(dose) {
      const highest = dose.steps.reduce((top, steps) => Math.max(top, steps), 0);
      const [width, depth] = this.size;
      const sum = [0, 0, 0, 0];
      dose.steps.forEach((steps, place) => {
        if (steps < 0.9 * highest) return;
        [place % width, Math.floor(place / width) % depth, Math.floor(place / (width * depth)), 1].forEach((at, axis) => (sum[axis] += at));
      });
      return sum.slice(0, 3).map((total) => Math.round(total / sum[3]));
    }

    // The voxel whose value is farthest from 0.
    farthest(volume) {
      let best = 0;
      let top = -1;
      volume.steps.forEach((steps, place) => {
        if (steps !== volume.missing && Math.abs(steps) > top) [top, best] = [Math.abs(steps), place];
      });
      const [width, depth] = this.size;
      return [best % width, Math.floor(best / width) % depth, Math.floor(best / (width * depth))];
    }

    async draw() {
      const {Niivue, NVImage, SHOW_RENDER, DRAG_MODE} = niivueLibrary();
      const none = "none"; // no key of NiiVue's own
      const niivue = new Niivue({
        logLevel: "error", loadingText: "", dragAndDropEnabled: false, show3Dcrosshair: false,
        isRadiologicalConvention: true, sagittalNoseLeft: true, isNearestInterpolation: !this.find("smooth").checked,
        multiplanarShowRender: SHOW_RENDER.NEVER, dragMode: DRAG_MODE.contrast, scrollRequiresFocus: true, crosshairWidth: 0, isForceMouseClickToVoxelCenters: true, clipPlaneHotKey: none, cycleClipPlaneHotKey: none, viewModeHotKey: none,
      });
      this.niivue = niivue;
      const scene = niivue.drawScene.bind(niivue);
      niivue.drawScene = () => {
        const told = scene();
        if (this.images) this.drawOutlines();
        return told;
      };
      await niivue.attachToCanvas(this.find("canvas"), false);
      niivue.addColormap("mtl_difference", BLUE_RED);
      niivue.addColormap("mtl_dose", this.turbo(niivue));
      this.images = null;
      const [low, high] = this.window();
      const images = {ct: await NVImage.new(this.volumes.ct.bytes.buffer.slice(0), "ct.nii", "gray", 1, null, low, high)};
      const span = DIFFERENCE * this.topDose;
      for (const [name, volume] of Object.entries(this.volumes)) {
        if (name === "ct") continue;
        const [colours, from, to, kind] = name === "difference" ? ["mtl_difference", -span, span, 0] : ["mtl_dose", DOSE_FROM * this.topDose, this.topDose, 1];
        images[name] = await NVImage.new(volume.bytes.buffer.slice(0), `${name}.nii`, colours, 0.5, null, from, to, true, 0.02, false, false, "", 0, undefined, NaN, NaN, false, null, kind);
      }
      niivue.addVolume(images.ct);
      this.images = images;
      this.layers();
      this.move(this.voxel);
    }

    // NiiVue's own turbo, opaque but for no dose at all: the slider alone decides how much of the CT is seen.
    turbo(niivue) {
      const lut = niivue.colormap("turbo");
      const at = [...Array(33).keys()].map((step) => Math.min(255, 8 * step));
      const channel = (number) => at.map((step) => lut[4 * step + number]);
      return {R: channel(0), G: channel(1), B: channel(2), A: at.map((step) => (step ? 255 : 0)), I: at};
    }

    window() {
      return this.find("window").value.split(" ").map(Number);
    }

    layers() {
      const name = this.find("overlay")?.value;
      const overlay = name ? this.images[name] : null;
      if (overlay) overlay.opacity = this.find("opacity").value / 100;
      const shown = this.niivue.volumes[1];
      if (shown && shown !== overlay) this.niivue.removeVolume(shown);
      if (overlay && shown !== overlay) this.niivue.addVolume(overlay);
      else this.niivue.updateGLVolume();
      this.legend(name);
    }

    legend(name) {
      const legend = this.find("legend");
      legend.hidden = !name;
      if (!name) return;
      const span = DIFFERENCE * this.topDose;
      const [from, to] = name === "difference" ? [-span, span] : [0, this.topDose];
      const lut = this.niivue.colormap(name === "difference" ? "mtl_difference" : "mtl_dose");
      const stops = [...Array(17).keys()].map((step) => Math.min(255, 16 * step)).map((step) => `rgb(${lut[4 * step]} ${lut[4 * step + 1]} ${lut[4 * step + 2]})`);
      const bar = this.find("bar");
      bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      this.find("low").textContent = name === "difference" ? `${from.toFixed(1)} Gy, predicted lower` : "0 Gy";
      this.find("high").textContent = name === "difference" ? `+${to.toFixed(1)} Gy, predicted higher` : `${to.toFixed(1)} Gy`;
      bar.setAttribute("aria-label", `colours of the ${name} dose, ${from.toFixed(1)} to ${to.toFixed(1)} Gy`);
      bar.title = `nothing is shown below ${((name === "difference" ? DIFFERENCE_FROM : DOSE_FROM) * this.topDose).toFixed(1)} Gy`;
    }

    // Crosshair to the middle of a voxel.
    move(voxel) {
      this.voxel = voxel.map((place, axis) => Math.max(0, Math.min(this.size[axis] - 1, place)));
      this.niivue.scene.crosshairPos = this.voxel.map((place, axis) => (place + 0.5) / this.size[axis]);
      this.niivue.drawScene();
      this.moved();
    }

    moved() {
      for (const slider of this.all("slice")) {
        const axis = PLANES[slider.dataset.plane].through;
        slider.max = this.size[axis] - 1;
        slider.value = this.voxel[axis];
        slider.parentElement.querySelector("output").textContent = `${this.voxel[axis] + 1} of ${this.size[axis]}`;
      }
      this.tell(this.voxel, "At the crosshair");
    }

    voxelOf(fraction) {
      return this.size.map((count, axis) => Math.max(0, Math.min(count - 1, Math.floor(fraction[axis] * count))));
    }

    tell(voxel, where) {
      const place = voxel[0] + this.size[0] * (voxel[1] + this.size[1] * voxel[2]);
      const put = (name, text) => {
        const cell = this.root.querySelector(`[data-value="${name}"]`);
        if (cell) cell.textContent = text;
      };
      const file = this.index.slice(0, 3).map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
      const mm = this.niivue.frac2mm(voxel.map((at, axis) => (at + 0.5) / this.size[axis]), 0, true);
      this.find("where").textContent = where;
      put("voxel", file.join(", "));
      put("position", `${[...mm].slice(0, 3).map((at) => at.toFixed(1)).join(", ")} mm`);
      const {ct, planned, predicted} = this.volumes;
      put("ct", ct.text(ct.at(place)));
      if (planned) put("planned", planned.text(planned.at(place)));
      if (predicted) put("predicted", predicted.text(predicted.at(place)));
      if (planned && predicted) {
        const known = planned.at(place) !== null && predicted.at(place) !== null;
        put("difference", planned.text(known ? predicted.at(place) - planned.at(place) : null, true));
      }
      const inside = (mask) => mask !== null && this.bit(mask, place);
      const found = this.structures.map((item) => [item.name, ["true", "predicted"].filter((side) => inside(item[side]))]);
      put("inside", found.filter(([, sides]) => sides.length).map(([name, sides]) => `${name} (${sides.join(", ")})`).join("; ") || "no structure");
    }

    bit(mask, place) {
      return (this.masks[mask * this.maskBytes + (place >> 3)] >> (place & 7)) & 1;
    }

    path(mask, plane, slice) {
      const key = `${mask} ${plane} ${slice}`;
      if (!this.paths.has(key)) {
        const {across, up, through} = PLANES[plane];
        const stride = [1, this.size[0], this.size[0] * this.size[1]];
        const inside = (x, y) => this.bit(mask, x * stride[across] + y * stride[up] + slice * stride[through]);
        this.paths.set(key, outline(inside, this.size[across], this.size[up]));
      }
      return this.paths.get(key);
    }

    // Where a tile of NiiVue's picture shows voxels: from edges of voxels to pixels of the canvas.
    toPixels(tile, plane) {
      const {across, up} = PLANES[plane];
      const [left, top, width, height] = tile.leftTopWidthHeight;
      const [low, high] = [this.niivue.frac2mm([0, 0, 0]), this.niivue.frac2mm([1, 1, 1])];
      const x = (edge) => {
        const part = (low[across] + (high[across] - low[across]) * edge / this.size[across] - tile.leftTopMM[0]) / tile.fovMM[0];
        return left + part * width; // the width of a mirrored tile is negative, and its left the right
      };
      const y = (edge) => top + (1 - (low[up] + (high[up] - low[up]) * edge / this.size[up] - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
      return new DOMMatrix([x(1) - x(0), 0, 0, y(1) - y(0), x(0), y(0)]);
    }

    tiles() {
      return this.niivue.screenSlices.filter((tile) => tile.axCorSag < 3).map((tile) => {
        const plane = NAMES[tile.axCorSag];
        return {plane, tile, matrix: this.toPixels(tile, plane)};
      });
    }

    drawOutlines() {
      const from = this.find("canvas");
      const canvas = this.find("outlines");
      [canvas.width, canvas.height] = [from.width, from.height];
      const context = canvas.getContext("2d");
      const scale = this.niivue.uiData.dpr || 1;
      const shown = new Set(this.all("mask").filter((box) => box.checked).map((box) => Number(box.dataset.mask)));
      const centre = this.voxelOf(this.niivue.scene.crosshairPos);
      for (const {plane, tile, matrix} of this.tiles()) {
        const [left, top, width, height] = tile.leftTopWidthHeight;
        context.save();
        context.beginPath();
        context.rect(left, top, width, height);
        context.clip();
        for (const item of this.structures) {
          context.strokeStyle = `rgb(${item.colour.join(" ")})`;
          for (const side of ["true", "predicted"]) {
            if (item[side] === null || !shown.has(item[side])) continue;
            const path = new Path2D();
            path.addPath(this.path(item[side], plane, centre[PLANES[plane].through]), matrix);
            context.setLineDash(side === "true" ? [] : DASHES.map((length) => length * scale));
            context.lineWidth = (side === "true" ? 1.4 : 2.2) * scale;
            context.stroke(path);
          }
        }
        this.drawCrosshair(context, matrix.transformPoint(this.middle(centre, plane)), scale);
        context.restore();
      }
    }

    middle(voxel, plane) {
      return new DOMPoint(voxel[PLANES[plane].across] + 0.5, voxel[PLANES[plane].up] + 0.5);
    }

    // Fine lines that leave the voxel itself free.
    drawCrosshair(context, point, scale) {
      const [x, y] = [Math.round(point.x) + 0.5, Math.round(point.y) + 0.5];
      const [free, far] = [9 * scale, 1e5];
      context.beginPath();
      for (const [fromX, fromY] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + fromX * free, y + fromY * free);
        context.lineTo(x + fromX * far, y + fromY * far);
      }
      context.setLineDash([]);
      context.lineWidth = scale;
      context.strokeStyle = "rgb(255 220 60 / 0.8)";
      context.stroke();
    }

    // Where a voxel's middle lies on the screen, in CSS pixels of the canvas; null where no tile shows it.
    pointOf(voxel, plane) {
      const found = this.tiles().find((item) => item.plane === plane);
      if (!found) return null;
      const point = found.matrix.transformPoint(this.middle(voxel, plane));
      const scale = this.niivue.uiData.dpr || 1;
      return [point.x / scale, point.y / scale];
    }

    bind() {
      this.listening = new AbortController();
      const on = (element, event, action, capture = false) => element?.addEventListener(event, action, {signal: this.listening.signal, capture});
      const {niivue} = this;
      const canvas = this.find("canvas");
      niivue.onLocationChange = () => {
        this.voxel = this.voxelOf(niivue.scene.crosshairPos);
        this.moved();
      };
      niivue.onIntensityChange = () => {
        this.find("window").value = "";
      };
      on(canvas, "mousemove", (event) => {
        const scale = niivue.uiData.dpr || 1;
        const fraction = niivue.canvasPos2frac([event.offsetX * scale, event.offsetY * scale]);
        if (fraction[0] >= 0) this.tell(this.voxelOf(fraction), "Under the pointer");
        else this.tell(this.voxel, "At the crosshair");
      });
      on(canvas, "mouseleave", () => this.tell(this.voxel, "At the crosshair"));
      on(canvas, "keydown", (event) => this.key(event), true);
      on(canvas, "keyup", (event) => event.stopImmediatePropagation(), true);
      on(this.find("view"), "change", () => niivue.setSliceType({all: 3, axial: 0, coronal: 1, sagittal: 2}[this.find("view").value]));
      on(this.find("window"), "change", () => {
        [this.images.ct.cal_min, this.images.ct.cal_max] = this.window();
        niivue.updateGLVolume();
      });
      on(this.find("overlay"), "change", () => this.layers());
      on(this.find("opacity"), "input", () => {
        this.find("percent").textContent = `${this.find("opacity").value} %`;
        this.layers();
      });
      on(this.find("smooth"), "change", () => niivue.setInterpolation(!this.find("smooth").checked));
      on(this.find("worst"), "click", () => this.move(this.worst));
      for (const slider of this.all("slice")) {
        on(slider, "input", () => {
          const voxel = [...this.voxel];
          voxel[PLANES[slider.dataset.plane].through] = Number(slider.value);
          this.move(voxel);
        });
      }
      for (const box of this.all("mask")) on(box, "change", () => this.drawOutlines());
      for (const box of this.all("all")) {
        on(box, "change", () => {
          for (const other of this.all("mask")) if (other.dataset.side === box.dataset.side) other.checked = box.checked;
          this.drawOutlines();
        });
      }
    }

    key(event) {
      event.stopImmediatePropagation(); // NiiVue's own keys would move what the controls do not show
      const chosen = this.find("view").value;
      const {across, up, through} = PLANES[chosen === "all" ? "axial" : chosen];
      // Patient's right, or front, is on the left of the picture.
      const steps = {ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [up, 1], ArrowDown: [up, -1], PageUp: [through, 1], PageDown: [through, -1]};
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const voxel = [...this.voxel];
      voxel[step[0]] += step[1];
      this.move(voxel);
    }
  }

  const begin = () => {
    for (const root of document.querySelectorAll(".viewer")) if (root.querySelector(".viewer-start")) root.viewer = new Viewer(root);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
