// The page's side of seglib's mask editor; `mask_editor.py` is the kernel's side.
//
// The mask lives here in its own pixels, one byte each, never in a canvas: the canvas only shows
// the part in view. Each change is painted at once and sent to the kernel as a rectangle of runs.
// The kernel stores it, remembers it for undo, and answers with what every view has to show.

const IGNORED = 255;
const IGNORED_COLOUR = "#780000";
const TOOLS = [
  { name: "brush", key: "b", hint: "paint with the chosen class" },
  { name: "eraser", key: "e", hint: "paint background" },
  { name: "polygon", key: "p", hint: "click the corners; double click or Enter closes" },
  { name: "fill", key: "f", hint: "fill the connected pixels of one value" },
  { name: "move", key: "v", hint: "drag the image; also with the middle mouse button" },
];
const HELP = [
  ["B E P F V", "brush, eraser, polygon, fill, move"],
  ["1 to 9", "choose a class"],
  ["Shift", "held while painting: erase"],
  ["[ and ]", "smaller, larger brush"],
  ["Ctrl+Z, Ctrl+Y", "undo, redo"],
  ["wheel, + and -, 0", "zoom, zoom, whole image"],
  ["H", "hide or show the mask"],
  ["Enter, Esc, Backspace", "polygon: close, give up, remove the last corner"],
  ["S, N", "save; save and open the next case"],
  ["Left, Right", "previous, next case; the mask stays as a draft"],
];
const PATIENCE = 5000; // ms without an answer, after which the page says so

// ---- pixels

// Bytes as runs of equal values: the buffers of their lengths (uint32) and of their values.
export function encodeRuns(pixels) {
  const lengths = [];
  const values = [];
  let start = 0;
  for (let i = 1; i <= pixels.length; i++) {
    if (i === pixels.length || pixels[i] !== pixels[start]) {
      lengths.push(i - start);
      values.push(pixels[start]);
      start = i;
    }
  }
  return [Uint32Array.from(lengths).buffer, Uint8Array.from(values).buffer];
}

export function decodeRuns(lengths, values, nPixels) {
  const pixels = new Uint8Array(nPixels);
  let start = 0;
  for (let i = 0; i < values.length; i++) {
    pixels.fill(values[i], start, start + lengths[i]);
    start += lengths[i];
  }
  return pixels;
}

// A buffer of a message, copied, because it may begin at any byte of a larger one.
function bytesOf(view) {
  const from = view.byteOffset ?? 0;
  return (view.buffer ?? view).slice(from, from + view.byteLength);
}

function runsOf(lengths, values, nPixels) {
  return decodeRuns(new Uint32Array(bytesOf(lengths)), new Uint8Array(bytesOf(values)), nPixels);
}

// One plane of a mask. `dirty` is the rectangle that was changed since `takeDirty`.
export class Plane {
  constructor(pixels, height, width) {
    Object.assign(this, { pixels, height, width, dirty: null });
  }

