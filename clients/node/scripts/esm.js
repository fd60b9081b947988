// Gives every entry an ES module beside its CommonJS one. It holds no code of its own:
// two copies would mean two contexts, two streams, and errors that `instanceof` misses.
const { readFileSync, writeFileSync } = require("node:fs");
const { join } = require("node:path");

const root = join(__dirname, "..");
const { exports: entries } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
for (const { import: made } of Object.values(entries)) {
  if (!made) continue;
  const from = `./${made.default.slice("./dist/".length).replace(/\.mjs$/, ".js")}`;
  for (const file of [made.default, made.types]) writeFileSync(join(root, file), `export * from "${from}";\n`);
}
