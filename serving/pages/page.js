// The page: what is drawn or shown on the sheet goes to every model, and their answers come back as rows.

import { keysFrom, newestOnly, occlusion, request, SIDE, Trouble } from "/ui/server.js";
import { openSheet, SIZE } from "/ui/sheet.js";

const LIVE_MS = 600; // between two requests while one stroke is being drawn: a short stroke costs one, at its end
const QUIET_MS = 500; // without a key, before where the pen is is said
const MOST_PIXELS = 2048; // of a picture's longer side: a larger one is made smaller before it is sent
const $ = (id) => document.getElementById(id);

const rows = new Map(); // by model and backend
let shown = null; // what the rows answer: {image: Uint8Array [784], box, place}
let why = null; // the row whose reasons are on the sheet
let found = []; // the digits of a picture that has several
let chosen = 0;
let asked = 0; // the time of the last request of this stroke, or of its beginning
let failed = null; // what to do again

const sheet = openSheet($("paper"), $("overlay"), {
  began: () => {
    asked = performance.now();
    forget();
  },
  changed: ({ live }) => {
    if (live) {
      if (comparing.busy || performance.now() - asked < LIVE_MS) return;
      asked = performance.now();
      comparing.ask({ live });
    } else {
      forget();
      if (sheet.blank) {
        comparing.stop();
        trouble(null);
        blank("Nothing is drawn yet.");
      } else if (sheet.picture) {
        comparing.stop();
        if (sheet.picture.image) comparing.ask({ image: sheet.picture.image });
        else comparing.ask({ file: sheet.picture.file });
      } else {
        comparing.ask({ live });
      }
    }
    tools();
  },
  pen: announceLater(),
});

// What is asked

const comparing = newestOnly(
  async (what, signal) => {
    try {
      if (what.file) await readPicture(what.file, signal);
      else await compare(what, signal);
      if (!signal.aborted) trouble(null);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Trouble)) throw error;
      blank("");
      trouble(error.message, () => comparing.ask(what));
    }
  },
  (busy) => $("rows").setAttribute("aria-busy", String(busy)),
);

/** One digit through every model: an image of 28 x 28, or what is drawn. */
async function compare({ image, live = false }, signal) {
  const body = image ? JSON.stringify({ images: [grid(image)] }) : await sheet.toBlob();
  const place = image && !found.length ? { whole: true } : { box: found[chosen]?.box };
  const began = performance.now();
  const answer = await (
    await request("/compare?image=true", {
      method: "POST",
      headers: { "Content-Type": image ? "application/json" : "image/png" },
      body,
      signal,
    })
  ).json();
  if (signal.aborted) return;
  const roundTrip = performance.now() - began;
  shown = { image: Uint8Array.from(answer.image.flat()), box: place.box ?? answer.box, whole: place.whole };
  paintSeen(shown.image);
  for (const one of answer.answers) fill(rowOf(one), one);
  conclude(answer.answers, roundTrip, live);
}

/** A picture: its digits, and the first of them through every model. */
async function readPicture(file, signal) {
  const answer = await (
    await request("/classify?many=true&image=true", {
      method: "POST",
      headers: { "Content-Type": file.type || "application/octet-stream" },
      body: file,
      signal,
    })
  ).json();
  if (signal.aborted) return;
  found = answer.predictions.map(({ digit, sure, box, image }) => ({
    digit,
    sure,
    box,
    image: Uint8Array.from(image.flat()),
  }));
  chosen = 0;
  listFound();
  await compare({ image: found[0].image }, signal);
}

function choose(index) {
  chosen = index;
  closeWhy();
  listFound();
  comparing.ask({ image: found[index].image });
}

function grid(image) {
  return Array.from({ length: SIDE }, (_, y) => Array.from(image.subarray(y * SIDE, (y + 1) * SIDE)));
}

// What is shown

function forget() {
  closeWhy();
  found = [];
  chosen = 0;
  listFound();
}

