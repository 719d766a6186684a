"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const LIMIT = 500;

/* ---- the table of everything ---- */
const columns = [
  ["grade", "grade"], ["status", "outcome"], ["source", "video"], ["start", "frames"], ["tags", "camera"],
  ["reprojection_error", "reproj. error"], ["coverage", "coverage"], ["motion_px", "motion px"],
  ["sharpness", "sharpness"], ["dynamic_fraction", "moving"], ["why", "why"],
];
const percent = new Set(["reprojection_error", "coverage", "dynamic_fraction"]);
let order = null, descending = false;
const inputs = [...document.querySelectorAll(".filters [name]")];
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

for (const name of ["grade", "status", "tag", "code"]) {
  const select = document.querySelector(`.filters [name=${name}]`);
  const values = new Set(data.rows.flatMap((row) => (name === "tag" ? row.tags : [row[name]])).filter(Boolean));
  for (const value of [...values].sort()) select.append(new Option(value, value));
}

function matches(row) {
  const wanted = Object.fromEntries(inputs.map((input) => [input.name, input.value]));
  return (!wanted.grade || row.grade === wanted.grade) && (!wanted.status || row.status === wanted.status)
    && (!wanted.code || row.code === wanted.code) && (!wanted.tag || row.tags.includes(wanted.tag))
    && (row.source + " " + row.caption + " " + row.why).toLowerCase().includes(wanted.text.toLowerCase());
}

function cell(row, key) {
  const made = element("td");
  if (key === "grade") {
    if (row.grade) made.append(element("span", row.grade, `grade ${row.grade}`));
  } else if (key === "source") {
    made.className = "source";
    if (document.getElementById(row.id)) {
      const link = element("a", row.source);
      link.href = `#${row.id}`;
      made.append(link);
    } else made.textContent = row.source;
  } else if (key === "tags") for (const tag of row.tags) made.append(element("span", tag, "chip"));
  else if (key === "start") made.textContent = row.span;
  else if (typeof row[key] === "number") {
    made.className = "number";
    made.textContent = percent.has(key) ? `${(100 * row[key]).toFixed(1)} %` : row[key].toPrecision(3);
  } else {
    made.textContent = row[key] ?? "";
    if (key === "why") made.className = "why";
  }
  return made;
}

function fill() {
  let rows = data.rows.filter(matches);
  if (order) {
    const last = (value) => value === undefined || value === null || value === "";
    rows = rows.slice().sort((one, two) => {
      const a = String(order) === "tags" ? one.tags.join() : one[order];
      const b = String(order) === "tags" ? two.tags.join() : two[order];
      if (last(a) || last(b)) return last(a) - last(b);
      return (a < b ? -1 : a > b ? 1 : 0) * (descending ? -1 : 1);
    });
  }
  const body = document.querySelector("#rows tbody");
  body.replaceChildren(...rows.slice(0, LIMIT).map((row) => {
    const line = element("tr");
    line.append(...columns.map(([key]) => cell(row, key)));
    return line;
  }));
  document.querySelector(".filters output").textContent =
    `${rows.length} of ${data.rows.length}` + (rows.length > LIMIT ? `, the first ${LIMIT} are listed` : "");
}

const head = document.querySelector("#rows thead tr");
for (const [key, title] of columns) {
  const made = element("th", title);
  made.addEventListener("click", () => {
    descending = order === key && !descending;
    order = key;
    for (const other of head.children) other.removeAttribute("aria-sort");
    made.setAttribute("aria-sort", descending ? "descending" : "ascending");
    fill();
  });
  head.append(made);
}
for (const input of inputs) input.addEventListener("input", fill);
fill();

/* ---- points and cameras, drawn on a plain canvas ---- */
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

