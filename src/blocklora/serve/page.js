"use strict";
// The page of the service: images go to /v1/predict one by one, and the answers stay until they are cleared.

const AT_ONCE = 4; // requests
const MOST_KEPT = 200; // results
const TRIES = 20; // where the service is busy
const by = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;

let token = "";
let models = [];
let limits = null;
let running = 0;
const waiting = [];
const results = []; // { file, model, card, answer or error }, in the order in which they came

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({}));
  const error = new Error(said.error || `The service answers with status ${response.status}.`);
  error.status = response.status;
  error.after = Number(response.headers.get("Retry-After")) || 1;
  throw error;
}

async function start() {
  try {
    const known = await ask("v1/models");
    models = known.models;
    limits = known.limits;
  } catch (error) {
    by("token-row").hidden = error.status !== 401;
    by("about").textContent = error.status === 401 ? "" : error.message;
    if (error.status === 401) {
      if (token) say("This token is wrong.");
      by("token").focus();
    }
    return;
  }
  by("token-row").hidden = true;
  by("model").replaceChildren(...models.map((model) => new Option(model.name)));
  by("model-row").hidden = models.length < 2;
  say("");
  describe();
  next();
}

function describe() {
  const model = models[by("model").selectedIndex] || models[0];
  const count = model.classes.length;
  const known = `${model.name} knows ${count} ${count === 1 ? "class" : "classes"}.`;
  by("about").textContent = [known, ...model.notes].join(" ");
  by("classes").hidden = false;
  by("classes").querySelector("summary").textContent = `The ${count} classes`;
  by("classes").querySelector("ul").replaceChildren(...model.classes.map((name) => element("li", "", name)));
}

function element(kind, style, text = "") {
  const made = document.createElement(kind);
  made.className = style;
  made.textContent = text;
  return made;
}

function say(text) {
  by("status").textContent = text;
}

function add(files) {
  const images = [...files];
  const group = { size: images.length, answered: 0, failed: 0 }; // said together
  for (const file of images) {
    const card = by("card").content.firstElementChild.cloneNode(true);
    const image = card.querySelector(".image");
    image.src = URL.createObjectURL(file);
    image.onerror = () => { image.hidden = true; }; // a format that the browser cannot show
    card.querySelector(".name").textContent = file.name;
    card.querySelector(".answer").textContent = "Waiting";
    card.firstElementChild.setAttribute("aria-busy", "true");
    by("list").prepend(card);
    const result = { file, card, group };
    results.push(result);
    waiting.push(result);
  }
  while (results.length > MOST_KEPT) forget(results.shift());
  by("results").hidden = results.length === 0;
  if (images.length) say(images.length === 1 ? `${images[0].name}: sent` : `${images.length} images: sent`);
  next();
}

function next() {
  while (models.length && running < AT_ONCE && waiting.length) {
    const result = waiting.shift();
    running += 1;
    classify(result).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function classify(result) {
  result.model = by("model").value || models[0].name;
  try {
    if (limits && result.file.size > limits.max_body - 1000) {
      const most = (limits.max_body / 1e6).toFixed(0);
      throw new Error(`This file is larger than the ${most} MB that the service takes. Scale the image down.`);
    }
    result.answer = await predict(result);
    show(result);
    offerReasons(result);
    result.group.answered += 1;
  } catch (error) {
    result.error = error.message;
    result.card.firstElementChild.classList.add("failed");
    result.card.querySelector(".answer").textContent = error.message;
    result.group.failed += 1;
    if (error.status === 401) by("token-row").hidden = false;
  }
  result.card.firstElementChild.removeAttribute("aria-busy");
  tell(result);
}

function tell({ file, answer, error, group }) {
  if (group.size === 1) say(answer ? `${file.name}: ${headline(answer)}` : `No answer. ${error}`);
  else if (group.answered + group.failed === group.size) {
    say(`${group.answered} of ${group.size} images answered${group.failed ? `, ${group.failed} without an answer` : ""}.`);
  }
}

async function predict(result, explain = false) {
  const query = new URLSearchParams({ model: result.model, top_k: 10, explain });
  for (let attempt = 1; ; attempt += 1) {
    const body = new FormData();
    body.append("images", result.file, result.file.name);
    try {
      return (await ask(`v1/predict?${query}`, { method: "POST", body })).predictions[0];
    } catch (error) {
      if (error.status !== 429 || attempt === TRIES) throw error;
      await new Promise((resume) => setTimeout(resume, 1000 * error.after));
    }
  }
}

function headline(answer) {
  return answer.unknown ? "none of the classes" : `${answer.label}, ${percent(answer.probability)}`;
}

function show({ card, answer }) {
  card.querySelector(".answer").textContent = headline(answer);
  const more = card.querySelector(".more");
  const said = [];
  if (answer.unknown) said.push(`The nearest class is ${answer.label}.`);
  if (answer.set) said.push(answer.set.length ? `It is one of: ${answer.set.join(", ")}.` : "It may be any class.");
  more.textContent = said.join(" ");
  more.hidden = said.length === 0;
  bars(card, answer);
}

function offerReasons(result) {
  const button = result.card.querySelector(".why");
  const box = result.card.querySelector(".reasons");
  button.hidden = !models.find((model) => model.name === result.model).explains;
  let asked = false;
  button.addEventListener("click", async () => {
    if (asked && !result.reasons) return; // the answer is on its way
    asked = true;
    if (!result.reasons) {
      say(`${result.file.name}: asked why`);
      try {
        result.reasons = (await predict(result, true)).reasons;
      } catch (error) {
        asked = false;
        say(`No reasons. ${error.message}`);
        return;
      }
      showReasons(result);
    }
    box.hidden = !box.hidden;
    button.setAttribute("aria-expanded", String(!box.hidden));
  });
}

function showReasons({ file, card, answer, reasons }) {
  if (reasons.heat_map) {
    const words = `Red speaks for ${answer.label}, blue against it.`;
    const canvas = card.querySelector(".heat canvas");
    draw(canvas, card.querySelector(".image"), reasons.heat_map);
    canvas.setAttribute("aria-label", `Heat map of ${file.name}. ${words}`);
    card.querySelector("figcaption").textContent = words;
    card.querySelector(".heat").hidden = false;
  }
  card.querySelector(".nearest ul").replaceChildren(...reasons.nearest.map(neighbour));
  say(`${file.name}: most like training images of ${[...new Set(reasons.nearest.map((one) => one.label))].join(", ")}`);
}

function draw(canvas, image, heat) {
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const side = Math.min(image.naturalWidth, image.naturalHeight);
  if (side) { // the square that the model sees, in grey
    const left = (image.naturalWidth - side) / 2;
    const top = (image.naturalHeight - side) / 2;
    pen.drawImage(image, left, top, side, side, 0, 0, canvas.width, canvas.height);
    pen.globalCompositeOperation = "saturation";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.globalCompositeOperation = "source-over";
  }
  const patches = document.createElement("canvas");
  [patches.width, patches.height] = [heat[0].length, heat.length];
  const colours = heat.flat().flatMap((value) => [...(value > 0 ? [215, 40, 40] : [40, 90, 215]), 150 * Math.abs(value)]);
  patches.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(colours), patches.width), 0, 0);
  pen.drawImage(patches, 0, 0, canvas.width, canvas.height);
}

