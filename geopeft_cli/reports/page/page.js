"use strict";
// Draws the clouds on canvases in place of their pictures, and turns them with mouse, finger or arrow keys.
const decoded = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const views = [];

class View {
  constructor(card) {
    const data = card.dataset;
    this.points = new Int16Array(decoded(data.points).buffer);
    this.colors = data.colors ? data.colors.split(" ") : [];
    this.first = [Number(data.yaw), Number(data.pitch)];
    [this.yaw, this.pitch] = this.first;
    const count = this.points.length / 3;
    this.order = Array.from({ length: count }, (_, index) => index);
    this.seen = new Float32Array(3 * count);
    this.panels = [...card.querySelectorAll("figure")].map((figure) => this.panel(figure));
    this.waiting = false;
  }

  panel(figure) {
    const picture = figure.querySelector("svg");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", picture.getAttribute("aria-label"));
    canvas.tabIndex = 0;
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.turn(0.01 * event.movementX, 0.01 * event.movementY);
    });
    canvas.addEventListener("dblclick", () => this.turn(this.first[0] - this.yaw, this.first[1] - this.pitch));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
      if (step) { this.turn(...step); event.preventDefault(); }
    });
    picture.replaceWith(canvas);
    return { canvas, labels: figure.dataset.labels ? decoded(figure.dataset.labels) : null };
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, this.pitch + pitch));
    this.refresh();
  }

  refresh() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  project() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    for (let i = 0; i < this.seen.length; i += 3) {
      const [x, y, z] = [this.points[i] / 32767, this.points[i + 1] / 32767, this.points[i + 2] / 32767];
      const near = cy * z - sy * x;
      this.seen[i] = cy * x + sy * z;
      this.seen[i + 1] = cp * y - sp * near;
      this.seen[i + 2] = sp * y + cp * near;
    }
    this.order.sort((a, b) => this.seen[3 * a + 2] - this.seen[3 * b + 2]);
  }

  draw() {
    this.project();
    for (const { canvas, labels } of this.panels) {
      const side = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
      if (canvas.width !== side) canvas.width = canvas.height = side;
      const pen = canvas.getContext("2d");
      const ink = getComputedStyle(canvas).color;
      const dot = Math.max(1.5, side / 95);
      pen.clearRect(0, 0, side, side);
      for (const index of this.order) {
        const [x, y, z] = [this.seen[3 * index], this.seen[3 * index + 1], this.seen[3 * index + 2]];
        pen.globalAlpha = 0.65 + 0.35 * z;
        pen.fillStyle = labels ? this.colors[labels[index]] : ink;
        pen.fillRect((x + 1) / 2 * side - dot / 2, (1 - y) / 2 * side - dot / 2, dot, dot);
      }
    }
  }
}

document.documentElement.classList.add("scripted");
for (const card of document.querySelectorAll(".cloud")) views.push(new View(card));
const refresh = () => views.forEach((view) => view.refresh());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
window.addEventListener("resize", refresh);
refresh();