  set(x, y, value) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const place = y * this.width + x;
    if (this.pixels[place] === value) return;
    this.pixels[place] = value;
    const box = (this.dirty ??= { left: x, right: x, top: y, bottom: y });
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y);
  }

  // The changed rectangle with its pixels; null where nothing was changed.
  takeDirty() {
    if (!this.dirty) return null;
    const { left, right, top, bottom } = this.dirty;
    this.dirty = null;
    const width = right - left + 1;
    const height = bottom - top + 1;
    const pixels = new Uint8Array(width * height);
    for (let row = 0; row < height; row++) {
      const start = (top + row) * this.width + left;
      pixels.set(this.pixels.subarray(start, start + width), row * width);
    }
    return { left, top, width, height, pixels };
  }

  replace({ left, top, width, height }, pixels) {
    for (let row = 0; row < height; row++) {
      const part = pixels.subarray(row * width, (row + 1) * width);
      this.pixels.set(part, (top + row) * this.width + left);
    }
  }

  // All pixels whose centre is at most half a `diameter` away from the line between two pixels.
  line(from, to, diameter, value) {
    const radius = diameter / 2;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const squared = dx * dx + dy * dy;
    const reach = Math.ceil(radius);
    const [left, right] = [Math.min(from.x, to.x) - reach, Math.max(from.x, to.x) + reach];
    const [top, bottom] = [Math.min(from.y, to.y) - reach, Math.max(from.y, to.y) + reach];
    for (let y = Math.max(0, top); y <= Math.min(this.height - 1, bottom); y++) {
      for (let x = Math.max(0, left); x <= Math.min(this.width - 1, right); x++) {
        const along = squared ? ((x - from.x) * dx + (y - from.y) * dy) / squared : 0;
        const share = Math.min(1, Math.max(0, along));
        const [across, down] = [x - from.x - share * dx, y - from.y - share * dy];
        if (across * across + down * down <= radius * radius + 1e-9) this.set(x, y, value);
      }
    }
  }

  // All pixels whose centre lies inside the polygon, by the even-odd rule. Corners are points of
  // the image: pixel (0, 0) reaches from (0, 0) to (1, 1).
  polygon(corners, value) {
    for (let y = 0; y < this.height; y++) {
      const crossings = [];
      corners.forEach((a, i) => {
        const b = corners[(i + 1) % corners.length];
        const middle = y + 0.5;
        if (a.y <= middle === b.y <= middle) return;
        crossings.push(a.x + ((middle - a.y) / (b.y - a.y)) * (b.x - a.x));
      });
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) {
        const first = Math.max(0, Math.ceil(crossings[i] - 0.5));
        const last = Math.min(this.width, Math.ceil(crossings[i + 1] - 0.5));
        for (let x = first; x < last; x++) this.set(x, y, value);
      }
    }
  }

  // The pixels of one value that are connected to a pixel by their edges.
  fill(x, y, value) {
    const old = this.pixels[y * this.width + x];
    if (old === value) return;
    const open = [[x, y]];
    const isOld = (column, row) => this.pixels[row * this.width + column] === old;
    while (open.length) {
      const [column, row] = open.pop();
      if (!isOld(column, row)) continue;
      let left = column;
      while (left > 0 && isOld(left - 1, row)) left--;
      let right = column;
      while (right < this.width - 1 && isOld(right + 1, row)) right++;
      for (let i = left; i <= right; i++) this.set(i, row, value);
      for (const next of [row - 1, row + 1]) {
        if (next < 0 || next >= this.height) continue;
        for (let i = left; i <= right; i++) {
          if (isOld(i, next) && (i === left || !isOld(i - 1, next))) open.push([i, next]);
        }
      }
    }
  }
}

// ---- the editor

class Editor {
  constructor(model, element) {
    this.model = model;
    this.view = crypto.randomUUID?.() ?? String(Math.random());
    this.planes = [];
    this.corners = [];
    this.open = 0; // changes that the kernel has not answered yet
    this.waiting = false; // for an answer before which nothing may be painted
    this.maskShown = true;
    this.build(element);
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    this.onTrait = () => this.refresh();
    model.on("msg:custom", this.onMessage);
    model.on("change", this.onTrait);
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(this.canvas);
    this.refresh();
    this.ask({ kind: "open" });
  }

  close() {
    this.finishStroke();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change", this.onTrait);
    this.resizing.disconnect();
    clearTimeout(this.timer);
  }

  // ---- what is on the page

