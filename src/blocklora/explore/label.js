"use strict";
const { key, classes, images } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const KEYS = "1234567890";
const place = "blocklora-labels-" + key;
let current = 0;
let labels = {}; // index of an image -> class name, or null where it was skipped
let history = []; // [index, what was there before: false where nothing was, which JSON keeps]
let unsaved = false; // whether anything was labelled since the file was saved
let kept = true; // whether this browser keeps it

function restore() {
  try {
    const before = JSON.parse(localStorage.getItem(place) || "null");
    if (before) {
      for (const [index, label] of Object.entries(before.labels))
        if (index in images && (label === null || classes.includes(label))) labels[index] = label;
      history = before.history.filter(([index]) => index in images);
      unsaved = before.unsaved;
    }
  } catch { kept = false; }
  current = Math.max(0, images.findIndex((_, index) => !(index in labels)));
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify({ labels, history, unsaved }));
    kept = true;
  } catch { kept = false; }
}

function element(tag, settings, ...children) {
  const made = Object.assign(document.createElement(tag), settings);
  made.append(...children);
  return made;
}

function show(index) {
  const card = at("grid").children[index];
  const label = labels[index];
  const text = card.querySelector(".label");
  text.textContent = index in labels ? (label === null ? "skipped" : label) : "";
  text.classList.toggle("skipped", label === null);
  card.setAttribute("aria-current", String(index === current));
  card.tabIndex = index === current ? 0 : -1;
}

function tell() {
  const done = Object.values(labels).filter((label) => label !== null).length;
  const skipped = Object.keys(labels).length - done;
  at("state").textContent = `${done} of ${images.length} labelled` + (skipped ? `, ${skipped} skipped` : "")
    + (kept ? "" : "; this browser keeps nothing: save the file before you leave");
}

function go(index) {
  const before = current;
  current = Math.min(Math.max(index, 0), images.length - 1);
  show(before);
  show(current);
  at("grid").children[current].focus({ preventScroll: true });
  at("grid").children[current].scrollIntoView({ block: "nearest" });
}

function next() {
  for (let step = 1; step <= images.length; step++) {
    const index = (current + step) % images.length;
    if (!(index in labels)) return go(index);
  }
  go(current);
}

function label(name) {
  history.push([current, current in labels ? labels[current] : false]);
  labels[current] = name;
  unsaved = true;
  keep();
  show(current);
  tell();
  next();
}

function undo() {
  if (!history.length) return;
  const [index, before] = history.pop();
  if (before === false) delete labels[index]; else labels[index] = before;
  unsaved = true;
  keep();
  tell();
  go(index);
}

function save() {
  const cell = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const rows = images.map((image, index) => `${cell(image.path)},${cell(labels[index] ?? "")}`);
  const file = new Blob([["image,label", ...rows, ""].join("\n")], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(file), download: "labels.csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  keep();
}

function columns() {
  return getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
}

const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries)
    if (isIntersecting) {
      target.src = images[target.dataset.index].src;
      nearby.unobserve(target);
    }
}, { rootMargin: "800px" });

function build() {
  classes.forEach((name, index) => {
    const button = element("button", { type: "button", title: name }, name);
    if (index < KEYS.length) button.prepend(element("kbd", {}, KEYS[index]));
    button.addEventListener("click", () => label(name));
    at("classes").append(button);
  });
  images.forEach((image, index) => {
    const photo = element("img", { className: "photo", alt: image.name, decoding: "async" });
    photo.dataset.index = index;
    const guess = `${image.guess}? ${Math.round(100 * image.probability)}%`;
    const card = element("li", { title: image.path }, photo, element("p", { className: "label" }),
      element("p", { className: "quiet" }, guess), element("p", { className: "quiet" }, image.why));
    card.addEventListener("click", () => go(index));
    at("grid").append(card);
    if (image.src) nearby.observe(photo);
    show(index);
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "z" && event.target !== at("find")) { event.preventDefault(); undo(); }
    return;
  }
  if (event.target === at("find")) return;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
  const number = KEYS.indexOf(event.key);
  if (event.key in moves) go(current + moves[event.key]);
  else if (number >= 0 && number < classes.length) label(classes[number]);
  else if (event.key === "Enter" && event.target.tagName !== "BUTTON") label(images[current].guess);
  else if (event.key === "s" || event.key === "S") label(null);
  else if (event.key === "u" || event.key === "U") undo();
  else if (event.key === "/") at("find").focus();
  else return;
  event.preventDefault();
});

at("find").addEventListener("input", () => {
  const wanted = at("find").value.trim().toLowerCase();
  for (const button of at("classes").children) button.hidden = !button.title.toLowerCase().includes(wanted);
});
at("find").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  const first = [...at("classes").children].find((button) => !button.hidden);
  const wanted = at("find").value.trim();
  at("find").value = "";
  at("find").dispatchEvent(new Event("input"));
  if (event.key === "Enter" && wanted && first) label(first.title); else go(current);
});
at("skip").addEventListener("click", () => label(null));
at("undo").addEventListener("click", undo);
at("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => { if (unsaved && !kept) event.preventDefault(); });

restore();
build();
tell();
go(current);