function tools() {
  const wasFocused = document.activeElement;
  $("undo").disabled = !sheet.canUndo;
  $("clear").disabled = sheet.blank;
  if (wasFocused?.disabled) $("paper").focus();
  const cannot = sheet.picture && !sheet.picture.bitmap;
  $("invitation").hidden = !sheet.blank && !cannot;
  $("invitation").textContent = cannot ? "This browser cannot show the picture" : "Draw a digit here";
}

function blank(says) {
  closeWhy();
  shown = null;
  for (const row of rows.values()) fill(row, null);
  $("digit").textContent = "";
  $("verdict").textContent = says;
  $("times").textContent = "";
  paintSeen(new Uint8Array(SIDE * SIDE));
  $("seen").setAttribute("aria-label", "Nothing yet");
}

function paintSeen(image) {
  const context = $("seen").getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  image.forEach((grey, i) => pixels.data.set([grey, grey, grey, 255], 4 * i));
  context.putImageData(pixels, 0, 0);
}

/** Of all answers: what most say, in a number and in words. */
function conclude(answers, roundTrip, live) {
  const votes = new Map();
  const belief = new Float32Array(10); // that parts those with as many votes
  for (const { digit, probability } of answers) {
    votes.set(digit, (votes.get(digit) ?? 0) + 1);
    belief[digit] += probability;
  }
  const order = [...votes].sort((one, other) => other[1] - one[1] || belief[other[0]] - belief[one[0]]);
  const first = order[0][0];
  const unsure = answers.filter(({ sure }) => sure === false).length;
  $("digit").textContent = first;
  $("digit").classList.toggle("unsure", 2 * unsure > answers.length);
  $("seen").setAttribute("aria-label", `28 by 28 pixels, of which most say ${first}`);
  const inModels = answers.reduce((sum, { run_ms }) => sum + run_ms, 0);
  $("times").textContent = `Round trip ${milliseconds(roundTrip)}, ${milliseconds(inModels)} of it in the models`;
  let says = answers.length === 1 ? `The model says ${first}.` : `All ${answers.length} say ${first}.`;
  if (order.length > 1) {
    says = `${order.map(([digit, count]) => `${count} say${count === 1 ? "s" : ""} ${digit}`).join(", ")}.`;
  }
  if (unsure === answers.length) says = `Not sure. ${says}`;
  else if (unsure > 0) says += ` ${unsure} ${unsure === 1 ? "is" : "are"} not sure.`;
  if (found.length > 1) {
    says = `The number reads ${found.map(({ digit }) => digit).join("")}. Of its digit ${chosen + 1}, ${lower(says)}`;
  }
  if (sheet.picture?.label !== undefined) says += ` The true label is ${sheet.picture.label}.`;
  $("verdict").textContent = says;
  if (!live) announce(says); // a screen reader hears of a stroke once it is drawn
}

function listFound() {
  $("found").hidden = found.length < 2;
  $("found").replaceChildren(
    ...(found.length < 2 ? [] : found).map(({ digit, sure, box }, i) => {
      const button = element("button", { type: "button" });
      button.append(element("span", { textContent: sure === false ? `${digit}?` : digit }));
      frame(button, box);
      button.setAttribute("aria-pressed", String(i === chosen));
      button.setAttribute("aria-label", `Digit ${i + 1}: ${digit}${sure === false ? ", not sure" : ""}`);
      button.addEventListener("click", () => {
        choose(i);
        $("found").children[i].focus();
      });
      return button;
    }),
  );
}

/** Lays an element around a box [left, top, right, bottom] in pixels of the picture. */
function frame(button, [l, t, r, b]) {
  const { left, top, scale } = sheet.place();
  const percents = { left: left + l * scale, top: top + t * scale, width: (r - l) * scale, height: (b - t) * scale };
  for (const [name, units] of Object.entries(percents)) button.style.setProperty(name, `${(100 * units) / SIZE}%`);
}

// The rows