  build(element) {
    const root = make("div", { className: "seglib-editor", tabIndex: 0 });
    // Jupyter would take single keys for its own commands, such as X: cut the cell.
    root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.root = root;
    this.buttons = {};
    const button = (name, label, hint, action) => {
      const result = make("button", { type: "button", textContent: label, title: hint });
      result.setAttribute("aria-label", hint);
      result.dataset.name = name;
      result.addEventListener("click", () => (action(), root.focus({ preventScroll: true })));
      this.buttons[name] = result;
      return result;
    };
    const tools = TOOLS.map(({ name, key, hint }) =>
      button(name, name, `${hint} (${key.toUpperCase()})`, () => this.choose({ tool: name })),
    );
    this.classes = make("span", { className: "seglib-classes" });
    this.size = this.slider("size", "brush", 1, 100, 1);
    this.opacity = this.slider("opacity", "opacity", 0, 1, 0.05);
    const bar = make("div", { className: "seglib-bar" });
    bar.append(...tools, this.classes, this.size, this.opacity);

    const second = make("div", { className: "seglib-bar" });
    second.append(
      button("undo", "undo", "undo (Ctrl+Z)", () => this.history("undo")),
      button("redo", "redo", "redo (Ctrl+Y)", () => this.history("redo")),
      button("hide", "hide", "hide or show the mask (H)", () => this.toggleMask()),
      button("fit", "whole image", "show the whole image (0)", () => this.fit()),
      button("previous", "◀", "previous case (left arrow)", () => this.go(-1)),
      button("next", "▶", "next case (right arrow)", () => this.go(1)),
      button("save", "save", "save the corrected mask (S)", () => this.save(false)),
      button("saveNext", "save, next", "save and open the next case (N)", () => this.save(true)),
    );
    this.title = make("span", { className: "seglib-title" });
    second.append(this.title);

    this.canvas = make("canvas", { className: "seglib-canvas" });
    this.overlay = document.createElement("canvas");
    this.status = make("div", { className: "seglib-status" });
    this.status.setAttribute("role", "status");
    const help = make("details", { className: "seglib-help" });
    const list = make("dl");
    for (const [keys, meaning] of HELP) {
      list.append(make("dt", { textContent: keys }), make("dd", { textContent: meaning }));
    }
    help.append(make("summary", { textContent: "keys" }), list);
    root.append(bar, second, this.canvas, this.status, help);
    element.append(root);
    this.listen();
  }

  slider(trait, label, min, max, step) {
    const input = make("input", { type: "range", min, max, step });
    input.addEventListener("input", () => this.choose({ [trait]: Number(input.value) }));
    // Arrow keys belong to the cases.
    input.addEventListener("change", () => this.root.focus({ preventScroll: true }));
    const result = make("label", { textContent: label, title: label });
    result.append(input);
    result.input = input;
    return result;
  }

  // Tool, class, size and opacity are traits, so that a reload keeps them.
  choose(traits) {
    if (traits.tool && traits.tool !== "polygon") this.corners = [];
    for (const [name, value] of Object.entries(traits)) this.model.set(name, value);
    this.model.save_changes();
    this.refresh();
  }

  refresh() {
    const [tool, chosen] = [this.model.get("tool"), this.model.get("chosen")];
    for (const { name } of TOOLS) this.buttons[name].classList.toggle("chosen", name === tool);
    this.classes.replaceChildren(
      ...this.model.get("classes").map(({ name, colour }, number) => {
        const label = `${number + 1} ${name}`;
        const result = make("button", { type: "button", textContent: label, title: name });
        result.style.setProperty("--colour", colour);
        result.classList.toggle("chosen", number === chosen);
        result.dataset.class = name;
        result.addEventListener("click", () => {
          this.choose({ chosen: number });
          this.root.focus({ preventScroll: true });
        });
        return result;
      }),
    );
    this.size.input.value = this.model.get("size");
    this.opacity.input.value = this.model.get("opacity");
    this.canvas.style.height = `${this.model.get("height")}px`;
    this.canvas.style.cursor = tool === "move" ? "grab" : "crosshair";
    this.draw();
  }

  get current() {
    const classes = this.model.get("classes");
    return classes[Math.min(this.model.get("chosen"), classes.length - 1)];
  }

  get plane() {
    return this.planes[this.current.plane];
  }

  say(text, isBad = false) {
    this.status.textContent = text;
    this.status.classList.toggle("bad", isBad);
  }

  // ---- to and from the kernel

  // Send a message whose answer decides what may be painted next.
  ask(message, buffers = []) {
    this.waiting = true;
    this.send(message, buffers);
  }

