// Networks in this browser, by LiteRT.js: WebAssembly, one thread.
import {loadLiteRt, loadAndCompile, Tensor} from "@litertjs/core";

const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array};
const number = (name) => Number(name.split("_").pop());  // inputs and outputs are args_0, output_0, ...
const inOrder = (details) => [...details].sort((a, b) => number(a.name) - number(b.name));
let ready;

// Return the network of a .tflite file.
export async function load(file) {
  ready ??= loadLiteRt("./litert/");
  await ready;
  return loadAndCompile(file, {accelerator: "wasm", cpuOptions: {numThreads: 1}});
}

// Return an array from its bytes in base64.
export function array(text, dtype = "float32") {
  return new ARRAYS[dtype](Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

// Return the tensors of one sample from their bytes in base64.
export function tensors(network, sample) {
  const details = inOrder(network.getInputDetails());
  return sample.map((text, place) => array(text, details[place].dtype));
}

// Call `work` with the inputs of one sample by name; they are freed afterwards.
async function given(network, arrays, work) {
  const tensors = Object.fromEntries(
    inOrder(network.getInputDetails()).map(({name, shape}, place) => [name, new Tensor(arrays[place], [...shape])]));
  try {
    return await work(tensors);
  } finally {
    Object.values(tensors).forEach((tensor) => tensor.delete());
  }
}

// Return the outputs of one sample: typed arrays, in order.
export function answers(network, arrays) {
  return given(network, arrays, async (tensors) => {
    const found = await network.run(tensors);
    return inOrder(network.getOutputDetails()).map(({name}) => {
      const values = found[name].toTypedArray().slice();
      found[name].delete();
      return values;
    });
  });
}

// Return the shortest seconds of a run within `enough` seconds. A browser's clock is coarse: short runs are timed together.
export function seconds(network, arrays, enough = 0.03) {
  return given(network, arrays, async (tensors) => {
    const run = async () => Object.values(await network.run(tensors)).forEach((tensor) => tensor.delete());
    await run();
    const end = performance.now() + 1000 * enough;
    let together = 1, shortest = Infinity;
    while (shortest === Infinity || performance.now() < end) {
      const begin = performance.now();
      for (let k = 0; k < together; k += 1) await run();
      const taken = performance.now() - begin;
      if (taken < 5) together *= 2;
      else shortest = Math.min(shortest, taken / together / 1000);
    }
    return shortest;
  });
}
