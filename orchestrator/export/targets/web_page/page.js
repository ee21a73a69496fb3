// The page: choose a network and a sample, see its answer and the time of a run.
import {answers, array, load, seconds, tensors} from "./network.js";

const {inputs, labels, mean, std, classes, samples, networks} = await (await fetch("./networks.json")).json();
const at = (id) => document.getElementById(id);
const loaded = {};
const shape = inputs[0].shape;
const isPicture = inputs.length === 1 && shape.length === 4 && inputs[0].dtype === "float32" && [1, 3].includes(shape[3]);
let chosen = null;  // the inputs of a sample in base64, or typed arrays of a picture
let turn = 0;

function row(...texts) {
  const line = document.createElement("tr");
  texts.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    cell.textContent = text;
    line.append(cell);
  });
  return line;
}

// Return the largest of any number of values: Math.max(...values) fails for pictures.
function largest(values) {
  return values.reduce((one, other) => Math.max(one, other), -Infinity);
}

// Return (name, value) of an output: the five likeliest classes, of a text's last place, or its first values.
function words(values) {
  const all = Array.from(values.slice(-(classes || values.length)), Number);
  if (!classes) return all.slice(0, 10).map((value, place) => [`value ${place}`, value.toPrecision(5)]);
  const highest = largest(all);
  const total = all.reduce((sum, value) => sum + Math.exp(value - highest), 0);
  const order = [...all.keys()].sort((a, b) => all[b] - all[a]).slice(0, 5);
  return order.map((k) => [labels[k] ?? `class ${k}`, `${(100 * Math.exp(all[k] - highest) / total).toFixed(1)} %`]);
}

function apart(values, expected) {
  const scale = Math.max(largest(expected.map(Math.abs)), Number.MIN_VALUE);
  return largest(expected.map((value, place) => Math.abs(value - values[place]))) / scale;
}

async function show() {
  const mine = turn += 1;
  const {name, file, bytes, expected, read} = networks[at("network").value];
  at("answer").textContent = "Running ...";
  try {
    const network = loaded[file] ??= await load(file);
    const sample = typeof chosen === "number" ? samples[chosen] : null;
    const given = sample ? tensors(network, sample) : chosen;
    const found = (await answers(network, given))[read];
    const time = await seconds(network, given, 0.5);  // the first runs are slow: the browser still compiles
    if (mine !== turn) return;  // something else was chosen meanwhile
    const table = document.createElement("table");
    words(found).forEach((pair) => table.append(row(...pair)));
    table.append(row("time of a run", `${(1000 * time).toPrecision(3)} ms`));
    table.append(row("file", `${file}, ${bytes.toLocaleString("en")} bytes`));
    if (sample) table.append(row("difference from PyTorch", `${apart(found, array(expected[chosen])).toExponential(0)} of the largest output`));
    table.dataset.network = name;
    at("answer").replaceChildren(table);
  } catch (error) {
    at("answer").textContent = `It does not run in this browser: ${error}`;
  }
}

function draw(canvas, values) {
  const [, height, width, channels] = shape;
  Object.assign(canvas, {height, width});
  const pixels = new ImageData(width, height);
  const scaled = values.map((value, place) => value * (std[place % channels] ?? 1) + (mean[place % channels] ?? 0));
  const low = mean.length ? 0 : -largest(scaled.map((value) => -value)), high = mean.length ? 1 : largest(scaled);
  for (let place = 0; place < height * width; place += 1) {
    for (let c = 0; c < 3; c += 1) {
      pixels.data[4 * place + c] = 255 * (scaled[channels * place + (channels === 3 ? c : 0)] - low) / (high - low || 1);
    }
    pixels.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function choose(sample, button) {
  chosen = sample;
  document.querySelectorAll("#samples button").forEach((each) => each.setAttribute("aria-pressed", each === button));
  return show();
}

// Return a picture as the network takes it: its size, values from 0 to 1, then normalised as the data were.
async function ownPicture(file) {
  const [, height, width, channels] = shape;
  const canvas = Object.assign(document.createElement("canvas"), {height, width});
  const context = canvas.getContext("2d");
  context.drawImage(await createImageBitmap(file), 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height);
  return Float32Array.from({length: height * width * channels}, (_, place) => {
    const pixel = 4 * Math.floor(place / channels), channel = place % channels;
    const grey = 0.299 * data[pixel] + 0.587 * data[pixel + 1] + 0.114 * data[pixel + 2];
    const value = (channels === 3 ? data[pixel + channel] : grey) / 255;
    return (value - (mean[channel] ?? 0)) / (std[channel] ?? 1);
  });
}

networks.forEach(({name}, place) => at("network").append(new Option(name, place)));
const first = await load(networks[0].file);
loaded[networks[0].file] = first;
samples.forEach((sample, place) => {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  if (isPicture) draw(canvas, tensors(first, sample)[0]);
  button.append(...(isPicture ? [canvas] : []), `sample ${place + 1}`);
  button.addEventListener("click", () => choose(place, button));
  at("samples").append(button);
});
at("network").addEventListener("change", show);
at("own").hidden = !isPicture;
at("picture").addEventListener("change", async ({target}) => {
  if (target.files.length) await choose([await ownPicture(target.files[0])], null);
});
await choose(0, document.querySelector("#samples button"));
