// Asking the server: JSON and pictures in, answers out; a key when it wants one; never a queue of what is stale.

const KEY = "samedigit-key";
const PATIENCE_MS = 15000;
export const SIDE = 28;
const PIXELS = SIDE * SIDE;

/** What could not be had, as one sentence to show. */
export class Trouble extends Error {}

let askForKey = async () => null;
let asking = null; // one question for a key at a time, whoever needs it

/** Says who is asked for a key: `ask(refused)` gives one, or null. */
export function keysFrom(ask) {
  askForKey = ask;
}

/**
 * A request to this server, which is answered with 200.
 * @returns {Promise<Response>}
 * @throws {Trouble} it was refused or not answered. An AbortError if `signal` says that nobody wants it any more.
 */
export async function request(path, { signal, headers = {}, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const patience = AbortSignal.timeout(PATIENCE_MS);
    let answer;
    try {
      answer = await fetch(path, {
        ...options,
        headers: key === null ? headers : { ...headers, Authorization: `Bearer ${key}` },
        signal: signal ? AbortSignal.any([signal, patience]) : patience,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Trouble(patience.aborted ? "The server has not answered for 15 seconds." : "The server does not answer.");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (key !== sessionStorage.getItem(KEY)) continue; // given meanwhile
      asking ??= askForKey(key !== null).finally(() => (asking = null));
      const given = await asking;
      if (given === null) throw new Trouble("The server answers only with a key.");
      sessionStorage.setItem(KEY, given);
      continue;
    }
    throw new Trouble(await sentence(answer));
  }
}

async function sentence(answer) {
  let said = "";
  try {
    said = String((await answer.json()).error ?? "");
  } catch {
    // not the server's own words: a proxy's
  }
  if (answer.status === 503 || answer.status === 429) return "The server is busy. Ask again in a moment.";
  if (answer.status >= 500) return "The server failed to answer; its log says why.";
  return said || `The server refused with ${answer.status}.`;
}

/**
 * Runs `work(what, signal)` for the newest `what` only: one runs, the newest waits, those between are dropped.
 * `stop` drops both, and tells the one that runs. `busy` is told whether any runs.
 */
export function newestOnly(work, busy) {
  let running = null;
  let waiting = null;
  async function run(what) {
    const mine = (running = new AbortController());
    busy(true);
    try {
      await work(what, mine.signal);
    } finally {
      if (running === mine) {
        running = null;
        if (waiting !== null) {
          const next = waiting;
          waiting = null;
          run(next);
        } else {
          busy(false);
        }
      }
    }
  }
  return {
    ask(what) {
      if (running === null) run(what);
      else waiting = what;
    },
    stop() {
      waiting = null;
      running?.abort();
      running = null;
      busy(false);
    },
    get busy() {
      return running !== null;
    },
  };
}

/**
 * Probabilities by one model, through the Open Inference Protocol with raw tensors.
 * @param {string} model recipe.backend
 * @param {string} version
 * @param {Uint8Array} images [N * 784]
 * @returns {Promise<Float32Array>} [N * 10]
 */
export async function infer(model, version, images, signal) {
  const head = new TextEncoder().encode(
    JSON.stringify({
      inputs: [
        {
          name: "images",
          datatype: "UINT8",
          shape: [images.length / PIXELS, SIDE, SIDE],
          parameters: { binary_data_size: images.length },
        },
      ],
      outputs: [{ name: "probabilities", parameters: { binary_data: true } }],
    }),
  );
  const answer = await request(`/v2/models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
    body: new Blob([head, images]),
    signal,
  });
  const length = Number(answer.headers.get("Inference-Header-Content-Length"));
  return new Float32Array((await answer.arrayBuffer()).slice(length));
}

const PATCH = 4; // pixels: about as wide as a stroke and its edge
const STEP = 1;

/**
 * Which pixels spoke for a digit: what hiding them under a patch of background takes from its log-odds (Zeiler and Fergus
 * 2014, there of the probability). Log-odds, since a probability of 0.9999 hardly moves. One request for all the patches
 * that hide any ink; where there is none, hiding changes nothing.
 * @param {Uint8Array} image [784]
 * @returns {Promise<Float32Array>} [784], each pixel the mean over the patches that hide it; above 0 spoke for the digit
 */
export async function occlusion(model, version, image, digit, signal) {
  const places = [];
  const batch = [image];
  for (let top = 1 - PATCH; top < SIDE; top += STEP) {
    for (let left = 1 - PATCH; left < SIDE; left += STEP) {
      const hidden = image.slice();
      let ink = 0;
      const pixels = [];
      for (let y = Math.max(0, top); y < Math.min(SIDE, top + PATCH); y++) {
        for (let x = Math.max(0, left); x < Math.min(SIDE, left + PATCH); x++) {
          pixels.push(y * SIDE + x);
          ink += hidden[y * SIDE + x];
          hidden[y * SIDE + x] = 0;
        }
      }
      places.push({ pixels, at: ink > 0 ? batch.length : 0 });
      if (ink > 0) batch.push(hidden);
    }
  }
  const images = new Uint8Array(batch.length * PIXELS);
  batch.forEach((one, i) => images.set(one, i * PIXELS));
  const probabilities = await infer(model, version, images, signal);
  const odds = batch.map((_, i) => logOdds(probabilities.subarray(10 * i, 10 * i + 10), digit));
  const sums = new Float32Array(PIXELS);
  const counts = new Float32Array(PIXELS);
  for (const { pixels, at } of places) {
    for (const pixel of pixels) {
      sums[pixel] += odds[0] - odds[at];
      counts[pixel] += 1;
    }
  }
  return sums.map((sum, pixel) => sum / counts[pixel]);
}

function logOdds(probabilities, digit) {
  let others = 0;
  probabilities.forEach((one, i) => (others += i === digit ? 0 : one));
  return Math.log(Math.max(probabilities[digit], 1e-30)) - Math.log(Math.max(others, 1e-30));
}