  send(message, buffers = []) {
    this.model.send(message, undefined, buffers);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const changes = this.open ? `, ${this.open} changes are not stored yet` : "";
      this.say(`The kernel does not answer (is a cell running?)${changes}.`, true);
    }, PATIENCE);
  }

  async receive(message, buffers) {
    clearTimeout(this.timer);
    if (message.kind === "case") await this.showCase(message, buffers);
    else if (message.kind === "region") this.showRegion(message, buffers);
    else if (message.kind === "saved") this.showSaved(message, buffers);
    else if (message.kind === "error") this.showError(message);
    this.draw();
  }

  async showCase(message, [picture, lengths, values]) {
    const { height, width, planes } = message;
    const isNew = this.number !== message.number || this.height !== height;
    Object.assign(this, { height, width, open: 0, corners: [] });
    this.setMask(planes, lengths, values);
    this.showState(message);
    // Only after the mask is there: other views may change it while the picture is decoded.
    const image = await createImageBitmap(new Blob([bytesOf(picture)], { type: message.form }));
    this.image?.close();
    Object.assign(this, { image, waiting: false });
    if (isNew || !this.scale) this.fit();
    this.say(this.complaint ?? `Shown: ${message.origin}.`, Boolean(this.complaint));
    this.complaint = null;
  }

  setMask(planes, lengths, values) {
    const size = this.height * this.width;
    const pixels = runsOf(lengths, values, planes * size);
    this.planes = Array.from(
      { length: planes },
      (_, k) => new Plane(pixels.subarray(k * size, (k + 1) * size), this.height, this.width),
    );
  }

  showRegion(message, [lengths, values]) {
    if (message.number !== this.number) return; // another view has opened another case
    const isOwn = message.view === this.view;
    if (isOwn) this.open -= 1;
    else {
      const pixels = runsOf(lengths, values, message.height * message.width);
      this.planes[message.plane].replace(message, pixels);
      if (!message.view) this.waiting = false; // the answer to undo or redo
    }
    this.showState(message);
    this.say(this.open ? "storing ..." : "All changes are stored as a draft, not saved yet.");
  }

  showSaved(message, [lengths, values]) {
    if (message.number !== this.number) return;
    this.waiting = false;
    this.setMask(this.planes.length, lengths, values);
    this.showState(message);
    this.say(`Saved in ${message.folder}`);
    if (this.goesOn) this.go(1);
    this.goesOn = false;
  }

  showError({ text, again, number, n }) {
    this.goesOn = false;
    this.complaint = text;
    this.say(text, true);
    if (again) {
      this.ask({ kind: "open" });
      return;
    }
    // This case cannot be opened: the next one can.
    Object.assign(this, { number, n, planes: [], image: null, waiting: false });
    this.title.textContent = `${number + 1} of ${n}`;
    this.buttons.previous.disabled = number === 0;
    this.buttons.next.disabled = number === n - 1;
  }

  showState({ number, n, name, saved, undos, redos }) {
    Object.assign(this, { number, n });
    this.title.textContent = `${number + 1} of ${n} · ${name} · ${saved} saved`;
    this.buttons.undo.disabled = !undos;
    this.buttons.redo.disabled = !redos;
    this.buttons.previous.disabled = number === 0;
    this.buttons.next.disabled = number === n - 1;
  }

  // ---- actions

  history(kind) {
    this.finishStroke();
    if (this.waiting || this.buttons[kind].disabled) return;
    this.ask({ kind, number: this.number });
  }

  save(goesOn) {
    this.finishStroke();
    if (this.waiting) return;
    this.goesOn = goesOn && this.number < this.n - 1;
    this.ask({ kind: "save", number: this.number });
  }

  go(step) {
    this.finishStroke();
    const number = this.number + step;
    if (this.waiting || number < 0 || number >= this.n) return;
    this.ask({ kind: "open", number });
  }

  toggleMask() {
    this.maskShown = !this.maskShown;
    this.buttons.hide.classList.toggle("chosen", !this.maskShown);
    this.draw();
  }

  // Send what was painted since the last time.
  commit(plane) {
    const region = plane.takeDirty();
    if (!region) return;
    const { pixels, ...box } = region;
    const about = { kind: "edit", number: this.number, view: this.view };
    this.open += 1;
    this.say("storing ...");
    this.send({ ...about, ...box, plane: this.planes.indexOf(plane) }, encodeRuns(pixels));
  }

  // ---- mouse, pen and keys

  listen() {
    const on = (name, action, options) => this.canvas.addEventListener(name, action, options);
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.drag(event));
    on("pointerup", () => this.finishStroke());
    on("pointercancel", () => this.finishStroke());
    on("pointerleave", () => ((this.pointer = null), this.draw()));
    on("dblclick", (event) => this.closePolygon(event));
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("contextmenu", (event) => event.preventDefault());
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  // The point of the image below the mouse, in pixels of the mask.
  point(event) {
    const place = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - place.left - this.left) / this.scale,
      y: (event.clientY - place.top - this.top) / this.scale,
    };
  }

  pixel(event) {
    const { x, y } = this.point(event);
    return { x: Math.floor(x), y: Math.floor(y) };
  }

  // What is painted: 0 for the eraser, and for every tool while Shift is held.
  value(event) {
    const erases = event.shiftKey || this.model.get("tool") === "eraser";
    return erases ? 0 : this.current.value;
  }

  press(event) {
    this.root.focus({ preventScroll: true });
    event.preventDefault();
    if (!this.planes.length) return;
    this.canvas.setPointerCapture(event.pointerId);
    const tool = this.model.get("tool");
    if (tool === "move" || event.button === 1) {
      this.moving = { x: event.clientX - this.left, y: event.clientY - this.top };
    } else if (event.button !== 0 || this.waiting) {
      return;
    } else if (tool === "polygon") {
      this.corners.push(this.point(event));
    } else if (tool === "fill") {
      const { x, y } = this.pixel(event);
      if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
      this.plane.fill(x, y, this.value(event));
      this.commit(this.plane);
    } else {
      const from = this.pixel(event);
      this.stroke = { from, plane: this.plane, value: this.value(event) };
      this.stroke.plane.line(from, from, this.model.get("size"), this.stroke.value);
    }
    this.draw();
  }

  drag(event) {
    this.pointer = this.planes.length ? this.pixel(event) : null;
    if (this.moving) {
      this.left = event.clientX - this.moving.x;
      this.top = event.clientY - this.moving.y;
    } else if (this.stroke) {
      // A fast mouse gives several points between two frames.
      const several = event.getCoalescedEvents?.() ?? [];
      for (const one of several.length ? several : [event]) {
        const to = this.pixel(one);
        const { from, plane, value } = this.stroke;
        plane.line(from, to, this.model.get("size"), value);
        this.stroke.from = to;
      }
    }
    this.draw();
  }

  finishStroke() {
    this.moving = null;
    if (!this.stroke) return;
    const { plane } = this.stroke;
    this.stroke = null;
    this.commit(plane);
    this.draw();
  }

  closePolygon(event) {
    if (this.model.get("tool") !== "polygon") return;
    const corners = this.corners;
    this.corners = [];
    if (corners.length > 2 && !this.waiting) {
      this.plane.polygon(corners, this.value(event));
      this.commit(this.plane);
    }
    this.draw();
  }

  wheel(event) {
    // Before a click into the editor, the wheel scrolls the notebook.
    if (!this.scale || !this.root.contains(document.activeElement)) return;
    event.preventDefault();
    const place = this.canvas.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), event.clientX - place.left, event.clientY - place.top);
  }

  // Zoom so that the point (x, y) of the canvas stays where it is.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(64, Math.max(this.fitting / 4, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  key(event) {
    if (event.altKey || event.isComposing) return;
    // Sliders and buttons have keys of their own.
    if (event.target.matches("input, summary")) return;
    if (event.target.matches("button") && event.key === "Enter") return;
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = event.ctrlKey || event.metaKey ? this.commandOf(event) : this.actionOf(pressed);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action(event);
  }

  commandOf(event) {
    const pressed = event.key.toLowerCase();
    if (pressed === "z") return () => this.history(event.shiftKey ? "redo" : "undo");
    if (pressed === "y") return () => this.history("redo");
    return null;
  }

  actionOf(pressed) {
    const tool = TOOLS.find(({ key }) => key === pressed);
    if (tool) return () => this.choose({ tool: tool.name });
    const number = Number(pressed);
    if (number >= 1 && number <= this.model.get("classes").length) {
      return () => this.choose({ chosen: number - 1 });
    }
    const size = this.model.get("size");
    const step = Math.max(1, Math.round(size / 8));
    const actions = {
      "[": () => this.choose({ size: Math.max(1, size - step) }),
      "]": () => this.choose({ size: Math.min(100, size + step) }),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.fit(),
      h: () => this.toggleMask(),
      s: () => this.save(false),
      n: () => this.save(true),
      Enter: (event) => this.closePolygon(event),
      Escape: () => ((this.corners = []), this.draw()),
      Backspace: () => (this.corners.pop(), this.draw()),
      ArrowLeft: () => this.go(-1),
      ArrowRight: () => this.go(1),
    };
    return actions[pressed];
  }

  // ---- drawing

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.scale && this.scale === this.fitting) this.fit();
    this.draw();
  }

  // The whole image, in the middle of the canvas.
  fit() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!this.width || !width) return;
    this.scale = this.fitting = Math.min(width / this.width, height / this.height);
    this.left = (width - this.width * this.scale) / 2;
    this.top = (height - this.height * this.scale) / 2;
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.drawNow();
    });
  }

  drawNow() {
    const { canvas } = this;
    if (!this.image || !this.scale || !canvas.width) return;
    const ratio = canvas.width / canvas.clientWidth;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const [left, top, scale] = [this.left, this.top, this.scale].map((value) => value * ratio);
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(this.image, left, top, this.width * scale, this.height * scale);
    if (this.maskShown) {
      this.drawMask(left, top, scale);
      context.globalAlpha = this.model.get("opacity");
      context.drawImage(this.overlay, 0, 0);
      context.globalAlpha = 1;
    }
    context.setTransform(scale, 0, 0, scale, left, top);
    context.lineWidth = (1.5 * ratio) / scale;
    this.drawPolygon(context);
    this.drawBrush(context);
  }

  // The colours of the mask for every pixel of the canvas, by the pixel of the mask below it. Where
  // classes overlap, the chosen one lies above.
  drawMask(left, top, scale) {
    const { overlay, canvas, width, height } = this;
    [overlay.width, overlay.height] = [canvas.width, canvas.height];
    const context = overlay.getContext("2d");
    const picture = context.createImageData(overlay.width, overlay.height);
    const colours = new Uint32Array(picture.data.buffer);
    const columns = new Int32Array(overlay.width);
    for (let x = 0; x < overlay.width; x++) columns[x] = Math.floor((x + 0.5 - left) / scale);
    for (const { plane, table } of this.layers()) {
      for (let y = 0; y < overlay.height; y++) {
        const row = Math.floor((y + 0.5 - top) / scale);
        if (row < 0 || row >= height) continue;
        for (let x = 0; x < overlay.width; x++) {
          const column = columns[x];
          if (column < 0 || column >= width) continue;
          const colour = table[plane.pixels[row * width + column]];
          if (colour) colours[y * overlay.width + x] = colour;
        }
      }
    }
    context.putImageData(picture, 0, 0);
  }

  // Planes with the colour of each of their numbers, the chosen plane last.
  layers() {
    const layers = this.planes.map((plane) => ({ plane, table: new Uint32Array(256) }));
    for (const { table } of layers) table[IGNORED] = packed(IGNORED_COLOUR);
    for (const { plane, value, colour } of this.model.get("classes")) {
      layers[plane].table[value] = packed(colour);
    }
    const chosen = this.current.plane;
    return [...layers.filter((_, k) => k !== chosen), layers[chosen]];
  }

  drawPolygon(context) {
    if (!this.corners.length) return;
    context.strokeStyle = this.current.colour;
    context.beginPath();
    for (const { x, y } of this.corners) context.lineTo(x, y);
    if (this.pointer) context.lineTo(this.pointer.x + 0.5, this.pointer.y + 0.5);
    context.stroke();
  }

  drawBrush(context) {
    const tool = this.model.get("tool");
    if (!this.pointer || (tool !== "brush" && tool !== "eraser")) return;
    context.strokeStyle = tool === "brush" ? this.current.colour : "#ffffff";
    context.beginPath();
    const [x, y] = [this.pointer.x + 0.5, this.pointer.y + 0.5];
    context.arc(x, y, this.model.get("size") / 2, 0, 2 * Math.PI);
    context.stroke();
  }
}

function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

// "#rrggbb" as one pixel of image data, opaque.
function packed(colour) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  return new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
}

function render({ model, el }) {
  const editor = new Editor(model, el);
  return () => editor.close();
}

export default { render };
