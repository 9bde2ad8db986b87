import assert from "node:assert/strict";
import { test } from "node:test";

import { TorchGenerator } from "../../web/src/noise.js";
import { sample } from "../../web/src/sampling.js";
import { Schedule } from "../../web/src/schedule.js";
import { expected, near } from "./expected.mjs";

for (const { seed, counts, normal, uniform } of expected.noise) {
  test(`the noise of seed ${seed} is torch's`, () => {
    const generator = new TorchGenerator(seed);
    counts.forEach((count, i) => near(generator.randn(count), normal[i], 5e-6));
    near(generator.rand(40), uniform, 0);
  });
}

test("fewer normal numbers than torch draws at once are refused", () => {
  assert.throws(() => new TorchGenerator(0).randn(15), /16 or more/);
});

// a function of everything that a U-Net sees
async function model(latent, t, cond) {
  return latent.map((value, i) => Math.sin(value + cond[i % cond.length] + t / 500));
}

for (const { name, diffusion, sampling, noise, cond, uncond, latent } of expected.samples) {
  test(name, async () => {
    const [x, yes, no] = [noise, cond, uncond].map((values) => Float32Array.from(values));
    let steps = 0;
    const found = await sample(model, new Schedule(diffusion), sampling, x, yes, no, () => steps++);
    near(found, latent, 2e-5 * Math.max(...latent.map(Math.abs)));
    assert.equal(steps, sampling.steps);
  });
}

test("a sampler that the page lacks is refused", () => {
  const [schedule, none] = [new Schedule(expected.samples[0].diffusion), new Float32Array(1)];
  assert.throws(() => sample(model, schedule, { sampler: "heun" }, none, none, none), /ddim, dpmpp/);
});