function bars(card, answer) {
  const rows = answer.top.slice(0, Number(by("top").value)).map((one) => {
    const row = element("li", "");
    const track = element("span", "track");
    const bar = element("span", "");
    bar.style.width = percent(one.probability);
    track.append(bar);
    row.append(element("span", "label", one.label), element("span", "", percent(one.probability)), track);
    return row;
  });
  card.querySelector(".top").replaceChildren(...rows);
}

function neighbour(one) {
  const row = element("li", "", one.label);
  if (one.thumbnail) {
    const image = document.createElement("img");
    image.src = one.thumbnail;
    image.alt = one.image;
    image.title = one.image;
    row.prepend(image);
  } else row.append(element("span", "name", one.image));
  return row;
}

function forget(result) {
  URL.revokeObjectURL(result.card.querySelector(".image").src);
  result.card.remove();
  const place = waiting.indexOf(result);
  if (place >= 0) waiting.splice(place, 1);
}

function clear() {
  results.splice(0).forEach(forget);
  by("results").hidden = true;
  say("All results are gone.");
  by("choose").focus();
}

function cell(value) {
  const text = String(value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // a spreadsheet would compute it
  return `"${safe.replaceAll('"', '""')}"`;
}

function save() {
  const rows = results.map(({ file, model, answer, error }) => [
    file.name, model, answer && answer.label, answer && answer.probability, error,
  ]);
  const text = [["image", "model", "label", "probability", "error"], ...rows]
    .map((row) => row.map(cell).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\r\n"], { type: "text/csv" }));
  link.download = "results.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function openCamera() {
  if (!navigator.mediaDevices) { // browsers give the camera to https and localhost alone; a phone has its own way
    by("snap").click();
    return;
  }
  try {
    by("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    by("camera-dialog").showModal();
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`);
  }
}

function shoot() {
  const video = by("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.png`;
  canvas.toBlob((blob) => { if (blob) add([new File([blob], name, { type: "image/png" })]); });
  by("camera-dialog").close();
}

function closeCamera() {
  const stream = by("video").srcObject;
  if (stream) stream.getTracks().forEach((track) => track.stop());
  by("video").srcObject = null;
}

function listen() {
  by("entry").addEventListener("submit", (event) => {
    event.preventDefault();
    token = by("token").value.trim();
    start();
  });
  by("model").addEventListener("change", describe);
  by("choose").addEventListener("click", () => by("files").click());
  by("camera").addEventListener("click", openCamera);
  by("shoot").addEventListener("click", shoot);
  by("stop").addEventListener("click", () => by("camera-dialog").close());
  by("camera-dialog").addEventListener("close", closeCamera);
  for (const input of [by("files"), by("snap")]) {
    input.addEventListener("change", () => {
      add(input.files);
      input.value = "";
    });
  }
  by("clear").addEventListener("click", clear);
  by("save").addEventListener("click", save);
  by("top").addEventListener("change", () => {
    for (const { card, answer } of results) if (answer) bars(card, answer);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    by("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) by("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    by("drop").classList.remove("over");
    if (event.dataTransfer.files.length) add(event.dataTransfer.files);
    else say("Nothing that was dropped is a file.");
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      add(event.clipboardData.files);
    }
  });
}

listen();
start();
