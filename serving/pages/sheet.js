// The sheet: strokes by mouse, touch, pen or keys, or a picture; undo; and a heat map that is laid over it.

export const SIZE = 280; // units of the sheet's side, and pixels of the picture that is sent
const PEN = 20; // units: of a digit that fills the sheet, as wide as MNIST's strokes
const STEP = 10; // units that an arrow key moves the pen
const SHARPNESS = 3; // pixels of the canvas in a unit
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param {HTMLCanvasElement} paper what is drawn on
 * @param {HTMLCanvasElement} overlay what lies over it
 * @param {object} tell `changed({live})`: another drawing is on the sheet, `live` while the pen is still down;
 *   `began()`: a stroke; `pen(words)`: what a key did.
 */
export function openSheet(paper, overlay, tell) {
  const ink = paper.getContext("2d");
  const over = overlay.getContext("2d");
  const held = new Set(); // arrow keys
  const pen = { x: SIZE / 2, y: SIZE / 4, shown: false, down: false };
  let strokes = []; // each a list of points [x, y]; neither is changed once it lies in the history
  let picture = null; // {bitmap, ...}, in place of strokes
  let history = [];
  let current = null; // the stroke that is being drawn, the last of `strokes`
  let pointer = null;
  let heat = null; // paints over the sheet, in its units
  let due = false;

  paper.width = paper.height = overlay.width = overlay.height = SIZE * SHARPNESS;

  function render() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      paint();
    });
  }

  function paint() {
    const colours = getComputedStyle(paper);
    ink.setTransform(SHARPNESS, 0, 0, SHARPNESS, 0, 0);
    ink.clearRect(0, 0, SIZE, SIZE);
    ink.globalAlpha = heat && !picture?.pixelated ? 0.2 : 1; // under the heat map
    if (picture?.bitmap) {
      const { left, top, scale } = place();
      ink.imageSmoothingEnabled = !picture.pixelated;
      ink.drawImage(picture.bitmap, left, top, picture.width * scale, picture.height * scale);
    } else {
      draw(ink, strokes, colours.color);
    }
    over.setTransform(SHARPNESS, 0, 0, SHARPNESS, 0, 0);
    over.clearRect(0, 0, SIZE, SIZE);
    if (heat) {
      heat(over);
      if (!picture) {
        over.globalCompositeOperation = "destination-in"; // the strokes alone
        draw(over, strokes, "black");
        over.globalCompositeOperation = "source-over";
      }
    }
    if (pen.shown) paintPen(colours);
  }

  function paintPen(colours) {
    over.beginPath();
    over.arc(pen.x, pen.y, PEN / 2, 0, 2 * Math.PI);
    over.lineWidth = 2;
    over.strokeStyle = colours.getPropertyValue("--accent");
    over.stroke();
    if (pen.down) {
      over.fillStyle = colours.getPropertyValue("--accent");
      over.fill();
    }
  }

  /** Where the picture lies on the sheet. Of strokes: the sheet itself. */
  function place() {
    if (!picture) return { left: 0, top: 0, scale: 1 };
    const scale = Math.min(SIZE / picture.width, SIZE / picture.height);
    return { left: (SIZE - picture.width * scale) / 2, top: (SIZE - picture.height * scale) / 2, scale };
  }

  function remember() {
    history = [...history.slice(-99), { strokes, picture }];
  }

  function changed(live = false) {
    if (!live) heat = null;
    render();
    tell.changed({ live });
  }

  function begin(x, y) {
    remember();
    if (picture) {
      picture = null;
      strokes = [];
    }
    heat = null;
    current = [[x, y]];
    strokes = [...strokes, current];
    render();
    tell.began();
  }

  function move(x, y) {
    current.push([x, y]);
    render();
  }

  function end() {
    if (!current) return;
    current = null;
    pen.down = false;
    changed();
  }

  function at(event) {
    const box = paper.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
  }

  paper.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    pen.shown = false;
    end();
    pointer = event.pointerId;
    paper.setPointerCapture(pointer);
    begin(...at(event));
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) move(...at(one));
    changed(true);
  });
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
    paper.addEventListener(kind, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      end();
    });
  }

  paper.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      held.add(event.key);
      for (const key of held) {
        pen.x = within(pen.x + ARROWS[key][0] * STEP);
        pen.y = within(pen.y + ARROWS[key][1] * STEP);
      }
      pen.shown = true;
      if (pen.down) {
        move(pen.x, pen.y);
        changed(true);
      }
      tell.pen(`${pen.down ? "Drawing" : "Pen up"}, ${percent(pen.x)} across, ${percent(pen.y)} down`);
    } else if (event.key === " ") {
      if (event.repeat) return;
      pen.shown = true;
      if (pen.down) {
        end();
        tell.pen("Pen up");
      } else {
        begin(pen.x, pen.y);
        pen.down = true;
        tell.pen("Pen down");
      }
    } else if (event.key === "u" || event.key === "c") {
      if (event.key === "u") undo();
      else clear();
    } else {
      return;
    }
    event.preventDefault();
    render();
  });
  paper.addEventListener("keyup", (event) => held.delete(event.key));
  paper.addEventListener("blur", () => {
    held.clear();
    pen.shown = false;
    if (pen.down) end();
    render();
  });
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
    matchMedia(query).addEventListener("change", render);
  }

  function undo() {
    if (current) end();
    const before = history.at(-1);
    if (!before) return;
    history = history.slice(0, -1);
    ({ strokes, picture } = before);
    changed();
    tell.pen(describe("Undone"));
  }

  function clear() {
    if (current) end();
    if (!strokes.length && !picture) return;
    remember();
    strokes = [];
    picture = null;
    changed();
    tell.pen("Cleared");
  }

  function describe(what) {
    if (picture) return `${what}: the picture is back`;
    return `${what}: ${strokes.length === 1 ? "1 stroke" : `${strokes.length} strokes`} left`;
  }

  render();
  return {
    undo,
    clear,
    place,
    get blank() {
      return !picture && strokes.length === 0;
    },
    get canUndo() {
      return history.length > 0;
    },
    get picture() {
      return picture;
    },
    /** Puts a picture on the sheet, in place of what is there: `bitmap` of `width` x `height`, null if it cannot be shown. */
    show(shown) {
      if (current) end();
      remember();
      picture = shown;
      strokes = [];
      changed();
    },
    /** Lays a heat map over the sheet, a function that paints it in units of the sheet; null: none. */
    heat(map) {
      heat = map;
      render();
    },
    /** The strokes as a PNG of 280 x 280 pixels, black on white whatever the page's colours. */
    toBlob() {
      const canvas = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE });
      const context = canvas.getContext("2d");
      context.fillStyle = "white";
      context.fillRect(0, 0, SIZE, SIZE);
      draw(context, strokes, "black");
      return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    },
  };
}

function within(unit) {
  return Math.min(SIZE - PEN / 2, Math.max(PEN / 2, unit));
}

function percent(unit) {
  return `${Math.round((100 * unit) / SIZE)} %`;
}

function draw(context, strokes, colour) {
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = PEN;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  for (const points of strokes) {
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [x, y] = points[i];
      const [nextX, nextY] = points[i + 1];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    context.lineTo(...points.at(-1)); // of a single point: a dot
  }
  context.stroke();
}
