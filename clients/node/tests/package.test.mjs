import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

test("the packed package holds the code, its types and the README, and works from there", async (t) => {
  const folder = await mkdtemp("/tmp/tn-pack-");
  t.after(() => rm(folder, { recursive: true, force: true }));
  const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", folder], { cwd: root });
  const [{ files, filename }] = JSON.parse(stdout);
  const paths = files.map(({ path }) => path);
  const manifest = JSON.parse(await readFile(`${root}/package.json`, "utf8"));
  for (const entry of Object.values(manifest.exports)) {
    for (const target of typeof entry === "string" ? [entry] : Object.values(entry).flatMap(Object.values)) {
      assert.ok(paths.includes(target.slice(2)), `${target} is not in the package`);
    }
  }
  assert.ok(paths.includes("README.md"));
  assert.deepEqual(paths.filter((path) => !/^(dist|src)\/|^(README\.md|LICENSE|package\.json)$/.test(path)), []);
  assert.deepEqual(Object.keys(manifest.dependencies).sort(), ["@bufbuild/protobuf", "@grpc/grpc-js"]);

  await run("tar", ["xzf", filename], { cwd: folder });
  await run("ln", ["-s", `${root}/node_modules`, `${folder}/package/node_modules`]);
  for (const [name, code] of [
    ["a.cjs", `const t = require("@tenantd/client"); console.log(typeof t.connect, typeof require("@tenantd/client/livekit").entry)`],
    ["a.mjs", `import { connect } from "@tenantd/client"; import { entry } from "@tenantd/client/livekit"; console.log(typeof connect, typeof entry)`],
  ]) {
    await writeFile(`${folder}/package/${name}`, code);
    const { stdout } = await run(process.execPath, [`${folder}/package/${name}`]);
    assert.equal(stdout.trim(), "function function");
  }
});

test("everything public says what it is", async () => {
  const silent = [];
  for (const file of (await readdir(`${root}/src`)).filter((name) => name.endsWith(".ts") && name !== "index.ts")) {
    const lines = (await readFile(`${root}/src/${file}`, "utf8")).split("\n");
    lines.forEach((line, i) => {
      if (/^export (async )?(function|class|interface|type|const) [^{*]/.test(line) && !/\*\/\s*$/.test(lines[i - 1] ?? "")) silent.push(`${file}:${i + 1}`);
    });
  }
  assert.deepEqual(silent, []);
});

test("the README's blocks of code parse", async () => {
  const readme = await readFile(`${root}/README.md`, "utf8");
  const blocks = [...readme.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code);
  assert.ok(blocks.length >= 4);
  for (const code of blocks) {
    // Node 20 cannot parse `await using`.
    const plain = code.replaceAll("await using ", "const ").replaceAll(/: JobContext|import type .*/g, "");
    await writeFile("/tmp/tn-readme.mjs", plain);
    await run(process.execPath, ["--check", "/tmp/tn-readme.mjs"]);
  }
});
