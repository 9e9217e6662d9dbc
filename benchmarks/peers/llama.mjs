// llama.cpp's side of with_llama.py: node llama.mjs MODULE MODEL THREADS; a case a line, what it took a line.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [module, modelPath, threads] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(module).href);
const llama = await getLlama({ gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 0 });
const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
const context = await model.createContext({
  contextSize: 4096, batchSize: 2048, threads: { ideal: Number(threads), min: Number(threads) }, sequences: 1,
});
const sequence = context.getSequence();
const prompt = (count) => Array.from({ length: count }, (_, i) => 3 + ((i * 7919) % 500));
let decoding = 0; // tokens of the prompt that is continued

async function timed(work) {
  const start = [performance.now(), process.cpuUsage()];
  await work();
  const used = process.cpuUsage(start[1]);
  return { seconds: (performance.now() - start[0]) / 1e3, processor: (used.user + used.system) / 1e6 };
}

async function run({ stage, tokens, decoded }) {
  if (stage === "prefill") {
    decoding = 0;
    await sequence.clearHistory();
    return timed(() => sequence.evaluateWithoutGeneratingNewTokens(prompt(tokens)));
  }
  if (decoding !== tokens) {
    await sequence.clearHistory();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt(tokens));
    decoding = tokens;
  }
  return timed(async () => {
    for (let i = 0; i < decoded; i++) await sequence.evaluateWithoutGeneratingNewTokens([5 + i]);
  });
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify({ ...(await run(JSON.parse(line))), memory: process.memoryUsage().rss }));
}
process.exit(0);