class View {
  constructor(stage, cloud) {
    this.canvas = stage.querySelector("canvas");
    this.slider = stage.querySelector("input");
    this.label = stage.querySelector("span");
    const raw = new Uint16Array(bytes(cloud.points).buffer);
    this.colors = bytes(cloud.colors);
    this.points = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) {
      const axis = i % 3;
      this.points[i] = cloud.low[axis] + (raw[i] / 65535) * (cloud.high[axis] - cloud.low[axis]);
    }
    this.poses = new Float32Array(bytes(cloud.poses).buffer);
    this.frames = this.poses.length / 12;
    this.cloud = cloud;
    this.extent = Math.hypot(...cloud.high.map((high, axis) => high - cloud.low[axis]));
    this.yaw = 0.45; this.pitch = 0.35; this.zoom = 1; this.target = cloud.middle.slice();
    this.slider.max = this.frames - 1;
    this.slider.addEventListener("input", () => this.draw());
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
      from = [event.clientX, event.clientY];
      if (event.shiftKey) this.shift(x, y);
      else {
        this.yaw += x * 0.008;
        this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + y * 0.008));
      }
      this.draw();
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => { from = null; });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom = Math.max(0.05, Math.min(20, this.zoom * Math.exp(-event.deltaY * 0.001)));
      this.draw();
    }, { passive: false });
    this.canvas.addEventListener("dblclick", () => {
      this.yaw = 0.45; this.pitch = 0.35; this.zoom = 1; this.target = this.cloud.middle.slice();
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /* right, down and forward of the viewer, in the axes of the first camera (x right, y down, z forward) */
  frame() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const right = [cy, 0, -sy], forward = [sy * cp, sp, cy * cp];
    return [right, [forward[1] * right[2], forward[2] * right[0] - forward[0] * right[2], -forward[1] * right[0]], forward];
  }

  shift(x, y) {
    const [right, down] = this.frame();
    const step = this.extent / this.zoom / this.canvas.clientWidth;
    for (let axis = 0; axis < 3; axis += 1) this.target[axis] -= (right[axis] * x + down[axis] * y) * step;
  }

  draw() {
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width; this.canvas.height = height;
    }
    const [right, down, forward] = this.frame();
    const distance = this.extent / this.zoom;
    const focal = 1.05 * Math.min(width, 1.6 * height);
    const place = (x, y, z) => {
      const [a, b, c] = [x - this.target[0], y - this.target[1], z - this.target[2]];
      const depth = forward[0] * a + forward[1] * b + forward[2] * c + distance;
      if (depth < 1e-3 * this.extent) return null;
      const scale = focal / depth;
      return [width / 2 + scale * (right[0] * a + right[1] * b + right[2] * c),
        height / 2 + scale * (down[0] * a + down[1] * b + down[2] * c), depth];
    };
    const brush = this.canvas.getContext("2d");
    const image = brush.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const nearest = new Float32Array(width * height).fill(Infinity);
    const size = Math.max(2, Math.round((width / 200) * Math.sqrt(this.zoom)));
    for (let i = 0; i < this.points.length; i += 3) {
      const at = place(this.points[i], this.points[i + 1], this.points[i + 2]);
      if (!at) continue;
      const color = 0xff000000 | (this.colors[i + 2] << 16) | (this.colors[i + 1] << 8) | this.colors[i];
      const left = Math.round(at[0] - size / 2), top = Math.round(at[1] - size / 2);
      for (let y = Math.max(0, top); y < Math.min(height, top + size); y += 1) {
        for (let x = Math.max(0, left); x < Math.min(width, left + size); x += 1) {
          if (at[2] < nearest[y * width + x]) { nearest[y * width + x] = at[2]; pixels[y * width + x] = color; }
        }
      }
    }
    brush.putImageData(image, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const line = (points, color, thick) => {
      brush.strokeStyle = color; brush.lineWidth = thick * ratio; brush.lineJoin = "round"; brush.beginPath();
      let open = false;
      for (const point of points) {
        const at = place(...point);
        if (!at) { open = false; continue; }
        if (open) brush.lineTo(at[0], at[1]); else brush.moveTo(at[0], at[1]);
        open = true;
      }
      brush.stroke();
    };
    const center = (index) => [3, 7, 11].map((offset) => this.poses[12 * index + offset]);
    const path = Array.from({ length: this.frames }, (_, index) => center(index));
    line(path, style.getPropertyValue("--paper"), 5);
    line(path, style.getPropertyValue("--accent"), 2.5);
    const step = Math.max(1, Math.round((this.frames - 1) / 6));
    const now = Number(this.slider.value);
    for (let index = 0; index < this.frames; index += step) this.camera(index, line, style.getPropertyValue("--ink"), 1);
    this.camera(now, line, style.getPropertyValue("--accent"), 2.5);
    this.label.textContent = `frame ${now} of ${this.frames}`;
  }

  camera(index, line, color, thick) {
    const pose = this.poses.subarray(12 * index, 12 * index + 12);
    const length = 0.07 * this.extent;
    const put = (x, y, z) => [0, 1, 2].map((row) =>
      pose[4 * row] * x + pose[4 * row + 1] * y + pose[4 * row + 2] * z + pose[4 * row + 3]);
    const [w, h] = [(this.cloud.view[0] / 2) * length, (this.cloud.view[1] / 2) * length];
    const corners = [[-w, -h], [w, -h], [w, h], [-w, h]].map(([x, y]) => put(x, y, length));
    line([...corners, corners[0]], color, thick);
    for (const corner of corners) line([put(0, 0, 0), corner], color, thick);
  }
}

const views = [...document.querySelectorAll(".stage")].map((stage) => new View(stage, data.clouds[stage.dataset.clip]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => views.forEach((view) => view.draw()));