function rowOf({ model, recipe, backend, accuracy }) {
  const key = `${model} ${backend}`;
  const known = rows.get(key);
  if (known) return known;
  const tr = element("tr", {}, "row");
  const name = element("th", { className: "name", scope: "row" }, "rowheader");
  name.append(element("span", { className: "recipe", textContent: recipe }), " ");
  name.append(element("span", { className: "backend", textContent: backend }));
  name.title = model;
  const says = element("td", { className: "says" }, "cell");
  const digit = element("span", { className: "said-digit" });
  const belief = element("span", { className: "belief" });
  says.append(digit, " ", belief);
  const bars = Array.from({ length: 10 }, (_, i) => {
    const cell = element("td", { className: "bars" }, "cell");
    cell.dataset.digit = i;
    const bar = element("span", { className: "bar" });
    bar.setAttribute("aria-hidden", "true");
    const value = element("span", { className: "unseen" });
    cell.append(bar, value);
    return { cell, bar, value };
  });
  const time = element("td", { className: "figure time" }, "cell");
  const correct = element("td", { className: "figure accuracy", textContent: `${(100 * accuracy).toFixed(2)} %` }, "cell");
  const ask = element("td", { className: "ask" }, "cell");
  const button = element("button", { type: "button", textContent: "Why?", disabled: true });
  button.setAttribute("aria-pressed", "false");
  ask.append(button);
  tr.append(name, says, ...bars.map(({ cell }) => cell), time, correct, ask);
  const previous = $("body").lastElementChild;
  if (previous && previous.dataset.model !== model) tr.classList.add("first");
  tr.dataset.model = model;
  tr.dataset.row = `${recipe}.${backend}`;
  $("body").append(tr);
  const row = { tr, digit, belief, bars, time, button, recipe, backend, version: model.split(":")[1], says: null };
  button.addEventListener("click", () => (why === row ? closeWhy() : explain(row)));
  rows.set(key, row);
  return row;
}

function fill(row, answer) {
  row.says = answer?.digit ?? null;
  row.digit.textContent = answer?.digit ?? "–";
  row.belief.textContent = answer ? (answer.sure === false ? "not sure" : percent(answer.probability)) : "";
  row.tr.classList.toggle("unsure", answer?.sure === false);
  row.bars.forEach(({ cell, bar, value }, digit) => {
    const probability = answer?.probabilities[digit] ?? 0;
    bar.style.setProperty("--probability", probability.toFixed(4));
    cell.classList.toggle("top", digit === answer?.digit);
    value.textContent = answer ? percent(probability) : "";
  });
  row.time.textContent = answer ? milliseconds(answer.run_ms) : "";
  row.button.disabled = answer === null;
  row.button.setAttribute("aria-label", answer ? `Why does ${row.recipe} on ${row.backend} say ${answer.digit}?` : "Why?");
}

// Why

let explaining = null;

async function explain(row) {
  closeWhy();
  if (!shown) return;
  const mine = (explaining = new AbortController());
  const { image, box, whole } = shown;
  const digit = row.says;
  try {
    const weights = await occlusion(`${row.recipe}.${row.backend}`, row.version, image, digit, mine.signal);
    if (mine.signal.aborted) return;
    why = row;
    row.button.setAttribute("aria-pressed", "true");
    $("seen").getContext("2d").drawImage(heatMap(weights, "on-black", image), 0, 0);
    const map = heatMap(weights, sheet.picture?.pixelated ? "on-black" : "", sheet.picture && image);
    const { left, top, cell } = whole || !box ? { left: 0, top: 0, cell: SIZE / SIDE } : registered(image, box);
    sheet.heat((over) => {
      over.imageSmoothingEnabled = !sheet.picture?.pixelated;
      over.drawImage(map, left, top, cell * SIDE, cell * SIDE);
    });
    $("why-text").textContent = inWords(row, digit, image, weights);
    $("why").hidden = false;
    $("keys").hidden = true;
    announce($("why-text").textContent);
    $("sheet").scrollIntoView({
      block: "nearest",
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
    });
    trouble(null);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof Trouble)) throw error;
    trouble(error.message, () => explain(row));
  }
}

function closeWhy() {
  explaining?.abort();
  explaining = null;
  if (!why) return;
  why.button.setAttribute("aria-pressed", "false");
  why = null;
  $("why").hidden = true;
  $("keys").hidden = false;
  $("why-text").textContent = "";
  sheet.heat(null);
  if (shown) paintSeen(shown.image);
}

/** Where the 28 x 28 lies on the sheet: the longer side of the digit's box became 20 pixels, and its middle was moved. */
function registered(image, [l, t, r, b]) {
  const { left, top, scale } = sheet.place();
  const ink = extent(image);
  const cell = (Math.max(r - l, b - t) * scale) / Math.max(ink.right - ink.left, ink.bottom - ink.top);
  return {
    left: left + ((l + r) / 2) * scale - ((ink.left + ink.right) / 2) * cell,
    top: top + ((t + b) / 2) * scale - ((ink.top + ink.bottom) / 2) * cell,
    cell,
  };
}

function extent(image) {
  const box = { left: SIDE, top: SIDE, right: 0, bottom: 0 };
  image.forEach((grey, i) => {
    if (grey === 0) return;
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
  });
  return box;
}

/** Weights as colours, which cover the ink of `image` alone, where one is given: elsewhere there was nothing to hide. */
function heatMap(weights, ground, image) {
  const most = weights.reduce((sofar, weight) => Math.max(sofar, Math.abs(weight)), 1e-6);
  const colours = getComputedStyle(document.documentElement);
  const [forIt, against] = ["--for", "--against"].map((name) =>
    colours.getPropertyValue(ground ? `${name}-${ground}` : name).trim().split(/\s+/).map(Number),
  );
  const canvas = element("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  weights.forEach((weight, i) => {
    const [red, green, blue] = weight > 0 ? forIt : against;
    pixels.data.set([red, green, blue, Math.sqrt(Math.abs(weight) / most) * Math.min(255, image ? 4 * image[i] : 255)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The heat map in words: in which parts of the digit most lies that speaks for it, and against it. */
function inWords(row, digit, image, weights) {
  const ink = extent(image);
  const third = (at, from, to) => Math.min(2, Math.max(0, Math.floor((3 * (at - from)) / (to - from))));
  const names = ["the top left", "the top", "the top right", "the left", "the middle", "the right", "the bottom left", "the bottom", "the bottom right"];
  const forIt = new Float32Array(9);
  const against = new Float32Array(9);
  weights.forEach((weight, i) => {
    const part = 3 * third(Math.floor(i / SIDE), ink.top, ink.bottom) + third(i % SIDE, ink.left, ink.right);
    if (weight > 0) forIt[part] += weight;
    else against[part] -= weight;
  });
  const total = (parts) => parts.reduce((sum, one) => sum + one, 0);
  const strongest = (parts) =>
    [...parts.keys()]
      .sort((one, other) => parts[other] - parts[one])
      .filter((part, rank) => parts[part] > 0 && rank < 2 && (rank === 0 || parts[part] > 0.15 * total(parts)))
      .map((part) => names[part])
      .join(" and ");
  let words = `${row.recipe} on ${row.backend} reads ${digit} most of all from ${strongest(forIt) || "nothing that is drawn"}.`;
  if (total(against) > 0.15 * total(forIt)) words += ` Against it: ${strongest(against)}.`;
  return words;
}

// Pictures

async function take(file) {
  if (!file) return;
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    // a kind that browsers do not show, as TIFF; or none, which the server says
  }
  if (bitmap && Math.max(bitmap.width, bitmap.height) > MOST_PIXELS) {
    const scale = MOST_PIXELS / Math.max(bitmap.width, bitmap.height);
    const canvas = element("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    file = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    bitmap = canvas;
  }
  sheet.show({ bitmap, file, width: bitmap?.width ?? 1, height: bitmap?.height ?? 1 });
}

for (const id of ["file", "capture"]) {
  $(id).addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // so that the same one may be chosen again
  });
}
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  take(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("sheet").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("sheet").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("sheet").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// A phone has its own camera behind the file's input (style.css); elsewhere the page asks for one, over HTTPS or on localhost.
$("camera").hidden = !navigator.mediaDevices?.getUserMedia;
$("camera").addEventListener("click", async () => {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    trouble("There is no camera, or the browser was told not to give it to this page.");
    return;
  }
  $("camera-dialog").showModal();
  await $("video").play();
});
$("take").addEventListener("click", () => {
  const video = $("video");
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  $("camera-dialog").close();
  canvas.toBlob(take, "image/jpeg", 0.92);
});
$("camera-close").addEventListener("click", () => $("camera-dialog").close());
$("camera-dialog").addEventListener("close", () => {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
});

// Examples

function showExamples(examples) {
  $("no-examples").hidden = examples.length > 0;
  $("examples").replaceChildren(
    ...examples.map(({ image, label, read }) => {
      const pixels = Uint8Array.from(image.flat());
      const canvas = element("canvas", { width: SIDE, height: SIDE });
      const context = canvas.getContext("2d");
      const data = context.createImageData(SIDE, SIDE);
      pixels.forEach((grey, i) => data.data.set([grey, grey, grey, 255], 4 * i));
      context.putImageData(data, 0, 0);
      canvas.setAttribute("aria-hidden", "true");
      const button = element("button", { type: "button" });
      const others = [...new Set(Object.values(read))].filter((digit) => digit !== label);
      button.setAttribute("aria-label", `Test image of a ${label}${others.length ? `, read as ${others.join(" or ")} too` : ""}`);
      const text = element("span", { textContent: label });
      text.setAttribute("aria-hidden", "true");
      button.append(canvas, text);
      button.addEventListener("click", () =>
        sheet.show({ bitmap: canvas, image: pixels, width: SIDE, height: SIDE, pixelated: true, label }),
      );
      return button;
    }),
  );
}

// Words, troubles and keys

function trouble(sentence, again) {
  failed = again ?? null;
  const children = [];
  if (sentence) {
    children.push(element("span", { textContent: sentence }));
    if (again) {
      const button = element("button", { type: "button", textContent: "Ask again" });
      button.addEventListener("click", () => failed?.());
      children.push(button);
    }
  }
  if (sentence || $("trouble").childElementCount) $("trouble").replaceChildren(...children);
  $("times").hidden = Boolean(sentence);
}

function announceLater() {
  let timer = 0;
  return (words) => {
    clearTimeout(timer);
    const short = words.startsWith("Pen ") && !words.includes(",");
    timer = setTimeout(() => announce(words), short ? 0 : QUIET_MS);
  };
}

function announce(words) {
  $("announcement").textContent = words;
}

keysFrom((refused) => {
  const dialog = $("key-dialog");
  $("key-text").textContent = refused ? "The server refused that key." : "It is kept until this tab is closed.";
  $("key").value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? $("key").value : null), { once: true });
  });
});

$("undo").addEventListener("click", sheet.undo);
$("clear").addEventListener("click", sheet.clear);
$("why-close").addEventListener("click", () => {
  const button = why?.button;
  closeWhy();
  button?.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.target.closest("input, dialog")) return;
  const undoes = event.key === "Backspace" || event.key === "Delete" || (event.key === "z" && (event.ctrlKey || event.metaKey));
  if (!undoes && event.key !== "Escape") return;
  event.preventDefault();
  if (undoes) sheet.undo();
  else sheet.clear();
});

function element(name, properties, role) {
  const made = Object.assign(document.createElement(name), properties);
  if (role) made.setAttribute("role", role);
  return made;
}

function lower(sentence) {
  return sentence[0].toLowerCase() + sentence.slice(1);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}\u00a0%`;
}

function milliseconds(ms) {
  return `${ms.toFixed(ms < 1 ? 2 : ms < 100 ? 1 : 0)}\u00a0ms`;
}

async function begin() {
  trouble(null);
  try {
    const { models } = await (await request("/models")).json();
    for (const { model, backends } of models) {
      for (const [backend, { accuracy }] of Object.entries(backends)) {
        fill(rowOf({ model, recipe: model.split(":")[0], backend, accuracy }), null);
      }
    }
    showExamples((await (await request("/ui/examples")).json()).examples);
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    trouble(error.message, begin);
  } finally {
    document.querySelector("main").classList.remove("waiting");
  }
}

blank("Nothing is drawn yet.");
tools();
begin();
